package listener

import (
	"bytes"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/trunkline/trunkline/codec/h2"
)

// turned is what a client reads that is turned away.
func turned(t *testing.T, nc net.Conn) (fields map[string]string, last uint32, why string) {
	t.Helper()
	_ = nc.SetReadDeadline(time.Now().Add(time.Minute))
	fr := http2.NewFramer(io.Discard, nc)
	fr.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	for {
		f, err := fr.ReadFrame()
		if errors.Is(err, io.EOF) {
			return fields, last, why
		}
		if err != nil {
			t.Fatalf("after %v %q: %v", fields, why, err)
		}
		switch f := f.(type) {
		case *http2.MetaHeadersFrame:
			fields = map[string]string{}
			for _, h := range f.Fields {
				fields[h.Name] = h.Value
			}
			if f.StreamID != 5 || !f.StreamEnded() {
				t.Errorf("the answer is %v", f)
			}
		case *http2.GoAwayFrame:
			last, why = f.LastStreamID, string(f.DebugData())
			if f.ErrCode != http2.ErrCodeEnhanceYourCalm {
				t.Errorf("GOAWAY with %v", f.ErrCode)
			}
			_ = nc.(interface{ CloseWrite() error }).CloseWrite()
		}
	}
}

func TestAClientThatIsTurnedAwayHasItsCallAnswered(t *testing.T) {
	s := newStage(t, 1)
	set := *s.settings.Load()
	set.MaxPerAddress = 1
	s.settings.Store(&set)
	dial, end := s.serveOn(t)
	first := dial()

	nc := dial()
	var b bytes.Buffer
	b.WriteString(h2.Preface)
	fr := http2.NewFramer(&b, nil)
	_ = fr.WriteSettings()
	_ = fr.WriteHeaders(http2.HeadersFrameParam{StreamID: 5, BlockFragment: []byte{0x83}})
	_ = fr.WriteContinuation(5, true, []byte{0x86})
	_ = fr.WriteData(5, true, make([]byte, 10_000))
	_, _ = nc.Write(b.Bytes())
	fields, last, why := turned(t, nc)
	if fields["grpc-status"] != "14" || !strings.Contains(fields["grpc-message"], "limits.maxConnectionsPerAddress") || last != 5 || fields["grpc-message"] != why {
		t.Errorf("%v; GOAWAY %d %q", fields, last, why)
	}
	_ = nc.Close()

	for name, says := range map[string]string{"nothing": "", "no HTTP/2": "GET / HTTP/1.1\r\nHost: somewhere\r\n\r\n", "half a frame": h2.Preface + "\x00\x00\x40\x00"} {
		nc := dial()
		_, _ = io.WriteString(nc, says)
		if fields, last, why := turned(t, nc); fields != nil || last != 0 || !strings.Contains(why, "limits.maxConnectionsPerAddress") {
			t.Errorf("%s: %v; GOAWAY %d %q", name, fields, last, why)
		}
		_ = nc.Close()
	}
	_ = first.Close()
	end()
}

// open is TLS that asks clients for nothing.
type open struct{ strict }

func (o open) Config() *tls.Config {
	return &tls.Config{Certificates: []tls.Certificate{o.cert}, NextProtos: []string{"h2"}}
}

