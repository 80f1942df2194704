package admin

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/genproto/googleapis/rpc/errdetails"

	"github.com/trunkline/trunkline/codec/grpc"
	"github.com/trunkline/trunkline/policy/authn"
	adminv1 "github.com/trunkline/trunkline/proto/trunkline/admin/v1"
	"github.com/trunkline/trunkline/proto/trunkline/admin/v1/adminv1connect"
	configv1 "github.com/trunkline/trunkline/proto/trunkline/config/v1"
)

const secret = "canary-0123456789abcdef"

func save(t *testing.T, path, text string) string {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// guarded runs a Server with these Options on a loopback address until the test ends.
func guarded(t *testing.T, o Options) string {
	t.Helper()
	if o.Source == nil {
		o.Source = newFake()
	}
	o.Metrics = http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { say(w, 200, "trunkline_up 1") })
	s, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- s.Serve(ctx, l) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	return l.Addr().String()
}

func withToken(t *testing.T) (path string, o Options) {
	path = save(t, filepath.Join(t.TempDir(), "token"), secret+"\n")
	return path, Options{Config: &configv1.Admin{TokenFile: path}}
}

// ask is one request; header has names and values by turns.
func ask(t *testing.T, client *http.Client, method, url, body string, header ...string) (int, string, http.Header) {
	t.Helper()
	q, err := http.NewRequestWithContext(t.Context(), method, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(header); i += 2 {
		q.Header.Set(header[i], header[i+1])
	}
	p, err := client.Do(q)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Body.Close()
	text, _ := io.ReadAll(p.Body)
	return p.StatusCode, string(text), p.Header
}

func TestWithATokenFileOnlyItsTokenOpensAnythingButTheProbes(t *testing.T) {
	_, o := withToken(t)
	base := "http://" + guarded(t, o)
	client := httpClient(t, false)
	good, bad := "Bearer "+secret, "Bearer "+secret[1:]
	for _, path := range []string{"/", "/metrics", "/debug/pprof/", "/debug/pprof/cmdline", "/debug/pprof/heap", "/nothing",
		adminv1connect.AdminServiceGetStatusProcedure + "?connect=v1&encoding=json&message={}"} {
		for _, header := range [][]string{nil, {"Authorization", bad}, {"Authorization", "Bearer"}, {"Authorization", "Basic " + secret}, {"Authorization", secret}, {"Cookie", cookie + "=" + secret}, {"Cookie", cookie + "="}} {
			if code, text, _ := ask(t, client, "GET", base+path, "", header...); code != http.StatusUnauthorized || strings.Contains(text, secret) {
				t.Errorf("%s with %q: HTTP %d %s", path, header, code, text)
			}
		}
		want := http.StatusOK
		if path == "/nothing" {
			want = http.StatusNotFound
		}
		if code, text, _ := ask(t, client, "GET", base+path, "", "Authorization", good); code != want {
			t.Errorf("%s with the token: HTTP %d %s", path, code, text)
		}
	}
	for _, path := range []string{"/healthz", "/readyz"} {
		if code, _, _ := ask(t, client, "GET", base+path, ""); code != http.StatusOK {
			t.Errorf("%s without the token: HTTP %d", path, code)
		}
	}
	_, text, h := ask(t, client, "GET", base+"/metrics", "")
	if !strings.Contains(text, "send authorization: Bearer <token>") || !strings.HasPrefix(h.Get("Www-Authenticate"), "Bearer") {
		t.Errorf("who has no token is not told what to do: %s %v", text, h)
	}
}

func TestACallWithoutTheTokenIsRefusedInItsOwnProtocol(t *testing.T) {
	_, o := withToken(t)
	f := newFake()
	o.Source = f
	base := "http://" + guarded(t, o)
	for name, c := range map[string]struct {
		h2   bool
		opts []connect.ClientOption
	}{
		"Connect": {}, "Connect GET": {opts: []connect.ClientOption{connect.WithHTTPGet()}}, "gRPC": {true, []connect.ClientOption{connect.WithGRPC()}}, "gRPC-Web": {opts: []connect.ClientOption{connect.WithGRPCWeb()}},
	} {
		api := adminv1connect.NewAdminServiceClient(httpClient(t, c.h2), base, c.opts...)
		_, err := api.GetStatus(t.Context(), connect.NewRequest(&adminv1.GetStatusRequest{}))
		if connect.CodeOf(err) != connect.CodeUnauthenticated || !strings.Contains(err.Error(), "admin.tokenFile") {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := api.Drain(t.Context(), connect.NewRequest(&adminv1.DrainRequest{})); connect.CodeOf(err) != connect.CodeUnauthenticated || f.drains != 0 {
			t.Errorf("%s: Drain: %v", name, err)
		}
		w, err := api.Watch(t.Context(), connect.NewRequest(&adminv1.WatchRequest{}))
		if err == nil {
			if w.Receive() {
				t.Errorf("%s: Watch tells something", name)
			}
			err = w.Err()
			w.Close()
		}
		if connect.CodeOf(err) != connect.CodeUnauthenticated {
			t.Errorf("%s: Watch: %v", name, err)
		}
		req := connect.NewRequest(&adminv1.GetStatusRequest{})
		req.Header().Set("Authorization", "bearer "+secret)
		if _, err := api.GetStatus(t.Context(), req); err != nil {
			t.Errorf("%s with the token: %v", name, err)
		}
	}
}

func TestANewTokenReplacesTheOldOneAsSoonAsTheFileChanges(t *testing.T) {
	path, o := withToken(t)
	var log lines
	o.Log = slog.New(slog.NewTextHandler(&log, nil))
	base := "http://" + guarded(t, o)
	client := httpClient(t, false)
	code := func(token string) int {
		c, _, _ := ask(t, client, "GET", base+"/metrics", "", "Authorization", "Bearer "+token)
		return c
	}
	save(t, path, secret+"-the-second")
	for deadline := time.Now().Add(20 * time.Second); code(secret+"-the-second") != 200; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the new token is not taken")
		}
	}
	if code(secret) != 401 {
		t.Error("the old token is still taken")
	}
	save(t, path, "canary")
	for deadline := time.Now().Add(20 * time.Second); !strings.Contains(log.String(), "stays in force"); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("nothing is said of the broken file")
		}
	}
	if code(secret+"-the-second") != 200 || strings.Contains(log.String(), "canary") {
		t.Errorf("HTTP %d; %s", code(secret+"-the-second"), &log)
	}
}

