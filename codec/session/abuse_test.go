package session

import (
	"bytes"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/trunkline/trunkline/codec/h2"
	"github.com/trunkline/trunkline/codec/hpack"
)

// strict is what listeners have by default.
func strict() *Config {
	cfg := benchConfig()
	cfg.Abuse = Abuse{Resets: 100, Idle: 500, Refused: 1000}
	cfg.FrameTimeout, cfg.StallTimeout, cfg.PrefaceTimeout = 30*time.Second, 5*time.Minute, 10*time.Second
	return cfg
}

// script is a server under strict limits, and a client that is played by a test.
type script struct {
	t   *testing.T
	c   *Conn
	a   *answerer
	env *Env
	id  uint32 // the client's next stream
	in  []byte
}

func newScript(t *testing.T, cfg *Config) *script {
	x := &script{t: t, id: 1}
	x.c, x.a, x.env = newAnswerer(t, cfg)
	return x
}

func (x *script) headers(end bool) uint32 {
	flags := uint8(h2.FlagEndHeaders)
	if end {
		flags |= h2.FlagEndStream
	}
	id := x.id
	x.id += 2
	x.in = append(h2.AppendHeader(x.in, 3, h2.Headers, flags, id), 0x83, 0x86, 0x84)
	return id
}

func (x *script) data(id uint32, n int, end bool) {
	var flags uint8
	if end {
		flags = h2.FlagEndStream
	}
	x.in = append(h2.AppendHeader(x.in, n, h2.Data, flags, id), make([]byte, n)...)
}

// send has the server receive what was written, and takes its output.
func (x *script) send() {
	x.t.Helper()
	if x.try(); x.c.Failed() != nil {
		x.t.Fatalf("at %v: %v", time.Duration(x.env.Now), x.c.Failed())
	}
}

func (x *script) try() {
	_, _ = x.c.Recv(x.in)
	x.in = x.in[:0]
	x.c.Advance(len(x.c.Output()))
	x.c.Clean()
	x.env.Dirty = x.env.Dirty[:0]
}

// window keeps the connection's window open, as seldom as one can.
func (x *script) window() {
	if x.c.sendWin < 1<<29 {
		x.in = h2.AppendWindowUpdate(x.in, 0, 1<<30)
	}
}

func TestAHundredThousandCallsASecondOfWhichHalfAreCancelledAreNoAbuse(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	for _, hedged := range []bool{false, true} {
		x := newScript(t, strict())
		for range 100_000 {
			x.env.Now += int64(10 * time.Microsecond)
			switch {
			case hedged: // the first attempt loses
				id := x.headers(false)
				x.data(x.headers(false), 10, true)
				x.in = h2.AppendRSTStream(x.in, id, h2.Cancel)
			case rnd.IntN(2) == 0:
				x.in = h2.AppendRSTStream(x.in, x.headers(false), h2.Cancel)
			default:
				x.data(x.headers(false), 10, true)
			}
			x.window()
			x.send()
		}
	}
}

// Deadlines of 50 ms at an endpoint that hangs for half a minute: a thousand streams at once, all of them given up.
func TestAClientWhoseCallsAllTimeOutIsNotCutOff(t *testing.T) {
	x := newScript(t, strict())
	x.a.due = true
	for at := 0; at < 30_000; at += 50 {
		first := x.id
		for range 1000 {
			x.headers(false)
		}
		x.send()
		x.env.Now += int64(50 * time.Millisecond)
		for id := first; id < x.id; id += 2 {
			x.in = h2.AppendRSTStream(x.in, id, h2.Cancel)
		}
		x.send()
	}
}

func TestKeepaliveIsNoAbuse(t *testing.T) {
	x := newScript(t, strict())
	for range 100_000 {
		x.env.Now += int64(10 * time.Second)
		x.in = h2.AppendPing(x.in, false, [8]byte{})
		x.send()
		if e := x.c.Expired(x.env.Now); e != nil {
			t.Fatal(e)
		}
	}
}

