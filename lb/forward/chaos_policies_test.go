package forward

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/net/http2"

	"github.com/trunkline/trunkline/codec/session"
	"github.com/trunkline/trunkline/lb/policies"
	"github.com/trunkline/trunkline/lb/upstream"
	"github.com/trunkline/trunkline/policy/breaker"
	"github.com/trunkline/trunkline/policy/limit"
	"github.com/trunkline/trunkline/policy/serviceconfig"
)

// Calls through endpoints and clients that misbehave, under policies drawn at random and changed meanwhile. More seeds:
// TRUNKLINE_CHAOS_SEEDS=1000 (and TRUNKLINE_CHAOS_FROM for the first).
func TestWhateverPoliciesHoldEveryCallIsAnsweredOnceByOneAttemptAndNothingIsLeft(t *testing.T) {
	from, n := uint64(0), uint64(4)
	if v, err := strconv.ParseUint(os.Getenv("TRUNKLINE_CHAOS_SEEDS"), 10, 32); err == nil {
		n = v
	}
	if v, err := strconv.ParseUint(os.Getenv("TRUNKLINE_CHAOS_FROM"), 10, 32); err == nil {
		from = v
	}
	for seed := from; seed < from+n; seed++ {
		t.Run(fmt.Sprint(seed), func(t *testing.T) { synctest.Test(t, func(t *testing.T) { stormy(t, seed) }) })
	}
}

// storm is one run.
type storm struct {
	*rig
	c       *chance
	most    int // attempts that any of the configs allows
	calls   map[string]*tale
	marks   int
	counted map[string]int // how calls ended, to see that the test says something

	began    time.Time
	mu       sync.Mutex
	bad      []string
	limits   map[*limit.Concurrency]bool
	clusters map[*policies.Cluster]bool
}

// tale is what is known of one call. Guarded by storm.mu.
type tale struct {
	id    string
	once  bool   // its method is not idempotent
	body  string // what the client says in all
	extra bool   // with request trailers
	seen  []*visit
}

// visit is one attempt as its endpoint saw it. Guarded by storm.mu.
type visit struct {
	at       string
	tale     *tale
	got      []byte
	mark     byte
	said     bool // something of a response
	answered bool // the end of one
	refused  bool // provably unprocessed
	ended    bool
	how      string // for people: what the endpoint did, and when
}

func (st *storm) wrong(format string, args ...any) {
	if s := fmt.Sprintf(format, args...); len(st.bad) < 20 && !slices.Contains(st.bad, s) {
		st.bad = append(st.bad, s)
	}
}

func (c *chance) yes(percent int) bool { return c.n(100) < percent }

func pick[T any](c *chance, of ...T) T { return of[c.n(len(of))] }

func (st *storm) allow(attempts int) {
	st.mu.Lock()
	defer st.mu.Unlock()
	st.most = max(st.most, attempts)
}

