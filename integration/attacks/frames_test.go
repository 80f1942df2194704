package attacks

import (
	"bytes"

	"golang.org/x/net/http2"
)

// frameAttacks are floods of frames that carry nothing, or cost more than they weigh.
func frameAttacks() []attack {
	open := newRequest("FullDuplexCall")
	one := func(w *wire) { w.headers(1, open.first, false) }
	ping := func(w *wire) { w.frame(http2.FramePing, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8) }
	idle := calm("frames", "nothing", "idle")
	return []attack{
		{
			name: "settings_flood", cve: "CVE-2019-9515", workers: 4, ending: idle,
			defence: idleBudget,
			story:   "Sends SETTINGS without end, each of which wants an answer.",
			life:    flood(nil, repeat(5000, func(w *wire) { w.frame(http2.FrameSettings, 0, 0) })),
		},
		{
			name: "settings_window_flap", workers: 4, ending: idle,
			defence: idleBudget + "; a change of the window counts for each 16 streams",
			story:   "Opens 1,000 streams with answers pending and moves all their windows up and down by SETTINGS_INITIAL_WINDOW_SIZE.",
			life: flood(func(w *wire) {
				w.frame(http2.FrameSettings, 0, 0, setting(http2.SettingInitialWindowSize, 0)...)
				for n := range 1000 {
					w.headers(uint32(2*n+1), newRequest("UnaryCall").block(n), false)
					w.frame(http2.FrameData, endStream, uint32(2*n+1), message(0x10, 0x80, 0x08)...) // response_size 1024
				}
			}, repeat(2500, func(w *wire) {
				w.frame(http2.FrameSettings, 0, 0, setting(http2.SettingInitialWindowSize, 1)...)
				w.frame(http2.FrameSettings, 0, 0, setting(http2.SettingInitialWindowSize, 0)...)
			})),
		},
		{
			name: "settings_many_per_frame", workers: 4, ending: idle,
			defence: idleBudget + "; a change of the window counts for each 16 streams",
			story:   "Sends SETTINGS frames of 2,700 changes of the initial window each, with 1,000 streams open.",
			life: flood(func(w *wire) {
				for n := range 1000 {
					w.headers(uint32(2*n+1), open.block(n), false)
				}
			}, repeat(2, func(w *wire) {
				a, b := setting(http2.SettingInitialWindowSize, 0), setting(http2.SettingInitialWindowSize, maxWindow>>1)
				w.frame(http2.FrameSettings, 0, 0, bytes.Repeat(append(a, b...), 1350)...)
			})),
		},
		{
			name: "ping_flood", cve: "CVE-2019-9512", workers: 4, ending: idle,
			defence: idleBudget,
			story:   "Sends PINGs without end and reads the answers.",
			life:    flood(nil, repeat(4000, ping)),
		},
		{
			name: "ping_flood_unread", cve: "CVE-2019-9512", workers: 4, ending: ending{codes: idle.codes, says: idle.says, shut: true},
			defence: idleBudget + "; the connection ends when 16 MiB of answers wait",
			story:   "Sends PINGs without end and does not read the answers, so that they pile up.",
			life: func(v *villain) {
				v.deaf()
				for p := frames(func(w *wire) { repeat(4000, ping)(w, 0) }); v.write(p); {
				}
			},
		},
		{
			name: "ack_flood", workers: 4, ending: idle,
			defence: idleBudget,
			story:   "Answers SETTINGS and PINGs that nobody has sent.",
			life: flood(nil, repeat(2000, func(w *wire) {
				w.frame(http2.FrameSettings, ack, 0)
				w.frame(http2.FramePing, ack, 0, 1, 2, 3, 4, 5, 6, 7, 8)
			})),
		},
		{
			name: "empty_data_flood", cve: "CVE-2019-9518", workers: 4, ending: idle,
			defence: idleBudget,
			story:   "Sends DATA frames without data on an open call.",
			life:    flood(one, repeat(5000, func(w *wire) { w.frame(http2.FrameData, 0, 1) })),
		},
		{
			name: "padding_flood", cve: "CVE-2019-9518", workers: 4, ending: idle,
			defence: idleBudget,
			story:   "Sends DATA frames that are padding only.",
			life: flood(one, repeat(200, func(w *wire) {
				w.frame(http2.FrameData, padded, 1, append([]byte{255}, make([]byte, 255)...)...)
			})),
		},
		{
			name: "empty_headers_flood", cve: "CVE-2019-9518", workers: 4, ending: calm("reset", "given up", "frames", "nothing"),
			defence: resetBudget,
			story:   "Opens streams with empty header blocks.",
			life: flood(nil, func(w *wire, i int) {
				for n := i * 4000; n < (i+1)*4000; n++ {
					w.frame(http2.FrameHeaders, endHeaders|endStream, uint32(2*n+1))
				}
			}),
		},
		{
			name: "priority_flood", cve: "CVE-2019-9513", workers: 4, ending: idle,
			defence: idleBudget,
			story:   "Shuffles the priorities of streams that it never opens.",
			life: flood(nil, func(w *wire, i int) {
				for n := range 4000 {
					w.frame(http2.FramePriority, 0, uint32(2*(i*4000+n)+1), append(u32(uint32(2*n+3)), byte(n))...)
				}
			}),
		},
		{
			name: "unknown_frame_flood", workers: 4, ending: idle,
			defence: idleBudget,
			story:   "Sends frames of types that do not exist, which have to be ignored.",
			life:    flood(nil, repeat(4000, func(w *wire) { w.frame(0xfa, 0, 0, 1, 2, 3, 4) })),
		},
		{
			name: "unknown_frame_flood_large", workers: 4, ending: idle,
			defence: idleBudget,
			story:   "The same with 16 KiB in each.",
			life:    flood(nil, repeat(4, func(w *wire) { w.frame(0xfa, 0, 0, make([]byte, frameSize)...) })),
		},
		{
			name: "window_update_flood", workers: 4, ending: idle,
			defence: idleBudget,
			story:   "Gives the connection and a call window, a byte at a time.",
			life: flood(one, repeat(2000, func(w *wire) {
				w.frame(http2.FrameWindowUpdate, 0, 0, u32(1)...)
				w.frame(http2.FrameWindowUpdate, 0, 1, u32(1)...)
			})),
		},
		{
			name: "rst_closed_flood", workers: 4, ending: calm("frames", "nothing", "idle", "reset"),
			defence: idleBudget,
			story:   "Resets a stream that has ended, again and again.",
			life: flood(func(w *wire) {
				one(w)
				w.frame(http2.FrameRSTStream, 0, 1, u32(8)...)
			}, repeat(5000, func(w *wire) { w.frame(http2.FrameRSTStream, 0, 1, u32(8)...) })),
		},
		{
			name: "closed_stream_flood", workers: 4, ending: ending{codes: []string{"ENHANCE_YOUR_CALM", "STREAM_CLOSED"}, says: []string{"frames", "nothing", "idle", "reset", "ended"}},
			defence: idleBudget,
			story:   "Sends DATA and WINDOW_UPDATE on a stream that it has reset.",
			life: flood(func(w *wire) {
				one(w)
				w.frame(http2.FrameRSTStream, 0, 1, u32(8)...)
			}, repeat(2000, func(w *wire) {
				w.frame(http2.FrameData, 0, 1, 0)
				w.frame(http2.FrameWindowUpdate, 0, 1, u32(1)...)
			})),
		},
		{
			name: "goaway_flood", workers: 4, ending: idle,
			defence: idleBudget,
			story:   "Sends GOAWAY without end.",
			life:    flood(nil, repeat(3000, func(w *wire) { w.frame(http2.FrameGoAway, 0, 0, make([]byte, 8)...) })),
		},
		{
			name: "frame_too_large", workers: 4, ending: breach("FRAME_SIZE_ERROR", "bytes"),
			defence: "SETTINGS_MAX_FRAME_SIZE is 16 KiB; larger frames are not waited for",
			story:   "Announces a frame of 16 MiB, above SETTINGS_MAX_FRAME_SIZE.",
			life: func(v *villain) {
				v.hello()
				v.write([]byte{0xff, 0xff, 0xff, 0, 0, 0, 0, 0, 1})
				v.write(make([]byte, 64<<10))
				v.linger()
			},
		},
		{
			name: "one_byte_data", workers: 4, ending: ending{none: true}, // clumsy, but a call
			defence: "flow control; the frames are passed on as they come",
			story:   "Sends a message of 4 MiB with one byte in each frame.",
			life: flood(func(w *wire) {
				one(w)
				w.frame(http2.FrameData, 0, 1, 0, 0, 0x40, 0, 0) // a message of 4 MiB
			}, repeat(5000, func(w *wire) { w.frame(http2.FrameData, 0, 1, 0) })),
		},
	}
}
