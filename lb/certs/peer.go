package certs

import (
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/trunkline/trunkline/codec/grpc"
	"github.com/trunkline/trunkline/policy/authn"
)

// The reasons of refusals that are for the certificate's sake.
const (
	reasonRequired = "CLIENT_CERTIFICATE_REQUIRED"
	reasonInvalid  = "CLIENT_CERTIFICATE_INVALID"
	reasonRevoked  = "CLIENT_CERTIFICATE_REVOKED"
	reasonExpired  = "CLIENT_CERTIFICATE_EXPIRED"
)

// Peer is what a connection tells about its client, after the handshake; cs is nil for h2c. Call it once per connection, resumed or
// not: the chain is judged by the authorities, the revocation lists and the time of this moment, and then for the connection's life,
// however long it lives. Refused is why its calls are refused.
func (s *Server) Peer(cs *tls.ConnectionState) *authn.Peer {
	p := &authn.Peer{}
	if cs == nil {
		if s.mode == "required" || s.mode == "strict" {
			p.Refused = refuse(reasonRequired, "calls here need a client certificate, and plaintext can show none: use TLS, with a certificate issued by "+s.accepted())
		}
		return p
	}
	p.TLS, p.ServerName = tls.VersionName(cs.Version), cs.ServerName
	leaf, refused := s.judge(cs.PeerCertificates)
	if refused != nil || leaf == nil {
		p.Refused = refused
		return p
	}
	p.Verified = true
	identify(p, leaf)
	if s.o.Authorize != nil {
		p.Refused = s.o.Authorize(p, leaf)
	}
	return p
}

// judge is the client's own certificate, if it showed one that is good.
func (s *Server) judge(certs []*x509.Certificate) (*x509.Certificate, *authn.Refusal) {
	switch {
	case s.mode == "none":
		return nil, nil
	case len(certs) > 0:
		if refused := s.verify(certs); refused != nil {
			return nil, refused
		}
		return certs[0], nil
	case s.mode == "optional":
		return nil, nil
	}
	return nil, refuse(reasonRequired, "calls here need a client certificate, and the client showed none: give it one, with its key, issued by "+
		s.accepted()+" (a client that has only others may show none)")
}

// verify judges a chain whose first certificate the client has proved to be its own.
func (s *Server) verify(certs []*x509.Certificate) *authn.Refusal {
	st, now := s.state.Load(), s.now()
	var pools []*x509.CertPool
	if st.cas != nil {
		pools = append(pools, st.cas.pool)
	}
	if s.o.Roots != nil {
		if pool := s.o.Roots.ClientCAs(); pool != nil {
			pools = append(pools, pool)
		}
	}
	if len(pools) == 0 {
		return &authn.Refusal{Status: grpc.Unavailable, Reason: "CLIENT_AUTHORITIES_UNKNOWN", Message: "client certificates cannot be judged yet, since " +
			"the mesh's authorities have not come from Consul; try again, and see whether Trunkline reaches its Consul agent"}
	}
	var first error
	for _, pool := range pools {
		chains, err := st.verified.verify(certs, pool, now)
		if err != nil {
			if unknown := (x509.UnknownAuthorityError{}); first == nil || errors.As(first, &unknown) {
				first = err // the better reason
			}
			continue
		}
		return st.unrevoked(chains)
	}
	return s.explain(certs[0], first, now)
}

// unrevoked refuses if each of the chains has a revoked certificate.
func (st *state) unrevoked(chains [][]*x509.Certificate) *authn.Refusal {
	var refused *authn.Refusal
	for _, chain := range chains {
		revoked, since := st.crls.find(chain)
		switch {
		case revoked == nil:
			return nil
		case revoked == chain[0]:
			refused = refuse(reasonRevoked, fmt.Sprintf("the client's certificate %s (serial number %s) was revoked by %s on %s: get a new one from it",
				revoked.Subject, revoked.SerialNumber.Text(16), revoked.Issuer, date(since)))
		default:
			refused = refuse(reasonRevoked, fmt.Sprintf("the client's certificate %s hangs on %s, which was revoked by %s on %s: get one from another authority",
				chain[0].Subject, revoked.Subject, revoked.Issuer, date(since)))
		}
	}
	return refused
}

