package forward

import (
	"maps"
	"net/http"
	"net/http/httptest"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/trunkline/trunkline/codec/session"
	"github.com/trunkline/trunkline/lb/upstream"
	"github.com/trunkline/trunkline/policy/breaker"
)

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
		budgets[b] += int64(len(c.replay)) + c.metadata
		replaying += int64(len(c.replay))
		if w := c.watch; w != nil {
			budgets[b] += int64(len(w.buf))
			if w.hold && len(c.attempts) > 0 {
				wrong("an attempt is made before the call's message was judged")
			}
		}
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
		b.Release(k)
	}
	if err := session.Check(conns...); err != nil {
		wrong("%v", err)
	}
	for b, k := range budgets {
		b.Release(-k)
	}
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
	st.users.Wait()
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
