package overload

import (
	"io/fs"
	"math"
	"path"
	"runtime/debug"
	"strconv"
	"strings"
)

// memoryLimit is what the process may use where the config does not say: the runtime's own limit (GOMEMLIMIT), else the
// cgroup's, else 0. root is the file system's root.
func memoryLimit(root fs.FS) (bytes uint64, from string) {
	if n := debug.SetMemoryLimit(-1); n > 0 && n < math.MaxInt64 { // a negative argument only asks
		return uint64(n), "GOMEMLIMIT"
	}
	return cgroupLimit(root)
}

// cgroupLimit is the least limit of the process' cgroup and of those above it. Version 2: memory.max
// (https://docs.kernel.org/admin-guide/cgroup-v2.html); version 1: memory.limit_in_bytes
// (https://docs.kernel.org/admin-guide/cgroup-v1/memory.html). In a container the path that /proc names may lie outside of
// what is mounted; then the mount's root is the container's own group.
func cgroupLimit(root fs.FS) (bytes uint64, from string) {
	text, err := fs.ReadFile(root, "proc/self/cgroup")
	if err != nil {
		return 0, ""
	}
	for line := range strings.Lines(string(text)) {
		// hierarchy-ID:controller-list:cgroup-path
		parts := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(parts) < 3 {
			continue
		}
		var base, file string
		switch {
		case parts[0] == "0" && parts[1] == "":
			base, file = "sys/fs/cgroup", "memory.max"
		case contains(parts[1], "memory"):
			base, file = "sys/fs/cgroup/memory", "memory.limit_in_bytes"
		default:
			continue
		}
		for at := path.Clean("/" + parts[2]); ; at = path.Dir(at) {
			name := path.Join(base, at, file)
			if n := readLimit(root, name); n > 0 && (bytes == 0 || n < bytes) {
				bytes, from = n, "/"+name
			}
			if at == "/" {
				break
			}
		}
	}
	return bytes, from
}

func contains(list, word string) bool {
	for item := range strings.SplitSeq(list, ",") {
		if item == word {
			return true
		}
	}
	return false
}

// readLimit is 0 where there is no file, no number ("max") or no limit (version 1: nearly 2^63).
func readLimit(root fs.FS, name string) uint64 {
	text, err := fs.ReadFile(root, name)
	if err != nil {
		return 0
	}
	n, err := strconv.ParseUint(strings.TrimSpace(string(text)), 10, 64)
	if err != nil || n >= 1<<60 {
		return 0
	}
	return n
}