// flood is a handler that sends messages on a stream.
func (x *script) flood(id uint32, n, size int) {
	s := x.c.streams.get(id)
	for range n {
		x.c.SendData(s, make([]byte, size), false)
	}
}

// grpc-go answers DATA with a PING where none is under way, and every reader may give back each frame's bytes at once, for the
// stream and for the connection.
func TestPingsAndWindowUpdatesForEachFrameOfDataAreNoAbuse(t *testing.T) {
	for _, size := range []int{1, 100, 16384} {
		x := newScript(t, strict())
		id := x.headers(false)
		x.send()
		x.in = h2.AppendWindowUpdate(x.in, 0, 1<<30)
		x.in = h2.AppendWindowUpdate(x.in, id, 1<<30)
		x.send()
		for range 700 {
			x.flood(id, 20, size)
			for range 20 {
				x.in = h2.AppendPing(x.in, false, [8]byte{})
				x.in = h2.AppendWindowUpdate(x.in, id, uint32(size))
				x.in = h2.AppendWindowUpdate(x.in, 0, uint32(size))
			}
			x.env.Now += int64(time.Microsecond)
			x.send()
		}
	}
}

// A reader that is slower than the endpoint, and gives back the bytes of each frame.
func TestASlowReaderThatGivesBackEachFrameIsNoAbuse(t *testing.T) {
	x := newScript(t, strict())
	id := x.headers(false)
	x.send()
	x.flood(id, 20_000, 100)
	s := x.c.streams.get(id)
	for i := 0; s.Held() > 0; i++ {
		if i > 1_000_000 {
			t.Fatal("no end")
		}
		x.in = h2.AppendWindowUpdate(x.in, id, 20)
		x.in = h2.AppendWindowUpdate(x.in, 0, 20)
		x.env.Now += int64(10 * time.Microsecond)
		x.send()
	}
}

func TestTinyMessagesAreUsefulData(t *testing.T) {
	x := newScript(t, strict())
	id := x.headers(false)
	for range 250_000 {
		x.data(id, 5, false) // an empty message
		x.data(id, 1, false) // clients may split a message so
		if len(x.in) > 60_000 {
			x.send()
		}
	}
}

// No message is that small: a stream of such frames is there to make us, and the endpoint, work.
func TestDataOfAByteEachAreIdleFrames(t *testing.T) {
	x := newScript(t, strict())
	id := x.headers(false)
	for n := range 10_000 {
		x.data(id, 1, false)
		if x.try(); x.c.Failed() != nil {
			if n < 5000 {
				t.Errorf("it was cut off after %d frames: %v", n, x.c.Failed())
			}
			return
		}
	}
	t.Error("it goes on for ever")
}

// What is on its way to a stream that we have ended early: a window full of the smallest messages, for each of many calls.
func TestAnUploadThatIsAnsweredEarlyIsNoAbuse(t *testing.T) {
	x := newScript(t, strict())
	for range 40 {
		id := x.headers(false)
		x.send()
		s := x.c.streams.get(id)
		x.c.SendHeaders(s, x.a.tail, true)
		x.c.ResetAfter(s, h2.NoError)
		for range 128 << 10 / 6 {
			x.data(id, 6, false)
		}
		x.in = h2.AppendRSTStream(x.in, id, h2.Cancel)
		x.env.Now += int64(time.Second)
		x.send()
	}
}

// But who only ever sends data on a stream that it has reset itself is not on the way to anything: 64 such frames count as one.
func TestDataForAStreamThatIsOverIsAbuseInTheEnd(t *testing.T) {
	x := newScript(t, strict())
	id := x.headers(false)
	x.in = h2.AppendRSTStream(x.in, id, h2.Cancel)
	n := 0
	for ; x.c.Failed() == nil && n < 1_000_000; n += 1000 {
		for range 1000 {
			x.data(id, 1, false)
		}
		x.try()
	}
	if n < 300_000 || n > 350_000 {
		t.Errorf("%d frames", n)
	}
}

