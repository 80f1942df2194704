package certs

import (
	"crypto/tls"
	"testing"
)

func BenchmarkPeer(b *testing.B) {
	m := newMutual(b, "required")
	s := serve(b, ServerOptions{TLS: m.tls})
	cs, _, err, _ := shake(b, s.Config(), m.client(m.clients.below("Middle CA", m.clients).named("shop.test"), 0))
	if err != nil {
		b.Fatal(err)
	}
	b.Run("a client that comes back", func(b *testing.B) {
		for b.Loop() {
			s.Peer(&cs)
		}
	})
	b.Run("a new client", func(b *testing.B) {
		for b.Loop() {
			s.state.Load().verified.forget()
			s.Peer(&cs)
		}
	})
}

// What the server's side of a handshake costs, with an in-process client beside it: compare the cases, not the figures.
func BenchmarkHandshake(b *testing.B) {
	for _, c := range []struct {
		name, mode string
		resume     bool
	}{{"full", "none", false}, {"resumed", "none", true}, {"full mutual", "required", false}, {"resumed mutual", "required", true}} {
		b.Run(c.name, func(b *testing.B) {
			m := newMutual(b, c.mode)
			if c.mode == "none" {
				m.tls.ClientCaFile = ""
			}
			s := serve(b, ServerOptions{TLS: m.tls})
			client := m.client(m.clients.named("shop.test"), tls.VersionTLS13)
			if !c.resume {
				client.ClientSessionCache = nil
			}
			for b.Loop() {
				cs, _, err, _ := shake(b, s.Config(), client)
				if err != nil || s.Peer(&cs).Refused != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func (v *verified) forget() { v.chains = nil }