// config draws a service config.
func (st *storm) config() *serviceconfig.Config {
	c := st.c
	method := func(name string, idempotent bool) (config, own string) {
		config, own = `{"name": [`+name+`]`, `{"name": [`+name+`], "idempotent": `+strconv.FormatBool(idempotent)
		attempts := 2 + c.n(5)
		switch c.n(5) {
		case 0, 1:
			config += fmt.Sprintf(`, "retryPolicy": {"maxAttempts": %d, "initialBackoff": "%s", "maxBackoff": "0.3s", "backoffMultiplier": 2, "retryableStatusCodes": [%s]}`,
				attempts, pick(c, "0.001s", "0.05s", "0.2s"), pick(c, `"UNAVAILABLE"`, `"UNAVAILABLE", "RESOURCE_EXHAUSTED", "INTERNAL", "DEADLINE_EXCEEDED"`))
			st.allow(min(attempts, 5))
		case 2, 3:
			config += fmt.Sprintf(`, "hedgingPolicy": {"maxAttempts": %d, "hedgingDelay": "%s", "nonFatalStatusCodes": [%s]}`,
				attempts, pick(c, "0s", "0.02s", "0.3s"), pick(c, `"UNAVAILABLE"`, `"UNAVAILABLE", "INTERNAL", "RESOURCE_EXHAUSTED", "UNKNOWN"`, ``))
			st.allow(min(attempts, 5))
		}
		if c.yes(40) {
			config += fmt.Sprintf(`, "timeout": "%s"`, pick(c, "0.1s", "1s", "4s"))
		}
		if c.yes(40) {
			config += `, "waitForReady": true`
		}
		if c.yes(20) {
			config += `, "maxRequestMessageBytes": 5000, "maxResponseMessageBytes": 9000`
		}
		for _, o := range [...]struct {
			percent int
			text    string
		}{
			{30, `"perTryTimeout": "` + pick(c, "0.05s", "0.5s") + `"`},
			{25, `"idleTimeout": "` + pick(c, "0.2s", "1s", "3s") + `"`},
			{50, `"holdResponse": "` + pick(c, "0s", "0.01s", "1s") + `"`},
			{40, `"replayBytes": ` + pick(c, "0", "10", "3000", "20000")},
			{20, `"maxStreams": ` + pick(c, "1", "5", "30")},
			{40, `"breaker": {"consecutive": ` + pick(c, "1", "3") + `, "openFor": "` + pick(c, "0.05s", "1s") + `", "probes": ` + pick(c, "1", "2") + `}`},
			{15, `"rateLimits": [{"requestsPerSecond": 40, "burst": 5}, {"requestsPerSecond": 20, "burst": 3, "metadata": "x-user", "maxKeys": 3}]`},
			{20, `"refuseHopeless": true`},
		} {
			if c.yes(o.percent) {
				own += ", " + o.text
			}
		}
		return config + "}", own + "}"
	}
	idem, ownIdem := method(`{"service": "s.S", "method": "Idem"}`, true)
	once, ownOnce := method(`{}`, false)
	var cluster []string
	for _, o := range [...]struct {
		percent int
		text    string
	}{
		{40, `"retryBudget": {"ratio": 1, "burst": 1000}`},
		{60, `"hedgeBudget": {"ratio": 1, "burst": 1000}`},
		{50, `"concurrency": {` + pick(c, `"maxStreams": 10, "maxPending": 5`, `"maxStreams": 20`, `"maxStreamsPerEndpoint": 4, "maxPending": 30, "pendingTimeout": "0.3s"`,
			`"maxStreams": 12, "maxStreamsPerEndpoint": 5, "maxPending": 10, "pendingTimeout": "0.1s"`) + `}`},
		{30, `"breaker": {"consecutive": 3, "openFor": "0.3s", "probes": 1}`},
		{30, `"outlierDetection": {"consecutive": 3}`},
	} {
		if c.yes(o.percent) {
			cluster = append(cluster, o.text)
		}
	}
	throttle := ""
	if c.yes(20) {
		throttle = `, "retryThrottling": {"maxTokens": 100, "tokenRatio": 0.5}`
	}
	doc := `{"methodConfig": [` + idem + `, ` + once + `]` + throttle + `, "trunkline": {"methodPolicy": [` + ownIdem + `, ` + ownOnce + `], "cluster": {` + strings.Join(cluster, ", ") + `}}}`
	cfg, problems := serviceconfig.Parse("storm", []byte(doc), 1)
	if cfg == nil {
		panic(fmt.Sprint(problems, doc))
	}
	return cfg
}

// swap puts another generation in force, often with another config and other endpoints.
func (st *storm) swap() {
	if st.c.yes(60) {
		st.policy = st.config()
	}
	st.facts = policies.Facts{Unary: st.c.yes(30)}
	var some []string
	for _, a := range [...]string{"one", "two", "three", "four"} {
		if st.c.yes(60) {
			some = append(some, a)
		}
	}
	st.use(some...)
	c := st.store.Cluster("c")
	st.mu.Lock()
	st.clusters[c] = true
	if c.Streams != nil {
		st.limits[c.Streams] = true
	}
	st.mu.Unlock()
}

