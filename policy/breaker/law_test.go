package breaker

import (
	"testing"
	"time"

	"pgregory.net/rapid"
)

// model is a breaker written to be obvious: it keeps every result and looks at all of them.
type model struct {
	s       Settings
	state   State
	results []result // since it closed
	row     int
	until   int64
	openFor time.Duration
	closed  int64 // when it closed
	lastFor time.Duration
	taken   int   // probes' places
	granted int64 // the last of them
	good    int
	opened  uint64
}

type result struct {
	at    int64
	fault bool
}

func (m *model) admits(now int64) bool {
	switch m.state {
	case StateOpen:
		return now >= m.until
	case StateHalfOpen:
		return m.taken < m.s.Probes || now-m.granted >= int64(m.s.OpenFor)
	}
	return true
}

func (m *model) admit(now int64) (ok, probe bool) {
	if !m.admits(now) {
		return false, false
	}
	switch m.state {
	case StateClosed:
		return true, false
	case StateOpen:
		m.state, m.taken, m.good = StateHalfOpen, 0, 0
	case StateHalfOpen:
		if m.taken == m.s.Probes {
			m.taken = 0
		}
	}
	m.taken++
	m.granted = now
	return true, true
}

func (m *model) done(now int64, r Result, probe bool) {
	switch {
	case m.state == StateClosed && r != Neutral:
		m.results = append(m.results, result{now, r == Fault})
		m.row++
		if r == OK {
			m.row = 0
			return
		}
		total, faults := m.window(now)
		if m.s.Consecutive > 0 && m.row >= m.s.Consecutive ||
			m.s.ErrorRate > 0 && total >= m.s.MinVolume && float64(faults)/float64(total) >= m.s.ErrorRate {
			openFor := m.s.OpenFor
			if m.lastFor > 0 && now-m.closed < int64(m.lastFor) {
				openFor = min(2*m.lastFor, m.s.MaxOpenFor)
			}
			m.open(now, openFor)
		}
	case m.state == StateHalfOpen && probe && m.taken > 0:
		m.taken--
		switch r {
		case Fault:
			m.open(now, min(2*m.openFor, m.s.MaxOpenFor))
		case OK:
			if m.good++; m.good == m.s.Probes {
				*m = model{s: m.s, opened: m.opened, closed: now, lastFor: m.openFor}
			}
		}
	}
}

func (m *model) open(now int64, openFor time.Duration) {
	m.state, m.openFor, m.until = StateOpen, openFor, now+int64(openFor)
	m.opened++
}

func (m *model) window(now int64) (total, faults int) {
	width := int64(m.s.Window) / numBuckets
	for _, r := range m.results {
		if now/width-r.at/width < numBuckets {
			total++
			if r.fault {
				faults++
			}
		}
	}
	return total, faults
}

func drawSettings(t *rapid.T) *Settings {
	s := &Settings{
		Window:     time.Duration(rapid.IntRange(1, 20).Draw(t, "window")) * time.Second,
		MinVolume:  rapid.IntRange(1, 12).Draw(t, "min volume"),
		OpenFor:    time.Duration(rapid.IntRange(1, 5).Draw(t, "open for")) * time.Second,
		MaxOpenFor: time.Duration(rapid.IntRange(5, 30).Draw(t, "max open for")) * time.Second,
		Probes:     rapid.IntRange(1, 4).Draw(t, "probes"),
	}
	if rapid.Bool().Draw(t, "by row") {
		s.Consecutive = rapid.IntRange(1, 8).Draw(t, "consecutive")
	}
	if s.Consecutive == 0 || rapid.Bool().Draw(t, "by rate") {
		s.ErrorRate = rapid.SampledFrom([]float64{0.07, 0.3, 0.5, 0.9, 1}).Draw(t, "error rate")
	}
	return s
}

