package lb

import (
	"crypto/x509"
	"fmt"
	"maps"
	"slices"

	"github.com/trunkline/trunkline/lb/admin"
	"github.com/trunkline/trunkline/lb/certs"
	adminv1 "github.com/trunkline/trunkline/proto/trunkline/admin/v1"
)

// Certificates implements admin.Source.
func (s *Server) Certificates() *adminv1.ListCertificatesResponse {
	r := &adminv1.ListCertificatesResponse{}
	e := s.edge.Load()
	e.eachCertificate(func(where string, c certs.Certificate) {
		r.Certificates = append(r.Certificates, admin.Certificate(where, c))
	}, func(where string, d *door) {
		r.Certificates = append(r.Certificates, d.issued(where)...)
	})
	if e.mesh != nil {
		e.mesh.report(r)
	}
	return r
}

// eachCertificate shows all certificates that come from files, and the listeners that have theirs by ACME, each with its place in the
// configuration.
func (e *edge) eachCertificate(fromFile func(where string, c certs.Certificate), byACME func(where string, d *door)) {
	all := func(where string, some []certs.Certificate) {
		for _, c := range some {
			fromFile(where, c)
		}
	}
	for i, d := range e.doors {
		if d == nil || d.certs == nil {
			continue
		}
		where := fmt.Sprintf("listeners[%d].tls", i)
		all(where, d.certs.Certificates())
		if d.acme != nil {
			byACME(where+".acme", d)
		}
	}
	for _, cluster := range slices.Sorted(maps.Keys(e.dials)) {
		all("clusters."+cluster+".tls", e.dials[cluster].certs.Certificates())
	}
}

// renewed describes the certificate of somebody who renews it; leaf is nil while there is none.
func renewed(where string, source adminv1.CertificateSource, origin string, leaf *x509.Certificate) *adminv1.Certificate {
	c := &adminv1.Certificate{Where: where}
	if leaf != nil {
		c = admin.Certificate(where, certs.Describe(leaf, ""))
	}
	c.Source, c.Origin = source, origin
	return c
}

// issued are the certificates by ACME, and those that are awaited.
func (d *door) issued(where string) (all []*adminv1.Certificate) {
	for _, st := range d.acme.Status() {
		c := renewed(where, adminv1.CertificateSource_CERTIFICATE_SOURCE_ACME, d.acme.Authority(), st.Leaf)
		if st.Leaf == nil {
			c.Names = []string{st.Domain}
		}
		c.LastError, c.LastErrorAt = st.Error, stamp(st.FailedAt)
		all = append(all, c)
	}
	return all
}

func (m *mesh) report(r *adminv1.ListCertificatesResponse) {
	st := m.Status()
	c := renewed("discovery.consul.connect", adminv1.CertificateSource_CERTIFICATE_SOURCE_CONNECT, st.Service, st.Leaf)
	c.LastError, c.LastErrorAt = st.LeafErr, stamp(st.LeafErrSince)
	r.Certificates = append(r.Certificates, c)
	r.Mesh = &adminv1.Mesh{Service: st.Service, TrustDomain: st.TrustDomain, SpiffeId: st.SPIFFE, Roots: st.Roots, ActiveRoot: st.ActiveRoot,
		CertificateFetchedAt: stamp(st.LeafAt), RootsFetchedAt: stamp(st.RootsAt), StaleSince: stamp(st.StaleSince), LastError: st.Err,
		Intentions: uint32(st.Intentions), IntentionsFailing: uint32(st.IntentionsFailing)}
}
