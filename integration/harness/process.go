// Package harness owns the real parts that the integration tests run against (a built Trunkline, Consul, Jaeger,
// gRPC backends and clients): it starts them on free loopback ports and stops them; it must not judge what they do.
package harness

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// Process is a child of the test: it is killed when the test process ends, even by a panic, and its output is shown
// when the test fails.
type Process struct {
	Name string
	cmd  *exec.Cmd
	log  logBuffer
	done chan struct{} // closed when the child was waited for
}

// environment is a child's: minimal, so that what the developer's shell exports (CONSUL_HTTP_ADDR, OTEL_*) cannot reach it.
func environment(t testing.TB, env []string) []string {
	t.Helper()
	return append([]string{
		"PATH=" + os.Getenv("PATH"), "HOME=" + t.TempDir(), "TMPDIR=" + os.TempDir(),
		"GORACE=atexit_sleep_ms=50", // a program with the race detector sleeps a second at its end by default
	}, env...)
}

// startProcess runs a program with more environment than the minimal one.
func startProcess(t testing.TB, name string, env []string, argv ...string) *Process {
	t.Helper()
	p := &Process{Name: name, done: make(chan struct{})}
	p.cmd = exec.Command(argv[0], argv[1:]...)
	p.cmd.Env = environment(t, env)
	p.cmd.Dir = t.TempDir()
	p.cmd.Stdout, p.cmd.Stderr = &p.log, &p.log
	// Pdeathsig fires when the thread that forked ends, so that thread stays locked here until the child is gone.
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	started := make(chan error)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := p.cmd.Start()
		started <- err
		if err == nil {
			p.cmd.Wait() //nolint:errcheck // the state is read from cmd.ProcessState
			close(p.done)
		}
	}()
	if err := <-started; err != nil {
		t.Fatalf("start %s: %v", name, err)
	}
	t.Cleanup(func() {
		p.Kill()
		if t.Failed() {
			t.Logf("---- output of %s (pid %d, %v)\n%s", p.Name, p.cmd.Process.Pid, p.cmd.ProcessState, p.log.tail(12<<10))
		}
	})
	return p
}

// Pid is the child's process id.
func (p *Process) Pid() int { return p.cmd.Process.Pid }

// Output is all that the child wrote so far, both streams.
func (p *Process) Output() string { return p.log.String() }

// Exited says whether the child has ended.
func (p *Process) Exited() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

// Signal sends a signal to the child; a child that has ended is no error.
func (p *Process) Signal(t testing.TB, sig syscall.Signal) {
	t.Helper()
	if err := p.cmd.Process.Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
		t.Fatalf("signal %v to %s: %v", sig, p.Name, err)
	}
}

// WaitExit waits for the child to end by itself and returns its exit status, -1 when a signal ended it.
func (p *Process) WaitExit(t testing.TB, limit time.Duration) int {
	t.Helper()
	select {
	case <-p.done:
		return p.cmd.ProcessState.ExitCode()
	case <-time.After(limit):
		t.Fatalf("%s (pid %d) still runs after %v", p.Name, p.Pid(), limit)
		return -1
	}
}

// Kill ends the child with SIGKILL and waits for it.
func (p *Process) Kill() {
	p.cmd.Process.Kill() //nolint:errcheck // it may have ended
	<-p.done
}

// Run runs a program to its end, with more environment than the minimal one, and returns its exit status and its output (stdout and stderr apart).
func Run(t testing.TB, limit time.Duration, env []string, argv ...string) (code int, stdout, stderr string) {
	t.Helper()
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Env = environment(t, env)
	cmd.Dir = t.TempDir()
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Start(); err != nil {
		t.Fatalf("run %v: %v", argv, err)
	}
	timer := time.AfterFunc(limit, func() { cmd.Process.Kill() }) //nolint:errcheck // it may have ended
	err := cmd.Wait()
	if !timer.Stop() {
		t.Fatalf("run %v: still running after %v\n%s%s", argv, limit, &out, &errs)
	}
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatalf("run %v: %v", argv, err)
	}
	failOnRace(t, argv[0], out.String()+errs.String())
	return cmd.ProcessState.ExitCode(), out.String(), errs.String()
}

// failOnRace fails the test when a child's output holds a race report or the trace of a crash.
func failOnRace(t testing.TB, name, output string) {
	t.Helper()
	for _, mark := range []string{"WARNING: DATA RACE", "\npanic: ", "\nfatal error: ", "[signal SIG"} {
		if i := strings.Index("\n"+output, mark); i >= 0 {
			t.Errorf("%s reported:\n%.8000s", name, ("\n" + output)[i:])
			return
		}
	}
}

// Eventually polls until the condition holds; it is for waiting on real processes only.
func Eventually(t testing.TB, limit time.Duration, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(limit)
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("waited %v in vain for: %s", limit, what)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// logBuffer keeps a child's output.
type logBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

// tail returns the end of the output, at most n bytes.
func (l *logBuffer) tail(n int) string {
	s := l.String()
	if len(s) > n {
		return "[...]" + s[len(s)-n:]
	}
	return s
}
