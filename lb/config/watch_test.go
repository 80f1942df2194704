package config

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
	"time"

	configv1 "github.com/trunkline/trunkline/proto/trunkline/config/v1"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// watched is a running Watcher and what it called.
type watched struct {
	*Watcher
	applied  chan string // the log level of each config
	rejected chan error
}

// watch runs a Watcher on path until the test ends. Configs differ by their log level.
func watch(t *testing.T, path string) watched {
	t.Helper()
	w := watched{applied: make(chan string, 16), rejected: make(chan error, 16)}
	w.Watcher = NewWatcher(path,
		func(cfg *configv1.Config, _ []Warning) error { w.applied <- cfg.Log.Level; return nil },
		func(err error) { w.rejected <- err })
	if _, _, err := w.Load(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- w.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return w
}

// get waits for the next value; the time is only there so that a failure ends.
func get[T any](t *testing.T, c chan T) T {
	t.Helper()
	select {
	case v := <-c:
		return v
	case <-time.After(20 * time.Second):
		t.Fatal("nothing was reported")
		panic("unreachable")
	}
}

func write(t *testing.T, path, level string) {
	t.Helper()
	if err := os.WriteFile(path, []byte("log: { level: "+level+" }\n"), 0o644); err != nil {
		t.Fatal(err)
	}
}

func TestAWrittenFileIsApplied(t *testing.T) {
	path := filepath.Join(t.TempDir(), "trunkline.yaml")
	write(t, path, "info")
	w := watch(t, path)
	write(t, path, "debug")
	if got := get(t, w.applied); got != "debug" {
		t.Errorf("applied %q", got)
	}
}

func TestAFileRenamedIntoPlaceIsApplied(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "trunkline.yaml")
	write(t, path, "info")
	w := watch(t, path)
	for _, level := range []string{"debug", "warn"} { // twice: the first must not take the watch with it
		write(t, filepath.Join(dir, ".trunkline.yaml.swp"), level)
		if err := os.Rename(filepath.Join(dir, ".trunkline.yaml.swp"), path); err != nil {
			t.Fatal(err)
		}
		if got := get(t, w.applied); got != level {
			t.Errorf("applied %q, want %q", got, level)
		}
	}
}

// Kubernetes mounts a ConfigMap as trunkline.yaml -> ..data/trunkline.yaml, ..data -> ..2026_1, and swaps ..data.
func TestAKubernetesConfigMapSwapIsApplied(t *testing.T) {
	dir := t.TempDir()
	put := func(version, level string) {
		if err := os.Mkdir(filepath.Join(dir, version), 0o755); err != nil {
			t.Fatal(err)
		}
		write(t, filepath.Join(dir, version, "trunkline.yaml"), level)
		if err := os.Symlink(version, filepath.Join(dir, "..data_tmp")); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(filepath.Join(dir, "..data_tmp"), filepath.Join(dir, "..data")); err != nil {
			t.Fatal(err)
		}
	}
	put("..2026_1", "info")
	path := filepath.Join(dir, "trunkline.yaml")
	if err := os.Symlink("..data/trunkline.yaml", path); err != nil {
		t.Fatal(err)
	}
	w := watch(t, path)
	put("..2026_2", "debug")
	if got := get(t, w.applied); got != "debug" {
		t.Errorf("applied %q", got)
	}
	if err := os.RemoveAll(filepath.Join(dir, "..2026_1")); err != nil {
		t.Fatal(err)
	}
	put("..2026_3", "error")
	if got := get(t, w.applied); got != "error" {
		t.Errorf("applied %q", got)
	}
}

func TestALinkIntoAnotherFolderIsFollowed(t *testing.T) {
	target := filepath.Join(t.TempDir(), "real.yaml")
	write(t, target, "info")
	path := filepath.Join(t.TempDir(), "trunkline.yaml")
	if err := os.Symlink(target, path); err != nil {
		t.Fatal(err)
	}
	w := watch(t, path)
	write(t, target, "warn")
	if got := get(t, w.applied); got != "warn" {
		t.Errorf("applied %q", got)
	}
}

func TestAWrongFileIsRejectedAndTheNextRightOneApplied(t *testing.T) {
	path := filepath.Join(t.TempDir(), "trunkline.yaml")
	write(t, path, "info")
	w := watch(t, path)
	write(t, path, "loud")
	if err := get(t, w.rejected); !IsProblem(err) {
		t.Errorf("rejected with %v, want the file's problems", err)
	}
	write(t, path, "warn")
	if got := get(t, w.applied); got != "warn" {
		t.Errorf("applied %q; the wrong one must not be", got)
	}
}

func TestAVanishedFileIsRejected(t *testing.T) {
	path := filepath.Join(t.TempDir(), "trunkline.yaml")
	write(t, path, "info")
	w := watch(t, path)
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if err := get(t, w.rejected); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("rejected with %v", err)
	}
}

func TestReloadAppliesAnUnchangedFileAgain(t *testing.T) {
	path := filepath.Join(t.TempDir(), "trunkline.yaml")
	write(t, path, "info")
	w := watch(t, path)
	w.Reload()
	if got := get(t, w.applied); got != "info" {
		t.Errorf("applied %q", got)
	}
}

func TestAChangeBetweenLoadAndRunIsSeen(t *testing.T) {
	path := filepath.Join(t.TempDir(), "trunkline.yaml")
	write(t, path, "info")
	applied := make(chan string, 1)
	w := NewWatcher(path, func(cfg *configv1.Config, _ []Warning) error { applied <- cfg.Log.Level; return nil }, func(error) {})
	if _, _, err := w.Load(); err != nil {
		t.Fatal(err)
	}
	write(t, path, "debug")
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- w.Run(ctx) }()
	if got := get(t, applied); got != "debug" {
		t.Errorf("applied %q", got)
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}
