package session

import (
	"errors"
	"time"

	"github.com/trunkline/trunkline/codec/buf"
	"github.com/trunkline/trunkline/codec/h2"
	"github.com/trunkline/trunkline/codec/hpack"
)

// Role is the side of HTTP/2 that we play on a connection.
type Role uint8

// The roles.
const (
	Server Role = iota // downstream: the peer opens streams
	Client             // upstream: we open them
)

// Handler receives what a connection's peer said. All calls come from within Recv, or from within the call that caused them;
// a handler may call any method of any connection of the same shard, this one's too.
type Handler interface {
	// HandleHeaders: a header block came: a request (server), its trailers, a response (client, also informational), its
	// trailers. The block and its fields are borrowed: valid until it returns, unless it sets Block.Taken.
	HandleHeaders(s *Stream, b *Block)
	// HandleData: p is borrowed. Its bytes are to be given back with Credit, now or later.
	HandleData(s *Stream, p []byte, end bool)
	// HandleReset: the stream is dead, the peer's RST_STREAM or our own judgement (why != nil) ended it. HandleClosed follows.
	HandleReset(s *Stream, code h2.Code, why error)
	// HandleHanded: n more bytes of what SendData had to keep have been handed to the output.
	HandleHanded(s *Stream, n int)
	// HandleClosed: the stream is over, both ways; s is recycled when it returns.
	HandleClosed(s *Stream)
	// HandleSettings: the peer's SETTINGS came (the first, or later ones).
	HandleSettings()
	// HandleGoAway: the peer's GOAWAY came. Streams of ours above its last id have been reset as unprocessed before.
	HandleGoAway(code h2.Code, debug string)
	// HandlePong: the answer to a PING of ours.
	HandlePong(data [8]byte)
}

// Carrier is who carries a connection's output to the socket.
type Carrier interface{ Flush() }

// ErrUnprocessed is the why of a reset for streams above the last id of the peer's GOAWAY (RFC 9113 section 6.8).
var ErrUnprocessed = errors.New("above the last stream of the peer's GOAWAY")

// Block is one decoded header block.
type Block struct {
	Fields []*hpack.Field
	End    bool // END_STREAM
	// Taken is set by a handler that keeps the references of all Fields.
	Taken bool
	// TooLarge: the list exceeded the limit; Fields is empty.
	TooLarge bool
	// Trailers and Informational say which kind of block it is, else it is a request or the final response.
	Trailers, Informational bool
	// The pseudo-header fields (RFC 9113 section 8.3), nil where absent. They are in Fields too.
	Method, Scheme, Path, Authority, Status *hpack.Field

	size int // as it came, in bytes
}

// Config holds the limits of a connection.
type Config struct {
	StreamWindow    int32  // initial window that we grant each stream, bytes; from 65,535: less a peer knows only after our SETTINGS
	MaxStreamWindow int32  // what a draining stream's window may grow to, bytes
	ConnWindow      int32  // window that we grant the connection, bytes; above 65,535, which it begins with
	MaxStreams      uint32 // streams that a peer may have open (Server)
	MaxHeaderBytes  uint32 // of one header list, by RFC 9113's measure (section 6.5.2)
	MaxHeaderFields uint32 // of one header list; 0: 1024. More is Block.TooLarge
	OutputMark      int    // bytes of output above which streams' data waits

	// How long things may take; Expired judges. 0: for ever.
	PrefaceTimeout time.Duration // from New to the peer's first SETTINGS
	FrameTimeout   time.Duration // from the first to the last byte of a frame, or of a header block
	StallTimeout   time.Duration // for data, or the whole output, to wait for a peer that takes nothing of it

	Abuse Abuse // what a peer may waste
}

// Env is what the connections of one shard share. Guarded by the shard.
type Env struct {
	Interner *hpack.Interner
	Buffers  buf.Pool
	Now      int64     // nanoseconds, monotonic; set by who enters the shard, before anything is received
	Dirty    []Carrier // connections with unflushed output, each once

	fields []*hpack.Field // scratch for the block that is being decoded
	block  Block          // the same
	free   []*Stream
}

// maxFreeStreams bounds what an idle shard keeps.
const maxFreeStreams = 4096

// maxOutput is where a peer that asks (PING, SETTINGS) and does not read is given up: bytes. outStep is in which steps output
// beyond the mark is taken into the client's budget.
const (
	maxOutput = 16 << 20
	outStep   = 64 << 10
)

