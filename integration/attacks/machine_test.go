package attacks

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// tick is what /proc counts processor time in (USER_HZ).
const tick = 10 * time.Millisecond

// spent is processor time.
type spent struct {
	machine  time.Duration // in programs, their system calls, and at other machines on this host
	possible time.Duration
	ours     time.Duration // of machine: in this process, in its children that have ended, and in some that have not
}

// spending reads what has been spent so far; the processes are children that go on.
func spending(pids ...int) (s spent) {
	text, _ := os.ReadFile("/proc/stat") // where there is none, nothing is found to be busy
	line, _, _ := strings.Cut(string(text), "\n")
	for i, f := range strings.Fields(line) {
		n, _ := strconv.ParseInt(f, 10, 64)
		d := time.Duration(n) * tick
		switch i {
		case 1, 2, 3, 8: // user, nice, system, stolen
			s.machine += d
			s.possible += d
		case 4, 5, 6, 7: // idle, waiting, interrupts (the loopback network's, too)
			s.possible += d
		}
	}
	for _, who := range []int{syscall.RUSAGE_SELF, syscall.RUSAGE_CHILDREN} {
		var u syscall.Rusage
		if syscall.Getrusage(who, &u) == nil {
			s.ours += time.Duration(u.Utime.Nano() + u.Stime.Nano())
		}
	}
	for _, pid := range pids {
		s.ours += cpu(pid)
	}
	return s
}

// cpu is the processor time that a process has taken.
func cpu(pid int) time.Duration {
	text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid)) // a process that is gone fails elsewhere
	_, rest, _ := strings.Cut(string(text), ") ")
	var user, system int64
	if f := strings.Fields(rest); len(f) > 12 {
		user, _ = strconv.ParseInt(f[11], 10, 64)
		system, _ = strconv.ParseInt(f[12], 10, 64)
	}
	return time.Duration(user+system) * tick
}

// strangers is the share of the machine, since before, that went to processes which are none of ours.
func (s spent) strangers(before spent) float64 {
	possible := s.possible - before.possible
	if possible <= 0 {
		return 0
	}
	return float64((s.machine-before.machine)-(s.ours-before.ours)) / float64(possible)
}

// awaitQuiet waits a little for strangers to let go of the machine.
func awaitQuiet(limit time.Duration) {
	for until := time.Now().Add(limit); time.Now().Before(until); {
		before := spending()
		time.Sleep(500 * time.Millisecond)
		if spending().strangers(before) < busy/2 {
			return
		}
	}
}
