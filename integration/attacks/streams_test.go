package attacks

import (
	"net"
	"testing"

	"golang.org/x/net/http2"
)

// Flags of raw frames.
const (
	endStream  = http2.FlagHeadersEndStream
	endHeaders = http2.FlagHeadersEndHeaders
	padded     = http2.FlagDataPadded
	ack        = http2.FlagSettingsAck
)

// maxWindow is the largest window, and the largest increment of one.
const maxWindow = 1<<31 - 1

// streamAttacks begin streams for nothing.
func streamAttacks() []attack {
	call := newRequest("UnaryCall")
	resets := flood(nil, perStream(call, 1000, func(w *wire, id uint32, block []byte) {
		w.headers(id, block, false)
		w.frame(http2.FrameRSTStream, 0, id, u32(uint32(http2.ErrCodeCancel))...)
	}))
	opens := flood(nil, perStream(newRequest("FullDuplexCall"), 1000, func(w *wire, id uint32, block []byte) {
		w.headers(id, block, false)
	}))
	return []attack{
		{
			name: "rapid_reset", cve: "CVE-2023-44487", workers: 4,
			defence: resetBudget,
			story:   "Begins calls and cancels each at once, so that no limit of concurrent streams is ever met.",
			ending:  calm("reset", "given up", "cancel"),
			life:    resets,
		},
		{
			name: "rapid_reset_after_request", cve: "CVE-2023-44487", workers: 4,
			defence: resetBudget,
			story:   "The same with whole requests, which endpoints begin to work on.",
			ending:  calm("reset", "given up", "cancel"),
			life: flood(nil, perStream(call, 1000, func(w *wire, id uint32, block []byte) {
				w.headers(id, block, false)
				w.frame(http2.FrameData, endStream, id, message()...)
				w.frame(http2.FrameRSTStream, 0, id, u32(uint32(http2.ErrCodeCancel))...)
			})),
		},
		{
			name: "stream_flood", workers: 4,
			defence: "`limits.maxConcurrentStreams` (1000): more are reset (REFUSED_STREAM), and count in " + resetBudget,
			story:   "Opens streams far above SETTINGS_MAX_CONCURRENT_STREAMS and ends none.",
			ending:  calm("reset", "given up", "refused", "streams"),
			life:    opens,
		},
		{
			name: "rapid_reset_same_address", cve: "CVE-2023-44487", workers: 4, from: sameAddress,
			defence: resetBudget + "; connections that are open lose nothing, new ones of the address wait 40 ms",
			story:   "Resets rapidly from the address that the well-behaved client has, too.",
			ending:  calm("reset", "given up", "cancel"),
			life:    resets,
		},
		{
			name: "stream_flood_same_address", workers: 4, from: sameAddress,
			defence: "`limits.maxConcurrentStreams` (1000; 100 for new connections of such an address) and " + resetBudget,
			story:   "Floods with streams from the address that the well-behaved client has, too.",
			ending:  calm("reset", "given up", "refused", "streams"),
			life:    opens,
		},
		{
			name: "goaway_ignored", workers: 4,
			defence: resetBudget + "; nothing is read after the GOAWAY, and the connection is closed a second later at the latest",
			story:   "Resets rapidly and goes on when it is told to go, until the connection is closed under it.",
			ending:  calm("reset", "given up", "cancel"),
			life: func(v *villain) {
				v.deaf() // it hears the GOAWAY when it cannot write any more
				block := call.first
				for i := 0; ; i++ {
					if !v.write(frames(func(w *wire) {
						for n := i * 500; n < (i+1)*500; n++ {
							w.headers(uint32(2*n+1), block, false)
							w.frame(http2.FrameRSTStream, 0, uint32(2*n+1), u32(uint32(http2.ErrCodeCancel))...)
							block = call.again
						}
					})) {
						return
					}
				}
			},
		},
	}
}

// sameAddress is the well-behaved client's.
func sameAddress(int) net.IP { return net.IPv4(127, 0, 0, 1) }

