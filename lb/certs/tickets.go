package certs

import (
	"bytes"
	"crypto/tls"
)

// bindTickets makes tickets of c usable only with c's context. They are encrypted with the keys of s.outer, so that all states of the
// Server share them.
func (s *Server) bindTickets(c *tls.Config, context []byte) {
	anonymous := append(bytes.Clone(context), "anonymous"...) // the client showed no certificate
	c.WrapSession = func(cs tls.ConnectionState, session *tls.SessionState) ([]byte, error) {
		mark := context
		if len(cs.PeerCertificates) == 0 {
			mark = anonymous
		}
		if !holds(session, mark) { // a resumed session of TLS 1.2 has it already
			session.Extra = append(session.Extra, mark)
		}
		return s.outer.EncryptTicket(cs, session)
	}
	c.UnwrapSession = func(identity []byte, cs tls.ConnectionState) (*tls.SessionState, error) {
		session, err := s.outer.DecryptTicket(identity, cs)
		if session == nil || err != nil {
			return nil, err
		}
		// Who showed no certificate, where one is needed, is asked again: it may have one now.
		if holds(session, context) || (s.mode == "none" || s.mode == "optional") && holds(session, anonymous) {
			return session, nil
		}
		return nil, nil
	}
}

func holds(session *tls.SessionState, mark []byte) bool {
	for _, extra := range session.Extra {
		if bytes.Equal(extra, mark) {
			return true
		}
	}
	return false
}
