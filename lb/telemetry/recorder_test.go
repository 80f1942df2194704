package telemetry

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"
)

// metricsPage fetches what Prometheus would.
func metricsPage(t testing.TB, tel *Telemetry) string {
	t.Helper()
	w := httptest.NewRecorder()
	tel.Handler().ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
	if w.Code != 200 {
		t.Fatalf("metrics page: %d %s", w.Code, w.Body)
	}
	return w.Body.String()
}

func TestTheBucketIsTheFirstWhoseBoundIsNotBelow(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 4))
	for name, b := range map[string]*bounds{"call": callBounds(), "added": addedBounds()} {
		values := []uint64{0, 1, ^uint64(0)}
		for i := range b.n {
			values = append(values, b.ns[i]-1, b.ns[i], b.ns[i]+1)
			if i > 0 && b.ns[i] < 2*b.ns[i-1] {
				t.Errorf("%s: bound %d is less than twice the one before, which the lookup relies on", name, b.ns[i])
			}
		}
		for range 100_000 {
			values = append(values, rng.Uint64()>>rng.UintN(64))
		}
		for _, v := range values {
			want := 0
			for want < b.n && v > b.ns[want] {
				want++
			}
			if got := b.index(v); got != want {
				t.Fatalf("%s: %d is in bucket %d, want %d", name, v, got, want)
			}
		}
	}
}

func TestMethodsAreBoundedWhateverClientsSend(t *testing.T) {
	tel := start(t, Config{})
	other := tel.Method("pkg.S/Nobody", false)
	if other.Name() != "_other" {
		t.Errorf("an unknown method got the label %q", other.Name())
	}
	if a, b := tel.Method("/pkg.S/M", true), tel.Method("pkg.S/M", true); a != b || a.Name() != "pkg.S/M" {
		t.Errorf("one method has two handles: %q %q", a.Name(), b.Name())
	}
	for _, bad := range []string{"", "/", "pkg.S/\xff", strings.Repeat("x", maxMethodName+1)} {
		if m := tel.Method(bad, true); m != other {
			t.Errorf("%q became a label", bad)
		}
	}
	for i := range 3 * MaxMethods {
		tel.Method(fmt.Sprintf("noisy.S/M%d", i), true) // one service invents names
	}
	if m := tel.Method("quiet.S/M", true); m == other {
		t.Error("one service pushed the others out")
	}
	for i := range 3 * MaxMethods {
		tel.Method(fmt.Sprintf("s%d.S/M", i), true)
	}
	if m := tel.Method("late.S/M", true); m != other {
		t.Error("no bound on the methods")
	}
	if n := len(tel.methods.all()) - 1; n != MaxMethods {
		t.Errorf("%d methods have series, want %d", n, MaxMethods)
	}
	name := []byte("pkg.S/Arena")
	borrowed := tel.Method(unsafeString(name), true)
	copy(name, "XXXXXXXXXXX")
	if borrowed.Name() != "_other" {
		t.Error("beyond the bound a new method got a handle")
	}
}

func TestAMethodsNameIsCopiedFromTheArena(t *testing.T) {
	tel := start(t, Config{})
	arena := []byte("pkg.S/M")
	m := tel.Method(unsafeString(arena), true)
	copy(arena, "xxxxxxx")
	if m.Name() != "pkg.S/M" || tel.Method("pkg.S/M", true) != m {
		t.Errorf("the name became %q when the arena was used again", m.Name())
	}
}

func TestAllShardsTogetherCountEveryCallOnce(t *testing.T) {
	tel := start(t, Config{})
	const shards, calls, many = 3, 500, 9 // more methods than one stride
	var methods []*Method
	for i := range many {
		methods = append(methods, tel.Method(fmt.Sprintf("pkg.S/M%d", i), true))
	}
	for range shards {
		r := tel.NewRecorder(new(sync.Mutex))
		for i := range calls {
			m := methods[i%many]
			r.Start(m)
			r.Record(&Finish{Method: m, Status: uint32(i % 20), Local: i%2 == 0, Attempts: uint8(i % 3), Total: int64(i) * 1000,
				Upstream: int64(i), Own: -5, MessagesIn: 1, MessagesOut: 2, BytesIn: 3, BytesOut: 4, Outcome: Outcome(i % int(outcomes))})
		}
		r.Start(nil)
	}
	_, sums, byOutcome := tel.merged()
	var total block
	for i := range sums {
		total.add(&sums[i])
	}
	count := func(list []uint64) (n uint64) {
		for _, v := range list {
			n += v
		}
		return n
	}
	const n = shards * calls
	if got := count(total.calls[0][:]) + count(total.calls[1][:]); got != n {
		t.Errorf("%d calls by status, want %d", got, n)
	}
	if got := count(total.counts[histTotal][:]); got != n {
		t.Errorf("%d calls in the histogram, want %d", got, n)
	}
	if got := count(total.counts[histUpstream][:]); got != shards*(calls-167) {
		t.Errorf("%d calls reached an upstream, want %d: those without attempts did not", got, shards*(calls-167))
	}
	if got := count(byOutcome[:]); got != n {
		t.Errorf("%d outcomes, want %d", got, n)
	}
	if total.open != shards || total.messagesIn != n || total.messagesOut != 2*n || total.bytesIn != 3*n || total.bytesOut != 4*n {
		t.Errorf("open %d, messages %d %d, bytes %d %d", total.open, total.messagesIn, total.messagesOut, total.bytesIn, total.bytesOut)
	}
	if total.calls[0][statusSlots-1] == 0 || total.calls[1][statusSlots-1] == 0 {
		t.Error("statuses that gRPC does not know were not counted")
	}
}

