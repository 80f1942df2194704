package cli

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/trunkline/trunkline/lb/admin"
	adminv1 "github.com/trunkline/trunkline/proto/trunkline/admin/v1"
)

// shown is the least admin.Source that has certificates.
type shown struct {
	admin.Source
	*adminv1.ListCertificatesResponse
}

func (s shown) Certificates() *adminv1.ListCertificatesResponse { return s.ListCertificatesResponse }

func TestCertificatesAreListedWithWhatIsWrongWithThem(t *testing.T) {
	at := func(year int) *timestamppb.Timestamp {
		return timestamppb.New(time.Date(year, 11, 20, 9, 30, 0, 0, time.UTC))
	}
	all := &adminv1.ListCertificatesResponse{
		Certificates: []*adminv1.Certificate{
			{Where: "listeners[0].tls", Source: adminv1.CertificateSource_CERTIFICATE_SOURCE_FILE, Origin: "/etc/trunkline/edge.pem", Names: []string{"shop.example.com", "www.example.com"},
				Issuer: "CN=Example CA,O=Example", Subject: "CN=shop", Serial: "12ab", NotBefore: at(2020), NotAfter: at(2999)},
			{Where: "listeners[0].tls.acme", Source: adminv1.CertificateSource_CERTIFICATE_SOURCE_ACME, Origin: "https://acme.example.com/directory", Names: []string{"new.example.com"},
				LastError: "asking https://acme.example.com/directory:\nconnection refused", LastErrorAt: at(2026)},
			{Where: "clusters.shop.tls", Source: adminv1.CertificateSource_CERTIFICATE_SOURCE_FILE, Origin: "/etc/trunkline/client.pem", Issuer: "CN=Example CA", Subject: "O=Nameless", Serial: "7",
				NotBefore: at(2019), NotAfter: at(2020), LastError: "clusters[0].tls.certFile: /etc/trunkline/client.pem: no such file or directory", LastErrorAt: at(2020)},
			{Where: "discovery.consul.connect", Source: adminv1.CertificateSource_CERTIFICATE_SOURCE_CONNECT, Origin: "edge", Names: []string{"spiffe://x.consul/ns/default/dc/dc1/svc/edge"},
				Issuer: "CN=Consul CA", Serial: "9", NotBefore: at(2020), NotAfter: at(2999)},
		},
		Mesh: &adminv1.Mesh{Service: "edge", TrustDomain: "x.consul", SpiffeId: "spiffe://x.consul/ns/default/dc/dc1/svc/edge", Roots: []string{"one", "two"}, ActiveRoot: "two",
			CertificateFetchedAt: at(2026), StaleSince: at(2026), LastError: "the authorities: HTTP 500", Intentions: 3, IntentionsFailing: 1},
	}
	for name, story := range map[string]struct {
		line string
		has  *adminv1.ListCertificatesResponse
	}{
		"certificates":      {"certificates", all},
		"certificates_json": {"certificates --json", all},
		"certificates_none": {"certificates", &adminv1.ListCertificatesResponse{}},
	} {
		t.Run(name, func(t *testing.T) {
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithCancel(t.Context())
			served := make(chan error, 1)
			go func() {
				served <- admin.New(shown{ListCertificatesResponse: story.has}, nil, slog.New(slog.DiscardHandler)).Serve(ctx, l)
			}()
			w := newWorld()
			code := Main(t.Context(), append(strings.Fields(story.line), "--admin", l.Addr().String()), w.env())
			golden(t, name, fmt.Sprintf("$ trunkline %s\n%s%s--- exit %d\n", story.line, w.out.String(), w.err.String(), code))
			cancel()
			if err := <-served; err != nil {
				t.Fatal(err)
			}
		})
	}
}

func TestHowLongACertificateHasLeftIsSaidInAUnitThatFits(t *testing.T) {
	now := time.Date(2026, 11, 20, 9, 30, 0, 0, time.UTC)
	for left, want := range map[time.Duration]string{
		-time.Second: "EXPIRED", 0: "EXPIRED", 119 * time.Minute: "(in 119 min)", 47 * time.Hour: "(in 47 h)", 49 * time.Hour: "(in 2 days)", 101 * 366 * 24 * time.Hour: "Z",
	} {
		if got := expires(&adminv1.Certificate{NotAfter: timestamppb.New(now.Add(left))}, now); !strings.HasSuffix(got, want) {
			t.Errorf("%v: %q, want %q", left, got, want)
		}
	}
}
