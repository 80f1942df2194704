package forward

import (
	"bytes"
	"context"
	"encoding/binary"
	"io"
	"net"
	"sync"
	"testing"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/trunkline/trunkline/lb/shard"
	"github.com/trunkline/trunkline/lb/upstream"
)

// frames builds HTTP/2 frames once, to be sent many times with other stream ids.
func frames(f func(fr *http2.Framer)) []byte {
	var b bytes.Buffer
	f(http2.NewFramer(&b, nil))
	return b.Bytes()
}

// literal encodes fields without the dynamic table, so that the same bytes can be said again.
func literal(kv ...string) []byte {
	var b bytes.Buffer
	e := hpack.NewEncoder(&b)
	e.SetMaxDynamicTableSize(0)
	for i := 0; i < len(kv); i += 2 {
		_ = e.WriteField(hpack.HeaderField{Name: kv[i], Value: kv[i+1]})
	}
	return b.Bytes()
}

// stamp writes a stream id into all of frames.
func stamp(b []byte, id uint32) {
	for len(b) > 0 {
		binary.BigEndian.PutUint32(b[5:], id)
		n := int(b[0])<<16 | int(b[1])<<8 | int(b[2])
		b = b[9+n:]
	}
}

// wire reads frames without allocating; f sees type, flags and stream id.
func wire(r io.Reader, f func(kind http2.FrameType, flags http2.Flags, id uint32) bool) {
	buf, k := make([]byte, 1<<20), 0
	for {
		n, err := r.Read(buf[k:])
		if err != nil {
			return
		}
		k += n
		at := 0
		for k-at >= 9 {
			l := 9 + (int(buf[at])<<16 | int(buf[at+1])<<8 | int(buf[at+2]))
			if k-at < l {
				break
			}
			kind, flags, id := http2.FrameType(buf[at+3]), http2.Flags(buf[at+4]), binary.BigEndian.Uint32(buf[at+5:])
			at += l
			if !f(kind, flags, id) {
				copy(buf, buf[at:k])
				k -= at
				at = 0
				continue
			}
		}
		k = copy(buf, buf[at:k])
	}
}

const endStream = http2.FlagDataEndStream

// loop is a client and an endpoint on real sockets that allocate nothing per call.
type loop struct {
	nc   net.Conn
	req  []byte
	next uint32
	done chan uint32
}

func newLoop(tb testing.TB) *loop {
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	// The rig's dialler is in memory: replaced by the real one.
	r := newRig(nil, "nobody")
	ctx, cancel := context.WithCancel(context.Background())
	d := &net.Dialer{}
	reg := upstream.NewRegistry(ctx, r.reg.Log, r.tel, func(ctx context.Context, a string) (net.Conn, error) { return d.DialContext(ctx, "tcp", a) },
		[]*shard.Shard{r.s}, []upstream.StreamHandler{r.f.Upstream()})
	r.reg = reg
	r.use(lis.Addr().String())
	hello := frames(func(fr *http2.Framer) {
		_ = fr.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1 << 30})
		_ = fr.WriteSettingsAck()
		_ = fr.WriteWindowUpdate(0, 1<<30)
	})
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			nc, err := lis.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer nc.Close()
				_, _ = io.ReadFull(nc, make([]byte, len(http2.ClientPreface)))
				_, _ = nc.Write(hello)
				res := frames(func(fr *http2.Framer) {
					_ = fr.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: literal(":status", "200", "content-type", "application/grpc"), EndHeaders: true})
					_ = fr.WriteData(1, false, make([]byte, 69))
					_ = fr.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: literal("grpc-status", "0"), EndHeaders: true, EndStream: true})
				})
				wire(nc, func(kind http2.FrameType, flags http2.Flags, id uint32) bool {
					if kind <= http2.FrameHeaders && flags&endStream != 0 {
						stamp(res, id)
						_, _ = nc.Write(res)
					}
					return true
				})
			})
		}
	})
	in, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	l := &loop{next: 1, done: make(chan uint32, 1)}
	if l.nc, err = net.Dial("tcp", in.Addr().String()); err != nil {
		tb.Fatal(err)
	}
	theirs, err := in.Accept()
	if err != nil {
		tb.Fatal(err)
	}
	_ = in.Close()
	wg.Go(r.f.Accept(&Guest{Conn: theirs}, r.cfg, 1<<20, func(string) {}).Serve)
	_, _ = io.WriteString(l.nc, http2.ClientPreface)
	_, _ = l.nc.Write(hello)
	l.req = frames(func(fr *http2.Framer) {
		_ = fr.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, EndHeaders: true, BlockFragment: literal(":method", "POST", ":scheme", "http", ":path", "/s.S/M",
			":authority", "example.com", "te", "trailers", "content-type", "application/grpc", "user-agent", "grpc-go/1.0", "grpc-timeout", "20S")})
		_ = fr.WriteData(1, true, make([]byte, 69))
	})
	wg.Go(func() {
		wire(l.nc, func(kind http2.FrameType, flags http2.Flags, id uint32) bool {
			if flags&endStream != 0 && kind <= http2.FrameHeaders || kind == http2.FrameRSTStream || kind == http2.FrameGoAway {
				l.done <- uint32(kind)
			}
			return true
		})
	})
	tb.Cleanup(func() {
		_ = l.nc.Close()
		cancel()
		reg.Close()
		_ = lis.Close()
		wg.Wait()
		r.in(func() { r.s.Timer.Stop() })
		_ = r.tel.Shutdown(context.Background())
	})
	return l
}

func (l *loop) call(tb testing.TB) {
	stamp(l.req, l.next)
	l.next += 2
	if _, err := l.nc.Write(l.req); err != nil {
		tb.Fatal(err)
	}
	if kind := <-l.done; http2.FrameType(kind) != http2.FrameHeaders {
		tb.Fatalf("the call ended with %v", http2.FrameType(kind))
	}
}

func TestAUnaryCallInSteadyStateAllocatesNothing(t *testing.T) {
	l := newLoop(t)
	for range 2000 {
		l.call(t)
	}
	if n := testing.AllocsPerRun(2000, func() { l.call(t) }); n != 0 {
		t.Errorf("%v allocations per call", n)
	}
}

func BenchmarkUnaryCall(b *testing.B) {
	l := newLoop(b)
	for range 200 {
		l.call(b)
	}
	b.ReportAllocs()
	for b.Loop() {
		l.call(b)
	}
}
