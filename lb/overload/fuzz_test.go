package overload

import (
	"testing"
	"testing/fstest"
)

// Whatever the kernel's files hold, reading them ends and gives a limit that a file named, or none.
func FuzzCgroup(f *testing.F) {
	f.Add("0::/a/b\n", "1048576\n")
	f.Add("4:cpu,memory:/docker/x\n0::/\n", "max")
	f.Add("0::../..\n::\n", "-1")
	f.Fuzz(func(t *testing.T, groups, limit string) {
		root := fstest.MapFS{
			"proc/self/cgroup":                           {Data: []byte(groups)},
			"sys/fs/cgroup/memory.max":                   {Data: []byte(limit)},
			"sys/fs/cgroup/memory/memory.limit_in_bytes": {Data: []byte(limit)},
		}
		if n, from := cgroupLimit(root); (n == 0) != (from == "") || n >= 1<<60 {
			t.Fatalf("%d from %q", n, from)
		}
	})
}
