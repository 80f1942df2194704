package session

import (
	"math"
	"time"

	"github.com/trunkline/trunkline/codec/h2"
)

// Abuse is what one connection may do that leads to nothing, per second, beside what its useful work brings along. A peer that
// does more is told so (GOAWAY with ENHANCE_YOUR_CALM and a sentence) and the connection ends. 0: no limit.
//
// Each limit is a purse. It begins with what is free (1000 resets, 5000 idle frames, 1000 refused calls), and fills by the
// limit's rate to that amount again. Useful work earns more:
//
//   - A call that we ended earns two resets: chance must not trip who gives up every second call.
//   - A frame of data, either way, earns four idle frames: peers may answer each of ours with a WINDOW_UPDATE for the stream, one for
//     the connection and a PING (grpc-go's estimate of the bandwidth). Frames of data that a window cut short earn less, by
//     their size, so that windows of a few bytes do not pay for themselves. A new stream earns eight.
//   - A call that was not refused earns another that is.
type Abuse struct {
	// Resets are streams that the peer gave up or made us reset (CVE-2023-44487, CVE-2025-8671): by a fault, by opening too many, or by
	// not reading. A stream that the peer gives up is not counted when our side has ended or data of ours was sent on it, or
	// it is a second old: MaxStreams bounds those. One whose time was up (Due) counts a thousandth.
	Resets float64
	// Idle are frames that carry nothing, or next to nothing: PING, SETTINGS, PRIORITY, WINDOW_UPDATE, DATA of less than 5 bytes, small pieces of header blocks, unknown
	// frames, frames on streams that are over. What makes us visit streams (SETTINGS_INITIAL_WINDOW_SIZE, GOAWAY) counts one more for
	// each 16 of them.
	Idle float64
	// Refused are calls of which the handler says Wasted.
	Refused float64
}

// What useful work earns, and what things cost.
const (
	callEarnsResets  = 2
	callEarnsRefused = 1
	dataEarns        = 4
	streamEarns      = 8

	tinyData       = 5       // bytes of a frame of data, less than what stands before each message of gRPC, below which it is an idle frame
	dribbleBytes   = 8       // a frame of data that a window cut short earns one idle frame for as many bytes
	costlyBytes    = 512     // of unknown frames, and metadata that are too large: as dear as one more of their kind
	costlySettings = 64      // bytes of SETTINGS: the same; honest ones have fewer
	costlyFields   = 64      // of metadata that are too large: the same
	smallPiece     = 1024    // bytes of a piece of a header block below which it is an idle frame
	lateData       = 1. / 64 // of a frame of data on a stream that is over: many may be on their way when we end it early

	oldStream = int64(time.Second) // the age at which a stream that is given up is no waste
	dueStream = int64(10 * time.Millisecond)
	dueCosts  = 1. / 1000
)

// kind is one of the limits of Abuse.
type kind uint8

const (
	resets kind = iota
	idle
	refused
	kinds
)

// free is what a purse of each kind begins with, and most is what earnings may bring it at once. Read-only.
var (
	free = [kinds]float64{resets: 1000, idle: 5000, refused: 1000}
	most = [kinds]float64{resets: 10_000, idle: 200_000, refused: 5000}
)

func (a *Abuse) rate(k kind) float64 { return [kinds]float64{a.Resets, a.Idle, a.Refused}[k] }

// purse is what a peer may still waste of one kind. What it earns is counted where it is earned, and looked at only when the
// purse is empty: the hot path adds there, and subtracts and compares here.
type purse struct {
	left   float64
	earned int64 // since at
	at     int64 // when the purse was last filled: Env.Now
}

func (c *Conn) openPurses() {
	for k := range kinds {
		c.purse[k] = purse{left: free[k], at: c.env.Now}
		if c.cfg.Abuse.rate(k) <= 0 {
			c.purse[k].left = math.Inf(1)
		}
	}
}