// A browser shows a form, remembers that the token was right, and not the token.
func TestThePageWorksInABrowserWithTheToken(t *testing.T) {
	path, o := withToken(t)
	base := "http://" + guarded(t, o)
	jar, _ := cookiejar.New(nil)
	browser := httpClient(t, false)
	browser.Jar = jar
	code, text, h := ask(t, browser, "GET", base+"/", "", "Sec-Fetch-Site", "none", "Sec-Fetch-Mode", "navigate")
	if code != 401 || !strings.Contains(text, `type="password"`) || !strings.Contains(h.Get("Content-Security-Policy"), "form-action 'self'") {
		t.Fatalf("HTTP %d %s", code, text)
	}
	form := func(token string) string { return url.Values{"token": {token}}.Encode() }
	same := []string{"Content-Type", "application/x-www-form-urlencoded", "Sec-Fetch-Site", "same-origin", "Origin", base}
	if code, text, _ := ask(t, browser, "POST", base+"/login", form("wrong<script>"), same...); code != 401 || !strings.Contains(text, "That is not the token") || strings.Contains(text, "<script>") {
		t.Errorf("wrong token: HTTP %d %s", code, text)
	}
	if code, _, _ := ask(t, browser, "POST", base+"/login", form(secret), "Content-Type", "application/x-www-form-urlencoded", "Sec-Fetch-Site", "cross-site", "Origin", "http://evil.example"); code != 403 {
		t.Errorf("another site's form: HTTP %d", code)
	}
	if code, _, _ := ask(t, browser, "GET", base+"/?token="+secret, ""); code != 401 {
		t.Errorf("a token in the address: HTTP %d", code)
	}
	code, text, _ = ask(t, browser, "POST", base+"/login", form(" "+secret+"\n"), same...)
	if code != 200 || !strings.Contains(text, "<title>Trunkline") || strings.Contains(text, `type="password"`) {
		t.Fatalf("after the login: HTTP %d %.200s", code, text)
	}
	at, _ := url.Parse(base)
	if cookies := jar.Cookies(at); len(cookies) != 1 || strings.Contains(cookies[0].Value, "canary") {
		t.Errorf("cookies: %v", cookies)
	}
	if code, _, _ := ask(t, browser, "GET", base+"/metrics", "", "Sec-Fetch-Site", "same-origin"); code != 200 {
		t.Errorf("the page's own request: HTTP %d", code)
	}
	drain := base + adminv1connect.AdminServiceDrainProcedure
	if code, _, _ := ask(t, browser, "POST", drain, "{}", "Content-Type", "application/json", "Sec-Fetch-Site", "same-site"); code != 403 {
		t.Errorf("a page on another port of this host, with the cookie: HTTP %d", code)
	}
	save(t, path, secret+"-the-second")
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		if code, _, _ := ask(t, browser, "GET", base+"/metrics", ""); code == 401 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("the browser is remembered though the token was changed")
		}
	}
}

