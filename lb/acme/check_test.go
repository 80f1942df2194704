package acme

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"

	configv1 "github.com/trunkline/trunkline/proto/trunkline/config/v1"
)

const nobody = 65534

// asNobody runs f, on a thread of its own, as a user whom permissions stop; where the tests' user is none of those, as nobody.
func asNobody(t *testing.T, f func()) {
	t.Helper()
	if os.Geteuid() != 0 {
		f()
		return
	}
	done := make(chan unix.Errno)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine
		_, _, err := unix.RawSyscall(unix.SYS_SETRESUID, 0, nobody, 0)
		if err == 0 {
			f()
		}
		done <- err
	}()
	if err := <-done; err != 0 {
		t.Skip("the tests may not become another user: ", err)
	}
}

// tree is what there is below a folder: names, modes, owners.
func tree(t *testing.T, dir string) (all string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrPermission) {
			return nil // what is shut was seen before it was opened
		}
		if err != nil {
			return err
		}
		var st unix.Stat_t
		err = unix.Lstat(path, &st)
		all += fmt.Sprintln(path, st.Mode, st.Uid, st.Mtim)
		return err
	})
	if err != nil {
		t.Error(err)
	}
	return all
}

// What the check says of a folder is what opening it says afterwards, in the same words, and the check leaves it alone.
func TestWhetherTheStorageCanBeUsedIsForetoldWithoutTouchingIt(t *testing.T) {
	const storage = "state/acme"
	for what, c := range map[string]struct {
		make    func(t *testing.T, at string) error
		refused bool
	}{
		"nothing is there": {func(*testing.T, string) error { return nil }, false},
		"it is there":      {func(_ *testing.T, at string) error { return os.MkdirAll(filepath.Join(at, storage), 0o755) }, false},
		"it is shut for writing": {func(_ *testing.T, at string) error {
			_ = os.Mkdir(filepath.Join(at, "state"), 0o755)
			return os.Mkdir(filepath.Join(at, storage), 0o500)
		}, true},
		"it was used before":             {func(_ *testing.T, at string) error { return os.MkdirAll(filepath.Join(at, storage, "locks"), 0o700) }, false},
		"its parent is shut for writing": {func(_ *testing.T, at string) error { return os.Mkdir(filepath.Join(at, "state"), 0o500) }, true},
		"its parent is shut":             {func(_ *testing.T, at string) error { return os.Mkdir(filepath.Join(at, "state"), 0) }, true},
		"a file is in its place": {func(_ *testing.T, at string) error {
			_ = os.Mkdir(filepath.Join(at, "state"), 0o755)
			return os.WriteFile(filepath.Join(at, storage), nil, 0o600)
		}, true},
		"a file is above it":   {func(_ *testing.T, at string) error { return os.WriteFile(filepath.Join(at, "state"), nil, 0o600) }, true},
		"a link leads nowhere": {func(_ *testing.T, at string) error { return os.Symlink("nowhere", filepath.Join(at, "state")) }, true},
		"it is another's": {func(t *testing.T, at string) error {
			if os.Geteuid() != 0 {
				t.Skip("only root can make it so")
			}
			return os.MkdirAll(filepath.Join(at, storage, "locks"), 0o777)
		}, true},
	} {
		t.Run(what, func(t *testing.T) {
			at := t.TempDir()
			if err := os.Chmod(filepath.Dir(at), 0o755); err != nil { // testing's own
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = os.Chmod(filepath.Join(at, "state"), 0o700) })
			if err := c.make(t, at); err != nil {
				t.Fatal(err)
			}
			if os.Geteuid() == 0 && what != "it is another's" {
				err := filepath.WalkDir(at, func(path string, _ fs.DirEntry, err error) error {
					if err == nil {
						err = os.Lchown(path, nobody, nobody)
					}
					return err
				})
				if err != nil {
					t.Fatal(err)
				}
			}
			before := tree(t, at)
			var told []error
			var opened error
			asNobody(t, func() {
				told = Check(Options{Acme: &configv1.Acme{}, StateDir: filepath.Join(at, "state"), Path: "acme"})
			})
			if after := tree(t, at); after != before {
				t.Errorf("the check changed something: before\n%safter\n%s", before, after)
			}
			asNobody(t, func() { _, opened = openStore(filepath.Join(at, storage)) })
			want := "[]"
			if opened != nil {
				want = "[acme.storageDir: " + opened.Error() + "]"
			}
			if fmt.Sprint(told) != want || (opened != nil) != c.refused {
				t.Errorf("the check says %v; then %v", told, opened)
			}
		})
	}
}
