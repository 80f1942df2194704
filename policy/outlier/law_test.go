package outlier

import (
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// model is a detector written to be obvious, for the criteria that need no statistics.
type model struct {
	s     *Settings
	hosts map[string]*modelHost
}

type modelHost struct {
	interval  []bool // whether each call since the last sweep succeeded
	row       int
	out       bool
	until     int64
	times     int
	stepped   int64
	succeeded bool
}

func (m *model) mayEject() bool {
	out := 0
	for _, h := range m.hosts {
		if h.out {
			out++
		}
	}
	n := len(m.hosts)
	return out < n-1 && (out == 0 || float64(out+1) <= m.s.MaxEjectedShare*float64(n))
}

func (m *model) eject(now int64, h *modelHost) {
	if h.out || !m.mayEject() {
		return
	}
	if int64(h.times)*int64(m.s.BaseEjection) < int64(m.s.MaxEjection) {
		h.times++
	}
	h.out = true
	h.until = now + min(int64(h.times)*int64(m.s.BaseEjection), int64(m.s.MaxEjection))
}

func (m *model) sweep(now int64) {
	var judged []string
	failures := map[string]float64{}
	for key, h := range m.hosts {
		if h.out && now >= h.until {
			h.out, h.row, h.stepped, h.succeeded = false, 0, now, false
		} else if !h.out {
			judged = append(judged, key)
			bad := 0
			for _, ok := range h.interval {
				if ok {
					h.succeeded = true
				} else {
					bad++
				}
			}
			if n := len(h.interval); n > 0 && n >= m.s.Failures.MinVolume && len(m.hosts) >= m.s.Failures.MinHosts && bad > 0 {
				failures[key] = float64(bad) / float64(n)
			}
		}
		h.interval = nil
	}
	var first string
	for key, h := range m.hosts {
		if !h.out {
			first = ""
			break
		}
		if f := m.hosts[first]; f == nil || h.until < f.until || h.until == f.until && key < first {
			first = key
		}
	}
	if h := m.hosts[first]; h != nil {
		h.out, h.row, h.stepped, h.succeeded = false, 0, now, false
	}
	slices.Sort(judged)
	// The worst first: longest row, then largest share of failures.
	byRow := slices.Clone(judged)
	slices.SortStableFunc(byRow, func(a, b string) int { return m.hosts[b].row - m.hosts[a].row })
	for _, key := range byRow {
		if m.s.Consecutive > 0 && m.hosts[key].row >= m.s.Consecutive {
			m.eject(now, m.hosts[key])
		}
	}
	byShare := slices.Clone(judged)
	slices.SortStableFunc(byShare, func(a, b string) int {
		switch {
		case failures[a] > failures[b]:
			return -1
		case failures[a] < failures[b]:
			return 1
		}
		return 0
	})
	for _, key := range byShare {
		if failures[key] > 0 && failures[key] >= m.s.Failures.Threshold {
			m.eject(now, m.hosts[key])
		}
	}
	for _, key := range judged {
		h := m.hosts[key]
		if !h.out && h.times > 0 && h.succeeded && now-h.stepped >= int64(max(10*time.Second, m.s.Interval)) {
			h.times--
			h.stepped, h.succeeded = now, false
		}
	}
}

// However calls end, endpoints come and go, and sweeps are late, the detector ejects whom the obvious one ejects, for as long,
// its changes add up to who is out, and at no ejection were more out than may be.
func TestItDoesWhatTheObviousDetectorDoes(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := &Settings{
			Interval:        time.Duration(rapid.IntRange(1, 15).Draw(t, "interval")) * time.Second,
			BaseEjection:    time.Duration(rapid.IntRange(1, 30).Draw(t, "base")) * time.Second,
			MaxEjection:     time.Duration(rapid.IntRange(30, 100).Draw(t, "max")) * time.Second,
			MaxEjectedShare: rapid.Float64Range(0, 1).Draw(t, "share"),
			Consecutive:     rapid.IntRange(0, 5).Draw(t, "consecutive"),
			Failures: &FailureShare{
				Threshold: rapid.Float64Range(0.1, 1).Draw(t, "threshold"),
				MinHosts:  rapid.IntRange(1, 4).Draw(t, "min hosts"),
				MinVolume: rapid.IntRange(1, 10).Draw(t, "min volume"),
			},
		}
		d, m := NewDetector(s), &model{s: s, hosts: map[string]*modelHost{}}
		var hosts []Subject
		out := map[string]bool{}
		now := int64(0)
		apply := func(changes []Change) {
			for _, c := range changes {
				if out[c.Key] == c.Eject {
					t.Fatalf("%+v twice", c)
				}
				if c.Why == "" || c.Eject && c.Until <= now {
					t.Fatalf("%+v at %d", c, now)
				}
				out[c.Key] = c.Eject
			}
		}
		sweep := func() {
			apply(d.Sweep(now, hosts))
			m.sweep(now)
		}
		add := func(key string) {
			hosts = append(hosts, Subject{key, NewHost()})
			m.hosts[key] = &modelHost{}
		}
		for _, key := range []string{"a", "b", "c"} {
			add(key)
		}
		record := func(i int, fault bool) {
			h := m.hosts[hosts[i].Key]
			h.interval = append(h.interval, !fault)
			h.row++
			if !fault {
				h.row = 0
			}
			tripped := hosts[i].Host.Record(s, fault, time.Millisecond)
			if want := fault && s.Consecutive > 0 && h.row%s.Consecutive == 0; tripped != want {
				t.Fatalf("tripped %v at %d in a row", tripped, h.row)
			}
			if tripped && rapid.IntRange(0, 3).Draw(t, "trip lost") > 0 {
				apply(d.Trip(now, hosts[i].Key, hosts))
				m.eject(now, h)
			}
		}
		t.Repeat(map[string]func(*rapid.T){
			"calls": func(t *rapid.T) {
				i := rapid.IntRange(0, len(hosts)-1).Draw(t, "which")
				for _, fault := range rapid.SliceOfN(rapid.Bool(), 1, 12).Draw(t, "faults") {
					record(i, fault)
				}
			},
			"sweep": func(t *rapid.T) {
				now += rapid.Int64Range(1, 12).Draw(t, "seconds") * second
				sweep()
			},
			"sweeps": func(t *rapid.T) {
				for range rapid.IntRange(1, 40).Draw(t, "n") {
					now += int64(s.Interval)
					for i := range hosts {
						if !m.hosts[hosts[i].Key].out {
							record(i, false)
						}
					}
					sweep()
				}
			},
			"leave or come": func(t *rapid.T) {
				key := rapid.StringMatching("[a-f]").Draw(t, "key")
				i := slices.IndexFunc(hosts, func(h Subject) bool { return h.Key == key })
				switch {
				case i < 0:
					add(key)
				case len(hosts) > 1:
					hosts = slices.Delete(slices.Clone(hosts), i, i+1)
					delete(m.hosts, key)
					delete(out, key)
					sweep() // by which the detector learns it
				}
			},
			"": func(t *rapid.T) {
				var want []string
				for key, h := range m.hosts {
					if h.out != out[key] {
						t.Fatalf("%s: out %v, changes say %v", key, h.out, out[key])
					}
					if h.out {
						want = append(want, key)
					}
				}
				slices.Sort(want)
				var got []string
				for _, e := range d.Ejected() {
					got = append(got, e.Key)
					if h := m.hosts[e.Key]; h == nil || e.Until != h.until || e.Times != h.times {
						t.Fatalf("%+v, want %+v", e, h)
					}
				}
				if !slices.Equal(got, want) {
					t.Fatalf("out: %v, want %v", got, want)
				}
				if len(got) == len(hosts) {
					t.Fatal("all are out")
				}
			},
		})
	})
}