// endpoint answers as bad ones do; what it says carries the attempt's mark.
func (st *storm) endpoint() func(p *peer, f http2.Frame) {
	c := st.c
	var mu sync.Mutex // what is noted and what is said of it are one
	visits := map[*peer]map[uint32]*visit{}
	lasts := map[*peer]uint32{} // of GOAWAYs
	get := func(p *peer, id uint32) *visit {
		mu.Lock()
		defer mu.Unlock()
		return visits[p][id]
	}
	return func(p *peer, f http2.Frame) {
		id := f.Header().StreamID
		var end bool
		switch f := f.(type) {
		case *http2.MetaHeadersFrame:
			end = f.StreamEnded()
			v := get(p, id)
			if v == nil {
				mu.Lock()
				last, leaving := lasts[p]
				leaving = leaving && id > last
				v = st.visited(p, f, leaving)
				if visits[p] == nil {
					visits[p] = map[uint32]*visit{}
				}
				visits[p][id] = v
				mu.Unlock()
				if leaving {
					return
				}
			} else {
				st.mu.Lock()
				if !v.tale.extra || !end {
					st.wrong("%s at %s: trailers that the client never sent", v.tale.id, v.at)
				}
				st.mu.Unlock()
			}
			if end {
				st.whole(v, len(f.PseudoFields()) == 0)
			}
		case *http2.DataFrame:
			end = f.StreamEnded()
			v := get(p, id)
			st.mu.Lock()
			v.got = append(v.got, f.Data()...)
			if !strings.HasPrefix(v.tale.body, string(v.got)) {
				st.wrong("%s at %s: %d bytes that are not the beginning of the request", v.tale.id, v.at, len(v.got))
			}
			st.mu.Unlock()
			if end {
				st.whole(v, false)
			}
			if n := uint32(len(f.Data())); n > 0 && !c.yes(4) { // some never give window back
				p.window(id, n)
				p.window(0, n)
			}
		case *http2.RSTStreamFrame:
			if v := get(p, id); v != nil {
				st.mu.Lock()
				v.ended = true
				st.mu.Unlock()
			}
			return
		default:
			return
		}
		if !end && !c.yes(15) {
			return
		}
		v := get(p, id)
		answer := func() {
			tell := func(do func(v *visit), say func()) { // noted before it is said: what follows from it comes after
				mu.Lock()
				defer mu.Unlock()
				st.mu.Lock()
				if v.answered || v.ended || v.refused {
					st.mu.Unlock()
					return
				}
				do(v)
				st.mu.Unlock()
				say()
			}
			name := fmt.Sprint(v.mark)
			head := func() {
				tell(func(v *visit) { v.said = true }, func() {
					p.block(id, false, ":status", "200", "content-type", "application/grpc", "mark", name)
				})
			}
			message := func(cut bool) {
				n := c.n(16000)
				b := string([]byte{0, 0, 0, byte(n >> 7 & 0x7f), byte(n & 0x7f)})
				n = n>>7&0x7f<<8 | n&0x7f
				b += strings.Repeat(string([]byte{v.mark}), n)
				if cut {
					b = b[:c.n(len(b))]
				}
				p.data(id, b[:min(len(b), 16000)], false)
				if len(b) > 16000 {
					p.data(id, b[16000:], false)
				}
			}
			trail := func(status string, kv ...string) {
				tell(func(v *visit) { v.answered = true }, func() {
					p.block(id, true, append([]string{"grpc-status", status, "mark", name}, kv...)...)
				})
			}
			only := func(status string, kv ...string) {
				tell(func(v *visit) { v.answered, v.said = true, true }, func() {
					p.block(id, true, append([]string{":status", "200", "content-type", "application/grpc", "grpc-status", status, "mark", name}, kv...)...)
				})
			}
			reset := func(code http2.ErrCode) {
				tell(func(v *visit) {
					v.ended, v.refused = true, code == http2.ErrCodeRefusedStream && !v.said
				}, func() { p.rst(id, code) })
			}
			pause := func() {
				if c.yes(40) {
					time.Sleep(time.Duration(c.n(400)) * time.Millisecond)
				}
			}
			bad := func() string { return pick(c, "14", "14", "14", "8", "13", "4", "1", "3", "77", "x") }
			var push []string
			if c.yes(20) {
				push = []string{"grpc-retry-pushback-ms", pick(c, "-1", "0", "20", "500", "99999999", "x")}
			}
			kind := c.n(24)
			st.mu.Lock()
			v.how += fmt.Sprintf(" %d@%v", kind, time.Since(st.began))
			st.mu.Unlock()
			switch kind {
			case 0, 1:
				reset(http2.ErrCodeRefusedStream)
			case 2:
				reset(http2.ErrCode(c.n(16)))
			case 3:
				head()
				pause()
				reset(pick(c, http2.ErrCodeRefusedStream, http2.ErrCodeInternal, http2.ErrCodeCancel, http2.ErrCodeNo))
			case 4:
				head()
				pause()
				message(true)
				pause()
				reset(pick(c, http2.ErrCodeRefusedStream, http2.ErrCodeInternal))
			case 5:
				last := (id - uint32(2*c.n(3))) & 0x7fffffff
				mu.Lock()
				if old, ok := lasts[p]; ok {
					last = min(last, old)
				}
				lasts[p] = last
				st.mu.Lock()
				for k, v := range visits[p] {
					if k > last && !v.said {
						v.refused = true
					}
				}
				st.mu.Unlock()
				p.goAway(last, http2.ErrCodeNo)
				mu.Unlock()
				pause()
				only("0")
			case 6:
				if c.yes(40) {
					_ = p.nc.Close()
				}
			case 7: // silence
			case 8, 9, 10:
				only(bad(), push...)
			case 11, 12:
				head()
				pause()
				trail(bad(), push...)
			case 13:
				head()
				message(true)
				pause()
				trail(bad(), push...)
			case 14:
				head()
				message(false)
				pause()
				trail(bad(), push...)
			case 15:
				only(bad(), append(push, "grpc-retry-pushback-ms", "7")...)
			case 16: // no trailers
				head()
				tell(func(v *visit) { v.answered = true }, func() {
					p.data(id, string([]byte{v.mark, v.mark}), true)
				})
			case 17:
				tell(func(v *visit) { v.said = true }, func() {
					p.block(id, false, ":status", "103", "hint", "x")
				})
				pause()
				head()
				trail("0")
			case 18:
				trail("0")
				reset(http2.ErrCodeNo)
			case 19:
				tell(func(v *visit) { v.answered, v.said = true, true }, func() {
					p.block(id, true, ":status", pick(c, "503", "429", "404", "502"))
				})
			default:
				head()
				for range c.n(4) {
					message(false)
					pause()
				}
				trail("0")
				if c.yes(20) {
					reset(http2.ErrCodeNo)
				}
			}
		}
		if c.yes(50) {
			d := time.Duration(c.n(pick(c, 5, 100, 3000))) * time.Millisecond
			time.AfterFunc(d, answer)
		} else {
			go answer()
		}
	}
}