// A client that only sees its connection end takes the network for the fault.
func TestAClientThatIsTurnedAwayReadsWhyOverTLSToo(t *testing.T) {
	cert := selfSigned(t)
	trusted := []netip.Prefix{netip.MustParsePrefix("127.0.0.1/32")}
	for name, c := range map[string]struct {
		door         Door
		header       string
		perAddress   int
		bare, silent bool   // the client comes without TLS; says nothing
		spent        bool   // the second's handshakes are
		want         string // "": nothing
	}{
		"over TLS":                                      {want: "limits.maxConnections)"},
		"too many of its address":                       {perAddress: 1, want: "limits.maxConnectionsPerAddress"},
		"behind a PROXY header":                         {door: Door{Trusted: trusted}, header: header, want: "limits.maxConnections)"},
		"too many of its address, behind one":           {door: Door{Trusted: trusted}, header: header, perAddress: 1, want: "limits.maxConnectionsPerAddress"},
		"over TLS where both are taken":                 {door: Door{Plaintext: true}, want: "limits.maxConnections)"},
		"without TLS where both are taken":              {door: Door{Plaintext: true}, bare: true, want: "limits.maxConnections)"},
		"without TLS where it is needed":                {bare: true, want: "limits.maxConnections)"},
		"without TLS, when many were told in a second":  {bare: true, spent: true, want: "limits.maxConnections)"},
		"over TLS, when many were told in the second":   {spent: true},
		"over TLS by the header, when many were told":   {door: Door{Trusted: trusted}, header: header, spent: true},
		"silent where only TLS is taken":                {silent: true},
		"silent where both are taken: it may be no TLS": {door: Door{Plaintext: true}, silent: true, want: "limits.maxConnections)"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newStage(t, 1)
			c.door.TLS = open{strict{cert}}
			s.Listener.door.Store(&c.door)
			set := *s.settings.Load()
			set.MaxConnections, set.MaxPerAddress = 1, c.perAddress
			if c.perAddress > 0 {
				set.MaxConnections = 0
			}
			s.settings.Store(&set)
			dial, end := s.serveOn(t)
			defer end()
			come := func() net.Conn {
				nc := dial()
				_ = nc.SetDeadline(time.Now().Add(time.Minute))
				_, _ = io.WriteString(nc, c.header)
				return nc
			}
			secure := func(nc net.Conn) *tls.Conn {
				return tls.Client(nc, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"h2"}})
			}
			first := secure(come())
			if err := first.Handshake(); err != nil {
				t.Fatal(err)
			}
			for end := time.Now().Add(time.Minute); s.Open() == 0 && time.Now().Before(end); {
				time.Sleep(time.Millisecond)
			}
			if c.spent {
				s.guard.mu.Lock()
				s.guard.second, s.guard.shaken = time.Now().Add(time.Hour), maxShaken
				s.guard.mu.Unlock()
			}
			nc := come()
			if !c.bare && !c.silent {
				nc = secure(nc)
			}
			if !c.silent {
				if _, err := io.WriteString(nc, call); (err != nil) != (c.want == "") {
					t.Fatalf("its call: %v", err)
				}
			}
			if c.want == "" {
				if n, err := nc.Read(make([]byte, 100)); n > 0 || isTimeout(err) {
					t.Errorf("%d bytes are read, %v", n, err)
				}
				return
			}
			fields, _, why := turned(t, nc)
			if !strings.Contains(why, c.want) || !c.silent && (fields["grpc-status"] != "14" || fields["grpc-message"] != why) {
				t.Errorf("%v; GOAWAY %q", fields, why)
			}
			if n := s.Counts().Handshakes.Load(); n != 1 {
				t.Errorf("%d handshakes of those that came in are counted", n)
			}
		})
	}
}

func TestOfAFloodFewAreToldAndFewerWithAHandshake(t *testing.T) {
	var g guard
	now := time.Now()
	for second := range 3 {
		told, shaken := 0, 0
		for i := range 1000 {
			at := now.Add(time.Duration(second)*time.Second + time.Duration(i)*time.Millisecond)
			if g.tell(at) {
				told++
				g.hasTold()
			}
			if g.shake(at) {
				shaken++
			}
		}
		if told != maxTold || shaken != maxShaken {
			t.Errorf("%d and %d in second %d", told, shaken, second)
		}
	}
}

func FuzzFirstCall(f *testing.F) {
	f.Add([]byte(h2.Preface + "\x00\x00\x01\x01\x04\x00\x00\x00\x01\x83"))
	f.Add([]byte(h2.Preface + "\xff\xff\xff\x09\x00\x00\x00\x00\x01"))
	f.Fuzz(func(t *testing.T, in []byte) {
		id, err := firstCall(bytes.NewReader(in))
		if err != nil && id != 0 {
			t.Errorf("stream %d and %v", id, err)
		}
		_ = refusal(id, "why")
	})
}
