package attacks

import (
	"testing"
	"time"

	"golang.org/x/net/http2"
	testpb "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/protobuf/proto"
)

// ask is a request of the test service for many messages.
func ask(messages, size int32) []byte {
	in := &testpb.StreamingOutputCallRequest{}
	for range messages {
		in.ResponseParameters = append(in.ResponseParameters, &testpb.ResponseParameters{Size: size})
	}
	body, err := proto.Marshal(in)
	if err != nil {
		panic(err) // a message of our own making
	}
	return message(body...)
}

// downloads asks for a large answer on each of n streams.
func downloads(n int) []byte {
	r, in := newRequest("StreamingOutputCall"), ask(100, 16<<10)
	return frames(func(w *wire) {
		for i := range n {
			w.headers(uint32(2*i+1), r.block(i), false)
			w.frame(http2.FrameData, endStream, uint32(2*i+1), in...)
		}
	})
}

// heldMemory is the bound where an attacker makes the product hold all it may: 32 MiB on each of two connections
// (bufferBytesPerConnection), what those hold who follow them, as much again until the garbage collector comes, and the rest.
const heldMemory = 320 * mebibyte

// stallAttacks make the server hold what they do not take.
func stallAttacks() []attack {
	const streams = 150
	many := downloads(streams)
	held := func(t *testing.T, s *seen) {
		if s.ByGoAway()+s.Closed == 0 && s.Resets["ENHANCE_YOUR_CALM"] < streams {
			t.Errorf("neither were connections ended, nor their streams reset: %v", s)
		}
	}
	return []attack{
		{
			name: "zero_window_stall", workers: 2, limit: "stallTimeout: 1s", lasts: 3 * time.Second, memory: heldMemory,
			defence: holdLimits,
			story:   "Asks for large answers on many streams and never gives window for them.",
			ending:  ending{none: true}, check: held,
			life: func(v *villain) {
				v.hello(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 0})
				v.write(many)
				v.linger()
			},
		},
		{
			name: "zero_connection_window_stall", workers: 2, limit: "stallTimeout: 1s", lasts: 3 * time.Second, memory: heldMemory,
			defence: holdLimits,
			story:   "The same with large windows for the streams and none for the connection.",
			ending:  ending{none: true}, check: held,
			life: func(v *villain) {
				v.hello(http2.Setting{ID: http2.SettingInitialWindowSize, Val: maxWindow})
				v.write(many)
				v.linger()
			},
		},
		{
			name: "tiny_window_dribble", cve: "CVE-2019-9511", workers: 2, memory: heldMemory,
			defence: idleBudget + ": window that lets little data go does not pay for itself; " + holdLimits,
			story:   "Takes large answers a byte at a time.",
			ending:  calm("window", "frames", "nothing", "idle"),
			life: func(v *villain) {
				v.hello(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 0})
				if !v.write(many) {
					return
				}
				drip := frames(func(w *wire) {
					for range 10 {
						for i := range streams {
							w.frame(http2.FrameWindowUpdate, 0, uint32(2*i+1), u32(1)...)
						}
					}
				})
				for v.write(drip) {
				}
			},
		},
		{
			name: "slow_dribble", workers: 2, limit: "stallTimeout: 1s", lasts: 3 * time.Second, memory: heldMemory,
			defence: holdLimits,
			story:   "Takes large answers a byte a second, just enough not to be idle.",
			ending:  ending{none: true}, // it reads, if slowly: what it may make us hold is bounded
			life: func(v *villain) {
				v.hello(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 0})
				v.write(many)
				drip := frames(func(w *wire) {
					for i := range streams {
						w.frame(http2.FrameWindowUpdate, 0, uint32(2*i+1), u32(1)...)
					}
				})
				for v.pause(time.Second) && v.write(drip) {
				}
			},
		},
		{
			name: "socket_never_read", workers: 2, memory: heldMemory, limit: "stallTimeout: 1s", lasts: 3500 * time.Millisecond, patience: 3 * time.Second,
			defence: holdLimits,
			story:   "Asks for large answers, with all the window there is, and never reads its socket.",
			ending:  ending{shut: true, codes: []string{"ENHANCE_YOUR_CALM"}, says: []string{"read", "take"}},
			life: func(v *villain) {
				v.deaf(http2.Setting{ID: http2.SettingInitialWindowSize, Val: maxWindow})
				v.write(frames(func(w *wire) { w.frame(http2.FrameWindowUpdate, 0, 0, u32(maxWindow-65535)...) }))
				v.write(many)
				ping := frames(func(w *wire) { w.frame(http2.FramePing, 0, 0, make([]byte, 8)...) })
				for v.pause(100*time.Millisecond) && v.write(ping) { // to see whether it is still there
				}
			},
		},
	}
}

