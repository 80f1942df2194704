package cli

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"

	"connectrpc.com/connect"

	"github.com/trunkline/trunkline/proto/trunkline/admin/v1/adminv1connect"
)

// adminFlags say where the admin API is, and how to get in there.
type adminFlags struct {
	Admin          string `placeholder:"ADDR" xor:"from" help:"Ask the running Trunkline with this admin address (default: ${admin}). https://ADDR for TLS."`
	AdminTokenFile string `placeholder:"FILE" env:"TRUNKLINE_ADMIN_TOKEN_FILE" help:"The token that the admin address asks for (admin.tokenFile)."`
	AdminCA        string `name:"admin-ca" placeholder:"FILE" help:"Authorities of the admin address's certificate, PEM (default: the system's)."`
	AdminCert      string `placeholder:"FILE" and:"pair" help:"The client certificate that the admin address asks for, PEM."`
	AdminKey       string `placeholder:"FILE" and:"pair" help:"Its key, PEM."`
}

// api is a client of the admin API, and its address.
func (f *adminFlags) api() (adminv1connect.AdminServiceClient, string, error) {
	client, err := f.client()
	if err != nil {
		return nil, "", err
	}
	return adminv1connect.NewAdminServiceClient(client, f.url()), f.url(), nil
}

// secure tells whether a flag is only of use with TLS.
func (f *adminFlags) secure() bool { return f.AdminCA != "" || f.AdminCert != "" }

func (f *adminFlags) url() string {
	address := f.Admin
	if address == "" {
		address = defaultAdmin
	}
	switch {
	case strings.Contains(address, "://"):
		return address
	case f.secure():
		return "https://" + address
	}
	return "http://" + address
}

// client shows what the admin address asks for.
func (f *adminFlags) client() (*http.Client, error) {
	host, clear := strings.CutPrefix(f.url(), "http://")
	if clear && f.secure() {
		return nil, fmt.Errorf("--admin %s is without TLS, where certificates are of no use: write https://", f.url())
	}
	transport := &http.Transport{DisableKeepAlives: true, TLSClientConfig: &tls.Config{MinVersion: tls.VersionTLS12}}
	if f.AdminCA != "" {
		text, err := os.ReadFile(f.AdminCA)
		if err != nil {
			return nil, fmt.Errorf("--admin-ca: %w", err)
		}
		transport.TLSClientConfig.RootCAs = x509.NewCertPool()
		if !transport.TLSClientConfig.RootCAs.AppendCertsFromPEM(text) {
			return nil, fmt.Errorf("--admin-ca: %s has no certificate in PEM", f.AdminCA)
		}
	}
	if f.AdminCert != "" {
		pair, err := tls.LoadX509KeyPair(f.AdminCert, f.AdminKey)
		if err != nil {
			return nil, fmt.Errorf("--admin-cert and --admin-key: %w", err)
		}
		transport.TLSClientConfig.Certificates = []tls.Certificate{pair}
	}
	if f.AdminTokenFile == "" {
		return &http.Client{Transport: transport}, nil
	}
	token, err := readToken(f.AdminTokenFile)
	if err != nil {
		return nil, fmt.Errorf("--admin-token-file: %w", err)
	}
	if clear && !localHost(host) {
		return nil, fmt.Errorf("--admin %s is without TLS and not on this host: the token would go over the network in the clear; write https://", f.url())
	}
	return &http.Client{Transport: bearing{token, transport}}, nil
}

// readToken never puts a part of the file into its error.
func readToken(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, 4<<10))
	token := strings.TrimSpace(string(text))
	if err == nil && (token == "" || strings.ContainsFunc(token, func(c rune) bool { return c <= ' ' || c > '~' })) {
		err = fmt.Errorf("%s has not one token of printable ASCII", path)
	}
	return token, err
}

func localHost(address string) bool {
	host, _, err := net.SplitHostPort(strings.TrimSuffix(address, "/"))
	ip := net.ParseIP(host)
	return err == nil && (strings.EqualFold(host, "localhost") || ip != nil && ip.IsLoopback())
}

// bearing sends the token with each request.
type bearing struct {
	token string
	next  http.RoundTripper
}

func (b bearing) RoundTrip(q *http.Request) (*http.Response, error) {
	q = q.Clone(q.Context())
	q.Header.Set("Authorization", "Bearer "+b.token)
	return b.next.RoundTrip(q)
}

// noAnswer says why there is none, and what to try.
func noAnswer(address string, err error) error {
	var said *connect.Error
	if errors.As(err, &said) && (said.Code() == connect.CodeUnauthenticated || said.Code() == connect.CodePermissionDenied) {
		return fmt.Errorf("the admin API at %s refuses: %s", address, said.Message())
	}
	hint := "is a Trunkline running there? name it with --admin, or a file with -c"
	var stranger *tls.CertificateVerificationError
	switch text := err.Error(); {
	case strings.Contains(text, "Client sent an HTTP request to an HTTPS server") || strings.HasPrefix(address, "http://") && (strings.Contains(text, "400 Bad Request") || strings.Contains(text, "malformed HTTP response")):
		hint = "it may ask for TLS: write --admin https://" + strings.TrimPrefix(address, "http://")
	case strings.Contains(text, "server gave HTTP response to HTTPS client"):
		hint = "it has no TLS: write --admin " + strings.TrimPrefix(address, "https://") + ", without --admin-ca and --admin-cert"
	case strings.Contains(text, "certificate required") || strings.Contains(text, "bad certificate"):
		hint = "it asks for a client certificate: name one with --admin-cert and --admin-key"
	case strings.HasPrefix(address, "https://") && (strings.Contains(text, "use of closed network connection") || strings.Contains(text, "broken pipe") || strings.Contains(text, "connection reset")):
		// By TLS 1.3 a client without the certificate that is asked for has begun to speak before it hears of that, and may never hear it.
		hint = "it may ask for a client certificate: name one with --admin-cert and --admin-key"
	case errors.As(err, &stranger):
		hint = "name the authority of its certificate with --admin-ca"
	}
	return fmt.Errorf("no answer from the admin API at %s: %w (%s)", address, err, hint)
}
