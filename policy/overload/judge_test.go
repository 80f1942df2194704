package overload

import (
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

var all = Settings{MemoryBytes: 1 << 30, MemoryShare: 0.9, CPUShare: 0.8, QueueDelay: 20 * time.Millisecond}

// after is the verdict after n samples of the same facts.
func after(j *Judge, n int, f Facts) (v Verdict) {
	for range n {
		v = j.Judge(all, f)
	}
	return v
}

// Too little memory counts at once, and is over only when it has been clearly better for ten samples.
func TestMemory(t *testing.T) {
	var j Judge
	if v := after(&j, 100, Facts{Memory: 900 << 20}); v != (Verdict{}) {
		t.Fatalf("900 MiB of 1 GiB: %+v", v)
	}
	v := after(&j, 1, Facts{Memory: 950 << 20})
	if v.Short != Memory {
		t.Fatalf("950 MiB of 1 GiB: %+v", v)
	}
	for _, word := range []string{"memory", "950 MiB of 1.00 GiB", "93%", "90%", "overload.memoryShare", "overload.memoryBytes"} {
		if !strings.Contains(v.Why, word) {
			t.Errorf("%q lacks %q", v.Why, word)
		}
	}
	// A little below the limit is not better yet.
	if v := after(&j, 100, Facts{Memory: 880 << 20}); v.Short != Memory {
		t.Fatalf("880 MiB: %+v", v)
	}
	if v := after(&j, Leave-1, Facts{Memory: 100 << 20}); v.Short != Memory {
		t.Fatalf("over too soon: %+v", v)
	}
	if v := after(&j, 1, Facts{Memory: 100 << 20}); v != (Verdict{}) {
		t.Fatalf("ten good samples: %+v", v)
	}
}

// A short burst on the CPU is no shortage; a long one is, and one good sample does not end it.
func TestCPUAndQueue(t *testing.T) {
	for _, c := range []struct {
		kind      Kind
		high, low Facts
		words     []string
	}{
		{CPU, Facts{CPUShare: 0.85}, Facts{CPUShare: 0.5}, []string{"85%", "80%", "overload.cpuShare"}},
		{Queue, Facts{QueueDelay: 25 * time.Millisecond}, Facts{QueueDelay: time.Millisecond}, []string{"25ms", "20ms", "overload.queueDelay"}},
	} {
		var j Judge
		for range 10 {
			if v := after(&j, Enter-1, c.high); v.Short != Nothing {
				t.Fatalf("%v: a short burst: %+v", c.kind, v)
			}
			after(&j, 1, c.low)
		}
		v := after(&j, Enter, c.high)
		if v.Short != c.kind {
			t.Fatalf("%v: a long burst: %+v", c.kind, v)
		}
		for _, word := range c.words {
			if !strings.Contains(v.Why, word) {
				t.Errorf("%q lacks %q", v.Why, word)
			}
		}
		after(&j, Leave-1, c.low)
		if v := after(&j, 1, c.high); v.Short != c.kind {
			t.Fatalf("%v: not yet over: %+v", c.kind, v)
		}
		if v := after(&j, Leave, c.low); v.Short != Nothing {
			t.Fatalf("%v: over: %+v", c.kind, v)
		}
	}
}

// Of several shortages the most dangerous is told; when it is over, the other; and what is switched off in the config is over at once.
func TestSeveral(t *testing.T) {
	var j Judge
	v := after(&j, Enter, Facts{Memory: 1 << 30, CPUShare: 1})
	if v.Short != Memory {
		t.Fatalf("both: %+v", v)
	}
	if v := after(&j, Leave, Facts{CPUShare: 1}); v.Short != CPU {
		t.Fatalf("memory is better: %+v", v)
	}
	if v := j.Judge(Settings{}, Facts{CPUShare: 1}); v != (Verdict{}) {
		t.Fatalf("nothing is looked at any more: %+v", v)
	}
}

// Law: below nine tenths of every limit for ten samples nothing is short; at or above the memory's limit it always is; and words are there
// exactly when something is short, and do not change from sample to sample.
func TestLaw(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var j Judge
		calm := 0
		last := Verdict{}
		for range rapid.IntRange(1, 100).Draw(t, "samples") {
			f := Facts{
				Memory:     rapid.SampledFrom([]uint64{0, 800 << 20, 920 << 20, 922 << 20, 1 << 30}).Draw(t, "memory"),
				CPUShare:   rapid.SampledFrom([]float64{0, 0.7, 0.75, 0.8, 1}).Draw(t, "cpu"),
				QueueDelay: rapid.SampledFrom([]time.Duration{0, time.Millisecond, 19 * time.Millisecond, time.Second}).Draw(t, "queue"),
			}
			v := j.Judge(all, f)
			calm++
			if f.Memory >= 920<<20 || f.CPUShare >= 0.75 || f.QueueDelay >= 19*time.Millisecond {
				calm = 0
			}
			if calm >= Leave && v.Short != Nothing {
				t.Fatalf("calm for %d samples, and %v is short", calm, v.Short)
			}
			if f.Memory > 921<<20+700<<10 && v.Short != Memory {
				t.Fatalf("memory is over the limit: %+v", v)
			}
			if (v.Why == "") != (v.Short == Nothing) {
				t.Fatalf("%+v", v)
			}
			if v.Short == last.Short && v != last {
				t.Fatalf("the words changed from %q to %q", last.Why, v.Why)
			}
			last = v
		}
	})
}

func BenchmarkJudge(b *testing.B) {
	var j Judge
	b.ReportAllocs()
	for b.Loop() {
		j.Judge(all, Facts{Memory: 1 << 20, CPUShare: 0.3, QueueDelay: time.Millisecond})
	}
}
