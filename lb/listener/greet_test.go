package listener

import (
	"context"
	"crypto/tls"
	"net"
	"net/netip"
	"testing"

	"github.com/trunkline/trunkline/lb/forward"
	"github.com/trunkline/trunkline/policy/authn"
)

// noTLS is TLS that no client of the story comes to.
type noTLS struct{}

func (noTLS) Config() *tls.Config                   { return &tls.Config{} }
func (noTLS) Peer(*tls.ConnectionState) *authn.Peer { return nil }

// Else whoever leaves TLS away would be asked less than who shows no certificate.
func TestWhatIsKnownOfClientsWithoutTLSIsToldWhereBothAreTaken(t *testing.T) {
	bare := &authn.Peer{Mesh: true}
	for name, c := range map[string]struct {
		door    *Door
		peer    *authn.Peer
		refused bool
	}{
		"both are taken":           {&Door{TLS: noTLS{}, Plaintext: true}, nil, false},
		"and something is known":   {&Door{TLS: noTLS{}, Plaintext: true, Bare: bare}, bare, false},
		"TLS only, and it is told": {&Door{TLS: noTLS{}, Bare: bare}, nil, true},
	} {
		t.Run(name, func(t *testing.T) {
			ours, theirs := net.Pipe()
			go func() { _, _ = theirs.Write([]byte("P")) }()
			l := &Listener{ctx: context.Background()}
			g := &guest{Guest: forward.Guest{Conn: ours}, l: l, set: &Settings{}}
			if err := l.greet(g, c.door, netip.Addr{}); err != nil {
				t.Fatal(err)
			}
			if refused := g.Peer != nil && g.Peer.Refused != nil; refused != c.refused || !refused && g.Peer != c.peer {
				t.Errorf("known is %+v", g.Peer)
			}
			if string(g.First) != "P" {
				t.Errorf("%q is passed on", g.First)
			}
			_, _ = ours.Close(), theirs.Close()
		})
	}
}