// visited is an attempt's coming to an endpoint: the laws of who may come.
func (st *storm) visited(p *peer, f *http2.MetaHeadersFrame, refused bool) *visit {
	var name string
	before := 0
	for _, h := range f.RegularFields() {
		switch h.Name {
		case "x-call":
			name = h.Value
		case "grpc-previous-rpc-attempts":
			before, _ = strconv.Atoi(h.Value)
		}
	}
	st.mu.Lock()
	defer st.mu.Unlock()
	ta := st.calls[name]
	at, _, _ := strings.Cut(p.name, "[")
	if ta == nil {
		st.wrong("%s got a request that nobody made: %v", at, f.Fields)
		ta = &tale{id: "nobody's"}
	}
	st.marks++
	v := &visit{at: at, tale: ta, mark: byte(128 + st.marks%120), refused: refused}
	if refused { // by a GOAWAY that was on its way: the call may be elsewhere by now
		return v
	}
	count := 1
	for _, o := range ta.seen {
		if o.refused {
			continue
		}
		count++
		if ta.once && !o.answered {
			st.wrong("%s, not idempotent, came to %s after %s had it (said something: %v):%s; now %v", ta.id, at, o.at, o.said, o.how, time.Since(st.began))
		}
	}
	if count > st.most {
		st.wrong("%s: %d attempts that count", ta.id, count)
	}
	if before > 5 {
		st.wrong("%s: %d attempts before", ta.id, before)
	}
	if count > 1 {
		st.counted["again"]++
	}
	ta.seen = append(ta.seen, v)
	return v
}

// whole: the request's end has come, so all of it has.
func (st *storm) whole(v *visit, trailers bool) {
	st.mu.Lock()
	defer st.mu.Unlock()
	if string(v.got) != v.tale.body || trailers != v.tale.extra {
		st.wrong("%s at %s: the request ended after %d of %d bytes, trailers %v, not %v", v.tale.id, v.at, len(v.got), len(v.tale.body), trailers, v.tale.extra)
	}
}