// slowAttacks keep the server waiting.
func slowAttacks() []attack {
	call := newRequest("UnaryCall")
	dribble := func(v *villain, p []byte) {
		for ; len(p) > 0 && v.pause(100*time.Millisecond) && v.write(p[:1]); p = p[1:] {
		}
		v.linger()
	}
	late := func(says ...string) ending { return calm(append(says, "slow", "took", "within", "limits.")...) }
	return []attack{
		{
			name: "slow_preface", workers: 200, limit: "prefaceTimeout: 1s", lasts: 3500 * time.Millisecond, patience: 2500 * time.Millisecond, quiet: true,
			defence: prefaceLimit,
			story:   "Sends a byte of the preface every 100 ms, on many connections.",
			ending:  ending{shut: true, codes: []string{"ENHANCE_YOUR_CALM", "SETTINGS_TIMEOUT"}, says: []string{"preface", "SETTINGS"}},
			life: func(v *villain) {
				v.listen()
				dribble(v, []byte(http2.ClientPreface))
			},
		},
		{
			name: "silent_connections", workers: 200, limit: "prefaceTimeout: 1s", lasts: 3500 * time.Millisecond, patience: 2500 * time.Millisecond, quiet: true,
			defence: prefaceLimit,
			story:   "Connects and never says a word.",
			ending:  ending{shut: true, codes: []string{"ENHANCE_YOUR_CALM", "SETTINGS_TIMEOUT"}, says: []string{"preface", "SETTINGS"}},
			life: func(v *villain) {
				v.listen()
				v.linger()
			},
			check: func(t *testing.T, s *seen) {
				if s.ByGoAway()+s.Closed < 200 {
					t.Errorf("of 200 silent connections %d were ended", s.ByGoAway()+s.Closed)
				}
			},
		},
		{
			name: "slow_headers", workers: 50, limit: "frameTimeout: 1s", lasts: 3500 * time.Millisecond, patience: 2500 * time.Millisecond, quiet: true,
			defence: frameLimit,
			story:   "Sends a header block in CONTINUATION frames of a byte, one every 100 ms.",
			ending:  late("header block"),
			life: func(v *villain) {
				v.hello()
				v.write(frames(func(w *wire) { w.frame(http2.FrameHeaders, 0, 1, call.first[0]) }))
				for i := 1; i < len(call.first) && v.pause(100*time.Millisecond); i++ {
					v.write(frames(func(w *wire) { w.frame(http2.FrameContinuation, 0, 1, call.first[i]) }))
				}
				v.linger()
			},
		},
		{
			name: "slow_frame", workers: 50, limit: "frameTimeout: 1s", lasts: 3500 * time.Millisecond, patience: 2500 * time.Millisecond, quiet: true,
			defence: frameLimit,
			story:   "Announces DATA of 16 KiB and sends a byte of it every 100 ms.",
			ending:  late("DATA", "frame"),
			life: func(v *villain) {
				v.hello()
				frame := frames(func(w *wire) { w.frame(http2.FrameData, 0, 1, make([]byte, frameSize)...) })
				v.write(append(frames(func(w *wire) { w.headers(1, call.first, false) }), frame[:9]...))
				dribble(v, frame[9:])
			},
		},
		{
			name: "stalled_frame", workers: 50, limit: "frameTimeout: 1s", lasts: 3500 * time.Millisecond, patience: 2500 * time.Millisecond, quiet: true,
			defence: frameLimit,
			story:   "Sends half a frame's header, and no more.",
			ending:  late("frame"),
			life: func(v *villain) {
				v.hello()
				v.write([]byte{0, 0, 8, 6})
				v.linger()
			},
		},
	}
}
