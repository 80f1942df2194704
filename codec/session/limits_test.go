package session

import (
	"bytes"
	"strings"
	"testing"

	"github.com/trunkline/trunkline/codec/h2"
)

// A peer that asks and does not read is given up when 16 MiB of answers wait, whatever it asks. Found by reading: replies to
// requests did not count, so that a client could make us hold any amount of them.
func TestAPeerThatAsksAndDoesNotReadIsGivenUp(t *testing.T) {
	for _, ask := range []string{"PING", "HEADERS"} {
		t.Run(ask, func(t *testing.T) {
			g := newStage(t)
			a := g.connect(Server, 100)
			a.Blocked = true
			a.do = func(what string, s *Stream) {
				if what == "headers" {
					g.respond(a, s, true, ":status", "200", "grpc-message", strings.Repeat("long", 300)) // too long for the header table
				}
			}
			asked := 0
			for id := uint32(1); a.Failed() == nil && asked < 32<<20; id += 2 {
				var frames []byte
				switch ask {
				case "PING":
					frames = bytes.Repeat(h2.AppendPing(nil, false, [8]byte{}), 1000)
				case "HEADERS":
					frames = append(h2.AppendHeader(nil, 3, h2.Headers, h2.FlagEndHeaders|h2.FlagEndStream, id), 0x83, 0x86, 0x84)
				}
				asked += len(frames)
				_, err := a.Recv(frames)
				a.log = nil
				if f := a.Failed(); (err == nil) != (f == nil) {
					t.Fatal(err, f)
				}
			}
			if f := a.Failed(); f == nil || f.Code != h2.EnhanceYourCalm {
				t.Fatalf("after %d bytes of %s the connection is %v, and holds %d bytes", asked, ask, f, len(a.Output()))
			}
			if n := len(a.Output()); n > 17<<20 {
				t.Errorf("holds %d bytes", n)
			}
			a.Advance(len(a.Output()))
			g.end()
		})
	}
}
