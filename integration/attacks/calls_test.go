package attacks

import (
	"strings"
	"testing"
	"time"

	"golang.org/x/net/http2"
)

// callAttacks are calls that HTTP/2 finds nothing wrong with.
func callAttacks() []attack {
	upload := newRequest("UnaryCall")
	answered := func(status string) func(*testing.T, *seen) {
		return func(t *testing.T, s *seen) {
			if len(s.Status) == 0 {
				t.Error("no call of the attacker's was answered")
			}
			for text := range s.Status {
				if code, _, _ := strings.Cut(text, " "); code != status {
					t.Errorf("an answer of the attacker's was %q, want status %s", text, status)
				}
			}
		}
	}
	return []attack{
		{
			name: "unknown_method_flood", workers: 4, ending: calm("refused", "calls"),
			defence: refusedBudget,
			story:   "Calls methods that do not exist, each under another name.",
			life: flood(nil, func(w *wire, i int) {
				for n := i * 500; n < (i+1)*500; n++ {
					block := append([]byte{0x83, 0x86, 0x04, 16}, "/no.such/"...)
					block = append(block, byte('a'+n%26), byte('a'+n/26%26), byte('a'+n/676%26), byte('a'+n/17576%26), 'x', 'y', 'z')
					w.headers(uint32(2*n+1), append(append(block, literal("content-type", "application/grpc")...), literal("te", "trailers")...), true)
				}
			}),
			check: func(t *testing.T, s *seen) {
				for text := range s.Status {
					if !strings.HasPrefix(text, "12 ") {
						t.Errorf("an unknown method was answered with %q", text)
					}
				}
			},
		},
		{
			name: "bad_metadata", workers: 2, ending: ending{none: true},
			defence: "bad deadlines are refused with INTERNAL and count in " + refusedBudget + "; what else metadata say is the endpoint's to judge",
			story:   "Calls with deadlines that are no deadlines and binary metadata that are not base64.",
			life: func(v *villain) {
				v.hello()
				kinds := [][]byte{
					uncompressed("UnaryCall", "grpc-timeout", "99999999999H"), uncompressed("UnaryCall", "grpc-timeout", "-1S"),
					uncompressed("UnaryCall", "grpc-timeout", "S"), uncompressed("UnaryCall", "x-bin", "%%%"),
					uncompressed("UnaryCall", "grpc-encoding", strings.Repeat("x", 100)),
				}
				n := 0
				for batch := int64(1); ; batch++ {
					if !v.write(frames(func(w *wire) {
						for range 20 {
							w.headers(uint32(2*n+1), kinds[n%len(kinds)], false)
							w.frame(http2.FrameData, endStream, uint32(2*n+1), message()...)
							n++
						}
					})) || !v.await(20*batch) || !v.pause(10*time.Millisecond) {
						return
					}
				}
			},
		},
		{
			name: "message_of_4_gib", workers: 2, ending: ending{none: true}, check: answered("8"),
			defence: "nothing is kept for what a message announces: it is passed on as it comes, and the endpoint says no. `payload[].maxRequestMessageBytes` (no limit) refuses it here",
			story:   "Announces messages of 4 GiB on many calls, and sends little of them.",
			life: func(v *villain) {
				v.hello()
				for batch := range 1 << 20 {
					if !v.write(frames(func(w *wire) {
						for n := batch * 20; n < (batch+1)*20; n++ {
							w.headers(uint32(2*n+1), upload.block(n), false)
							w.frame(http2.FrameData, 0, uint32(2*n+1), append([]byte{0, 0xff, 0xff, 0xff, 0xff}, make([]byte, 100)...)...)
						}
					})) || !v.await(20*int64(batch+1)) || !v.pause(10*time.Millisecond) {
						return
					}
				}
			},
		},
		{
			name: "messages_unfinished", workers: 4, lasts: 2 * time.Second, memory: heldMemory, ending: ending{none: true},
			defence: "flow control: what an endpoint has not taken is bounded by the stream's window and by `limits.bufferBytesPerConnection` (32 MiB)",
			story:   "Begins 1,000 calls per connection with messages of 4 MiB, sends 60 KiB of each, and waits.",
			life: func(v *villain) {
				v.hello()
				for n := range 1000 {
					if !v.write(frames(func(w *wire) {
						w.headers(uint32(2*n+1), upload.block(n), false)
						body := append([]byte{0, 0, 0x3f, 0xff, 0xff}, make([]byte, 60<<10)...)
						for len(body) > 0 {
							k := min(len(body), frameSize)
							w.frame(http2.FrameData, 0, uint32(2*n+1), body[:k]...)
							body = body[k:]
						}
					})) {
						return
					}
				}
				v.linger()
			},
		},
		{
			name: "forged_client_certificate", workers: 2, ending: ending{none: true},
			defence: "`x-forwarded-client-cert`, `x-trunkline-*` and `authentication.protectedMetadata` are taken away from what clients send",
			story:   "Says in x-forwarded-client-cert and x-trunkline-* that it is somebody else.",
			life: func(v *villain) {
				r := newRequest("UnaryCall", mark, "1", "x-forwarded-client-cert", "By=spiffe://a/b;Hash=00;URI=spiffe://a/admin", "x-trunkline-identity", "admin")
				v.hello()
				for batch := range 1 << 20 {
					if !v.write(frames(func(w *wire) {
						for n := batch * 20; n < (batch+1)*20; n++ {
							w.headers(uint32(2*n+1), r.block(n), false)
							w.frame(http2.FrameData, endStream, uint32(2*n+1), message()...)
						}
					})) || !v.await(20*int64(batch+1)) || !v.pause(10*time.Millisecond) {
						return
					}
				}
			},
			check: answered("0"), // the backend refuses what is forged
		},
	}
}
