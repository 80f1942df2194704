package forward

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/trunkline/trunkline/codec/grpc"
	"github.com/trunkline/trunkline/codec/session"
	"github.com/trunkline/trunkline/lb/decision"
	"github.com/trunkline/trunkline/lb/policies"
	"github.com/trunkline/trunkline/lb/shard"
	"github.com/trunkline/trunkline/lb/telemetry"
	"github.com/trunkline/trunkline/lb/upstream"
	"github.com/trunkline/trunkline/policy/balance"
	"github.com/trunkline/trunkline/policy/route"
	"github.com/trunkline/trunkline/policy/serviceconfig"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// peer is a scripted HTTP/2 peer: a client of Trunkline's, or an endpoint.
type peer struct {
	rig    *rig
	name   string
	nc     net.Conn
	client bool
	mute   atomic.Bool // acknowledges nothing: no PING, no SETTINGS

	wmu  sync.Mutex
	fr   *http2.Framer // written under wmu, read by the reader
	enc  *hpack.Encoder
	ebuf bytes.Buffer
	out  joint

	mu      sync.Mutex
	log     []string          // what came since the last expect
	credit  map[uint32]uint64 // WINDOW_UPDATEs by stream
	pings   int
	gone    bool
	on      func(p *peer, f http2.Frame) // what an automatic endpoint does
	trouble error
}

// joint is a writer that may keep what it is given, to write it at once.
type joint struct {
	to   io.Writer
	kept *bytes.Buffer // nil: nothing is kept
}

func (j *joint) Write(p []byte) (int, error) {
	if j.kept != nil {
		return j.kept.Write(p)
	}
	return j.to.Write(p)
}

// atOnce writes the frames that f writes in one piece.
func (p *peer) atOnce(f func()) {
	p.wmu.Lock()
	p.out.kept = new(bytes.Buffer)
	p.wmu.Unlock()
	f()
	p.do(func() error {
		all := p.out.kept.Bytes()
		p.out.kept = nil
		_, err := p.out.to.Write(all)
		return err
	})
}

func newPeer(r *rig, name string, nc net.Conn, client bool, settings ...http2.Setting) *peer {
	p := &peer{rig: r, name: name, nc: nc, client: client, credit: map[uint32]uint64{}}
	p.fr = http2.NewFramer(&p.out, nc)
	p.out.to = nc
	p.fr.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	p.fr.MaxHeaderListSize = 1 << 20
	p.enc = hpack.NewEncoder(&p.ebuf)
	if client {
		_, _ = io.WriteString(nc, http2.ClientPreface)
	}
	if p.mute.Store(r.silent); !r.silent {
		p.do(func() error { return p.fr.WriteSettings(settings...) })
	}
	return p
}

func (p *peer) do(f func() error) {
	p.wmu.Lock()
	defer p.wmu.Unlock()
	if err := f(); err != nil && p.trouble == nil {
		p.trouble = err
	}
}

func (p *peer) note(format string, args ...any) {
	p.log = append(p.log, fmt.Sprintf(format, args...))
}

func (p *peer) serve() {
	if !p.client {
		b := make([]byte, len(http2.ClientPreface))
		if _, err := io.ReadFull(p.nc, b); err != nil || string(b) != http2.ClientPreface {
			p.mu.Lock()
			p.gone = true
			p.mu.Unlock()
			_ = p.nc.Close()
			return
		}
	}
	for {
		f, err := p.fr.ReadFrame()
		if err != nil {
			var se http2.StreamError
			if errors.As(err, &se) {
				p.mu.Lock()
				p.note("MALFORMED %d %v", se.StreamID, se.Cause)
				p.mu.Unlock()
				continue
			}
			p.mu.Lock()
			p.note("EOF")
			p.gone = true
			p.mu.Unlock()
			_ = p.nc.Close()
			return
		}
		p.frame(f)
		if p.on != nil {
			p.on(p, f)
		}
	}
}

