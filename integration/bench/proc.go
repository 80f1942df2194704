package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// cores returns the processors that this process may use.
func cores() ([]int, error) {
	var set unix.CPUSet
	if err := unix.SchedGetaffinity(0, &set); err != nil {
		return nil, err
	}
	var list []int
	for i := range 1024 {
		if set.IsSet(i) {
			list = append(list, i)
		}
	}
	return list, nil
}

func cpuSet(list []int) *unix.CPUSet {
	var set unix.CPUSet
	for _, c := range list {
		set.Set(c)
	}
	return &set
}

// pinSelf binds every thread of this process; threads and children to come inherit it.
func pinSelf(list []int) error {
	return eachThread(func(tid int) error { return unix.SchedSetaffinity(tid, cpuSet(list)) })
}

// niceSelf sets the niceness of every thread of this process, inherited likewise,
// and of its session's scheduling group: where the kernel groups by session,
// that is what counts against other sessions. restore undoes the latter.
func niceSelf(n int) (restore func(), err error) {
	const group = "/proc/self/autogroup" // "/autogroup-9 nice 0"
	restore = func() {}
	if b, err := os.ReadFile(group); err == nil {
		f := strings.Fields(string(b))
		if err := os.WriteFile(group, []byte(strconv.Itoa(n)), 0); err == nil && len(f) == 3 {
			restore = func() { _ = os.WriteFile(group, []byte(f[2]), 0) }
		}
	}
	return restore, eachThread(func(tid int) error { return unix.Setpriority(unix.PRIO_PROCESS, tid, n) })
}

func eachThread(do func(tid int) error) error {
	tasks, err := os.ReadDir("/proc/self/task")
	if err != nil {
		return err
	}
	for _, t := range tasks {
		if tid, err := strconv.Atoi(t.Name()); err == nil {
			if err := do(tid); err != nil && !errors.Is(err, unix.ESRCH) {
				return err
			}
		}
	}
	return nil
}

// oneAtATime waits until no other bench measures on this machine.
func oneAtATime(ctx context.Context) (unlock func(), err error) {
	path := filepath.Join(os.TempDir(), "trunkline-bench.lock")
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o666)
	if err != nil {
		return nil, err
	}
	for said := false; ; said = true {
		err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if err == nil {
			return func() { f.Close() }, nil
		}
		if err != syscall.EWOULDBLOCK {
			f.Close()
			return nil, err
		}
		if !said {
			fmt.Fprintln(os.Stderr, "waiting for another bench that holds", path)
		}
		if err := sleep(ctx, 200*time.Millisecond); err != nil {
			f.Close()
			return nil, err
		}
	}
}

// child is a process that was started here and is stopped here.
type child struct {
	cmd  *exec.Cmd
	log  string // path of its output
	done chan struct{}
}

// startChild runs a program bound to the given cores, its output in dir.
func startChild(dir, name string, on []int, path string, args ...string) (*child, error) {
	log, err := os.Create(filepath.Join(dir, name+".log"))
	if err != nil {
		return nil, err
	}
	defer log.Close()
	c := &child{cmd: exec.Command(path, args...), log: log.Name(), done: make(chan struct{})}
	c.cmd.Stdout, c.cmd.Stderr, c.cmd.Dir = log, log, dir
	// A group of its own: Ctrl-C reaches us alone, and we stop it in order.
	c.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	// The child inherits the affinity of the thread that forks it.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var before unix.CPUSet
	if err := unix.SchedGetaffinity(0, &before); err != nil {
		return nil, err
	}
	if err := unix.SchedSetaffinity(0, cpuSet(on)); err != nil {
		return nil, err
	}
	err = c.cmd.Start()
	if err2 := unix.SchedSetaffinity(0, &before); err == nil {
		err = err2
	}
	if err != nil {
		return nil, err
	}
	go func() {
		_ = c.cmd.Wait() // how it ended is of no interest: we ended it
		close(c.done)
	}()
	return c, nil
}

func (c *child) exited() bool {
	select {
	case <-c.done:
		return true
	default:
		return false
	}
}

// stop asks the process to end and, after a while, makes it and its workers end.
func (c *child) stop() {
	pid := c.cmd.Process.Pid
	tree := processTree(pid)
	_ = syscall.Kill(pid, syscall.SIGTERM)
	select {
	case <-c.done:
	case <-time.After(2 * time.Second):
		_ = syscall.Kill(pid, syscall.SIGKILL)
		<-c.done
	}
	for _, p := range tree[1:] {
		_ = syscall.Kill(p, syscall.SIGKILL) // a worker that outlived its master
	}
}

// tail returns the end of the child's output, for messages.
func (c *child) tail() string {
	b, err := os.ReadFile(c.log)
	if err != nil {
		return err.Error()
	}
	s := strings.TrimSpace(string(b))
	if len(s) > 600 {
		s = "..." + s[len(s)-600:]
	}
	return s
}

// processTree returns pid and its descendants.
func processTree(pid int) []int {
	tree := []int{pid}
	for i := 0; i < len(tree); i++ {
		tasks, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", tree[i]))
		for _, t := range tasks {
			b, _ := os.ReadFile(t)
			for _, f := range strings.Fields(string(b)) {
				if n, err := strconv.Atoi(f); err == nil {
					tree = append(tree, n)
				}
			}
		}
	}
	return tree
}

// usage is the processor time of some processes. total is exact (the process
// CPU clock, in nanoseconds); user and system are the kernel's split of it,
// sampled at its tick.
type usage struct{ total, user, system time.Duration }

func (u usage) since(v usage) usage {
	return usage{u.total - v.total, u.user - v.user, u.system - v.system}
}

func readUsage(pids []int) (usage, error) {
	var sum usage
	const tick = time.Second / 100 // USER_HZ
	for _, pid := range pids {
		var ts unix.Timespec
		// CPUCLOCK_SCHED of another process, as clock_getcpuclockid(3) makes it.
		if err := unix.ClockGettime(int32(^pid<<3|2), &ts); err != nil {
			return sum, fmt.Errorf("CPU clock of process %d: %w", pid, err)
		}
		sum.total += time.Duration(ts.Nano())
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil {
			return sum, err
		}
		// Fields after the command's name, which may hold spaces; 14 and 15 of the whole.
		f := strings.Fields(string(b[strings.LastIndexByte(string(b), ')')+1:]))
		user, err1 := strconv.Atoi(f[11])
		system, err2 := strconv.Atoi(f[12])
		if err1 != nil || err2 != nil {
			return sum, fmt.Errorf("/proc/%d/stat: cannot read the times", pid)
		}
		sum.user += time.Duration(user) * tick
		sum.system += time.Duration(system) * tick
	}
	return sum, nil
}

// memory returns a field of /proc/PID/status (VmRSS, VmHWM), summed, in bytes.
// Pages that processes share count in each.
func memory(pids []int, field string) (sum int64) {
	for _, pid := range pids {
		b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
		for line := range strings.Lines(string(b)) {
			if rest, ok := strings.CutPrefix(line, field+":"); ok {
				kb, _ := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(rest), " kB"), 10, 64)
				sum += kb << 10
			}
		}
	}
	return sum
}

// resetPeak makes VmHWM start anew, where the kernel allows it.
func resetPeak(pids []int) {
	for _, pid := range pids {
		_ = os.WriteFile(fmt.Sprintf("/proc/%d/clear_refs", pid), []byte("5"), 0)
	}
}