// reply is what a client got of one call.
type reply struct {
	heads, ends int
	mark        string
	data        bool
}

// listener is one client's ears. Guarded by its mutex.
type listener struct {
	mu      sync.Mutex
	replies map[uint32]*reply
	quit    map[uint32]bool // we reset it
	lost    bool            // we cut the connection
}

func (l *listener) hear(st *storm) func(p *peer, f http2.Frame) {
	c := st.c
	return func(p *peer, f http2.Frame) {
		id := f.Header().StreamID
		l.mu.Lock()
		defer l.mu.Unlock()
		r := l.replies[id]
		if r == nil {
			r = &reply{}
			l.replies[id] = r
		}
		fail := func(format string, args ...any) {
			st.mu.Lock()
			st.wrong("%s, stream %d: %s", p.name, id, fmt.Sprintf(format, args...))
			st.mu.Unlock()
		}
		var end bool
		switch f := f.(type) {
		case *http2.MetaHeadersFrame:
			end = f.StreamEnded()
			if f.PseudoValue("status") == "103" {
				return
			}
			for _, h := range f.RegularFields() {
				if h.Name == "mark" {
					if r.mark != "" && r.mark != h.Value {
						fail("mark %s after %s", h.Value, r.mark)
					}
					r.mark = h.Value
				}
			}
			if status := f.PseudoValue("status"); (status != "") != (r.heads == 0) {
				fail("header block %d has status %q", r.heads, status)
			}
			if r.heads++; r.heads == 2 && !end {
				fail("a second header block that does not end it")
			}
			if end {
				for _, h := range f.RegularFields() {
					if h.Name == "grpc-status" {
						st.mu.Lock()
						st.counted["status "+h.Value]++
						st.mu.Unlock()
						if h.Value == "0" && r.mark == "" {
							fail("an OK that no endpoint said")
						}
					}
				}
			}
		case *http2.DataFrame:
			end = f.StreamEnded()
			for _, b := range f.Data() {
				if b >= 128 && strconv.Itoa(int(b)) != r.mark {
					fail("data of %d after the headers of %s", b, r.mark)
					break
				}
			}
			if n := uint32(len(f.Data())); n > 0 {
				p.window(0, n)
				if !end && !c.yes(5) { // some stop reading
					if c.yes(30) {
						time.AfterFunc(time.Duration(c.n(700))*time.Millisecond, func() { p.window(id, n) })
					} else {
						p.window(id, n)
					}
				}
			}
		case *http2.RSTStreamFrame:
			if r.ends == 0 {
				r.ends++
			}
			return
		case *http2.GoAwayFrame:
			fail("GOAWAY %v %s", f.ErrCode, f.DebugData())
			return
		default:
			return
		}
		if r.ends > 0 && !l.quit[id] {
			fail("%v after its end", f)
		}
		if end {
			r.ends++
		}
	}
}