func flag(b bool, s string) string {
	if b {
		return s
	}
	return ""
}

func (p *peer) frame(f http2.Frame) {
	p.mu.Lock()
	defer p.mu.Unlock()
	id := f.Header().StreamID
	switch f := f.(type) {
	case *http2.MetaHeadersFrame:
		var s []string
		for _, h := range f.Fields {
			switch h.Name {
			case ":scheme", ":method", ":authority", "te", "content-type", "grpc-status-details-bin":
				continue
			}
			s = append(s, h.Name+"="+h.Value)
		}
		p.note("HEADERS %d %s%s", id, strings.Join(s, " "), flag(f.StreamEnded(), " END"))
	case *http2.DataFrame:
		d := string(f.Data())
		if len(d) > 32 {
			d = fmt.Sprintf("(%d)", len(d))
		}
		p.note("DATA %d %s%s", id, d, flag(f.StreamEnded(), " END"))
	case *http2.RSTStreamFrame:
		p.note("RST %d %v", id, f.ErrCode)
	case *http2.GoAwayFrame:
		p.note("GOAWAY %d %v %s", f.LastStreamID, f.ErrCode, f.DebugData())
	case *http2.WindowUpdateFrame:
		p.credit[id] += uint64(f.Increment)
	case *http2.SettingsFrame:
		if !f.IsAck() && !p.mute.Load() {
			p.do(p.fr.WriteSettingsAck)
		}
	case *http2.PingFrame:
		if !f.IsAck() {
			p.pings++
			if !p.mute.Load() {
				p.do(func() error { return p.fr.WritePing(true, f.Data) })
			}
		}
	}
}

// expect waits until all is quiet and compares what came since the last time.
func (p *peer) expect(want ...string) {
	p.rig.t.Helper()
	synctest.Wait()
	p.mu.Lock()
	got := p.log
	p.log = nil
	p.mu.Unlock()
	ok := len(got) == len(want)
	for i := range want {
		ok = ok && match(got[i], want[i])
	}
	if !ok {
		p.rig.t.Errorf("%s got\n\t%s\nwant\n\t%s", p.name, strings.Join(got, "\n\t"), strings.Join(want, "\n\t"))
	}
}

// match compares; "*" in want stands for anything.
func match(got, want string) bool {
	parts := strings.Split(want, "*")
	if !strings.HasPrefix(got, parts[0]) {
		return false
	}
	got = got[len(parts[0]):]
	for i, p := range parts[1:] {
		if i == len(parts)-2 && p != "" {
			return strings.HasSuffix(got, p)
		}
		at := strings.Index(got, p)
		if at < 0 {
			return false
		}
		got = got[at+len(p):]
	}
	return len(parts) > 1 || got == ""
}

func (p *peer) block(id uint32, end bool, kv ...string) {
	p.do(func() error {
		p.ebuf.Reset()
		for i := 0; i < len(kv); i += 2 {
			_ = p.enc.WriteField(hpack.HeaderField{Name: kv[i], Value: kv[i+1]})
		}
		return p.fr.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: p.ebuf.Bytes(), EndStream: end, EndHeaders: true})
	})
}

// call begins a call of /s.S/M.
func (p *peer) call(id uint32, end bool, kv ...string) {
	p.block(id, end, append([]string{":method", "POST", ":scheme", "http", ":path", "/s.S/M", ":authority", "a", "te", "trailers",
		"content-type", "application/grpc"}, kv...)...)
}

func (p *peer) data(id uint32, s string, end bool) {
	p.do(func() error { return p.fr.WriteData(id, end, []byte(s)) })
}
func (p *peer) rst(id uint32, code http2.ErrCode) {
	p.do(func() error { return p.fr.WriteRSTStream(id, code) })
}
func (p *peer) goAway(last uint32, code http2.ErrCode) {
	p.do(func() error { return p.fr.WriteGoAway(last, code, nil) })
}
func (p *peer) window(id, n uint32) { p.do(func() error { return p.fr.WriteWindowUpdate(id, n) }) }