// h2load opens as many streams as it may, and gives windows back in large steps; others send a WINDOW_UPDATE with each new stream,
// and a PRIORITY, and reset what we have ended.
func TestManyShortCallsWithTheirHabitsAreNoAbuse(t *testing.T) {
	x := newScript(t, strict())
	for range 50_000 {
		id := x.headers(false)
		x.in = append(h2.AppendHeader(x.in, 5, h2.Priority, 0, id), 0, 0, 0, 0, 16)
		x.in = h2.AppendWindowUpdate(x.in, id, 1<<20)
		x.data(id, 5, true)
		x.in = h2.AppendRSTStream(x.in, id, h2.NoError)
		x.in = h2.AppendWindowUpdate(x.in, id, 16)
		x.in = h2.AppendWindowUpdate(x.in, 0, 16)
		x.in = h2.AppendPing(x.in, false, [8]byte{})
		x.send()
	}
}

// grpc-go's estimate of the bandwidth doubles the windows, a few times in a connection's life, with a thousand streams open.
func TestGrowingWindowsOfAThousandStreamsAreNoAbuse(t *testing.T) {
	x := newScript(t, strict())
	for range 1000 {
		x.headers(false)
	}
	x.send()
	for w := uint32(65535); w < 16<<20; w *= 2 {
		x.in = h2.AppendSettings(x.in, h2.Setting{ID: h2.SettingInitialWindowSize, Value: w})
		x.send()
	}
}

// A client that takes the first message of each stream and goes has had its answer.
func TestTakingTheFirstMessageAndLeavingIsNoAbuse(t *testing.T) {
	x := newScript(t, strict())
	for range 50_000 {
		id := x.headers(false)
		x.send()
		x.flood(id, 1, 10)
		x.in = h2.AppendRSTStream(x.in, id, h2.Cancel)
		x.window()
		x.send()
	}
}

// What a client does not read is held until its budget is used up; then its streams are reset one by one, which are resets that it
// made us do.
func TestAClientThatMakesUsResetByNotReadingIsCutOff(t *testing.T) {
	x := newScript(t, strict())
	x.in = h2.AppendSettings(x.in, h2.Setting{ID: h2.SettingInitialWindowSize})
	b := &Budget{Max: 100}
	for range 2000 {
		id := x.headers(true)
		x.a.silent = true
		x.try()
		if f := x.c.Failed(); f != nil {
			if f.Code != h2.EnhanceYourCalm || !strings.Contains(f.Reason, "limits.abuse.resetsPerSecond") || x.id/2 < 1000 {
				t.Errorf("after %d streams: %v", x.id/2, f)
			}
			return
		}
		s := x.c.streams.get(id)
		s.SetBudget(b)
		x.c.SendHeaders(s, x.a.head, false)
		if _, ok := x.c.SendData(s, make([]byte, 101), true); !ok {
			x.c.Reset(s, h2.EnhanceYourCalm)
		}
	}
	t.Error("it goes on for ever")
}

// Data that goes to and fro does not allow to send idle frames at the end without any bound.
func TestWhatWasEarnedInALongLifeIsBounded(t *testing.T) {
	x := newScript(t, strict())
	id := x.headers(false)
	for range 100_000 {
		x.data(id, 5, false)
		if len(x.in) > 60_000 {
			x.send()
		}
	}
	x.send()
	n := 0
	for ; x.c.Failed() == nil && n < 1_000_000; n++ {
		x.in = h2.AppendPing(x.in, false, [8]byte{})
		x.try()
	}
	if n < 200_000 || n > 210_000 {
		t.Errorf("%d PINGs", n)
	}
}

// The limits of an attacker that never reads while it asks: the output is bounded by its idle frames long before maxOutput.
func TestAFloodOfPingsByWhoReadsNothingHoldsLittle(t *testing.T) {
	x := newScript(t, strict())
	x.c.Blocked = true
	ping := bytes.Repeat(h2.AppendPing(nil, false, [8]byte{}), 1000)
	for range 10 {
		_, _ = x.c.Recv(ping)
	}
	if x.c.Failed() == nil || len(x.c.Output()) > 100<<10 {
		t.Errorf("%v; holds %d", x.c.Failed(), len(x.c.Output()))
	}
}

