// Package attacks owns the attacks on a live listener and what a well-behaved client notices of them; it must not reach into the
// product's packages.
//
// Four processes share the machine's cores: the product, an attacker and a stock grpc-go server (this test's binary, run again), and
// the test with a stock grpc-go client. SECURITY.md tells of each attack; a test here keeps it complete.
package attacks

import (
	"encoding/json"
	"flag"
	"fmt"
	"maps"
	"net"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"

	"github.com/trunkline/trunkline/integration/harness"
)

func TestMain(m *testing.M) {
	run := func(do func() error) {
		if err := do(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	if text := os.Getenv(orderKey); text != "" {
		run(func() error { return attackAsOrdered(text) })
	}
	if os.Getenv(backendKey) != "" {
		run(serveAsBackend)
	}
	flag.Parse()
	// Only attacks that wait more than they work run beside others, and none where figures are measured.
	beside := "4"
	if *update {
		beside = "1"
	}
	if err := flag.Set("test.parallel", beside); err != nil {
		panic(err)
	}
	harness.Main(m)
}

// The bounds that hold for every attack that does not name its own.
const (
	mebibyte = 1 << 20

	// rate is the calls per second of the well-behaved client.
	rate = 200
	// slower is how many times its p99 without the attack its p99 under attack may be.
	slower = 5
	// floor is what the p99 without the attack counts for at least: on two cores that three processes (and, on a shared machine,
	// strangers) share, what is below it is the scheduler's mood. So the bound is never below slower*floor = 25 ms.
	floor = 5 * time.Millisecond
	// long is how long each attack lasts when SECURITY.md's figures are measured: twenty of the client's calls may be slow then, not three. And
	// then there is no floor.
	long = 8 * time.Second
	// memory is the most resident memory that the product may ever have: about 45 MiB of it are there without any load.
	memory = 192 * mebibyte
	// tries is how often a p99 above the bound is measured, as long as all attacks together have taken less than more for it.
	tries = 4
	more  = 90 * time.Second
	// moreFigures is more where figures are measured: nobody waits then.
	moreFigures = 10 * time.Minute
	// longer is how long an attack lasts that is measured again: of a short one three slow calls make the p99, and so one bad moment of the machine.
	longer = 6 * time.Second
	// busy is the share of the machine that processes of strangers may have while a p99 is measured that counts against the product: a
	// quarter of a core of two. If they had more in each try, the test says that it cannot tell.
	busy = 0.125
)

// raced are the attacks that are made with the race detector, too.
var raced = []string{
	"stream_flood", "made_you_reset_trailers", "hpack_many_fields", "settings_window_flap", "ping_flood_unread", "socket_never_read", "slow_headers",
	"tls_rapid_reset", "connection_flood", "unknown_method_flood",
}

// attack is one entry of the table.
type attack struct {
	name    string // of the subtest
	story   string // one sentence
	cve     string // "" for none
	defence string // what is done about it, for SECURITY.md
	limit   string // YAML of limits, beside the defaults
	tls     bool   // the listener speaks TLS 1.2 and 1.3
	proxy   bool   // the listener believes a PROXY header from 127.0.0.77

	workers  int                // connections at a time. Default: 4
	lasts    time.Duration      // Default: 1.5s
	again    time.Duration      // from the end of one connection to the next. Default: 5ms
	patience time.Duration      // a connection that is older when the attack ends should have been ended. Default: 1.2s
	quiet    bool               // it works so little that others may be measured beside it
	alone    bool               // it may keep new clients from being served: the well-behaved one stays with its connection
	memory   int64              // bytes. Default: memory
	from     func(w int) net.IP // address of a worker. Default: 127.0.0.66
	life     func(v *villain)   // of one connection
	ending   ending
	check    func(t *testing.T, s *seen) // more; may be nil
}

// ending is how the attacker's connections must end.
type ending struct {
	codes []string // GOAWAY with one of these codes ...
	says  []string // ... and a sentence that has one of these words, in any case
	shut  bool     // closed without GOAWAY is good, too: there is no HTTP/2 yet, or nobody reads
	none  bool     // they need not be ended: each call is answered, or the attacker leaves by itself
}

func calm(says ...string) ending {
	return ending{codes: []string{"ENHANCE_YOUR_CALM"}, says: says}
}

// breach is for what breaks the protocol.
func breach(code string, says ...string) ending {
	return ending{codes: []string{code}, says: says}
}

// attacks is the table.
func attacks() []attack {
	var all []attack
	for _, some := range [][]attack{streamAttacks(), resetAttacks(), headerAttacks(), frameAttacks(), stallAttacks(), slowAttacks(), tlsAttacks(), connectionAttacks(), callAttacks()} {
		all = append(all, some...)
	}
	for i := range all {
		a := &all[i]
		a.workers = max(a.workers, 1)
		if a.lasts == 0 {
			a.lasts = 1500 * time.Millisecond
		}
		if a.again == 0 {
			a.again = 5 * time.Millisecond
		}
		if a.patience == 0 {
			a.patience = 1200 * time.Millisecond
		}
		if a.memory == 0 {
			a.memory = memory
		}
		if *update {
			a.lasts = max(a.lasts, long)
		}
		if harness.Race {
			a.memory *= 6 // shadow memory
			a.lasts, a.patience = a.lasts+time.Second/2, a.patience+time.Second/2
		}
	}
	return all
}

// Each attack: the well-behaved client has no failed call and about the latency it had before, memory stays bounded, and the
// attacker is sent away with a reason.
func TestAttacks(t *testing.T) {
	var figures table
	var again allowance
	t.Cleanup(func() { figures.report(t) })
	backend := startBackend(t)
	for _, a := range attacks() {
		t.Run(a.name, func(t *testing.T) {
			if a.quiet {
				t.Parallel()
			}
			if harness.Race && !slices.Contains(raced, a.name) {
				t.Skip("with the race detector one of each kind is enough: neither latency nor patience is judged then")
			}
			figures.add(a.run(t, backend, &again))
		})
	}
}

// run measures an attack, again if the client was slow.
func (a *attack) run(t *testing.T, backend *backend, again *allowance) row {
	var r row
	judged := 0
	for try := 1; ; try++ {
		r = a.measure(t, backend)
		if harness.Race || t.Failed() || r.slow() <= slower {
			break
		}
		if r.strangers <= busy {
			judged++
		}
		t.Logf("try %d: p99 %v without the attack, %v under attack; strangers had %.0f%% of the machine; %s", try, r.before, r.under, 100*r.strangers, r.spells)
		if try == tries || !again.left() {
			break
		}
		if try == 1 {
			defer func(began time.Time) { again.took(time.Since(began)) }(time.Now())
		}
		awaitQuiet(5 * time.Second)
		a.lasts = max(a.lasts, longer)
	}
	t.Logf("%s\n%v\n  %s", &r, r.seen, r.spells)
	switch {
	case harness.Race || r.slow() <= slower:
	case judged == 0:
		t.Logf("strangers had more than %.0f%% of the machine in each try: the client's latency says nothing about the product", 100*busy)
	default:
		t.Errorf("the client's p99 is %v under attack, %v without: above %d times %v, in %d tries of which %d were undisturbed", r.under, r.before, slower, r.calm(), tries, judged)
	}
	return r
}

func (a *attack) measure(t *testing.T, backend *backend) row {
	listener, ca, dial := "", "", []grpc.DialOption(nil)
	if a.tls {
		pair := newPair(t)
		listener = fmt.Sprintf(", tls: { certFile: %s, keyFile: %s }", pair.cert, pair.key)
		ca, dial = pair.ca, []grpc.DialOption{grpc.WithTransportCredentials(pair.credentials(t))}
	}
	if a.proxy {
		listener += `, proxyProtocol: { trusted: ["127.0.0.77"] }`
	}
	trunkline := harness.Start(t, fmt.Sprintf(`
listeners: [ { address: LISTEN%s } ]
admin: { address: ADMIN }
discovery:
  static:
    clusters:
      - { name: backends, endpoints: [ { address: %s } ], grpcServices: [ %s ] }
limits: { %s }
`, listener, backend.addr, harness.Service, a.limit))
	defer trunkline.Stop(t)
	began := spending(trunkline.Pid(), backend.pid)
	old := harness.Dial(t, trunkline.Listen, dial...)
	young := harness.Dial(t, trunkline.Listen, dial...) // connects amid the attack
	if a.alone {
		young = old
	}
	beginLoad(old, old, 100*time.Millisecond).stop() // connections are made, tables are warm
	before := &load{}
	if !harness.Race { // its latencies are not judged
		calm := 600 * time.Millisecond
		if *update {
			calm = a.lasts * 2 / 5
		}
		before = beginLoad(old, old, 0).after(calm)
	}

	text, err := json.Marshal(order{Attack: a.name, Addr: trunkline.Listen, CA: ca, Lasts: a.lasts})
	if err != nil {
		t.Fatal(err)
	}
	me, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	spent := cpu(trunkline.Pid())
	load := beginLoad(old, young, a.lasts/2)
	code, stdout, stderr := harness.Run(t, a.lasts+30*time.Second, []string{orderKey + "=" + string(text)}, me)
	under := load.stop()
	r := row{attack: a, before: before.p99(), under: under.p99(), spells: under.spells(), calls: before.calls() + under.calls(), failed: before.failed() + under.failed(), peak: trunkline.PeakRSS(t), seen: &seen{}, cpu: cpu(trunkline.Pid()) - spent}
	r.strangers = spending(trunkline.Pid(), backend.pid).strangers(began)
	if code != 0 {
		t.Fatalf("the attacker ended with status %d:\n%s", code, stderr)
	}
	if err := json.Unmarshal([]byte(stdout), r.seen); err != nil {
		t.Fatalf("the attacker said: %v\n%.2000s", err, stdout)
	}
	a.judge(t, &r, under)
	return r
}

// judge fails the test for everything but latency.
func (a *attack) judge(t *testing.T, r *row, under *load) {
	t.Helper()
	s := r.seen
	if r.failed > 0 {
		t.Errorf("%d of the well-behaved client's %d calls failed, the first: %v", r.failed, r.calls, under.first())
	}
	if want := int(rate * a.lasts.Seconds() * 0.7); under.calls() < want {
		t.Errorf("the well-behaved client made only %d calls under attack, want %d at least: that proves nothing", under.calls(), want)
	}
	if r.peak > a.memory {
		t.Errorf("the product had %d MiB, want at most %d", r.peak/mebibyte, a.memory/mebibyte)
	}
	if s.Opened == 0 || s.Sent == 0 && !a.ending.shut && !a.ending.none {
		t.Errorf("the attacker did not attack: %v", s)
	}
	if s.Hanging > 0 {
		t.Errorf("%d connections got a GOAWAY and were still open %v later", s.Hanging, closing)
	}
	for text := range s.GoAway {
		code, sentence, _ := strings.Cut(text, ": ")
		// What says is about the first connections; a budget may be met before, and those that follow hear that they are not welcome.
		budget := contains(sentence, []string{"limits.abuse.", "cut off for abuse"})
		if !contains(code, a.ending.codes) || !budget && !contains(sentence, a.ending.says) || strings.Count(sentence, " ") < 2 {
			t.Errorf("GOAWAY %q, want one of %q and a sentence that has one of %q", text, a.ending.codes, a.ending.says)
		}
	}
	// Calls that are answered, each with a refusal, keep to the limit of streams: that is a defence, too.
	if answered := len(s.Status) > 0 && a.name == "stream_flood"; !a.ending.none && !answered && !harness.Race { // with the race detector no patience is long enough
		// Where strangers have the machine an attacker may not have come to its point by then.
		// Nor may one that had to wait before it was let in: its address was known by then.
		if s.Spared > s.ByGoAway()+s.Closed && (r.strangers < 0.5 || s.ByGoAway()+s.Closed == 0) {
			t.Errorf("%d connections went on for more than %v", s.Spared, a.patience)
		}
		// Of an address that is known for abuse some are told, the others just closed.
		if !a.ending.shut && s.Closed > 0 && s.ByGoAway() == 0 {
			t.Errorf("%d connections were closed without a GOAWAY", s.Closed)
		}
		if ended := s.ByGoAway() + s.Closed; ended == 0 {
			t.Error("no connection of the attacker's was ended")
		}
	}
	if a.check != nil {
		a.check(t, s)
	}
}

func contains(text string, words []string) bool {
	for _, w := range words {
		if strings.Contains(strings.ToLower(text), strings.ToLower(w)) {
			return true
		}
	}
	return len(words) == 0
}

// row is an attack's figures.
type row struct {
	attack        *attack
	calls, failed int
	before, under time.Duration // p99
	spells        string        // when calls under attack were slow
	peak          int64
	cpu           time.Duration // of the product, during the attack
	strangers     float64       // share of the machine
	seen          *seen
}

// calm is what the p99 without the attack counts for.
func (r *row) calm() time.Duration {
	if *update {
		return r.before
	}
	return max(floor, r.before)
}

// slow is how many times slower the client was.
func (r *row) slow() float64 { return float64(r.under) / float64(r.calm()) }

// ended is "opened, ended by GOAWAY, otherwise".
func (r *row) ended() string {
	return fmt.Sprintf("%d/%d/%d", r.seen.Opened, r.seen.ByGoAway(), r.seen.Closed)
}

func (r *row) String() string {
	return fmt.Sprintf("%-32s %6d %6d %9s %9s %5d MiB %5.2f s %6.0f%% %18s", r.attack.name, r.calls, r.failed, ms(r.before), ms(r.under), r.peak/mebibyte, r.cpu.Seconds(), 100*r.strangers, r.ended())
}

func ms(d time.Duration) string { return fmt.Sprintf("%.1f ms", float64(d)/float64(time.Millisecond)) }

// allowance is what measuring again has taken.
type allowance struct{ spent atomic.Int64 }

func (a *allowance) left() bool {
	most := more
	if *update {
		most = moreFigures
	}
	return time.Duration(a.spent.Load()) < most
}

func (a *allowance) took(d time.Duration) { a.spent.Add(int64(d)) }

// table collects rows.
type table struct {
	mu   sync.Mutex
	rows []row
}

func (f *table) add(r row) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.rows = append(f.rows, r)
}

func (f *table) report(t *testing.T) {
	f.mu.Lock()
	defer f.mu.Unlock()
	var b strings.Builder
	fmt.Fprintf(&b, "%d cores, %s\n%-32s %6s %6s %9s %9s %9s %7s %7s %18s\n", runtime.NumCPU(), runtime.Version(), "attack", "calls", "failed", "p99", "attacked", "peak RSS", "CPU", "others", "conns/goaway/other")
	for _, r := range f.rows {
		fmt.Fprintln(&b, &r)
	}
	t.Log(b.String())
	if *update {
		f.write(t)
	}
}

// String is what the attacker saw, in a few lines.
func (s *seen) String() string {
	return fmt.Sprintf("opened %d (at once %d), not even made %d, closed %d, hanging %d, left %d, open at the end %d (too long %d), %.1f MiB sent, slowest goodbye %v\n  GOAWAY %s\n  RST_STREAM %s\n  answers %s\n  errors %v",
		s.Opened, s.Welcome, s.Refused, s.Closed, s.Hanging, s.Left, s.Cut, s.Spared, float64(s.Sent)/mebibyte, s.Goodbye.Round(time.Millisecond), list(s.GoAway), list(s.Resets), list(s.Status), s.Errors)
}

func list(counts map[string]int) string {
	var b strings.Builder
	for i, text := range slices.Sorted(maps.Keys(counts)) {
		if i == 6 {
			fmt.Fprintf(&b, " and %d more", len(counts)-i)
			break
		}
		fmt.Fprintf(&b, " [%d %.160s]", counts[text], text)
	}
	return b.String()
}