// head and trail are a response's beginning and end.
func (p *peer) head(id uint32) {
	p.block(id, false, ":status", "200", "content-type", "application/grpc")
}
func (p *peer) trail(id uint32) { p.block(id, true, "grpc-status", "0") }
func (p *peer) ok(id uint32)    { p.head(id); p.data(id, "yes", false); p.trail(id) }

// inTurn is a picker that tells stories: the first endpoint, the second, ....
type inTurn struct {
	members []balance.Member
	n       int
}

func (p *inTurn) Pick(_ uint64, ask *balance.Ask) (int, balance.Reason, bool) {
	avoided := -1
	why := balance.ReasonNone
	for range p.members {
		i := p.n % len(p.members)
		p.n++
		switch e := p.members[i].Endpoint; {
		case !e.Ready():
		case ask != nil && ask.Closed != nil && ask.Closed(i):
			why = balance.ReasonAllClosed
		case ask != nil && slices.Contains(ask.Avoid, e):
			if avoided < 0 {
				avoided = i
			}
		default:
			return i, balance.ReasonRoundRobin, true
		}
	}
	if avoided >= 0 {
		return avoided, balance.ReasonOnlyAvoided, true
	}
	return 0, why, false
}
func (p *inTurn) Members() []balance.Member { return p.members }
func (p *inTurn) Policy() string            { return balance.RoundRobin }

// rig is one shard with its forwarder, clients and endpoints.
type rig struct {
	t    *testing.T
	s    *shard.Shard
	f    *Forwarder
	gen  atomic.Pointer[Generation]
	reg  *upstream.Registry
	opts *upstream.Options
	cfg  *session.Config
	tel  *telemetry.Telemetry
	done context.CancelFunc

	store  *policies.Store
	policy *serviceconfig.Config
	facts  policies.Facts
	eps    []*upstream.Endpoint
	ctx    context.Context

	budget  int64
	replay  int
	clients []*peer
	conns   sync.WaitGroup
	gone    atomic.Int64

	mu        sync.Mutex
	ends      map[string][]*peer // by address
	settings  map[string][]http2.Setting
	refuse    map[string]error
	dials     map[string]int
	limit     int // of connections' memory, bytes each way; 0 none
	on        func(p *peer, f http2.Frame)
	silent    bool     // peers do not begin
	gate      Gate     // of all methods
	payload   *Payload // the same
	mesh      Mesh     // of all clusters
	protected map[string]bool
	guest     Guest         // what is known about clients
	hold      chan struct{} // dials wait for it, if not nil
}