// A limit of 0 is none.
func TestWithoutLimitsNothingIsAbuse(t *testing.T) {
	x := newScript(t, benchConfig())
	for range 100_000 {
		x.in = h2.AppendRSTStream(x.in, x.headers(false), h2.Cancel)
		x.in = h2.AppendPing(x.in, false, [8]byte{})
		x.c.Wasted()
		x.send()
	}
}

// Many references to one large field are cheap to send; the work that they make must be of the order of their bytes.
func TestAHeaderBombCostsNoMoreThanItsBytes(t *testing.T) {
	env := &Env{Interner: hpack.NewInterner()}
	d := hpack.NewDecoder(env.Interner, 4096)
	d.SetMaxListSize(256 << 10)
	block := append([]byte{0x40, 1, 'a', 0x7f, 0xa1, 0x1e}, bytes.Repeat([]byte("x"), 4000)...)
	if _, err := d.Decode(nil, block); err != nil {
		t.Fatal(err)
	}
	bomb := bytes.Repeat([]byte{0xbe}, 500_000)
	fields := make([]*hpack.Field, 0, 2000)
	if n := testing.AllocsPerRun(10, func() {
		if got, err := d.Decode(fields, bomb); err == nil || len(got) != 0 {
			t.Error(err, len(got))
		}
	}); n > 0 {
		t.Errorf("%v allocations", n)
	}
}

// The hot path: what useful work and waste cost is an addition, or a subtraction and a comparison.
func TestBudgetsAllocateNothing(t *testing.T) {
	x := newScript(t, strict())
	if n := testing.AllocsPerRun(1000, func() {
		id := x.headers(false)
		x.data(id, 16, true)
		x.in = h2.AppendPing(x.in, false, [8]byte{})
		x.in = h2.AppendRSTStream(x.in, x.headers(false), h2.Cancel)
		x.env.Now += int64(time.Millisecond)
		x.try()
	}); n > 0 {
		t.Errorf("%v allocations", n)
	}
	if x.c.Failed() != nil {
		t.Error(x.c.Failed())
	}
}

// Once a second for each of very many connections.
func BenchmarkExpiredOfAnIdleConnection(b *testing.B) {
	c, _, _ := newAnswerer(b, strict())
	b.ReportAllocs()
	now := int64(0)
	for b.Loop() {
		now += int64(time.Second)
		if c.Expired(now) != nil {
			b.Fatal("expired")
		}
	}
}

// Who has spent a little of what is free, and earned nothing, may be read less often; who works, may not.
func TestWhoWastesIsWastefulUntilItEarnsOrWaits(t *testing.T) {
	x := newScript(t, strict())
	x.send()
	ping := func(n int) {
		for range n {
			x.in = append(h2.AppendHeader(x.in, 8, h2.Ping, 0, 0), make([]byte, 8)...)
		}
		x.send()
	}
	steps := []struct {
		name string
		do   func()
		want bool
	}{
		{"it has done nothing", func() {}, false},
		{"it sends a few PINGs", func() { ping(150) }, false},
		{"it sends some more", func() { ping(10) }, true},
		{"it waits for a second", func() { x.env.Now += int64(time.Second) }, false},
		{"it sends many", func() { ping(1000) }, true},
		{"it makes calls", func() {
			for range 100 {
				x.headers(true)
				x.send()
			}
		}, false},
	}
	for _, s := range steps {
		if s.do(); x.c.Wasteful() != s.want {
			t.Errorf("%s: wasteful is %v", s.name, !s.want)
		}
	}
	x = newScript(t, strict())
	if x.c.Wary(); x.c.Wasteful() {
		t.Error("of a wary connection nothing has come, and it is wasteful")
	}
	if ping(3); !x.c.Wasteful() {
		t.Error("a wary connection has sent some PINGs, and is not wasteful")
	}
}