// client makes calls of all kinds.
func (st *storm) client(k, calls int, wg *sync.WaitGroup) *listener {
	c := st.c
	l := &listener{replies: map[uint32]*reply{}, quit: map[uint32]bool{}}
	var set []http2.Setting
	if k%2 == 0 {
		set = append(set, http2.Setting{ID: http2.SettingInitialWindowSize, Val: pick(c, uint32(0), 10, 1000)})
	}
	p := st.automatic(l.hear(st), set...)
	if k%2 == 0 && set[0].Val == 0 {
		// Windows open late.
		go func() {
			time.Sleep(500 * time.Millisecond)
			p.do(func() error { return p.fr.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 2000}) })
		}()
	}
	wg.Go(func() {
		for i := range calls {
			id := uint32(2*i + 1)
			ta := &tale{id: fmt.Sprintf("%d-%d", k, id), once: c.yes(40), extra: c.yes(10)}
			pieces := c.n(4)
			var parts []string
			for range pieces {
				n := c.n(pick(c, 10, 100, 9000))
				parts = append(parts, string([]byte{0, 0, 0, byte(n >> 8), byte(n)})+strings.Repeat(string(rune('a'+i%26)), n))
			}
			for j := range parts { // messages need not be frames
				if j > 0 && c.yes(30) {
					cut := c.n(len(parts[j]) + 1)
					parts[j-1] += parts[j][:cut]
					parts[j] = parts[j][cut:]
				}
			}
			ta.body = strings.Join(parts, "")
			st.mu.Lock()
			st.calls[ta.id] = ta
			st.mu.Unlock()
			path := "/s.S/Idem"
			if ta.once {
				path = pick(c, "/s.S/Once", "/s.S/Other")
			}
			kv := []string{":method", "POST", ":scheme", "http", ":path", path, ":authority", "a", "te", "trailers", "content-type", "application/grpc",
				"x-call", ta.id, "x-user", pick(c, "a", "b", "c", "d", "e")}
			timed := c.yes(75)
			if timed {
				kv = append(kv, "grpc-timeout", fmt.Sprintf("%dm", 1+c.n(pick(c, 50, 2000, 8000))))
			}
			if c.yes(10) {
				kv = append(kv, "grpc-previous-rpc-attempts", "1")
			}
			p.block(id, len(parts) == 0 && !ta.extra, kv...)
			quit := c.yes(10) || !timed
			after := time.Duration(c.n(pick(c, 1, 50, 3000))) * time.Millisecond
			if !timed {
				after += 2 * time.Second
			}
			late := c.yes(30)
			wg.Go(func() {
				stalled := c.yes(5) && timed
				for j, s := range parts {
					if late {
						time.Sleep(time.Duration(c.n(150)) * time.Millisecond)
					}
					if stalled && j == len(parts)-1 {
						return
					}
					l.mu.Lock()
					over := l.quit[id] || l.lost
					l.mu.Unlock()
					if over {
						return
					}
					for len(s) > 16000 {
						p.data(id, s[:16000], false)
						s = s[16000:]
					}
					p.data(id, s, j == len(parts)-1 && !ta.extra)
				}
				if ta.extra {
					l.mu.Lock()
					over := l.quit[id] || l.lost
					l.mu.Unlock()
					if !over {
						p.block(id, true, "x-trailer", "y")
					}
				}
			})
			if quit {
				wg.Go(func() {
					time.Sleep(after)
					l.mu.Lock()
					if r := l.replies[id]; r != nil && r.ends > 0 {
						l.mu.Unlock()
						return
					}
					l.quit[id] = true
					l.mu.Unlock()
					p.rst(id, http2.ErrCodeCancel)
				})
			}
			if c.yes(40) {
				time.Sleep(time.Duration(c.n(150)) * time.Millisecond)
			}
			if k == 1 && i == calls/2 {
				l.mu.Lock()
				l.lost = true
				l.mu.Unlock()
				_ = p.nc.Close()
				return
			}
		}
	})
	return l
}

