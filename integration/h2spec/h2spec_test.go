// Package h2spec runs the HTTP/2 conformance suite h2spec against Trunkline's listener; it must not excuse a failing case
// without its reason.
package h2spec

import (
	"encoding/xml"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/trunkline/trunkline/integration/harness"
)

func TestMain(m *testing.M) { harness.Main(m) }

// exceptions are the cases that do not pass, each with the reason why that is right. h2spec tests RFC 7540; Trunkline keeps RFC 9113.
// A case that is listed and passes fails the test too.
func exceptions() map[string]string {
	const priorities = "RFC 9113 5.3.2 has taken the priority scheme away: Trunkline ignores priorities, wrong ones too"
	return map[string]string{
		"http2/5.3.1 Sends HEADERS frame that depend on itself":  priorities,
		"http2/5.3.1 Sends PRIORITY frame that depend on itself": priorities,
		"http2/5.1 closed: Sends a DATA frame after sending RST_STREAM frame": "RFC 9113 5.1 (closed) says MAY where RFC 7540 said MUST: " +
			"Trunkline ignores DATA of a stream that is gone, but for the connection's window",
	}
}

// suite is what h2spec writes of one section.
type suite struct {
	Package string     `xml:"package,attr"`
	Cases   []testCase `xml:"testcase"`
}

type testCase struct {
	Name    string  `xml:"classname,attr"`
	Failure *string `xml:"failure"`
	Error   *string `xml:"error"`
	Skipped *string `xml:"skipped"`
}

func TestTheListenerPassesH2specWithTheListedExceptions(t *testing.T) {
	trunkline := harness.Start(t, fmt.Sprintf(`
listeners: [ { address: LISTEN } ]
admin: { address: ADMIN }
discovery:
  static:
    clusters:
      - name: raw
        endpoints: [ { address: %s } ]
        grpcServices: [ h2spec.Raw ]
routes:
  - match: { service: h2spec.Raw }
    cluster: raw
`, startBackend(t)))
	excused := exceptions()
	ran := map[string]bool{}
	for _, s := range cases(t, trunkline.Listen) {
		for _, c := range s.Cases {
			name := s.Package + " " + c.Name
			ran[name] = true
			reason, isExcused := excused[name]
			why, passed := c.verdict()
			switch {
			case !passed && !isExcused:
				t.Errorf("%s\n%s", name, why)
			case passed && isExcused:
				t.Errorf("%s: passes now, but is excused: %s", name, reason)
			case isExcused:
				t.Logf("%s: excused: %s", name, reason)
			}
		}
	}
	for name := range excused {
		if !ran[name] {
			t.Errorf("%s: excused, but there is no such case", name)
		}
	}
	if len(ran) < 140 {
		t.Errorf("only %d cases ran", len(ran))
	}
}

// verdict says whether a case passed, and why not. A skipped case did not pass: it proved nothing.
func (c testCase) verdict() (why string, passed bool) {
	for kind, text := range map[string]*string{"failure": c.Failure, "error": c.Error, "skipped": c.Skipped} {
		if text != nil {
			return kind + ": " + *text, false
		}
	}
	return "", true
}

func cases(t *testing.T, addr string) []suite {
	t.Helper()
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		t.Fatal(err)
	}
	report := filepath.Join(t.TempDir(), "report.xml")
	_, stdout, stderr := harness.Run(t, 2*time.Minute, nil, harness.Tool(t, "h2spec"), "--strict",
		"--host", host, "--port", port, "--path", "/h2spec.Raw/Get", "--junit-report", report)
	text, err := os.ReadFile(report)
	if err != nil {
		t.Fatalf("h2spec wrote no report: %v\n%s%s", err, stdout, stderr)
	}
	var parsed struct {
		Suites []suite `xml:"testsuite"`
	}
	if err := xml.Unmarshal(text, &parsed); err != nil {
		t.Fatal(err)
	}
	return parsed.Suites
}

// startBackend starts what answers h2spec's requests: any request gets DATA (the cases on flow control need it) and gRPC trailers.
func startBackend(t *testing.T) string {
	t.Helper()
	addr := harness.FreeAddr(t)
	l, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	protocols := new(http.Protocols)
	protocols.SetUnencryptedHTTP2(true)
	server := &http.Server{
		Protocols: protocols, ReadHeaderTimeout: time.Minute, ErrorLog: log.New(io.Discard, "", 0),
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			io.Copy(io.Discard, r.Body) // malformed on purpose
			w.Header().Set("Content-Type", "application/grpc")
			io.WriteString(w, "\x00\x00\x00\x00\x0dhello, h2spec") // h2spec hangs up as it likes
			w.Header().Set(http.TrailerPrefix+"Grpc-Status", "0")
		}),
	}
	served := make(chan struct{})
	go func() {
		defer close(served)
		server.Serve(l) // ends by Close
	}()
	t.Cleanup(func() {
		server.Close()
		<-served
	})
	return addr
}
