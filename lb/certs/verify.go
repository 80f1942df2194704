package certs

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
)

// expected is what the server of one connection must prove.
type expected struct {
	client *Client
	roots  *x509.CertPool // nil: the system's
	name   string
	spiffe string // in place of name, or beside a name that the configuration gives; "": none
	mesh   bool
	match  func(spiffe string) error // in the mesh
}

// verify is tls.Config.VerifyConnection; it is called in full and in resumed handshakes. Who dials says in its errors which endpoint.
func (e *expected) verify(cs tls.ConnectionState) error {
	if err := e.certificate(cs.PeerCertificates); err != nil {
		return err
	}
	// In the mesh a server may agree to nothing: a sidecar proxy for TCP, Consul's default, knows no ALPN and hands on what it gets.
	if cs.NegotiatedProtocol != "h2" && (!e.mesh || cs.NegotiatedProtocol != "") {
		return errors.New("it speaks TLS, but did not agree to HTTP/2 (ALPN h2): enable that there, or correct the port")
	}
	return nil
}

func (e *expected) certificate(certs []*x509.Certificate) error {
	if e.client.o.TLS.GetInsecureSkipVerify() {
		return nil
	}
	if len(certs) == 0 {
		return errors.New("it showed no certificate")
	}
	leaf, roots := certs[0], e.roots
	if e.mesh {
		if roots = e.client.o.Connect.Roots(); roots == nil {
			return errors.New("the mesh's authorities have not come from Consul yet, so that its certificate cannot be judged")
		}
	}
	o := x509.VerifyOptions{
		Roots: roots, CurrentTime: e.client.now(), Intermediates: x509.NewCertPool(),
		KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	for _, c := range certs[1:] {
		o.Intermediates.AddCert(c)
	}
	if _, err := leaf.Verify(o); err != nil {
		return e.explain(leaf, err)
	}
	if e.spiffe != "" || e.match != nil {
		if err := e.identity(leaf); err != nil || e.client.o.TLS.GetServerName() == "" {
			return err
		} // with both, both must be right
	} else if e.mesh {
		return errors.New("nobody said which service of the mesh to expect")
	}
	if leaf.VerifyHostname(e.name) != nil {
		what := "the name"
		if net.ParseIP(e.name) != nil {
			what = "the IP address"
		}
		return fmt.Errorf("its certificate is not for %s %s, but for %s: %s, or correct the certificate", what, e.name, strings.Join(names(leaf), ", "), e.client.nameRemedy())
	}
	return nil
}

// identity judges the SPIFFE id of a leaf whose chain is good. It must have exactly one (SPIFFE X509-SVID 2).
func (e *expected) identity(leaf *x509.Certificate) error {
	var ids []string
	for _, u := range leaf.URIs {
		if u.Scheme == "spiffe" {
			ids = append(ids, u.String())
		}
	}
	switch {
	case len(ids) == 0:
		return fmt.Errorf("its certificate has no SPIFFE id, but is for %s; %s was expected%s", strings.Join(names(leaf), ", "), e.wanted(), e.remedy())
	case len(ids) > 1:
		return fmt.Errorf("its certificate has several SPIFFE ids (%s); exactly one is allowed", strings.Join(ids, ", "))
	case e.spiffe != "" && ids[0] != e.spiffe:
		return fmt.Errorf("its certificate is of %s, but %s was expected%s", ids[0], e.spiffe, e.remedy())
	}
	if e.match != nil {
		if err := e.match(ids[0]); err != nil {
			return fmt.Errorf("its certificate is of %s: %w", ids[0], err)
		}
	}
	return nil
}

func (e *expected) wanted() string {
	if e.spiffe != "" {
		return e.spiffe
	}
	return "a service of Consul's mesh"
}

// remedy ends a refusal for an id that the configuration expects; what the mesh expects is not written there.
func (e *expected) remedy() string {
	if e.mesh {
		return ""
	}
	return fmt.Sprintf(": correct spiffeId in %s, or the certificate", e.client.o.Path)
}

// nameRemedy is what to change where a server is not who was expected by name.
func (c *Client) nameRemedy() string {
	if c.o.TLS.GetServerName() != "" {
		return "correct serverName in " + c.o.Path
	}
	return "write serverName in " + c.o.Path + " (without it, the host of the endpoint's address is expected), or give the endpoint's address with a name that the certificate has"
}

// explain says in words why a server's chain is not good.
func (e *expected) explain(leaf *x509.Certificate, err error) error {
	var unknown x509.UnknownAuthorityError
	var invalid x509.CertificateInvalidError
	now := e.client.now()
	switch {
	case errors.As(err, &unknown):
		trusted, advice := "the authorities in "+e.client.o.TLS.GetCaFile(), "add its authority there, or let the server show the intermediate certificates, too"
		switch {
		case e.mesh:
			trusted, advice = "the mesh's authorities", "see whether it is in the same mesh"
		case e.roots == nil:
			trusted, advice = "the system's authorities", "write its authority's file as caFile in "+e.client.o.Path
		}
		return fmt.Errorf("its certificate (for %s) was issued by %s, and no chain leads from there to %s: %s", strings.Join(names(leaf), ", "), leaf.Issuer, trusted, advice)
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired && invalid.Cert != nil:
		c := invalid.Cert
		if now.Before(c.NotBefore) {
			return fmt.Errorf("its certificate's chain has %s, which is not valid before %s, and here it is %s: correct the clocks", c.Subject, date(c.NotBefore), date(now))
		}
		return fmt.Errorf("its certificate's chain has %s, which is not valid after %s, and here it is %s: renew it there", c.Subject, date(c.NotAfter), date(now))
	case errors.As(err, &invalid) && invalid.Reason == x509.IncompatibleUsage:
		return fmt.Errorf("its certificate (for %s) is not meant for servers: its extended key usage lacks TLS server authentication", strings.Join(names(leaf), ", "))
	}
	return fmt.Errorf("its certificate (for %s) is not good: %w", strings.Join(names(leaf), ", "), err)
}

// names are what a certificate is for, a few of them.
func names(c *x509.Certificate) []string {
	const most = 8
	list := Describe(c, "").Names
	switch {
	case len(list) == 0:
		return []string{"nobody"}
	case len(list) > most:
		return append(slices.Clone(list[:most]), fmt.Sprintf("%d others", len(list)-most))
	}
	return list
}
