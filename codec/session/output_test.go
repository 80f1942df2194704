package session

import (
	"fmt"
	"testing"

	"github.com/trunkline/trunkline/codec/h2"
)

func TestACarrierIsToldOnceOfOutputUntilItHasSeenIt(t *testing.T) {
	g := newStage(t)
	a := g.connect(Server, 100)
	a.Clean()
	g.env.Dirty = nil
	a.Ping([8]byte{})
	a.Ping([8]byte{})
	a.Touch()
	if n := len(g.env.Dirty); n != 1 {
		t.Errorf("told %d times", n)
	}
	a.Clean()
	a.Ping([8]byte{})
	if n := len(g.env.Dirty); n != 2 {
		t.Errorf("told %d times, with one look in between", n)
	}
	g.end()
}

// HeadersAt against Written tells whether a request has left: what has not may be tried elsewhere.
func TestARequestHasLeftWhenAsMuchIsWrittenAsItsHeadersNeeded(t *testing.T) {
	for _, how := range []string{"Advance", "TakeOutput"} {
		t.Run(how, func(t *testing.T) {
			g := newStage(t)
			a := g.connect(Client, 100)
			a.Ping([8]byte{})
			s := g.open(a, false)
			a.Ping([8]byte{})
			if a.Written() >= s.HeadersAt || s.HeadersAt >= a.Appended() {
				t.Fatalf("written %d, headers at %d, appended %d", a.Written(), s.HeadersAt, a.Appended())
			}
			if how == "Advance" {
				rest := len(a.Output()) - 17
				a.Advance(rest - 1)
				if a.Written() != s.HeadersAt-1 {
					t.Errorf("written %d, headers at %d", a.Written(), s.HeadersAt)
				}
				a.Advance(1)
				if a.Written() != s.HeadersAt {
					t.Errorf("written %d, headers at %d", a.Written(), s.HeadersAt)
				}
			} else {
				b := a.TakeOutput()
				if a.Written() != a.Appended() || len(a.Output()) != 0 {
					t.Errorf("written %d of %d", a.Written(), a.Appended())
				}
				g.env.Buffers.Put(b)
			}
			g.end()
		})
	}
}

func TestEachStreamVisitsThoseThatAreThereAlsoWhenTheVisitorClosesThem(t *testing.T) {
	g := newStage(t)
	a := g.connect(Server, 100)
	for id := 1; id <= 41; id += 2 {
		g.recv(a, fmt.Sprintf("HEADERS %d @get", id))
	}
	seen := map[uint32]bool{}
	a.EachStream(func(s *Stream) {
		seen[s.ID] = true
		if other := a.streams.get(s.ID ^ 2); other != nil {
			a.Reset(other, h2.Cancel)
		}
	})
	if len(seen) != 11 || a.Streams() != 11 {
		t.Errorf("visited %d of %d streams", len(seen), a.Streams())
	}
	g.end()
}

func TestAClientThatHasUsedUpItsIDsOpensNoMore(t *testing.T) {
	g := newStage(t)
	a := g.connect(Client, 100)
	for a.lastID = h2.MaxStreamID - 8; !a.Closing(); {
		if s := g.open(a, true); s.ID > h2.MaxStreamID || s.ID&1 == 0 {
			t.Fatalf("stream %d", s.ID)
		}
	}
	g.check()
	g.end()
}