// Conn is one connection's state. Guarded by the shard.
type Conn struct {
	env     *Env
	role    Role
	h       Handler
	carrier Carrier // set once
	cfg     *Config

	dec *hpack.Decoder
	enc *hpack.Encoder

	out      []byte // unflushed output from outOff
	outOff   int
	outMost  int   // bytes of output at which overflow is called
	outHeld  int64 // of the output: in the budget
	total    int64 // bytes ever appended
	lastData lastData
	dirty    bool
	Blocked  bool // the socket takes no more for now: data waits in the streams; set by the carrier

	streams table
	waiting Stream // ring of streams with data, a stream window, and no turn yet
	lastID  uint32 // highest id that the peer opened (Server) or that we opened (Client)
	closed  [16]closedStream
	closedN uint8

	preface     int // bytes of the preface still to come (Server)
	gotSettings bool
	peerFrame   uint32 // peer's SETTINGS_MAX_FRAME_SIZE
	peerWindow  int32  // peer's SETTINGS_INITIAL_WINDOW_SIZE
	peerStreams uint32 // peer's SETTINGS_MAX_CONCURRENT_STREAMS
	sendWin     int64
	recvWin     int64
	recvCredit  int64
	contID      uint32 // stream of the header block that continues, or 0
	contEnd     bool
	contFrames  int
	contBlock   []byte // owned, from the pool
	goAwayIn    bool
	goAwayOut   bool // first step sent
	goAwayFinal bool // second step sent: streams above finalID are refused
	finalID     uint32
	drainPing   [8]byte
	failed      *h2.ConnError

	purse [kinds]purse // what the peer may waste
	wary  bool         // it began with a hundredth of what is free
	due   bool         // said by Due

	budget  *Budget // of the client; nil for upstream connections
	held    int64   // in the budget beside the streams' data
	partial int64   // bytes of a partial frame, of held

	born     int64 // all times are Env.Now; when the connection began
	frameAt  int64 // when the partial frame began; partial > 0
	blockAt  int64 // when the header block began; contID != 0
	holding  int   // streams that hold data
	movedAt  int64 // when held data of any stream last moved
	scanAt   int64 // no stream has stalled before this
	wroteAt  int64 // when Written was last seen to change
	wrote    int64 // what it was
	watching bool  // the last Expired found it Blocked
}

type closedStream struct {
	id  uint32
	how uint8 // 1 ended by both, 2 reset by us, 3 reset by the peer
}

const (
	endedByBoth = 1 + iota
	resetByUs
	resetByPeer
)

// New starts a connection: what must be said first (preface, SETTINGS, the connection's window) is in the output already.
func New(env *Env, role Role, cfg *Config, h Handler, carrier Carrier) *Conn {
	c := &Conn{
		env: env, role: role, h: h, carrier: carrier, cfg: cfg,
		dec: hpack.NewDecoder(env.Interner, 4096), enc: hpack.NewEncoder(env.Interner, 4096),
		peerFrame: h2.MinMaxFrameSize, peerWindow: h2.InitialWindow, peerStreams: 1<<32 - 1,
		sendWin: h2.InitialWindow, recvWin: int64(cfg.ConnWindow),
		drainPing: [8]byte{'d', 'r', 'a', 'i', 'n'},
		outMost:   maxOutput, born: env.Now,
	}
	c.openPurses()
	c.dec.SetMaxListSize(cfg.MaxHeaderBytes)
	if cfg.MaxHeaderFields > 0 {
		c.dec.SetMaxFields(cfg.MaxHeaderFields)
	}
	c.waiting.next, c.waiting.prev = &c.waiting, &c.waiting
	settings := make([]h2.Setting, 0, 4)
	settings = append(settings, h2.Setting{ID: h2.SettingInitialWindowSize, Value: uint32(cfg.StreamWindow)},
		h2.Setting{ID: h2.SettingMaxHeaderListSize, Value: cfg.MaxHeaderBytes})
	if role == Server {
		c.preface = len(h2.Preface)
		settings = append(settings, h2.Setting{ID: h2.SettingMaxConcurrentStreams, Value: cfg.MaxStreams})
	} else {
		settings = append(settings, h2.Setting{ID: h2.SettingEnablePush, Value: 0})
		c.reserve(len(h2.Preface))
		c.out = append(c.out, h2.Preface...)
		c.total += int64(len(h2.Preface))
	}
	c.reserve(h2.HeaderLen + 6*len(settings) + 13)
	n := len(c.out)
	c.out = h2.AppendSettings(c.out, settings...)
	c.out = h2.AppendWindowUpdate(c.out, 0, uint32(cfg.ConnWindow-h2.InitialWindow))
	c.total += int64(len(c.out) - n)
	c.touch()
	return c
}

// Streams is how many streams are open.
func (c *Conn) Streams() int { return c.streams.n }

// Opened is how many streams there have been (as far as ids tell: a peer may skip some).
func (c *Conn) Opened() uint64 { return uint64(c.lastID+1) / 2 }

// Ready says whether the peer's first SETTINGS have come.
func (c *Conn) Ready() bool { return c.gotSettings }

// PeerMaxStreams is the peer's SETTINGS_MAX_CONCURRENT_STREAMS (2^32-1 where it gave none).
func (c *Conn) PeerMaxStreams() uint32 { return c.peerStreams }