// resetAttacks make the server reset streams: MadeYouReset.
func resetAttacks() []attack {
	const cve = "CVE-2025-8671"
	call, whole := newRequest("FullDuplexCall"), newRequest("UnaryCall")
	counted := newRequest("UnaryCall", "content-length", "1")
	fault := func(r request, end bool, then func(w *wire, id uint32, block []byte)) func(*villain) {
		return flood(nil, perStream(r, 1000, func(w *wire, id uint32, block []byte) {
			w.headers(id, block, end)
			then(w, id, block)
		}))
	}
	says := calm("reset", "given up")
	// A call that has been answered by then is over, and the fault is one of the connection's (RFC 9113 section 5.1).
	raced := ending{codes: []string{"ENHANCE_YOUR_CALM", "STREAM_CLOSED"}, says: []string{"reset", "given up", "has ended"}}
	return []attack{
		{
			name: "made_you_reset_window_update_0", cve: cve, workers: 4, ending: says,
			defence: resetBudget,
			story:   "Begins calls and sends each a WINDOW_UPDATE of 0, for which the server has to reset it.",
			life: fault(call, false, func(w *wire, id uint32, _ []byte) {
				w.frame(http2.FrameWindowUpdate, 0, id, u32(0)...)
			}),
		},
		{
			name: "made_you_reset_window_overflow", cve: cve, workers: 4, ending: says,
			defence: resetBudget,
			story:   "Lifts each call's window above 2^31-1, for which the server has to reset it.",
			life: fault(call, false, func(w *wire, id uint32, _ []byte) {
				w.frame(http2.FrameWindowUpdate, 0, id, u32(maxWindow)...)
			}),
		},
		{
			name: "made_you_reset_data_after_end", cve: cve, workers: 4, ending: raced,
			defence: resetBudget,
			story:   "Sends DATA on each call after END_STREAM.",
			life: fault(whole, true, func(w *wire, id uint32, _ []byte) {
				w.frame(http2.FrameData, 0, id, message()...)
			}),
		},
		{
			name: "made_you_reset_headers_after_end", cve: cve, workers: 4, ending: raced,
			defence: resetBudget,
			story:   "Sends HEADERS on each call after END_STREAM.",
			life: fault(whole, true, func(w *wire, id uint32, _ []byte) {
				w.headers(id, whole.again, true)
			}),
		},
		{
			name: "made_you_reset_content_length", cve: cve, workers: 4, ending: says,
			defence: resetBudget,
			story:   "Sends each call more DATA than its content-length says.",
			life: fault(counted, false, func(w *wire, id uint32, _ []byte) {
				w.frame(http2.FrameData, 0, id, message()...)
			}),
		},
		{
			name: "made_you_reset_trailers", cve: cve, workers: 4, ending: says,
			defence: resetBudget,
			story:   "Sends each call a second header block that does not end it.",
			life: fault(call, false, func(w *wire, id uint32, _ []byte) {
				w.headers(id, call.again, false)
			}),
		},
		{
			name: "made_you_reset_priority", cve: cve, workers: 4, ending: says,
			defence: resetBudget,
			story:   "Sends each call a PRIORITY of the wrong length.",
			life: fault(call, false, func(w *wire, id uint32, _ []byte) {
				w.frame(http2.FramePriority, 0, id, 0, 0, 0)
			}),
		},
		{
			name: "malformed_requests", cve: cve, workers: 4, ending: says,
			defence: resetBudget,
			story:   "Sends requests that are malformed (no :path, fields in upper case, a NUL in a value), for each of which the server has to reset a stream.",
			life: flood(nil, func(w *wire, i int) {
				bad := [][]byte{
					{0x83, 0x86},
					append([]byte{0x83, 0x86, 0x84, 0x00}, "\x03X-A\x01b"...),
					append([]byte{0x83, 0x86, 0x84, 0x00}, "\x03x-a\x03b\x00c"...),
				}
				for n := i * 1000; n < (i+1)*1000; n++ {
					w.headers(uint32(2*n+1), bad[n%len(bad)], true)
				}
			}),
		},
	}
}

// connectionAttacks take connections, not streams.
func connectionAttacks() []attack {
	const limit = 100
	atMost := func(most int) func(*testing.T, *seen) {
		return func(t *testing.T, s *seen) {
			// Who is turned away is told so in HTTP/2, SETTINGS first: for a moment it counts here.
			if s.Welcome > 2*most {
				t.Errorf("%d connections of the attacker's were open at once, want about %d", s.Welcome, most)
			}
			if s.Welcome < most/2 {
				t.Errorf("only %d connections of the attacker's were ever welcome: that proves nothing of a limit of %d", s.Welcome, most)
			}
		}
	}
	stay := func(v *villain) {
		v.hello()
		v.linger()
	}
	return []attack{
		{
			name: "connection_flood", workers: 300, again: 200 * 1e6, limit: "maxConnectionsPerAddress: 100",
			defence: "`limits.maxConnectionsPerAddress` (16384; of IPv6, each /64 network)",
			story:   "Opens and keeps as many connections as it can from one address.",
			ending:  ending{shut: true, codes: []string{"ENHANCE_YOUR_CALM"}, says: []string{"connections"}}, patience: 1e12,
			life: stay, check: atMost(limit),
		},
		{
			name: "connection_flood_many_addresses", workers: 300, again: 200 * 1e6, limit: "maxConnections: 100", alone: true,
			defence: "`limits.maxConnections` (65536)",
			story:   "Opens and keeps as many connections as it can, each from another address.",
			ending:  ending{shut: true, codes: []string{"ENHANCE_YOUR_CALM"}, says: []string{"connections"}}, patience: 1e12,
			from: func(w int) net.IP { return net.IPv4(127, 0, 2, byte(w%200)+1) },
			life: stay, check: atMost(limit),
		},
		{
			name: "connection_churn", workers: 8, again: 1,
			defence: unusedLimit,
			story:   "Connects and leaves, as fast as it can.",
			ending:  ending{none: true},
			life: func(v *villain) {
				v.deaf()
				v.left = true
			},
		},
		{
			name: "http1_flood", workers: 4,
			defence: "the first bytes must be the preface of HTTP/2",
			story:   "Speaks HTTP/1.1, or nonsense, instead of HTTP/2.",
			ending:  breach("PROTOCOL_ERROR", "preface", "HTTP/2"),
			life: func(v *villain) {
				v.listen()
				v.write([]byte("GET / HTTP/1.1\r\nHost: attack.test\r\nAccept: */*\r\n\r\n"))
				v.linger()
			},
		},
		{
			name: "proxy_header_untrusted", workers: 4, proxy: true,
			defence: "`listeners[].proxyProtocol.trusted`: from others a PROXY header is a protocol error",
			story:   "Sends a PROXY header from an address that is not trusted, to be taken for somebody else.",
			ending:  ending{shut: true, codes: []string{"PROTOCOL_ERROR"}, says: []string{"PROXY", "preface"}},
			life: func(v *villain) {
				v.listening = true
				go v.read()
				v.write([]byte("PROXY TCP4 127.0.0.77 127.0.0.1 1234 443\r\n"))
				v.write([]byte(http2.ClientPreface))
				v.linger()
			},
			check: func(t *testing.T, s *seen) {
				if len(s.Status) > 0 {
					t.Errorf("the attacker's calls were answered: %v", s.Status)
				}
			},
		},
	}
}