func TestACookieIsHardToStealAndEnds(t *testing.T) {
	_, o := withToken(t)
	client := httpClient(t, false)
	client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	_, _, h := ask(t, client, "POST", "http://"+guarded(t, o)+"/login", url.Values{"token": {secret}}.Encode(), "Content-Type", "application/x-www-form-urlencoded")
	if c := h.Get("Set-Cookie"); !strings.Contains(c, "HttpOnly") || !strings.Contains(c, "SameSite=Strict") || strings.Contains(c, "canary") {
		t.Error(c)
	}
	k, err := openToken(save(t, filepath.Join(t.TempDir(), "token"), secret), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer k.close()
	now := time.Now()
	value := k.session(now.Add(remembered))
	for name, c := range map[string]struct {
		value string
		at    time.Time
		want  bool
	}{
		"now":       {value, now, true},
		"later":     {value, now.Add(remembered + time.Second), false},
		"prolonged": {"A" + value[:4] + "f" + value[6:], now, false},
		"cut":       {value[:20], now, false},
		"of another process": {func() string {
			defer func() { k.key[0]-- }()
			k.key[0]++
			return k.session(now.Add(remembered))
		}(), now, false},
	} {
		q := &http.Request{Header: http.Header{"Cookie": {cookie + "=" + c.value}}}
		if got := k.remembers(q, c.at); got != c.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}

func TestNothingButThePageIsForAnotherOriginsLinks(t *testing.T) {
	base := "http://" + serve(t, newFake())
	client := httpClient(t, false)
	for path, want := range map[string]int{"/": 200, "/readyz": 200, "/metrics": 403, "/debug/pprof/profile?seconds=30": 403} {
		if code, _, _ := ask(t, client, "GET", base+path, "", "Sec-Fetch-Site", "cross-site"); code != want {
			t.Errorf("%s: HTTP %d, want %d", path, code, want)
		}
	}
}

func TestCallsAreAuthorisedLikeAnyMethod(t *testing.T) {
	type question struct{ method, authorization, cookie, tenant string }
	var mu sync.Mutex
	var asked []question
	_, o := withToken(t)
	o.Authorize = func(reply http.Header, r *http.Request, method string, peer *authn.Peer) *authn.Refusal {
		reply.Set("X-Told", method[strings.LastIndexByte(method, '/')+1:])
		mu.Lock()
		defer mu.Unlock()
		asked = append(asked, question{method, r.Header.Get("Authorization"), r.Header.Get("Cookie"), r.Header.Get("X-Tenant")})
		if strings.HasSuffix(method, "/Drain") {
			return &authn.Refusal{Status: grpc.PermissionDenied, Reason: "DENIED_BY_RULE", Message: "rule no-drain denies it"}
		}
		return nil
	}
	f := newFake()
	o.Source = f
	api := adminv1connect.NewAdminServiceClient(httpClient(t, true), "http://"+guarded(t, o), connect.WithGRPC())
	status, drain := connect.NewRequest(&adminv1.GetStatusRequest{}), connect.NewRequest(&adminv1.DrainRequest{})
	for _, h := range []http.Header{status.Header(), drain.Header()} {
		h.Set("Authorization", "Bearer "+secret)
		h.Set("X-Tenant", "ops")
	}
	if answer, err := api.GetStatus(t.Context(), status); err != nil || answer.Header().Get("X-Told") != "GetStatus" {
		t.Errorf("%v, %v", answer, err)
	}
	_, err := api.Drain(t.Context(), drain)
	var e *connect.Error
	if errors.As(err, &e) && e.Meta().Get("X-Told") != "Drain" {
		t.Errorf("with the refusal its caller is told %v", e.Meta())
	}
	if connect.CodeOf(err) != connect.CodePermissionDenied || !strings.Contains(err.Error(), "rule no-drain denies it") || f.drains != 0 {
		t.Error(err)
	} else if !errors.As(err, &e) || len(e.Details()) != 1 {
		t.Errorf("details: %v", err)
	} else if v, err := e.Details()[0].Value(); err != nil || v.(*errdetails.ErrorInfo).GetReason() != "DENIED_BY_RULE" {
		t.Errorf("%v, %v", v, err)
	}
	want := []question{{"trunkline.admin.v1.AdminService/GetStatus", "", "", "ops"}, {"trunkline.admin.v1.AdminService/Drain", "", "", "ops"}}
	if fmt.Sprint(asked) != fmt.Sprint(want) {
		t.Errorf("asked %v", asked)
	}
}

func TestAnAddressForEverybodyNeedsAProof(t *testing.T) {
	for _, address := range []string{":9901", "0.0.0.0:9901", "[::]:0", "10.0.0.7:9901", "host.example.com:9901"} {
		if _, err := Open(Options{Source: newFake(), Config: &configv1.Admin{Address: address}}); err == nil || !strings.Contains(err.Error(), "can be reached from elsewhere") {
			t.Errorf("%s: %v", address, err)
		}
	}
	for _, address := range []string{"", "127.0.0.1:0", "[::1]:0", "localhost:9901"} {
		s, err := Open(Options{Source: newFake(), Config: &configv1.Admin{Address: address}})
		if err != nil {
			t.Errorf("%s: %v", address, err)
			continue
		}
		s.Close()
	}
	path, o := withToken(t)
	o.Source, o.Config.Address = newFake(), ":9901"
	s, err := Open(o)
	if err != nil {
		t.Fatal(path, err)
	}
	s.Close()
}

func TestATokenFileThatIsNoneIsExplainedAndNotQuoted(t *testing.T) {
	dir := t.TempDir()
	for name, c := range map[string][2]string{
		"short": {"canary", "has a token of 6 characters, less than 16: write one such as `openssl rand -hex 32` prints"},
		"empty": {"\n", "has a token of 0 characters"},
		"two":   {secret + "\n" + secret, "has more than one token"},
		"long":  {strings.Repeat("canary", 1000), "has more than 4096 bytes"},
	} {
		path := save(t, filepath.Join(dir, name), c[0])
		_, err := Open(Options{Source: newFake(), Config: &configv1.Admin{TokenFile: path}})
		if err == nil || !strings.Contains(err.Error(), "admin.tokenFile: "+path+" "+c[1]) || strings.Contains(err.Error(), "canary") {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := Open(Options{Source: newFake(), Config: &configv1.Admin{TokenFile: filepath.Join(dir, "none")}}); err == nil || !strings.Contains(err.Error(), "no such file") {
		t.Error(err)
	}
}

// pair writes a certificate for loopback that signs itself, and its key.
func pair(t *testing.T, name string) (cert, key string) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &private.PublicKey, private)
	if err != nil {
		t.Fatal(err)
	}
	secretDER, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	cert = save(t, filepath.Join(dir, "cert.pem"), string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})))
	return cert, save(t, filepath.Join(dir, "key.pem"), string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: secretDER})))
}

