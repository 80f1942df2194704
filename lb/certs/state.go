package certs

import (
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"strings"
	"sync/atomic"
	"time"
)

// state is what a Server goes by at one moment. Immutable, but for the staples and what is remembered of chains.
type state struct {
	shown     []*shown
	fallback  []*shown            // shown to clients that name none of the names: the first file, and what has the same names
	names     map[string][]*shown // by DNS name, lower case, wildcards with their asterisk
	cas       *authorities
	crls      *revocations
	verified  verified
	config    *tls.Config // for clients
	challenge *tls.Config // for an ACME authority; nil: none is expected
	none      *tls.Config // for who does not offer our protocol
}

// shown is a certificate from files. Its staple comes and goes.
type shown struct {
	pair *tls.Certificate // without a staple
	leaf *x509.Certificate
	file string
	from *kept[*tls.Certificate]
	now  atomic.Pointer[stapled]
}

// stapled is a certificate as it is shown now. Immutable.
type stapled struct {
	cert  *tls.Certificate
	until time.Time // zero: without a staple
}

func (c *shown) stapledUntil() time.Time { return c.now.Load().until }

// publish makes the state of what is kept. s.mu is held, or s is new.
func (s *Server) publish() {
	before := s.state.Load()
	st := &state{names: map[string][]*shown{}}
	for i, p := range s.pairs {
		var c *shown
		if before != nil && before.shown[i].pair == p.value {
			c = before.shown[i] // with its staple
		} else {
			c = &shown{pair: p.value, leaf: p.value.Leaf, file: p.sources[0].path, from: p}
			c.now.Store(&stapled{cert: p.value})
			if before != nil && before.shown[i].leaf.Equal(c.leaf) {
				c.staple(before.shown[i].now.Load()) // the chain has changed, but what the responder said is still true
			}
		}
		st.shown = append(st.shown, c)
		for _, name := range c.leaf.DNSNames {
			name = strings.ToLower(name)
			st.names[name] = append(st.names[name], c)
		}
	}
	if len(st.shown) > 0 {
		st.fallback = st.shown[:1]
		if names := st.shown[0].leaf.DNSNames; len(names) > 0 {
			st.fallback = st.names[strings.ToLower(names[0])] // perhaps an RSA beside an ECDSA certificate
		}
	}
	if s.cas != nil {
		st.cas = s.cas.value
	}
	if s.crls != nil {
		st.crls = s.crls.value
	}
	st.config = s.config()
	s.bindTickets(st.config, s.context(st))
	if s.mode != "none" {
		st.config.ClientAuth = tls.RequestClientCert
		if st.cas != nil && s.o.Roots == nil {
			st.config.ClientCAs = st.cas.pool // tells clients with several certificates which to show; complete, or not at all
		}
	}
	if s.mode == "strict" {
		st.config.VerifyConnection = func(cs tls.ConnectionState) error {
			if _, refused := s.judge(cs.PeerCertificates); refused != nil {
				return errors.New(refused.Message)
			}
			return nil
		}
	}
	st.none = s.config()
	st.none.NextProtos = []string{"\x00"} // what nobody offers: crypto/tls then sends the alert
	if s.o.ACME != nil && s.o.TLS.GetAcme().GetChallenge() != "http-01" {
		st.challenge = s.config()
		st.challenge.NextProtos = []string{challengeProtocol}
		st.challenge.SessionTicketsDisabled = true
		st.challenge.GetCertificate = s.acme
	}
	s.state.Store(st)
	s.staples.follow(st.shown)
}

// exact is the certificate for a name; nil if none has it.
func (st *state) exact(name string, hello *tls.ClientHelloInfo) *tls.Certificate {
	return pick(st.names[name], hello)
}

// wildcard is the certificate whose wildcard stands for the name's first label; nil if none does.
func (st *state) wildcard(name string, hello *tls.ClientHelloInfo) *tls.Certificate {
	_, rest, ok := strings.Cut(name, ".")
	if !ok {
		return nil
	}
	return pick(st.names["*."+rest], hello)
}

// pick is the first that the client can use, else the first.
func pick(candidates []*shown, hello *tls.ClientHelloInfo) *tls.Certificate {
	if len(candidates) == 0 {
		return nil
	}
	if len(candidates) > 1 {
		for _, c := range candidates {
			if cert := c.now.Load().cert; hello.SupportsCertificate(cert) == nil {
				return cert
			}
		}
	}
	return candidates[0].now.Load().cert
}

// context is what a session is bound to beside the ticket keys (OpenSSL's session id context): a session that began where clients
// were judged by other authorities or revocation lists, or not at all, is not resumed here, as it lacks what would be asked now.
func (s *Server) context(st *state) []byte {
	h := sha256.New()
	h.Write([]byte("trunkline " + s.mode + "\x00"))
	if s.mode != "none" {
		for _, raw := range [][]byte{st.caBytes(), st.crlBytes()} {
			sum := sha256.Sum256(raw)
			h.Write(sum[:])
		}
	}
	return h.Sum(nil)
}

func (st *state) caBytes() []byte {
	if st.cas == nil {
		return nil
	}
	return st.cas.raw
}

func (st *state) crlBytes() []byte {
	if st.crls == nil {
		return nil
	}
	return st.crls.raw
}