// However calls come and end, late and never ones included, a breaker does what the obvious one does.
func TestItDoesWhatTheObviousBreakerDoes(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := drawSettings(t)
		b, m := New(s), &model{s: *s}
		now := rapid.Int64Range(0, 1<<40).Draw(t, "start")
		var under []bool // way; whether a probe
		t.Repeat(map[string]func(*rapid.T){
			"wait": func(t *rapid.T) {
				now += rapid.SampledFrom([]int64{1, 1e6, 1e8, 1e9, 3e9, 1e10, 6e10}).Draw(t, "ns")
			},
			"admit": func(t *rapid.T) {
				if got, want := b.Admits(now), m.admits(now); got != want {
					t.Fatalf("Admits %v, want %v", got, want)
				}
				ok, probe := b.Admit(now)
				if wantOK, wantProbe := m.admit(now); ok != wantOK || probe != wantProbe {
					t.Fatalf("Admit %v %v, want %v %v", ok, probe, wantOK, wantProbe)
				}
				if ok {
					under = append(under, probe)
				}
			},
			"done": func(t *rapid.T) {
				if len(under) == 0 {
					t.Skip()
				}
				i := rapid.IntRange(0, len(under)-1).Draw(t, "which")
				r := rapid.SampledFrom([]Result{OK, Fault, Fault, Neutral}).Draw(t, "result")
				b.Done(now, r, under[i])
				m.done(now, r, under[i])
				under = append(under[:i], under[i+1:]...)
			},
			"calls": func(t *rapid.T) {
				n := rapid.IntRange(1, 15).Draw(t, "n")
				r := rapid.SampledFrom([]Result{OK, Fault}).Draw(t, "result")
				for range n {
					if ok, probe := b.Admit(now); ok {
						b.Done(now, r, probe)
					}
					if ok, probe := m.admit(now); ok {
						m.done(now, r, probe)
					}
				}
			},
			"": func(t *rapid.T) {
				v := b.View(now)
				if v.State != m.state || v.Opened != m.opened || b.Closed() != (m.state == StateClosed) {
					t.Fatalf("%+v, want %v, opened %d times", v, m.state, m.opened)
				}
				switch m.state {
				case StateOpen:
					if v.OpenUntil != m.until {
						t.Fatalf("open until %d, want %d", v.OpenUntil, m.until)
					}
				case StateClosed:
					if total, _ := m.window(now); v.Volume != total || v.Consecutive != m.row {
						t.Fatalf("%+v, want volume %d, %d in a row", v, total, m.row)
					}
				}
				if (v.Reason == "") != (m.state == StateClosed) {
					t.Fatalf("reason %q when %v", v.Reason, v.State)
				}
			},
		})
	})
}

// Whatever happens and whoever is lost, after MaxOpenFor and OpenFor it admits a call again.
func TestItNeverBlocksForEver(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := drawSettings(t)
		b := New(s)
		now := int64(0)
		for range rapid.IntRange(0, 60).Draw(t, "steps") {
			now += rapid.Int64Range(0, 10e9).Draw(t, "wait")
			ok, probe := b.Admit(now)
			if ok && rapid.Bool().Draw(t, "comes back") {
				b.Done(now, rapid.SampledFrom([]Result{OK, Fault, Neutral}).Draw(t, "result"), probe)
			}
		}
		f := s.filled()
		if !b.Admits(now + int64(f.MaxOpenFor+f.OpenFor)) {
			t.Fatalf("%+v", b.View(now))
		}
	})
}

// The table counts exactly the breakers it has that are not closed, never has too many, and one that it forgot goes on.
func TestTheTableCountsWhoIsNotClosed(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		limit := rapid.IntRange(1, 5).Draw(t, "max")
		table := NewTable(&Settings{Consecutive: 2, Probes: 1}, limit)
		held := map[string]*Breaker{}
		now := int64(0)
		t.Repeat(map[string]func(*rapid.T){
			"get": func(t *rapid.T) {
				method := rapid.StringMatching("[a-h]").Draw(t, "method")
				held[method] = table.Get("endpoint", method, now)
			},
			"call": func(t *rapid.T) {
				now += rapid.Int64Range(0, 4e9).Draw(t, "wait")
				b := held[rapid.StringMatching("[a-h]").Draw(t, "method")]
				if b != nil {
					call(b, now, rapid.SampledFrom([]Result{OK, Fault, Fault}).Draw(t, "result"))
				}
			},
			"": func(t *rapid.T) {
				n, open := 0, 0
				table.Each(func(_, _ string, b *Breaker) {
					n++
					if !b.Closed() {
						open++
					}
				})
				if n > limit || open != table.Open() {
					t.Fatalf("%d of %d breakers, %d open, Open says %d", n, limit, open, table.Open())
				}
			},
		})
	})
}