func TestOverTLSOnlyClientsWithACertificateAreHeardIfThatIsAsked(t *testing.T) {
	cert, key := pair(t, "admin")
	mine, myKey := pair(t, "operator")
	var names []string
	o := Options{Config: &configv1.Admin{Address: ":9901", Tls: &configv1.AdminTLS{CertFile: cert, KeyFile: key, ClientCaFile: mine}},
		Authorize: func(_ http.Header, _ *http.Request, _ string, peer *authn.Peer) *authn.Refusal {
			names = append(names, peer.Name())
			return nil
		}}
	base := "https://" + guarded(t, o)
	text, err := os.ReadFile(cert)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(text)
	for _, h2 := range []bool{false, true} {
		transport := &http.Transport{Protocols: new(http.Protocols), TLSClientConfig: &tls.Config{RootCAs: roots}}
		transport.Protocols.SetHTTP1(!h2)
		transport.Protocols.SetHTTP2(h2)
		client := &http.Client{Transport: transport, Timeout: 10 * time.Second}
		if _, err := client.Get(base + "/readyz"); err == nil {
			t.Error("a client without a certificate is heard")
		}
		transport.CloseIdleConnections()
		c, err := tls.LoadX509KeyPair(mine, myKey)
		if err != nil {
			t.Fatal(err)
		}
		transport.TLSClientConfig.Certificates = []tls.Certificate{c}
		if _, err := adminv1connect.NewAdminServiceClient(client, base).GetStatus(t.Context(), connect.NewRequest(&adminv1.GetStatusRequest{})); err != nil {
			t.Errorf("HTTP/2 %v: %v", h2, err)
		}
		all, err := adminv1connect.NewAdminServiceClient(client, base).ListCertificates(t.Context(), connect.NewRequest(&adminv1.ListCertificatesRequest{}))
		if err != nil {
			t.Fatal(err)
		}
		if own := all.Msg.GetCertificates()[1]; own.GetWhere() != "admin.tls" || own.GetOrigin() != cert || own.GetSerial() == "" {
			t.Errorf("its own certificate is not among %v", all.Msg)
		}
		transport.CloseIdleConnections()
	}
	if fmt.Sprint(names) != "[operator operator operator operator]" {
		t.Errorf("the rules are told of %q", names)
	}
	code, body, _ := ask(t, httpClient(t, false), "GET", strings.Replace(base, "https", "http", 1)+"/readyz", "")
	if code != 400 || !strings.Contains(body, "HTTPS") {
		t.Errorf("in clear text: HTTP %d %s", code, body)
	}
}

// lines is a log that tests read while it is written.
type lines struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}