// Closing says whether no new stream may be opened: GOAWAY came or went, or ids are used up, or the connection failed.
func (c *Conn) Closing() bool {
	return c.goAwayIn || c.goAwayOut || c.failed != nil || (c.role == Client && c.lastID > h2.MaxStreamID-4)
}

// Failed is why the connection must end once its output is flushed; nil while it lives.
func (c *Conn) Failed() *h2.ConnError { return c.failed }

// EachStream calls f for every open stream; f may close streams.
func (c *Conn) EachStream(f func(*Stream)) { c.streams.each(f) }

// Close ends the connection's state: every open stream gets HandleReset with the code and why, and HandleClosed; tables and
// buffers go back. The carrier closes the socket.
func (c *Conn) Close(code h2.Code, why error) {
	if c.failed == nil {
		c.failed = &h2.ConnError{Code: code, Reason: "closed"}
	}
	c.streams.each(func(s *Stream) { c.die(s, code, why, resetByUs) })
	c.dec.Close()
	c.enc.Close()
	c.env.Buffers.Put(c.out)
	c.out, c.outOff = nil, 0
	c.env.Buffers.Put(c.contBlock)
	c.contBlock = nil
	c.unhold()
}

// fail ends the connection with a GOAWAY that names the reason.
func (c *Conn) fail(e *h2.ConnError) *h2.ConnError {
	if c.failed == nil {
		c.failed = e
		c.keep(0)
		id := c.lastID
		if c.role == Client {
			id = 0 // the peer opens no streams
		} else if c.goAwayFinal {
			id = c.finalID // never above what was said: the peer may have tried those elsewhere (section 6.8)
		}
		c.control(h2.HeaderLen + 8 + len(e.Reason))
		n := len(c.out)
		c.out = h2.AppendGoAway(c.out, id, e.Code, e.Reason)
		c.total += int64(len(c.out) - n)
	}
	return c.failed
}

// newStream takes a stream from the shard's store and enters it in the table.
func (c *Conn) newStream(id uint32) *Stream {
	var s *Stream
	if f := c.env.free; len(f) > 0 {
		s = f[len(f)-1]
		c.env.free = f[:len(f)-1]
	} else {
		s = new(Stream)
	}
	s.ID, s.conn = id, c
	s.sendWin, s.recvWin, s.recvMax = c.peerWindow, c.cfg.StreamWindow, c.cfg.StreamWindow
	s.born = c.env.Now
	s.declared = -1
	c.streams.put(s)
	return s
}

// die tells the handler, once, that the stream is dead, and drops it unless the handler has done so.
func (c *Conn) die(s *Stream, code h2.Code, why error, how uint8) {
	id := s.ID
	if !s.told {
		s.told = true
		c.h.HandleReset(s, code, why)
	}
	if s.conn == c && s.ID == id {
		c.drop(s, how)
	}
}

// drop takes a stream out of the table, gives back what it holds, tells the handler and recycles it. From then on whatever is
// asked of the stream, in HandleClosed too, is not done.
func (c *Conn) drop(s *Stream, how uint8) {
	c.streams.del(s.ID)
	c.closed[c.closedN&15] = closedStream{id: s.ID, how: how}
	c.closedN++
	c.unqueue(s)
	c.release(s)
	if s.budget != nil {
		s.budget.Granted -= int64(s.recvMax - c.cfg.StreamWindow)
	}
	s.conn, s.recvClosed, s.sendClosed = nil, true, true
	c.h.HandleClosed(s)
	*s = Stream{}
	if len(c.env.free) < maxFreeStreams {
		c.env.free = append(c.env.free, s)
	}
}

// release gives back what waits on the stream.
func (c *Conn) release(s *Stream) {
	if s.pend != nil {
		if s.budget != nil {
			s.budget.Release(int64(s.Held()))
		}
		c.env.Buffers.Put(s.pend)
		s.pend, s.pendOff = nil, 0
		c.holding--
	}
	for _, f := range s.trailers {
		c.env.Interner.Release(f)
	}
	s.trailers = nil
}

// settle drops the stream if both sides have ended it. It is safe to call after a handler, which may have dropped it.
func (c *Conn) settle(s *Stream, id uint32) {
	if s.conn == c && s.ID == id && s.recvClosed && s.sendClosed {
		c.drop(s, endedByBoth)
	}
}

// howClosed says how a stream that is not in the table was closed, 0 if nobody remembers.
func (c *Conn) howClosed(id uint32) uint8 {
	for _, k := range c.closed {
		if k.id == id {
			return k.how
		}
	}
	return 0
}

// idle says whether the stream has never been opened (RFC 9113 section 5.1).
func (c *Conn) idle(id uint32) bool {
	return id > c.lastID || id&1 == 0
}
