package certs

import (
	"bytes"
	"crypto/tls"
	"slices"
)

// bindTickets makes tickets of c usable only with c's context. They are encrypted with the keys of s.outer, so that all states of the
// Server share them.
//
// Whoever was refused for his certificate gets a ticket that is never taken: else he would be refused for the old one again after he
// has got a new one, since a resumed handshake does not ask for certificates. So does who showed none where one is needed.
func (s *Server) bindTickets(c *tls.Config, context []byte) {
	c.WrapSession = func(cs tls.ConnectionState, session *tls.SessionState) ([]byte, error) {
		mark := context
		if _, refused := s.judge(cs.PeerCertificates); refused != nil {
			mark = []byte("trunkline refused")
		}
		session.Extra = append(session.Extra, mark)
		return s.outer.EncryptTicket(cs, session)
	}
	c.UnwrapSession = func(identity []byte, cs tls.ConnectionState) (*tls.SessionState, error) {
		session, err := s.outer.DecryptTicket(identity, cs)
		if session == nil || err != nil || !slices.ContainsFunc(session.Extra, func(mark []byte) bool { return bytes.Equal(mark, context) }) {
			return nil, err
		}
		return session, nil
	}
}