// explain says in words why a client's certificate is not good.
func (s *Server) explain(leaf *x509.Certificate, err error, now time.Time) *authn.Refusal {
	var unknown x509.UnknownAuthorityError
	var invalid x509.CertificateInvalidError
	switch {
	case errors.As(err, &unknown):
		return refuse(reasonInvalid, fmt.Sprintf("the client's certificate %s was issued by %s, and no chain leads from there to an authority that is accepted here: "+
			"show one issued by %s, with the intermediate certificates after it", leaf.Subject, leaf.Issuer, s.accepted()))
	case !errors.As(err, &invalid):
	case invalid.Reason == x509.Expired && invalid.Cert != nil:
		whose := "the client's certificate "
		if !invalid.Cert.Equal(leaf) {
			whose = "the client's certificate " + leaf.Subject.String() + " hangs on a certificate that is out of date: "
		}
		if now.Before(invalid.Cert.NotBefore) {
			return refuse(reasonExpired, fmt.Sprintf("%s%s is not valid before %s, and here it is %s: wait, or correct the clocks",
				whose, invalid.Cert.Subject, date(invalid.Cert.NotBefore), date(now)))
		}
		return refuse(reasonExpired, fmt.Sprintf("%s%s is not valid after %s, and here it is %s: renew it, and let the client load the new one",
			whose, invalid.Cert.Subject, date(invalid.Cert.NotAfter), date(now)))
	case invalid.Reason == x509.IncompatibleUsage:
		return refuse(reasonInvalid, fmt.Sprintf("the client's certificate %s is not meant for clients: get one whose extended key usage has TLS client authentication", leaf.Subject))
	}
	return refuse(reasonInvalid, fmt.Sprintf("the client's certificate %s is not good (%s): get one from %s", leaf.Subject,
		strings.TrimPrefix(err.Error(), "x509: "), s.accepted()))
}

// accepted names the authorities that clients' certificates may be from.
func (s *Server) accepted() string {
	const most = 3
	var names []string
	if cas := s.state.Load().cas; cas != nil {
		for _, c := range cas.certs[:min(most, len(cas.certs))] {
			names = append(names, c.Subject.String())
		}
		if more := len(cas.certs) - most; more > 0 {
			names = append(names, fmt.Sprintf("one of %d others", more))
		}
	}
	if s.o.Roots != nil {
		names = append(names, "Consul's service mesh")
	}
	return strings.Join(names, " or ")
}

func refuse(reason, message string) *authn.Refusal {
	return &authn.Refusal{Status: grpc.Unauthenticated, Reason: reason, Message: message}
}

func date(t time.Time) string { return t.UTC().Format("2006-01-02 15:04:05 UTC") }

// identify fills in what a good certificate says.
func identify(p *authn.Peer, leaf *x509.Certificate) {
	p.DNS, p.Emails = leaf.DNSNames, leaf.EmailAddresses
	for _, u := range leaf.URIs {
		p.URIs = append(p.URIs, u.String())
		if p.SPIFFE == "" && u.Scheme == "spiffe" {
			p.SPIFFE = u.String()
		}
	}
	p.CommonName = leaf.Subject.CommonName
	p.Subject, p.Issuer = leaf.Subject.String(), leaf.Issuer.String()
	p.Serial = leaf.SerialNumber.Text(16)
	sum := sha256.Sum256(leaf.Raw)
	p.Fingerprint = hex.EncodeToString(sum[:])
	p.NotAfter = leaf.NotAfter.Unix()
	p.Forwarded = forwarded(p)
}
