package edge

import (
	"bytes"
	"crypto/x509"
	"encoding/binary"
	"io"
	"net/http"
	"net/http/httptest"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"golang.org/x/crypto/ocsp"
	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
	testpb "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/protobuf/proto"

	"github.com/trunkline/trunkline/integration/harness"
)

// openssl is a run of `openssl s_client`: what it reads and prints. It ends when its input is closed.
type openssl struct {
	t   *testing.T
	cmd *exec.Cmd
	in  io.WriteCloser
	mu  sync.Mutex
	out bytes.Buffer
}

func sClient(t *testing.T, address string, args ...string) *openssl {
	t.Helper()
	path, err := exec.LookPath("openssl")
	if err != nil {
		t.Skip("openssl is not installed: what its s_client sees is not tested here")
	}
	o := &openssl{t: t, cmd: exec.Command(path, append([]string{"s_client", "-connect", address, "-alpn", "h2"}, args...)...)}
	if o.in, err = o.cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	o.cmd.Stdout, o.cmd.Stderr = o, o
	if err := o.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(o.close)
	return o
}

// Write implements io.Writer for what openssl prints.
func (o *openssl) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.out.Write(p)
}

func (o *openssl) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.out.String()
}

func (o *openssl) send(p []byte) {
	o.t.Helper()
	if _, err := o.in.Write(p); err != nil {
		o.t.Fatalf("openssl has gone: %v\n%s", err, o)
	}
}

// await waits until it has printed a text n times.
func (o *openssl) await(text string, n int) {
	o.t.Helper()
	harness.Eventually(o.t, limit, "openssl to print "+text, func() bool { return strings.Count(o.String(), text) >= n })
}

func (o *openssl) close() {
	_ = o.in.Close()
	_ = o.cmd.Wait()
}

// frames are HTTP/2 frames for openssl to send.
func frames(t *testing.T, do func(*http2.Framer) error) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := do(http2.NewFramer(&b, nil)); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// fields is the header block of a call of a method. It is written without a table, so that each block stands for itself.
func fields(t *testing.T, method string) []byte {
	t.Helper()
	var b bytes.Buffer
	e := hpack.NewEncoder(&b)
	for _, f := range [][2]string{{":method", "POST"}, {":scheme", "https"}, {":path", "/" + method}, {":authority", "localhost"},
		{"content-type", "application/grpc"}, {"te", "trailers"}} {
		if err := e.WriteField(hpack.HeaderField{Name: f[0], Value: f[1], Sensitive: true}); err != nil {
			t.Fatal(err)
		}
	}
	return b.Bytes()
}

// openAt begins a call of a method on a stream.
func openAt(t *testing.T, c *harness.FrameClient, stream uint32, method string) {
	t.Helper()
	if err := c.Framer.WriteHeaders(http2.HeadersFrameParam{StreamID: stream, BlockFragment: fields(t, method), EndHeaders: true}); err != nil {
		t.Fatal(err)
	}
}

// request is a unary call on a stream.
func request(t *testing.T, stream uint32) []byte {
	t.Helper()
	m, err := proto.Marshal(&testpb.SimpleRequest{})
	if err != nil {
		t.Fatal(err)
	}
	return frames(t, func(f *http2.Framer) error {
		if err := f.WriteHeaders(http2.HeadersFrameParam{StreamID: stream, BlockFragment: fields(t, unary), EndHeaders: true}); err != nil {
			return err
		}
		return f.WriteData(stream, true, append(binary.BigEndian.AppendUint32([]byte{0}, uint32(len(m))), m...))
	})
}

func TestOpenSSLSpeaksWithTrunkline(t *testing.T) {
	const answerer = "answered-to-openssl"
	ca := newAuthority(t, "edge test CA")
	var leaf *x509.Certificate
	responder := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		q, err := io.ReadAll(r.Body)
		if err == nil {
			_, err = ocsp.ParseRequest(q)
		}
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		_, _ = w.Write(ca.answer(leaf))
	}))
	t.Cleanup(responder.Close)
	b := startServer(t, answerer)
	shown := ca.issue(func(c *x509.Certificate) { c.OCSPServer = []string{responder.URL} }, "localhost")
	leaf = shown.cert
	tr := harness.Start(t, config([]string{"{ address: LISTEN, tls: { " + shown.yaml() + " } }"}, b.Addr))
	args := func(more ...string) []string {
		return append([]string{"-CAfile", ca.file(), "-servername", "localhost"}, more...)
	}

	for version, flag := range map[string]string{"TLSv1.2": "-tls1_2", "TLSv1.3": "-tls1_3"} {
		t.Run("it shakes hands by "+version+", agrees to h2 and finds the certificate good", func(t *testing.T) {
			o := sClient(t, tr.Listen, args(flag)...)
			o.await("Verify return code: 0 (ok)", 1)
			says(t, o.String(), "ALPN protocol: h2", version)
		})
		t.Run("its session is resumed by "+version, func(t *testing.T) {
			session := filepath.Join(t.TempDir(), "session")
			for _, c := range []struct{ flag, says string }{{"-sess_out", "New, " + version}, {"-sess_in", "Reused, " + version}} {
				o := sClient(t, tr.Listen, args(flag, c.flag, session)...)
				o.await("Verify return code: 0 (ok)", 1)
				o.send(append([]byte(http2.ClientPreface), frames(t, func(f *http2.Framer) error { return f.WriteSettings() })...))
				o.send(request(t, 1))
				o.await(answerer, 1)
				o.close()
				says(t, o.String(), c.says)
			}
		})
	}
	t.Run("keys are changed amid a connection, at its request, and calls go on", func(t *testing.T) {
		o := sClient(t, tr.Listen, args("-tls1_3")...)
		o.await("Verify return code: 0 (ok)", 1)
		o.send(append([]byte(http2.ClientPreface), frames(t, func(f *http2.Framer) error { return f.WriteSettings() })...))
		for i, command := range []string{"K\n", "k\n", "K\n"} { // K: both sides change theirs; k: openssl its own
			o.send(request(t, uint32(1+2*i)))
			o.await(answerer, i+1)
			o.send([]byte(command)) // a command is what it reads by itself
			o.await("KEYUPDATE", i+1)
		}
		o.send(request(t, 7))
		o.await(answerer, 4)
	})
	t.Run("the OCSP response is stapled", func(t *testing.T) {
		harness.Eventually(t, limit, "a stapled response", func() bool {
			o := sClient(t, tr.Listen, args("-status")...)
			o.await("Verify return code: 0 (ok)", 1)
			return contains(o.String(), "OCSP Response Status: successful") && contains(o.String(), "Cert Status: good")
		})
	})
	t.Run("TLS 1.1 and http/1.1 are turned away by an alert", func(t *testing.T) {
		o := sClient(t, tr.Listen, args("-tls1_1", "-cipher", "ALL:@SECLEVEL=0")...)
		o.await("protocol version", 1)
		o = sClient(t, tr.Listen, append([]string{"-alpn", "http/1.1"}, args()...)...)
		o.await("no application protocol", 1)
	})
}
