package listener

import (
	"io"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/trunkline/trunkline/codec/h2"
)

// serveOn has the stage accept at a free port of loopback; the returned function ends it.
func (s *stage) serveOn(t *testing.T) (dial func() net.Conn, end func()) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s.l = l
	accepting := make(chan struct{})
	go func() { defer close(accepting); s.Accept() }()
	dial = func() net.Conn {
		nc, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = nc.Close() })
		return nc
	}
	return dial, func() { s.Close(); <-accepting; s.end() }
}

// call is a client's preface and its first call; what it asks for does not matter.
const call = h2.Preface + "\x00\x00\x01\x01\x05\x00\x00\x00\x05\x82"

const header = "PROXY TCP4 192.0.2.7 10.0.0.1 40000 443\r\n"

// visits are the two ways in which the address of a client is told.
var visits = map[string]struct {
	door   *Door
	says   string // before all else
	client string
}{
	"without a PROXY header": {nil, "", "127.0.0.1"},
	"with one":               {&Door{Trusted: []netip.Prefix{netip.MustParsePrefix("127.0.0.1/32")}}, header, "192.0.2.7"},
}

// What an address may have, and what becomes of its connections after abuse, is the same whoever tells the address.
func TestAnAddressIsJudgedAlikeWithAPROXYHeaderAndWithout(t *testing.T) {
	for name, c := range visits {
		t.Run(name, func(t *testing.T) {
			at := party(netip.MustParseAddr(c.client))
			s := newStage(t, 1)
			set := *s.settings.Load()
			set.MaxPerAddress = 1
			s.settings.Store(&set)
			s.Listener.door.Store(c.door)
			dial, end := s.serveOn(t)
			defer end()
			come := func(says string) net.Conn {
				nc := dial()
				if _, err := io.WriteString(nc, c.says+says); err != nil {
					t.Error(err)
				}
				return nc
			}
			refused := func(want string, counted func() uint64) {
				t.Helper()
				if fields, _, why := turned(t, come(call)); fields["grpc-status"] != "14" || why != want {
					t.Errorf("%v; GOAWAY %q, want %q", fields, why, want)
				}
				if n := counted(); n != 1 {
					t.Errorf("%d are counted", n)
				}
			}
			s.offenders.note(at, time.Now())
			for range maxPausing {
				s.offenders.known(at, time.Now())
			}
			refused("connections of your address were cut off for abuse of HTTP/2 lately, and others of it wait already: connect again later, once", s.Counts().Offenders.Load)
			for range maxPausing {
				s.offenders.leave(at)
			}
			began := time.Now()
			come("")
			for s.Open() == 0 && time.Since(began) < time.Minute {
				time.Sleep(time.Millisecond)
			}
			if d := time.Since(began); d < pauseFor {
				t.Errorf("a connection of a remembered address came in after %v", d)
			}
			refused("your address has 1 connections already, and may have no more (limits.maxConnectionsPerAddress): carry more calls on each, or close those that are not used", s.Counts().CrowdedAddress.Load)
			s.guard.mu.Lock()
			open, by := s.guard.open, s.guard.by[at]
			s.guard.mu.Unlock()
			if open != 1 || by != 1 {
				t.Errorf("%d connections are counted, %d of the address", open, by)
			}
			if w := waiting(s, at); w != 0 {
				t.Errorf("%d places to wait were not given back", w)
			}
		})
	}
}

func waiting(s *stage, at netip.Prefix) int {
	s.offenders.mu.Lock()
	defer s.offenders.mu.Unlock()
	return s.offenders.by[at].waiting
}

// Its client's time for the preface begins when it has come in, and nobody waits for a line any more when the listener ends.
func TestAnAddressThatUsesNoConnectionHasItsNextWaitWithAPROXYHeaderAndWithout(t *testing.T) {
	for name, c := range visits {
		t.Run(name, func(t *testing.T) {
			at := party(netip.MustParseAddr(c.client))
			s := newStage(t, 1)
			set := *s.settings.Load()
			set.UnusedPerSecond, set.PrefaceTimeout = 4, 100*time.Millisecond
			s.settings.Store(&set)
			s.Listener.door.Store(c.door)
			dial, end := s.serveOn(t)
			come := func() {
				if _, err := io.WriteString(dial(), c.says+h2.Preface); err != nil {
					t.Error(err)
				}
			}
			wait := func(open int64) {
				t.Helper()
				for until := time.Now().Add(time.Minute); s.Open() != open; time.Sleep(time.Millisecond) {
					if time.Now().After(until) {
						t.Fatalf("%d connections are open, not %d", s.Open(), open)
					}
				}
			}
			began := time.Now()
			for range unusedFree*4 + 1 {
				come()
			}
			wait(unusedFree*4 + 1)
			if d := time.Since(began); d < time.Second/4 {
				t.Errorf("all came in within %v", d)
			}
			lower := set // what is stored is read by others
			lower.UnusedPerSecond = 0.01
			s.settings.Store(&lower)
			s.newcomers.mu.Lock()
			s.newcomers.by[at].left = 0
			k := s.newcomers.by[at]
			s.newcomers.mu.Unlock()
			come() // whose line is one at a time: no place is left for another
			for n := 0; n == 0; time.Sleep(time.Millisecond) {
				s.newcomers.mu.Lock()
				n = len(k.line)
				s.newcomers.mu.Unlock()
			}
			if s.Counts().Unused.Load() != 0 {
				t.Error("it was turned away")
			}
			come()
			for s.Counts().Unused.Load() == 0 {
				time.Sleep(time.Millisecond)
			}
			end()
			s.newcomers.mu.Lock()
			defer s.newcomers.mu.Unlock()
			if n := len(k.line); n != 0 {
				t.Errorf("%d still wait", n)
			}
		})
	}
}