// Wary leaves a peer a hundredth of what is free at the start: for one whose address was cut off for abuse lately. Call it before anything is
// received.
func (c *Conn) Wary() {
	for k := range kinds {
		if !math.IsInf(c.purse[k].left, 1) {
			c.purse[k].left = free[k] / 100
		}
	}
	c.wary = true
}

// take takes n out of a purse; false: it is empty.
func (c *Conn) take(k kind, n float64) bool {
	p := &c.purse[k]
	p.left -= n
	return p.left >= 0 || c.fill(k)
}

func (c *Conn) fill(k kind) bool {
	p := &c.purse[k]
	p.left += min(free[k], float64(c.env.Now-p.at)/1e9*c.cfg.Abuse.rate(k)) + min(most[k], float64(p.earned))
	p.at, p.earned = c.env.Now, 0
	return p.left >= 0
}

// Wasteful says whether the peer has spent a thirty-second of what was free for it, and not earned it back: it may be about to be cut off.
func (c *Conn) Wasteful() bool {
	enough := 31. / 32
	if c.wary {
		enough /= 100
	}
	for k := range kinds {
		p := &c.purse[k]
		if p.left >= free[k]*enough {
			continue
		}
		// What time gives does not heap up: who was silent for a minute has no minute's worth.
		have := min(free[k], p.left+float64(c.env.Now-p.at)/1e9*c.cfg.Abuse.rate(k)) + min(most[k], float64(p.earned))
		if have < free[k]*enough {
			return true
		}
		p.left, p.at, p.earned = have, c.env.Now, 0
	}
	return false
}

// idleFrame counts frames that carry nothing.
func (c *Conn) idleFrame(n float64) *h2.ConnError {
	if c.take(idle, n) {
		return nil
	}
	return connErr(h2.EnhanceYourCalm, "more than %g frames per second that carry nothing, beyond what data brings along (limits.abuse.idleFramesPerSecond)", c.cfg.Abuse.Idle)
}

// wasteReset counts streams that the peer gave up or made us reset.
func (c *Conn) wasteReset(n float64) {
	if c.take(resets, n) || c.failed != nil {
		return
	}
	_ = c.fail(connErr(h2.EnhanceYourCalm, "more than %g resets per second beyond the calls that end (limits.abuse.resetsPerSecond)", c.cfg.Abuse.Resets))
}

// Wasted is for the handler: a call was refused at once for its own fault. It counts in Abuse.Refused.
func (c *Conn) Wasted() {
	// What its end has earned, or will, is taken back.
	c.purse[resets].earned -= callEarnsResets
	c.purse[refused].earned -= callEarnsRefused
	if c.take(refused, 1) || c.failed != nil {
		return
	}
	_ = c.fail(connErr(h2.EnhanceYourCalm, "more than %g refused calls per second beyond those that are not (limits.abuse.refusedPerSecond)", c.cfg.Abuse.Refused))
}

// Due is for the handler, in HandleReset: the peer gave the stream up because the call's time was up, which we are told by its
// grpc-timeout. When an endpoint hangs all calls of a client with tight deadlines end so, and it shall not be cut off for that. A
// stream that has lived for less than 10 ms is not excused.
func (c *Conn) Due() { c.due = true }

// ended counts a stream on which we have said all.
func (c *Conn) ended() {
	c.purse[resets].earned += callEarnsResets
	c.purse[refused].earned += callEarnsRefused
}

// dribble takes back what a frame of n bytes of data earned, where more data waits behind it.
func (c *Conn) dribble(n int) {
	c.purse[idle].earned -= max(0, dataEarns-int64(n)/dribbleBytes)
}

// givenUp is what it costs the peer to reset the stream.
func (c *Conn) givenUp(s *Stream) (whole, due float64) {
	age := c.env.Now - s.born
	switch {
	case c.role == Client, s.sendClosed, s.spoke, age >= oldStream:
		return 0, 0
	case age >= dueStream:
		return 1, dueCosts
	}
	return 1, 1
}
