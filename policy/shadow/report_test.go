package shadow

import (
	"fmt"
	"sync"
	"testing"

	"github.com/trunkline/trunkline/policy/serviceconfig"
)

func TestTheReportCountsByKindAndMethod(t *testing.T) {
	var r Report
	add := func(method string, kinds ...string) {
		var found []Difference
		for _, k := range kinds {
			found = append(found, Difference{What: k})
		}
		r.Add(&Call{Method: method}, found)
	}
	add("a")
	add("a", KindRetry)
	add("a", KindRetry, KindDeadline)
	add("a", KindRetry, KindRetry) // counts calls
	add("b", KindRate)
	s := r.Summary()
	if s.Calls != 5 || s.Differing != 4 {
		t.Errorf("%d calls, %d differing", s.Calls, s.Differing)
	}
	if got, want := fmt.Sprint(s.Kinds), "[{retry a 3} {deadline a 1} {rate limit b 1}]"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
	if len(s.Latest) != 4 || s.Latest[0].Method != "b" || s.Latest[3].Method != "a" {
		t.Errorf("latest %+v", s.Latest)
	}
}

func TestTheReportIsBounded(t *testing.T) {
	var r Report
	const calls = 3*maxMethods + 7
	for i := range calls {
		r.Add(&Call{Method: fmt.Sprint(i), Now: int64(i)}, []Difference{{What: KindRetry}})
	}
	s := r.Summary()
	if len(s.Latest) != KeptCalls || len(s.Kinds) != maxMethods+1 {
		t.Fatalf("keeps %d calls, %d methods", len(s.Latest), len(s.Kinds))
	}
	if s.Kinds[0] != (Kind{KindRetry, OtherMethod, calls - maxMethods}) {
		t.Errorf("the others: %+v", s.Kinds[0])
	}
	for i, e := range s.Latest {
		if e.At != int64(calls-1-i) {
			t.Fatalf("latest %d is call %d", i, e.At)
		}
	}
}

func TestAllShardsMayReportAtOnce(t *testing.T) {
	p := New(method(), method(retried, perSecond, func(m *serviceconfig.Method) { m.RefuseHopeless = true }), Options{})
	var r Report
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for i := range 500 {
				c := call(unavailable(ms))
				c.Now += int64(i) * int64(100*ms)
				r.Add(c, p.Judge(c))
				if i%100 == 0 {
					r.Summary()
				}
			}
		})
	}
	wg.Wait()
	if s := r.Summary(); s.Calls != 2000 || s.Differing != 2000 {
		t.Fatalf("%d calls, %d differing", s.Calls, s.Differing)
	}
}

func BenchmarkJudge(b *testing.B) {
	p := New(method(), method(retried, func(m *serviceconfig.Method) { m.Timeout = 1e10 }), Options{})
	for name, c := range map[string]*Call{"the same": call(ok(ms)), "differs": call(unavailable(ms))} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				p.Judge(c)
			}
		})
	}
}