// books checks, at any time, that everything is counted and that every call has something to wait for.
func (st *storm) books() {
	f := st.f
	var conns []*session.Conn
	budgets := map[*session.Budget]int64{}
	inFlight := map[*upstream.Endpoint]int64{}
	f.EachDown(func(d *Down) { conns = append(conns, d.Sess) })
	for _, e := range st.eps {
		inFlight[e] = 0
		e.Pool(0).Each(func(c *upstream.Conn) { conns = append(conns, c.Sess) })
	}
	wrong := func(format string, args ...any) {
		st.mu.Lock()
		st.wrong(format, args...)
		st.mu.Unlock()
	}
	replaying, queued, n := int64(0), 0, 0
	now := f.shard.Now()
	for c := f.live.next; c != &f.live; c = c.next {
		n++
		live, running := 0, map[*upstream.Endpoint]bool{}
		b := &c.d.Budget
		budgets[b] += int64(len(c.replay))
		replaying += int64(len(c.replay))
		for _, a := range c.attempts {
			budgets[b] += int64(len(a.held))
			if a.alive() {
				if live++; running[a.at] {
					wrong("two attempts of a call run at %s", a.at.Address)
				}
				running[a.at] = true
			}
			if a.open {
				inFlight[a.at]++
			}
			if a.open != a.alive() {
				wrong("an attempt is alive %v, open %v", a.alive(), a.open)
			}
			if !a.open && (len(a.head) > 0 || a.held != nil) {
				wrong("an attempt that is over holds a response")
			}
			if c.winner != nil && a != c.winner && a.alive() {
				wrong("an attempt runs beside the winner")
			}
		}
		if c.credit > int64(c.bytesIn) {
			wrong("%d bytes of %d were credited, %s, noReplay %v attempts %d, complete %v", c.credit, c.bytesIn, c.phase(), c.noReplay, len(c.attempts), c.complete)
		}
		if c.queue != nil {
			queued++
		}
		earliest := func(at int64, what string) {
			if at != 0 && (!c.timer.Pending() || c.ringAt > at) && at > now {
				wrong("nothing rings for %s", what)
			}
		}
		earliest(c.deadline, "the deadline")
		earliest(c.queueEnd, "the queue's end")
		earliest(c.retryAt, "a retry")
		earliest(c.hedgeAt, "a hedge")
		earliest(c.holdAt, "what is held")
		if c.idle != 0 {
			earliest(c.seen+c.idle, "the idle timeout")
		}
		switch {
		case live != c.live:
			wrong("%d attempts are alive, %d are counted", live, c.live)
		case c.down == nil:
			wrong("a call is kept whose client has gone: %d alive, complete %v, %v", live, c.complete, c.phase())
		case !c.complete && live == 0 && !c.waiting():
			wrong("a call waits for nothing, after %d attempts: %s", len(c.attempts), c.message)
		case c.complete && live > 0 && c.winner == nil:
			wrong("a call is answered and has attempts: %s", c.message)
		case c.winner != nil && (c.queue != nil || c.retryAt != 0 || c.hedgeAt != 0):
			wrong("a call is committed and wants to be tried again")
		case live > 0 && (c.queue != nil || c.asking || c.retryAt != 0):
			wrong("a call is under way and waits all the same")
		case c.noReplay && c.winner == nil && c.live > 1:
			for _, a := range c.attempts {
				if a.waitsAt != nil {
					wrong("an attempt waits that can say nothing any more")
				}
			}
		}
	}
	if n != f.nLive || replaying != f.replaying || queued != f.queued {
		wrong("%d calls, %d counted; %d bytes kept, %d counted; %d queued, %d counted", n, f.nLive, replaying, f.replaying, queued, f.queued)
	}
	if got := st.store.Cluster("c").Pending(); got != queued {
		wrong("%d calls wait, %d are counted", queued, got)
	}
	for e, k := range inFlight {
		if got := e.InFlight.Load(); got != k {
			wrong("%s: %d in flight, %d counted", e.Address, k, got)
		}
	}
	for b, k := range budgets {
		b.Held -= k
	}
	if err := session.Check(conns...); err != nil {
		wrong("%v", err)
	}
	for b, k := range budgets {
		b.Held += k
	}
}

func stormy(t *testing.T, seed uint64) {
	c := &chance{rnd: rand.New(rand.NewPCG(seed, 7))}
	st := &storm{began: time.Now(), c: c, most: 1, calls: map[string]*tale{}, counted: map[string]int{}, limits: map[*limit.Concurrency]bool{}, clusters: map[*policies.Cluster]bool{}}
	r := newRig(t, "one", "two", "three", "four")
	st.rig = r
	time.Sleep(time.Millisecond) // 0 is no time
	r.budget = int64(pick(c, 40<<10, 256<<10, 4<<20))
	r.opts.FillMark = 20
	r.opts.MaxPending = pick(c, 3, 100)
	r.limit = pick(c, 0, 0, 3000)
	r.on = st.endpoint()
	r.settings["two"] = []http2.Setting{{ID: http2.SettingMaxConcurrentStreams, Val: uint32(1 + c.n(4))}}
	r.settings["three"] = []http2.Setting{{ID: http2.SettingInitialWindowSize, Val: uint32(c.n(200))}}
	st.policy = st.config()
	st.swap()
	stop := make(chan struct{})
	var wg, background sync.WaitGroup
	background.Go(func() {
		names := []string{"one", "two", "three", "four"}
		for {
			select {
			case <-stop:
				return
			case <-time.After(time.Duration(1+c.n(300)) * time.Millisecond):
			}
			a := names[c.n(4)]
			r.mu.Lock()
			switch {
			case r.refuse[a] != nil:
				delete(r.refuse, a)
			case c.yes(40):
				r.refuse[a] = errRefused(a)
			}
			if r.hold == nil && c.yes(20) {
				hold := make(chan struct{})
				r.hold = hold
				time.AfterFunc(time.Duration(c.n(600))*time.Millisecond, func() {
					r.mu.Lock()
					r.hold = nil
					r.mu.Unlock()
					close(hold)
				})
			}
			r.mu.Unlock()
			if c.yes(30) {
				st.swap()
			}
			r.in(st.books)
		}
	})
	var all []*listener
	for k := range 5 {
		all = append(all, st.client(k, 40, &wg))
	}
	wg.Wait()
	if c.yes(20) { // the end comes early
		for _, l := range all {
			l.mu.Lock()
			l.lost = true
			l.mu.Unlock()
		}
		r.in(func() { r.f.CutAll("the end") })
	}
	time.Sleep(20 * time.Second) // past all deadlines
	close(stop)
	background.Wait()
	time.Sleep(time.Second)
	synctest.Wait()
	st.finish(t, all)
}

