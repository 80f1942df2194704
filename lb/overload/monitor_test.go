package overload

import (
	"bytes"
	"log/slog"
	"math"
	"runtime"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"go.uber.org/goleak"

	"github.com/trunkline/trunkline/policy/overload"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// process is a process whose figures the test sets. Time passes with the ticks; between two looks only the test touches it.
type process struct {
	t        *testing.T
	now      reading
	settings overload.Settings
	limit    uint64
	asked    int            // times that somebody asked for the limit
	gc       func(*reading) // what a collection would do; nil: nothing
	gcs      int

	tick chan time.Time
	log  bytes.Buffer
	m    *Monitor
}

func begin(t *testing.T, s overload.Settings) *process {
	p := &process{t: t, settings: s, tick: make(chan time.Time), now: reading{at: time.Unix(1000, 0), cores: 4}}
	p.m = start(&watch{
		log:      slog.New(slog.NewTextHandler(&p.log, nil)),
		settings: func() overload.Settings { return p.settings },
		tick:     p.tick,
		read:     func() reading { return p.now },
		collect: func() {
			p.gcs++
			p.now.cycles++
			if p.gc != nil {
				p.gc(&p.now)
			}
		},
		limit: func() (uint64, string) { p.asked++; return p.limit, "/sys/fs/cgroup/memory.max" },
	})
	t.Cleanup(p.m.Stop)
	return p
}

// looks lets the monitor look n times, 100 ms apart; cpu is the share of the cores that is used meanwhile.
func (p *process) looks(n int, cpu float64) *Reason {
	for range n {
		p.now.at = p.now.at.Add(Every)
		p.now.cpu += time.Duration(cpu * float64(Every) * float64(p.now.cores))
		before := p.m.status.Load()
		p.tick <- p.now.at
		for deadline := time.Now().Add(10 * time.Second); p.m.status.Load() == before; runtime.Gosched() {
			if time.Now().After(deadline) {
				p.t.Fatal("the monitor does not look")
			}
		}
	}
	return p.m.Shedding()
}

// Memory that collections cannot free closes the door, with words and pushback; when there is room again it opens; the log
// tells both once.
func TestMemoryStory(t *testing.T) {
	p := begin(t, overload.Settings{MemoryBytes: 1 << 30, MemoryShare: 0.9, Pushback: 3 * time.Second})
	p.now.kept, p.now.used = 100<<20, 200<<20
	if r := p.looks(20, 0); r != nil {
		t.Fatalf("100 MiB of 1 GiB: %+v", r)
	}
	p.now.kept, p.now.used = 950<<20, 960<<20
	r := p.looks(1, 0)
	if r == nil || r.Short != overload.Memory || r.Pushback != 3*time.Second || !strings.Contains(r.Why, "950 MiB of 1.00 GiB") {
		t.Fatalf("950 MiB of 1 GiB: %+v", r)
	}
	if again := p.looks(5, 0); again != r {
		t.Errorf("the reason changed: %+v, %+v", r, again)
	}
	p.now.kept, p.now.used = 100<<20, 200<<20
	if r := p.looks(overload.Leave, 0); r != nil {
		t.Fatalf("there is room again: %+v", r)
	}
	if s := p.log.String(); strings.Count(s, "new calls are refused\"") != 1 || strings.Count(s, "taken again") != 1 {
		t.Errorf("the log:\n%s", s)
	}
}

// Garbage is no shortage: a heap full of it causes a collection, not refusals.
func TestGarbageIsNoShortage(t *testing.T) {
	p := begin(t, overload.Settings{MemoryBytes: 1 << 30, MemoryShare: 0.9})
	p.now.kept, p.now.used = 300<<20, 300<<20
	p.gc = func(r *reading) { r.used = r.kept }
	for range 100 {
		p.now.used += 20 << 20 // per look: it would be full in four seconds
		if r := p.looks(1, 0); r != nil {
			t.Fatalf("%d MiB in use, 300 of them live: %+v", p.now.used>>20, r)
		}
	}
	if p.gcs < 2 || p.gcs > 5 {
		t.Errorf("%d collections in ten seconds", p.gcs)
	}
	if n := p.m.Status().Collections; n != uint64(p.gcs) {
		t.Errorf("it says %d collections, there were %d", n, p.gcs)
	}
}

// What grows between two collections and is live is found out before memory is gone, though nobody collected: as with a
// cgroup's limit that the runtime does not know.
func TestGrowthIsFoundOut(t *testing.T) {
	p := begin(t, overload.Settings{MemoryShare: 0.9})
	p.limit = 1 << 30
	p.now.kept, p.now.used = 500<<20, 500<<20
	p.looks(15, 0)
	p.gc = func(r *reading) { r.kept = r.used }
	p.now.used = 930 << 20 // kept still says 500
	r := p.looks(1, 0)
	if r == nil || r.Short != overload.Memory {
		t.Fatalf("930 MiB of 1 GiB live: %+v", r)
	}
	if s := p.m.Status(); s.MemoryFrom != "/sys/fs/cgroup/memory.max" || s.MemoryBytes != 1<<30 || s.Facts.Memory != 930<<20 {
		t.Errorf("%+v", s)
	}
}

// Once new calls are refused nothing is allocated and no collection comes by itself: the monitor asks, and so finds out that
// there is room.
func TestRecoveryIsFoundOut(t *testing.T) {
	p := begin(t, overload.Settings{MemoryBytes: 1 << 30, MemoryShare: 0.9})
	p.now.kept, p.now.used = 1000<<20, 1000<<20
	p.looks(1, 0)
	p.gc = func(r *reading) { r.kept, r.used = 200<<20, 200<<20 }
	if r := p.looks(10+overload.Leave, 0); r != nil {
		t.Fatalf("two seconds later: %+v", r)
	}
}

// So it is where the first collection found a little less than what refuses, but not enough less to take calls again.
func TestRecoveryIsFoundOutInSteps(t *testing.T) {
	p := begin(t, overload.Settings{MemoryBytes: 1000 << 20, MemoryShare: 0.9})
	p.now.kept, p.now.used = 950<<20, 950<<20
	p.looks(1, 0)
	p.gc = func(r *reading) { r.kept, r.used = 850<<20, 850<<20 }
	if r := p.looks(15, 0); r == nil {
		t.Fatal("850 MB of 1000 after 950: over too soon")
	}
	p.gc = func(r *reading) { r.kept, r.used = 200<<20, 200<<20 } // the calls under way end
	if r := p.looks(10+overload.Leave, 0); r != nil {
		t.Fatalf("two seconds later: %+v", r)
	}
}

// Where a collection does not help, it is not asked for again and again.
func TestCollectionsInVain(t *testing.T) {
	p := begin(t, overload.Settings{MemoryBytes: 1 << 30, MemoryShare: 0.9})
	p.now.kept, p.now.used = 500<<20, 1000<<20 // spans half empty
	if r := p.looks(600, 0); r != nil || p.gcs > 8 {
		t.Fatalf("%d collections in a minute; %+v", p.gcs, r)
	}
}

// The share of CPU is that of all cores over the time since the last look.
func TestCPU(t *testing.T) {
	p := begin(t, overload.Settings{CPUShare: 0.8})
	if r := p.looks(20, 0.79); r != nil {
		t.Fatalf("79%%: %+v", r)
	}
	if got := p.m.Status().Facts.CPUShare; math.Abs(got-0.79) > 0.001 {
		t.Errorf("CPU share %v, want 0.79", got)
	}
	r := p.looks(overload.Enter, 0.95)
	if r == nil || r.Short != overload.CPU || !strings.Contains(r.Why, "95%") || r.Pushback != time.Second {
		t.Fatalf("95%%: %+v", r)
	}
	p.settings = overload.Settings{} // a reload switches it off
	if r := p.looks(1, 0.95); r != nil {
		t.Fatalf("switched off: %+v", r)
	}
}

// Work that waits for a core closes the door too.
func TestQueue(t *testing.T) {
	p := begin(t, overload.Settings{QueueDelay: 20 * time.Millisecond})
	p.now.queue = 30 * time.Millisecond
	if r := p.looks(overload.Enter, 0); r == nil || r.Short != overload.Queue {
		t.Fatalf("30ms: %+v", r)
	}
}

// A memory limit in the config comes before the container's, which is asked for again now and then.
func TestWhoseLimit(t *testing.T) {
	p := begin(t, overload.Settings{MemoryShare: 0.9})
	p.limit = 2 << 30
	p.looks(1, 0)
	p.limit = 4 << 30
	p.looks(int(limitEvery/Every), 0)
	if s := p.m.Status(); s.MemoryBytes != 4<<30 || p.asked != 2 {
		t.Errorf("%+v, asked %d times", s, p.asked)
	}
	p.settings.MemoryBytes = 1 << 30
	p.looks(1, 0)
	if s := p.m.Status(); s.MemoryBytes != 1<<30 || s.MemoryFrom != "overload.memoryBytes" {
		t.Errorf("%+v", s)
	}
}

// The real process: what is read makes sense, moves the right way, and Start and Stop leave nothing behind.
func TestRealProcess(t *testing.T) {
	r := newReader()
	first := r.read()
	if first.used < 100<<10 || first.cores != runtime.GOMAXPROCS(0) || first.cpu <= 0 {
		t.Errorf("%+v", first)
	}
	ballast := make([]byte, 64<<20)
	for i := range ballast {
		ballast[i] = byte(i)
	}
	grown := r.read()
	if grown.used < first.used+60<<20 {
		t.Errorf("64 MiB allocated: used %d MiB to %d MiB", first.used>>20, grown.used>>20)
	}
	if grown.cpu <= first.cpu {
		t.Error("writing 64 MiB took no CPU time")
	}
	runtime.GC()
	live := r.read()
	if live.kept < 60<<20 || live.cycles <= first.cycles {
		t.Errorf("after a collection 64 MiB are live: kept %d MiB", live.kept>>20)
	}
	runtime.KeepAlive(ballast)
	runtime.GC()
	if dead := r.read(); dead.kept > live.kept-50<<20 {
		t.Errorf("64 MiB are garbage and collected: kept %d MiB, before %d MiB", dead.kept>>20, live.kept>>20)
	}

	m := Start(slog.New(slog.DiscardHandler), func() overload.Settings { return overload.Settings{MemoryBytes: 1, MemoryShare: 1} })
	for deadline := time.Now().Add(10 * time.Second); m.Shedding() == nil; runtime.Gosched() {
		if time.Now().After(deadline) {
			t.Fatal("a byte is enough for it")
		}
	}
	m.Stop()
	if m.Shedding() != nil {
		t.Error("stopped, and it still refuses")
	}
}

// The percentile is the end of the bucket in which it lies.
func TestPercentile(t *testing.T) {
	ends := []float64{math.Inf(-1), 0, 0.001, 0.01, math.Inf(1)}
	for _, c := range []struct {
		counts []uint64
		want   time.Duration
	}{
		{[]uint64{0, 0, 0, 0}, 0},
		{[]uint64{0, 95, 5, 0}, time.Millisecond},
		{[]uint64{0, 94, 6, 0}, 10 * time.Millisecond},
		{[]uint64{0, 0, 0, 1}, 10 * time.Millisecond},
		{[]uint64{7, 0, 0, 0}, 0},
	} {
		if got := percentile(c.counts, ends, 0.95); got != c.want {
			t.Errorf("%v: %v, want %v", c.counts, got, c.want)
		}
	}
}

// The container's limit is the least on the way up, in both versions of cgroups; no limit and no cgroup are 0.
func TestCgroupLimit(t *testing.T) {
	file := func(text string) *fstest.MapFile { return &fstest.MapFile{Data: []byte(text)} }
	for name, c := range map[string]struct {
		root fstest.MapFS
		want uint64
		from string
	}{
		"version 2, in a container": {fstest.MapFS{
			"proc/self/cgroup":         file("0::/\n"),
			"sys/fs/cgroup/memory.max": file("536870912\n"),
		}, 512 << 20, "/sys/fs/cgroup/memory.max"},
		"version 2, the parent is stricter": {fstest.MapFS{
			"proc/self/cgroup": file("0::/system.slice/trunkline.service\n"),
			"sys/fs/cgroup/system.slice/trunkline.service/memory.max": file("max\n"),
			"sys/fs/cgroup/system.slice/memory.max":                   file("1048576\n"),
		}, 1 << 20, "/sys/fs/cgroup/system.slice/memory.max"},
		"version 1, path outside of the mount": {fstest.MapFS{
			"proc/self/cgroup":                           file("9:cpu,cpuacct:/docker/x\n4:memory:/docker/x\n"),
			"sys/fs/cgroup/memory/memory.limit_in_bytes": file("268435456\n"),
		}, 256 << 20, "/sys/fs/cgroup/memory/memory.limit_in_bytes"},
		"version 1, no limit": {fstest.MapFS{
			"proc/self/cgroup":                           file("4:memory:/\n"),
			"sys/fs/cgroup/memory/memory.limit_in_bytes": file("9223372036854771712\n"),
		}, 0, ""},
		"garbage":    {fstest.MapFS{"proc/self/cgroup": file("0::../../../..\n:\nx"), "sys/fs/cgroup/memory.max": file("-5")}, 0, ""},
		"no cgroups": {fstest.MapFS{}, 0, ""},
	} {
		if got, from := cgroupLimit(c.root); got != c.want || from != c.from {
			t.Errorf("%s: %d from %q, want %d from %q", name, got, from, c.want, c.from)
		}
	}
}

func BenchmarkShedding(b *testing.B) {
	m := &Monitor{}
	b.ReportAllocs()
	for b.Loop() {
		if m.Shedding() != nil {
			b.Fatal()
		}
	}
}

func BenchmarkRead(b *testing.B) {
	r := newReader()
	b.ReportAllocs()
	for b.Loop() {
		r.read()
	}
}
