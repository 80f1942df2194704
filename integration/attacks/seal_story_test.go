package attacks

import (
	"context"
	"crypto/tls"
	"io"
	"net"
	"testing"
	"time"

	"github.com/trunkline/trunkline/integration/harness"
)

// What the attacker seals by itself is what a TLS server takes for a client's: the floods of odd records are ended for what they
// are, not for a bad checksum.
func TestAServerTakesTheAttackersRecords(t *testing.T) {
	pair := newPair(t)
	cert, err := tls.LoadX509KeyPair(pair.cert, pair.key)
	if err != nil {
		t.Fatal(err)
	}
	for version, say := range map[uint16]func(*sealer) []byte{
		tls.VersionTLS12: func(s *sealer) []byte { return append(s.seal(23, []byte("one, ")), s.seal(23, []byte("two"))...) },
		tls.VersionTLS13: func(s *sealer) []byte {
			p := append(s.seal(23, []byte("one, ")), s.seal(22, []byte{24, 0, 0, 1, 0})...) // KeyUpdate
			s.update()
			return append(p, s.seal(23, []byte("two"))...)
		},
	} {
		l := harness.Listen(t, harness.FreeAddr(t))
		defer l.Close()
		heard := make(chan string, 1)
		go func() {
			c, err := l.Accept()
			if err != nil {
				heard <- err.Error()
				return
			}
			defer c.Close()
			b := make([]byte, len("one, two"))
			_, err = io.ReadFull(tls.Server(c, &tls.Config{Certificates: []tls.Certificate{cert}, NextProtos: []string{"h2"}}), b)
			if err != nil {
				heard <- err.Error()
				return
			}
			heard <- string(b)
		}()
		c, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		v := &villain{nc: c, ctx: ctx, seen: &seen{}, over: make(chan struct{})}
		s, err := v.steal(version)
		if err != nil {
			t.Fatal(err)
		}
		if !v.write(say(s)) {
			t.Fatal("the attacker could not write")
		}
		if got := <-heard; got != "one, two" {
			t.Errorf("%s: the server heard %q", tls.VersionName(version), got)
		}
	}
}
