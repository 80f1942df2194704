package attacks

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"
	"testing"
	"time"

	"golang.org/x/net/http2"
)

// secure makes TLS of the connection; false when that fails, or the connection or the attack is over before.
func (v *villain) secure(c *tls.Config) bool {
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM([]byte(v.order.CA))
	c.RootCAs, c.ServerName, c.NextProtos = roots, "127.0.0.1", []string{"h2"}
	tc := tls.Client(v.nc, c)
	if err := tc.HandshakeContext(v.ctx); err != nil {
		if v.ctx.Err() == nil && !errors.Is(err, os.ErrDeadlineExceeded) {
			v.failed = true
			v.seen.count(func() {
				if len(v.seen.Errors) < 5 {
					v.seen.Errors = append(v.seen.Errors, err.Error())
				}
			})
		}
		return false
	}
	v.nc = tc
	return true
}

// overTLS is a life behind TLS.
func overTLS(life func(*villain)) func(*villain) {
	return func(v *villain) {
		if v.secure(&tls.Config{}) {
			life(v)
		} else {
			v.watch()
		}
	}
}

// tlsAttacks are about TLS, or pass through it.
func tlsAttacks() []attack {
	call := newRequest("UnaryCall")
	noRoom := ending{shut: true, codes: []string{"ENHANCE_YOUR_CALM", "SETTINGS_TIMEOUT"}, says: []string{"TLS", "handshake", "preface", "SETTINGS"}}
	// The beginning of a ClientHello of 512 bytes.
	hello := append([]byte{22, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3}, make([]byte, 501)...)
	sealed := func(version uint16, plaintext func(*sealer) []byte) func(*villain) {
		return func(v *villain) {
			s, err := v.steal(version)
			if err != nil {
				if v.ctx.Err() == nil && !errors.Is(err, os.ErrDeadlineExceeded) {
					v.seen.count(func() { v.seen.Errors = append(v.seen.Errors, err.Error()) })
				}
				v.watch()
				return
			}
			v.watch()
			for {
				var p []byte
				for range 200 {
					p = append(p, plaintext(s)...)
				}
				if !v.write(p) {
					return
				}
			}
		}
	}
	noErrors := func(t *testing.T, s *seen) {
		if len(s.Errors) > 0 {
			t.Errorf("handshakes of the attacker's failed: %v", s.Errors)
		}
	}
	return []attack{
		{
			name: "tls_half_open", tls: true, workers: 200, limit: "prefaceTimeout: 1s", lasts: 3500 * time.Millisecond, patience: 2500 * time.Millisecond, quiet: true,
			defence: prefaceLimit,
			story:   "Begins TLS handshakes on many connections, and never goes on.", ending: noRoom,
			life: func(v *villain) {
				v.watch()
				v.write(hello[:100])
				v.linger()
			},
		},
		{
			name: "tls_slow_handshake", tls: true, workers: 200, limit: "prefaceTimeout: 1s", lasts: 3500 * time.Millisecond, patience: 2500 * time.Millisecond, quiet: true,
			defence: prefaceLimit,
			story:   "Sends a byte of its ClientHello every 100 ms, on many connections.", ending: noRoom,
			life: func(v *villain) {
				v.watch()
				for _, b := range hello {
					if !v.write([]byte{b}) || !v.pause(100*time.Millisecond) {
						return
					}
				}
			},
		},
		{
			name: "tls_silent_after_handshake", tls: true, workers: 100, limit: "prefaceTimeout: 1s", lasts: 3500 * time.Millisecond, patience: 2500 * time.Millisecond, quiet: true,
			defence: prefaceLimit,
			story:   "Ends its TLS handshake, and never begins HTTP/2.", ending: noRoom,
			life: overTLS(func(v *villain) {
				v.listen()
				v.linger()
			}),
		},
		{
			name: "tls_handshake_flood", tls: true, workers: 8, again: 1, ending: ending{none: true}, check: noErrors,
			defence: unusedLimit,
			story:   "Makes full handshakes, without resumption, as fast as it can.",
			life: overTLS(func(v *villain) {
				v.watch()
				v.left = true
			}),
		},
		{
			name: "tls_key_update_flood", tls: true, workers: 4, check: noErrors,
			defence: "16 records without content in a row at most (crypto/tls)",
			story:   "Asks for new keys (KeyUpdate) without end, each of which wants an answer.",
			ending:  ending{shut: true},
			life: sealed(tls.VersionTLS13, func(s *sealer) []byte {
				r := s.seal(22, []byte{24, 0, 0, 1, 1})
				s.update()
				return r
			}),
		},
		{
			name: "tls_empty_records", tls: true, workers: 4, check: noErrors,
			defence: "16 records without content in a row at most (crypto/tls)",
			story:   "Sends TLS records without content.",
			ending:  ending{shut: true},
			life:    sealed(tls.VersionTLS13, func(s *sealer) []byte { return s.seal(23, nil) }),
		},
		{
			name: "tls_renegotiation", cve: "CVE-2011-1473", tls: true, workers: 4, check: noErrors,
			defence: "there is none: the connection ends (crypto/tls)",
			story:   "Asks for new handshakes on a TLS 1.2 connection.",
			ending:  ending{shut: true},
			life: sealed(tls.VersionTLS12, func(s *sealer) []byte {
				body := append(append([]byte{3, 3}, make([]byte, 32)...), 0, 0, 2, 0xc0, 0x2b, 1, 0)
				return s.seal(22, append([]byte{1, 0, 0, byte(len(body))}, body...))
			}),
		},
		{
			name: "tls_rapid_reset", cve: "CVE-2023-44487", tls: true, workers: 4,
			defence: resetBudget,
			story:   "Begins calls and cancels each at once, behind TLS.",
			ending:  calm("reset", "given up", "cancel"),
			life: overTLS(flood(nil, perStream(call, 1000, func(w *wire, id uint32, block []byte) {
				w.headers(id, block, false)
				w.frame(http2.FrameRSTStream, 0, id, u32(uint32(http2.ErrCodeCancel))...)
			}))),
		},
		{
			name: "tls_ping_flood", cve: "CVE-2019-9512", tls: true, workers: 4,
			defence: idleBudget,
			story:   "Sends PINGs without end, behind TLS.",
			ending:  calm("frames", "nothing", "idle"),
			life:    overTLS(flood(nil, repeat(4000, func(w *wire) { w.frame(http2.FramePing, 0, 0, make([]byte, 8)...) }))),
		},
		{
			name: "tls_socket_never_read", tls: true, workers: 2, memory: heldMemory, limit: "stallTimeout: 1s", lasts: 3500 * time.Millisecond, patience: 3 * time.Second,
			defence: holdLimits,
			story:   "Asks for large answers behind TLS and never reads its socket.",
			ending:  ending{shut: true, codes: []string{"ENHANCE_YOUR_CALM"}, says: []string{"read", "take"}},
			life: overTLS(func(v *villain) {
				v.deaf(http2.Setting{ID: http2.SettingInitialWindowSize, Val: maxWindow})
				v.write(frames(func(w *wire) { w.frame(http2.FrameWindowUpdate, 0, 0, u32(maxWindow-65535)...) }))
				v.write(downloads(150))
				ping := frames(func(w *wire) { w.frame(http2.FramePing, 0, 0, make([]byte, 8)...) })
				for v.pause(100*time.Millisecond) && v.write(ping) {
				}
			}),
		},
		{
			name: "tls_nonsense", tls: true, workers: 4, ending: ending{shut: true},
			defence: "a record of more than 16 KiB ends the connection (crypto/tls)",
			story:   "Sends what is neither TLS nor HTTP/2.",
			life: func(v *villain) {
				v.watch()
				v.write(append([]byte{22, 3, 1, 0xff, 0xff}, make([]byte, 64<<10)...))
				v.linger()
			},
		},
	}
}

