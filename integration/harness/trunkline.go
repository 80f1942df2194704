package harness

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// Trunkline is the product, built from this tree and run as a child.
type Trunkline struct {
	*Process
	Listen  string // address of the h2c listener
	Admin   string // address of the admin API
	Config  string // path of its config file; empty when it runs without one
	stopped bool
}

// StopLimit is how long a Trunkline may take to drain when its test is over and no stream is open.
const StopLimit = 10 * time.Second

// Start runs `trunkline serve -c FILE` and waits until it is ready. In the config text, LISTEN and ADMIN stand for
// the addresses that are chosen for it; env is more environment, as "KEY=value". When the test ends it is drained, and
// must then exit with status 0.
func Start(t testing.TB, config string, env ...string) *Trunkline {
	t.Helper()
	tr := &Trunkline{Listen: FreeAddr(t), Admin: FreeAddr(t), Config: filepath.Join(t.TempDir(), "trunkline.yaml")}
	tr.WriteConfig(t, config)
	tr.run(t, env, "serve", "-c", tr.Config)
	return tr
}

// StartWithoutConfig runs `trunkline serve` as a user does who has only a Consul: no file, its address in the
// environment. Only the two default ports are moved, by flags.
func StartWithoutConfig(t testing.TB, env ...string) *Trunkline {
	t.Helper()
	tr := &Trunkline{Listen: FreeAddr(t), Admin: FreeAddr(t)}
	tr.run(t, env, "serve", "--listen", tr.Listen, "--admin", tr.Admin)
	return tr
}

func (tr *Trunkline) run(t testing.TB, env []string, args ...string) {
	t.Helper()
	tr.Process = startProcess(t, "trunkline", env, append([]string{Binary(t)}, args...)...)
	t.Cleanup(func() { tr.Stop(t) })
	Eventually(t, 20*time.Second, "trunkline to be ready", func() bool {
		if tr.Exited() {
			t.Fatalf("trunkline %v ended before it was ready: %v", args, tr.cmd.ProcessState)
		}
		return tr.Ready()
	})
}

// Ready asks /readyz of the admin address.
func (tr *Trunkline) Ready() bool {
	code, _, err := tr.get("/readyz")
	return err == nil && code == http.StatusOK
}

// WriteConfig replaces the config file in one step, as an editor or a config map does.
func (tr *Trunkline) WriteConfig(t testing.TB, config string) {
	t.Helper()
	text := strings.NewReplacer("LISTEN", tr.Listen, "ADMIN", tr.Admin).Replace(config)
	if err := os.WriteFile(tr.Config+".new", []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(tr.Config+".new", tr.Config); err != nil {
		t.Fatal(err)
	}
}

// Stop drains Trunkline (SIGTERM) and checks that it leaves in time, with status 0 and without a race report.
// It is called at the end of the test; a second call does nothing.
func (tr *Trunkline) Stop(t testing.TB) {
	t.Helper()
	if tr.stopped {
		return
	}
	tr.stopped = true
	tr.Signal(t, syscall.SIGTERM)
	select {
	case <-tr.done:
	case <-time.After(StopLimit):
		t.Errorf("trunkline still runs %v after SIGTERM", StopLimit)
		tr.Signal(t, syscall.SIGQUIT) // its goroutines, for the log
		select {
		case <-tr.done:
		case <-time.After(2 * time.Second):
			tr.Kill()
		}
	}
	if code := tr.cmd.ProcessState.ExitCode(); code != 0 {
		t.Errorf("trunkline ended with %v, want status 0", tr.cmd.ProcessState)
	}
	failOnRace(t, "trunkline", tr.Output())
}

// Get fetches a path of the admin address and returns its body; any status but 200 fails the test.
func (tr *Trunkline) Get(t testing.TB, path string) string {
	t.Helper()
	code, body, err := tr.get(path)
	if err != nil || code != http.StatusOK {
		t.Fatalf("GET %s of the admin address: %d %v\n%s", path, code, err, body)
	}
	return body
}

func (tr *Trunkline) get(path string) (int, string, error) {
	client := &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Get("http://" + tr.Admin + path)
	if err != nil {
		return 0, "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return resp.StatusCode, string(body), err
}

// Metric is the sum of all samples of a Prometheus metric whose line holds every given label pair (key="value").
func (tr *Trunkline) Metric(t testing.TB, name string, labels ...string) float64 {
	t.Helper()
	sum := 0.0
lines:
	for line := range strings.Lines(tr.Get(t, "/metrics")) {
		if !strings.HasPrefix(line, name+"{") && !strings.HasPrefix(line, name+" ") {
			continue
		}
		for _, label := range labels {
			if !strings.Contains(line, label) {
				continue lines
			}
		}
		var v float64
		fields := strings.Fields(line[strings.LastIndexByte(line, '}')+1:])
		if len(fields) > 0 {
			fmt.Sscan(fields[len(fields)-1], &v) //nolint:errcheck // NaN counts as nothing
		}
		sum += v
	}
	return sum
}

// RSS is the child's resident memory in bytes.
func (p *Process) RSS(t testing.TB) int64 { return p.status(t, "VmRSS:") }

// PeakRSS is the most resident memory that the child ever had, in bytes.
func (p *Process) PeakRSS(t testing.TB) int64 { return p.status(t, "VmHWM:") }

func (p *Process) status(t testing.TB, key string) int64 {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.Pid()))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		var kib int64
		if rest, ok := strings.CutPrefix(line, key); ok {
			fmt.Sscan(rest, &kib) //nolint:errcheck // zero fails the caller's bounds
			return kib << 10
		}
	}
	t.Fatalf("no %s in /proc/%d/status", key, p.Pid())
	return 0
}

// built is the one Trunkline binary of this test process.
type built struct {
	once sync.Once
	dir  string
	path string
	err  error
}

// product is set up by the first test that needs it and removed by Main: one binary per test process is the point.
var product built

// Binary is the path of the trunkline command, built from this tree once per test process, with the race detector
// when the tests have it. TRUNKLINE_BINARY in the environment names a finished one to test instead.
func Binary(t testing.TB) string {
	t.Helper()
	if path := os.Getenv("TRUNKLINE_BINARY"); path != "" {
		return path
	}
	product.once.Do(func() { product.build() })
	if product.err != nil {
		t.Fatalf("build trunkline: %v", product.err)
	}
	return product.path
}

func (b *built) build() {
	if b.dir, b.err = os.MkdirTemp("", "trunkline-bin-"); b.err != nil {
		return
	}
	b.path = filepath.Join(b.dir, "trunkline")
	args := []string{"build", "-o", b.path}
	if Race {
		args = append(args, "-race")
	}
	// The test processes of several packages come here at once: the first fills the build cache, the others link.
	lock, err := os.OpenFile(filepath.Join(os.TempDir(), "trunkline-test-build.lock"), os.O_CREATE|os.O_RDWR, 0o666)
	if err != nil {
		b.err = err
		return
	}
	defer lock.Close() // and with it the lock
	if b.err = syscall.Flock(int(lock.Fd()), syscall.LOCK_EX); b.err != nil {
		return
	}
	cmd := exec.Command("go", append(args, ".")...)
	cmd.Dir = Root()
	if out, err := cmd.CombinedOutput(); err != nil {
		b.err = fmt.Errorf("go %s: %w\n%s", strings.Join(args, " "), err, out)
	}
}

// Root is the directory of the module.
func Root() string {
	_, file, _, _ := runtime.Caller(0)
	return filepath.Dir(filepath.Dir(filepath.Dir(file)))
}
