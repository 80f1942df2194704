package admin

import (
	"context"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/trunkline/trunkline/lb/certs"
	adminv1 "github.com/trunkline/trunkline/proto/trunkline/admin/v1"
)

func (s *service) ListCertificates(context.Context, *connect.Request[adminv1.ListCertificatesRequest]) (*connect.Response[adminv1.ListCertificatesResponse], error) {
	r := s.source.Certificates()
	if s.own != nil {
		for _, c := range s.own.Certificates() {
			r.Certificates = append(r.Certificates, Certificate("admin.tls", c))
		}
	}
	return connect.NewResponse(r), nil
}

// Certificate is c as the API tells it: from a file, unless the caller says otherwise.
func Certificate(where string, c certs.Certificate) *adminv1.Certificate {
	return &adminv1.Certificate{Where: where, Source: adminv1.CertificateSource_CERTIFICATE_SOURCE_FILE, Origin: c.File, Names: c.Names, Issuer: c.Issuer,
		Subject: c.Subject, Serial: c.Serial, NotBefore: stamp(c.NotBefore), NotAfter: stamp(c.NotAfter), StapledUntil: stamp(c.StapledUntil),
		LastError: c.Error, LastErrorAt: stamp(c.ErrorAt)}
}

// stamp is a time for a message; absent if it is zero.
func stamp(t time.Time) *timestamppb.Timestamp {
	if t.IsZero() {
		return nil
	}
	return timestamppb.New(t)
}
