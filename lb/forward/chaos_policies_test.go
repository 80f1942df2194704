package forward

import (
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/net/http2"

	"github.com/trunkline/trunkline/lb/policies"
	"github.com/trunkline/trunkline/policy/authn"
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
	watched bool           // a judge is shown messages
	users   sync.WaitGroup // calls whose messages he is shown

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
	asked int    // how often the gate was
	// stopped: the gate has not let it pass.
	stopped bool
	changed bool // the gate changed its fields: trailers go no further
	seen    []*visit
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
	st.guards()
	st.use(some...)
	c := st.store.Cluster("c")
	st.mu.Lock()
	st.clusters[c] = true
	if c.Streams != nil {
		st.limits[c.Streams] = true
	}
	st.mu.Unlock()
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
	st.watched = c.yes(50)
	if c.yes(40) {
		r.guest.Peer = &authn.Peer{Mesh: true, SPIFFE: "spiffe://mesh/web", Forwarded: "URI=spiffe://mesh/web"}
	}
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