func (r *rig) dial(ctx context.Context, addr string) (net.Conn, error) {
	r.mu.Lock()
	r.dials[addr]++
	hold := r.hold
	r.mu.Unlock()
	if hold != nil {
		select {
		case <-hold:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := r.refuse[addr]; err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	a, b := memPair(r.limit)
	p := newPeer(r, fmt.Sprintf("%s[%d]", addr, len(r.ends[addr])), b, false, r.settings[addr]...)
	p.on = r.on
	r.ends[addr] = append(r.ends[addr], p)
	r.conns.Go(p.serve)
	return a, nil
}

// end is connection number n to an endpoint.
func (r *rig) end(addr string, n int) *peer {
	r.t.Helper()
	synctest.Wait()
	r.mu.Lock()
	defer r.mu.Unlock()
	if n >= len(r.ends[addr]) {
		r.t.Fatalf("there is no connection %d to %s", n, addr)
	}
	return r.ends[addr][n]
}

func (r *rig) dialled(addr string) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.dials[addr]
}

func newRig(t *testing.T, addrs ...string) *rig {
	r := &rig{t: t, policy: serviceconfig.Default(), budget: 4 << 20, replay: 64 << 10, ends: map[string][]*peer{}, settings: map[string][]http2.Setting{}, refuse: map[string]error{}, dials: map[string]int{}}
	r.cfg = &session.Config{StreamWindow: 64 << 10, MaxStreamWindow: 1 << 20, ConnWindow: 1 << 20, MaxStreams: 1000, MaxHeaderBytes: 16 << 10, OutputMark: 64 << 10}
	r.opts = &upstream.Options{Session: *r.cfg, FillMark: 100, MaxPending: 100, ConnectTimeout: 5 * time.Second, IdleTimeout: 5 * time.Minute,
		KeepaliveInterval: 30 * time.Second, KeepaliveTimeout: 10 * time.Second, MinBackoff: time.Second, MaxBackoff: time.Minute}
	var err error
	if r.tel, err = telemetry.New(context.Background(), telemetry.Config{}); err != nil {
		t.Fatal(err)
	}
	r.ctx, r.done = context.WithCancel(context.Background())
	log := slog.New(slog.DiscardHandler)
	r.s = shard.New(0, time.Now(), 7)
	r.store = policies.NewStore(log, 1)
	r.f = New(r.s, &r.gen, r.tel, log, Options{Book: decision.NewBook(100, 100, 0, Lock(r.s))})
	r.reg = upstream.NewRegistry(r.ctx, log, r.tel, r.dial, []*shard.Shard{r.s}, []upstream.StreamHandler{r.f.Upstream()})
	r.use(addrs...)
	return r
}

// use puts a generation with these endpoints in force; round_robin begins with the first.
func (r *rig) use(addrs ...string) {
	var ms []balance.Member
	var eps []*upstream.Endpoint
	keep := map[*upstream.Endpoint]bool{}
	for _, a := range addrs {
		e := r.reg.Endpoint("c", a, r.opts)
		keep[e] = true
		eps, ms = append(eps, e), append(ms, balance.Member{Endpoint: e.Endpoint})
		if !slices.Contains(r.eps, e) {
			r.eps = append(r.eps, e)
		}
	}
	pick := &inTurn{members: ms}
	table, err := route.Compile([]route.Rule{{Name: "r", Match: route.Match{Service: "s.S"}, Cluster: "c", Data: NewTarget("c", pick, eps, "", 1)}})
	if err != nil {
		r.t.Fatal(err)
	}
	n := uint64(1)
	if g := r.gen.Load(); g != nil {
		n = g.Number + 1
	}
	c, facts := r.store.Set("c", r.policy, nil), r.facts
	door, payload := r.gate, r.payload
	var mesh func(string) Mesh
	if m := r.mesh; m != nil {
		mesh = func(string) Mesh { return m }
	}
	r.gen.Store(&Generation{Number: n, Table: table, Limits: Limits{ReplayBytes: r.replay},
		Rules: func(_ *Target, service, method string, known bool) *policies.Rules {
			f := facts
			f.Known = known
			return c.Rules(service, method, f)
		},
		Protected: r.protected, Gate: func(string) Gate { return door }, Payload: func(*Target, string, string) *Payload { return payload }, Mesh: mesh})
	r.reg.Retire(keep)
}

func (r *rig) client(settings ...http2.Setting) *peer { return r.automatic(nil, settings...) }

// automatic is a client that does something on each frame.
func (r *rig) automatic(on func(p *peer, f http2.Frame), settings ...http2.Setting) *peer {
	a, b := memPair(r.limit)
	p := newPeer(r, fmt.Sprintf("client[%d]", len(r.clients)), b, true, settings...)
	p.on = on
	r.clients = append(r.clients, p)
	r.conns.Go(p.serve)
	guest := r.guest
	guest.Conn = a
	r.conns.Go(r.f.Accept(&guest, r.cfg, r.budget, func(string) { r.gone.Add(1) }).Serve)
	return p
}

func (r *rig) in(f func()) {
	r.s.Enter()
	defer r.s.Leave()
	f()
}

// quiet checks what holds whenever no call is under way.
func (r *rig) quiet() {
	r.t.Helper()
	synctest.Wait()
	r.in(func() {
		if left := r.f.Oldest(1 << 20); len(left) != 0 || r.f.Live() != 0 {
			r.t.Errorf("%d calls in the ring, %d counted: %+v", len(left), r.f.Live(), left)
		}
		r.f.EachDown(func(d *Down) {
			if d.Budget.Held != 0 || d.Budget.Granted != 0 {
				r.t.Errorf("a client's budget: %d held, %d granted", d.Budget.Held, d.Budget.Granted)
			}
			if q := &d.fresh; q.first != nil || q.last != nil || q.listed || q.counted != 0 {
				r.t.Errorf("a client's fresh calls: %+v", *q)
			}
		})
		for _, e := range r.eps {
			if n := e.InFlight.Load(); n != 0 {
				r.t.Errorf("%s: %d in flight", e.Address, n)
			}
		}
	})
}

// over ends the story: the laws hold.
func (r *rig) over() {
	r.t.Helper()
	r.quiet()
	r.stop()
}

// stop closes everything and checks that nothing is left.
func (r *rig) stop() {
	r.t.Helper()
	for _, c := range r.clients {
		_ = c.nc.Close()
	}
	synctest.Wait()
	r.quiet()
	r.done()
	r.store.Close()
	r.reg.Close()
	time.Sleep(2 * time.Minute) // whatever lingers
	r.mu.Lock()
	for _, ps := range r.ends {
		for _, p := range ps {
			p.mu.Lock()
			if !p.gone {
				r.t.Errorf("%s is open still", p.name)
				_ = p.nc.Close()
			}
			p.mu.Unlock()
		}
	}
	r.mu.Unlock()
	synctest.Wait()
	r.in(func() {
		if f := r.f.lastTimeout; f != nil {
			r.s.Env.Interner.Release(f)
		}
		if n := r.s.Env.Interner.Len(); n != 1 { // content-type: application/grpc; :status 200 is static
			r.t.Errorf("%d fields are live", n)
		}
		if n := r.s.Env.Buffers.Outstanding(); n != 0 {
			r.t.Errorf("%d buffers are out", n)
		}
		for _, e := range r.eps {
			if n := e.Connections.Load(); n != 0 {
				r.t.Errorf("%s: %d connections are counted", e.Address, n)
			}
		}
		r.s.Timer.Stop()
	})
	if int(r.gone.Load()) != len(r.clients) {
		r.t.Errorf("%d of %d clients are gone", r.gone.Load(), len(r.clients))
	}
	r.conns.Wait()
	_ = r.tel.Shutdown(context.Background())
}

// tell runs a story in a bubble of virtual time, with endpoints "one", "two", ....
func tell(t *testing.T, n int, f func(t *testing.T, r *rig)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, []string{"one", "two", "three"}[:n]...)
		defer r.over() // also after Fatal: the bubble must end empty
		f(t, r)
	})
}

// told checks how the calls that have ended were counted: n with that status.
func (r *rig) told(status grpc.Status, n int) {
	r.t.Helper()
	if got := r.count(status); got != float64(n) {
		r.t.Errorf("%v calls told as %v, not %d", got, status, n)
	}
}

func (r *rig) count(status grpc.Status) (n float64) {
	synctest.Wait()
	w := httptest.NewRecorder()
	r.tel.Handler().ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/metrics", http.NoBody))
	for l := range strings.Lines(w.Body.String()) {
		if strings.HasPrefix(l, "trunkline_calls_total{") && strings.Contains(l, `"`+status.String()+`"`) {
			v, _ := strconv.ParseFloat(strings.TrimSpace(l[strings.LastIndexByte(l, ' '):]), 64)
			n += v
		}
	}
	return n
}
