package edge

import (
	"crypto/tls"
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"

	"github.com/trunkline/trunkline/integration/harness"
)

// Clients that break TLS in every way, before, amid and after the handshake, harm none but themselves.
func TestAClientThatBreaksTLSHarmsNobody(t *testing.T) {
	ca := newAuthority(t, "edge test CA")
	b := startServer(t, "b")
	tr := harness.Start(t, config([]string{"{ address: LISTEN, tls: { " + ca.issue(nil, "localhost").yaml() + " } }"}, b.Addr))
	conns := []*grpc.ClientConn{dial(t, tr.Listen, secure(ca, "localhost")), dial(t, tr.Listen, secure(ca, "localhost"))}
	load := harness.StartLoad(t, 4, conns...)
	finish := hold(t, b.Backend, conns[0], "broken")

	raw := func(t *testing.T) net.Conn {
		nc, err := net.Dial("tcp", tr.Listen)
		if err != nil {
			t.Fatal(err)
		}
		_ = nc.SetDeadline(time.Now().Add(limit))
		return nc
	}
	shaken := func(t *testing.T, version uint16) (*tls.Conn, net.Conn) {
		nc := raw(t)
		c := secure(ca, "localhost")
		c.MaxVersion, c.NextProtos = version, []string{"h2"}
		tc := tls.Client(nc, c)
		if err := tc.Handshake(); err != nil {
			t.Fatal(err)
		}
		return tc, nc
	}
	noise := func(n int) []byte {
		p := make([]byte, n)
		for i := range p {
			p[i] = byte(rand.Uint32())
		}
		return p
	}
	record := func(kind byte, body []byte) []byte {
		return append([]byte{kind, 3, 3, byte(len(body) >> 8), byte(len(body))}, body...)
	}
	versions := []uint16{tls.VersionTLS12, tls.VersionTLS13}
	for name, harm := range map[string]func(t *testing.T, version uint16){
		"noise in place of a handshake": func(t *testing.T, _ uint16) {
			nc := raw(t)
			_, _ = nc.Write(record(22, append([]byte{1, 0, 0, 200}, noise(200)...)))
			_, _ = io.Copy(io.Discard, nc)
			nc.Close()
		},
		"half a ClientHello": func(t *testing.T, _ uint16) {
			nc := raw(t)
			_, _ = nc.Write([]byte{22, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3})
			nc.Close()
		},
		"a record that cannot be decrypted": func(t *testing.T, v uint16) {
			_, nc := shaken(t, v)
			_, _ = nc.Write(record(23, noise(100)))
			_, _ = io.Copy(io.Discard, nc)
			nc.Close()
		},
		"a record that is too long": func(t *testing.T, v uint16) {
			_, nc := shaken(t, v)
			_, _ = nc.Write(record(23, noise(60000)))
			nc.Close()
		},
		"plaintext amid the connection": func(t *testing.T, v uint16) {
			tc, nc := shaken(t, v)
			_, _ = io.WriteString(tc, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
			_, _ = io.WriteString(nc, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
			_, _ = io.Copy(io.Discard, nc)
			nc.Close()
		},
		"a record that never ends": func(t *testing.T, v uint16) {
			tc, nc := shaken(t, v)
			_, _ = io.WriteString(tc, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
			_, _ = nc.Write(record(23, noise(1000))[:500])
			nc.Close()
		},
		"an alert": func(t *testing.T, v uint16) {
			_, nc := shaken(t, v)
			_, _ = nc.Write(record(21, []byte{2, 40}))
			nc.Close()
		},
		"a reset amid the connection": func(t *testing.T, v uint16) {
			tc, nc := shaken(t, v)
			_, _ = io.WriteString(tc, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
			_ = nc.(*net.TCPConn).SetLinger(0)
			nc.Close()
		},
		"a handshake again (TLS 1.2), or an unknown message": func(t *testing.T, v uint16) {
			_, nc := shaken(t, v)
			_, _ = nc.Write(record(22, noise(64)))
			_, _ = io.Copy(io.Discard, nc)
			nc.Close()
		},
		"HTTP/1 inside of TLS": func(t *testing.T, v uint16) {
			tc, nc := shaken(t, v)
			_, _ = io.WriteString(tc, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
			_, _ = io.Copy(io.Discard, tc)
			nc.Close()
		},
	} {
		t.Run(name, func(t *testing.T) {
			var all sync.WaitGroup
			for range 5 {
				for _, v := range versions {
					all.Go(func() { harm(t, v) })
				}
			}
			all.Wait()
		})
	}
	t.Run("the others lost nothing", func(t *testing.T) {
		load.Await(t, 50)
		load.MustNotHaveFailed(t)
		finish()
		mustCall(t, dial(t, tr.Listen, secure(ca, "localhost")))
	})
}