// steal makes TLS of the connection and takes its client's keys, to say what no TLS library would.
func (v *villain) steal(version uint16) (*sealer, error) {
	var keys keyLog
	tap := &tap{Conn: v.nc}
	tc := tls.Client(tap, &tls.Config{InsecureSkipVerify: true, MinVersion: version, MaxVersion: version, NextProtos: []string{"h2"}, KeyLogWriter: &keys, // an attacker
		CipherSuites: []uint16{tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256}})
	if err := tc.HandshakeContext(v.ctx); err != nil {
		return nil, fmt.Errorf("handshake: %w", err)
	}
	if suite := tc.ConnectionState().CipherSuite; suite != tls.TLS_AES_128_GCM_SHA256 && suite != tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256 {
		return nil, fmt.Errorf("the attacker cannot do cipher suite %s", tls.CipherSuiteName(suite))
	}
	if version == tls.VersionTLS13 {
		secret, err := keys.secret("CLIENT_TRAFFIC_SECRET_0")
		if err != nil {
			return nil, err
		}
		return newSealer13(secret), nil
	}
	master, err := keys.secret("CLIENT_RANDOM")
	if err != nil {
		return nil, err
	}
	return newSealer12(master, tap.hello(), keys.random()), nil
}

// tap keeps the beginning of what the server says.
type tap struct {
	net.Conn
	first []byte
}

func (t *tap) Read(p []byte) (int, error) {
	n, err := t.Conn.Read(p)
	if len(t.first) < 64 {
		t.first = append(t.first, p[:n]...)
	}
	return n, err
}

// hello is the random of the ServerHello, which comes first: a record's header, a message's, the version, 32 bytes.
func (t *tap) hello() []byte { return t.first[11:43] }
