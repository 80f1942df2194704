package listener

import (
	"bytes"
	"errors"
	"io"
	"net"
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
			_ = nc.(*net.TCPConn).CloseWrite()
		}
	}
}

func TestAClientThatIsTurnedAwayHasItsCallAnswered(t *testing.T) {
	s := newStage(t, 1)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s.l = l
	set := *s.settings.Load()
	set.MaxPerAddress = 1
	s.settings.Store(&set)
	accepting := make(chan struct{})
	go func() { defer close(accepting); s.Accept() }()
	dial := func() net.Conn {
		nc, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		return nc
	}
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
	s.Close()
	<-accepting
	s.end()
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