// Whatever the figures, the success rate and the latency never condemn the best one, nor more than half of the latencies.
func TestTheBestIsNeverAnOutlier(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := (&Settings{
			SuccessRate: &SuccessRate{StdevFactor: rapid.Float64Range(0.01, 3).Draw(t, "factor"), MinHosts: 1, MinVolume: 1},
			Latency:     &Latency{Factor: rapid.Float64Range(1, 5).Draw(t, "times"), Min: 1, MinHosts: 1, MinVolume: 1},
		}).filled()
		var facts []fact
		for range rapid.IntRange(1, 10).Draw(t, "hosts") {
			all := rapid.IntRange(1, 1000).Draw(t, "all")
			facts = append(facts, fact{key: "k", host: NewHost(), all: all, faults: rapid.IntRange(0, all).Draw(t, "faults"),
				measured: 1, mean: time.Duration(rapid.Int64Range(1, 1e12).Draw(t, "mean"))})
		}
		best, fastest := facts[0].rate(), facts[0].mean
		for _, f := range facts {
			best, fastest = max(best, f.rate()), min(fastest, f.mean)
		}
		for _, o := range s.bySuccessRate(facts, len(facts)) {
			if o.fact.rate() == best {
				t.Fatalf("the best: %s", o.why)
			}
		}
		slow := s.byLatency(facts, len(facts))
		for _, o := range slow {
			if o.fact.mean == fastest {
				t.Fatalf("the fastest: %s", o.why)
			}
		}
		if 2*len(slow) > len(facts) {
			t.Fatalf("%d of %d are slow", len(slow), len(facts))
		}
	})
}