// The race detector is the judge: scrapes run while shards record under their locks, methods come and endpoints go.
func TestScrapingWhileShardsRecordIsSafe(t *testing.T) {
	tel := start(t, Config{})
	tel.Observe(func(g *Gauges) { g.ConfigGeneration++ })
	var shards, others sync.WaitGroup
	const calls = 5000
	for range 4 {
		shards.Go(func() {
			var mu sync.Mutex
			r := tel.NewRecorder(&mu)
			for i := range calls {
				m := tel.Method(fmt.Sprintf("pkg.S/M%d", i%50), true)
				e := tel.Endpoint("c", fmt.Sprintf("127.0.0.1:%d", i%10))
				e.Picks.Add(1)
				mu.Lock()
				r.Start(m)
				r.Record(&Finish{Method: m})
				mu.Unlock()
				if i%100 == 0 {
					tel.Forget(e)
				}
			}
		})
	}
	done := make(chan struct{})
	for range 2 {
		others.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
					metricsPage(t, tel)
				}
			}
		})
	}
	shards.Wait()
	close(done)
	others.Wait()
	_, sums, _ := tel.merged()
	var n uint64
	for i := range sums {
		n += sums[i].calls[0][0]
	}
	if n != 4*calls {
		t.Errorf("%d calls counted, want %d", n, 4*calls)
	}
}

func TestRecordAllocatesNothing(t *testing.T) {
	tel := start(t, Config{})
	r := tel.NewRecorder(new(sync.Mutex))
	f := Finish{Method: tel.Method("pkg.S/M", true), Attempts: 1, Total: 123_456, Upstream: 120_000, Own: 3_456}
	r.Start(f.Method)
	r.Record(&f)
	if n := testing.AllocsPerRun(1000, func() { r.Start(f.Method); r.Record(&f) }); n != 0 {
		t.Errorf("%v allocations per call", n)
	}
}

func BenchmarkRecord(b *testing.B) {
	for _, methods := range []int{1, 100} {
		b.Run(fmt.Sprintf("methods=%d", methods), func(b *testing.B) {
			tel, err := New(context.Background(), Config{})
			if err != nil {
				b.Fatal(err)
			}
			defer func() { _ = tel.Shutdown(context.Background()) }()
			r := tel.NewRecorder(new(sync.Mutex))
			calls := make([]Finish, 1024)
			for i := range calls {
				calls[i] = Finish{Method: tel.Method(fmt.Sprintf("pkg.S/M%d", rand.IntN(methods)), true), Attempts: 1,
					Total: rand.Int64N(int64(time.Second)), Upstream: rand.Int64N(int64(time.Second)), Own: rand.Int64N(int64(time.Millisecond)),
					MessagesIn: 1, MessagesOut: 1, BytesIn: 69, BytesOut: 69}
			}
			b.ReportAllocs()
			i := 0
			for b.Loop() {
				f := &calls[i&1023]
				i++
				r.Start(f.Method)
				r.Record(f)
			}
		})
	}
}

func BenchmarkScrape(b *testing.B) {
	tel, err := New(context.Background(), Config{})
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = tel.Shutdown(context.Background()) }()
	var mu sync.Mutex
	r := tel.NewRecorder(&mu)
	for i := range 200 {
		m := tel.Method(fmt.Sprintf("pkg.S/M%d", i), true)
		r.Start(m)
		r.Record(&Finish{Method: m, Attempts: 1})
	}
	b.ReportAllocs()
	for b.Loop() {
		metricsPage(b, tel)
	}
}