// told is how many calls the metrics know of.
func (st *storm) told() (n uint64) {
	w := httptest.NewRecorder()
	st.tel.Handler().ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/metrics", http.NoBody))
	for l := range strings.Lines(w.Body.String()) {
		if strings.HasPrefix(l, "trunkline_calls_total{") {
			v, _ := strconv.ParseFloat(strings.TrimSpace(l[strings.LastIndexByte(l, ' '):]), 64)
			n += uint64(v)
		}
	}
	return n
}

// finish checks what is left when the storm is over.
func (st *storm) finish(t *testing.T, all []*listener) {
	r := st.rig
	for k, l := range all {
		l.mu.Lock()
		for id, p := range l.replies {
			if id != 0 && p.ends != 1 && !l.quit[id] && !l.lost {
				t.Errorf("client %d: call %d ended %d times", k, id, p.ends)
			}
		}
		for i := range 40 {
			if l.replies[uint32(2*i+1)] == nil && !l.quit[uint32(2*i+1)] && !l.lost {
				t.Errorf("client %d: call %d got no answer", k, 2*i+1)
			}
		}
		l.mu.Unlock()
	}
	r.in(st.books)
	r.in(func() {
		if r.f.replaying != 0 || r.f.queued != 0 || len(r.f.queues) != 0 {
			t.Errorf("%d bytes are counted as kept, %d calls in %d queues", r.f.replaying, r.f.queued, len(r.f.queues))
		}
	})
	began := uint64(0)
	r.in(func() { began = r.f.Started() })
	if told := st.told(); told != began {
		t.Errorf("%d calls began, %d were told of", began, told)
	}
	for l := range st.limits {
		if n := l.InUse(); n != 0 {
			t.Errorf("%d places of a cluster are taken", n)
		}
	}
	for c := range st.clusters {
		for _, m := range c.MethodLimits(100) {
			if m.InUse != 0 {
				t.Errorf("%d places of %s are taken", m.InUse, m.Method)
			}
		}
		c.EachBreaker(func(endpoint, method string, b *breaker.Breaker) {
			if v := b.View(r.s.Clock()); v.State == breaker.StateHalfOpen && !strings.HasSuffix(v.Reason, " 0 under way") {
				t.Errorf("the breaker of %s at %s: %s", method, endpoint, v.Reason)
			}
		})
	}
	for _, c := range r.clients {
		c.mu.Lock()
		if i := slices.IndexFunc(c.log, func(s string) bool { return strings.HasPrefix(s, "MALFORMED") }); i >= 0 {
			t.Errorf("%s: %s", c.name, c.log[i])
		}
		c.mu.Unlock()
	}
	r.over()
	if n := reflect.ValueOf(&r.s.Timer).Elem().FieldByName("n").Int(); n != 0 {
		t.Errorf("%d timers are set", n)
	}
	st.mu.Lock()
	defer st.mu.Unlock()
	for _, b := range st.bad {
		t.Error(b)
	}
	for _, k := range slices.Sorted(maps.Keys(st.counted)) {
		t.Logf("%s: %d", k, st.counted[k])
	}
}
