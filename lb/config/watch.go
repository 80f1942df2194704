package config

import (
	"context"
	"fmt"
	"path/filepath"
	"time"

	"github.com/fsnotify/fsnotify"
	configv1 "github.com/trunkline/trunkline/proto/trunkline/config/v1"
)

// settle is how long the directory must be quiet before the file is read: editors and Kubernetes write in several steps.
// patience bounds it in a directory that never is.
const (
	settle   = 100 * time.Millisecond
	patience = 2 * time.Second
)

// Watcher reloads one config file when it changes and when asked to. Every reload is all or nothing: apply sees only
// configs without an error.
type Watcher struct {
	path   string
	apply  func(*configv1.Config, []Warning) error
	reject func(error)

	ask  chan struct{} // set once in NewWatcher; capacity 1
	last content       // what was read last; Load's, then Run's
}

// NewWatcher makes a Watcher for the file at path: call Load, then Run. apply is given each config that differs from the
// text before; its error means that the old one still holds. reject is told why a reload changed nothing (unreadable,
// Errors, or apply's error). Both are called from Run's goroutine, one at a time.
func NewWatcher(path string, apply func(*configv1.Config, []Warning) error, reject func(error)) *Watcher {
	return &Watcher{path: path, apply: apply, reject: reject, ask: make(chan struct{}, 1)}
}

// Load reads the config to begin with, as the package's Load does; apply is not called. Run reports what differs from it.
func (w *Watcher) Load() (*configv1.Config, []Warning, error) {
	w.last = w.read()
	if w.last.err != nil {
		return nil, nil, w.last.err
	}
	return Parse(w.path, w.last.data)
}

// Reload asks for a reload, also where the text is the same as before (SIGHUP). It does not wait for it.
func (w *Watcher) Reload() {
	select {
	case w.ask <- struct{}{}:
	default: // one is waiting already and will see what this one would
	}
}

// Run watches until ctx ends, then returns nil. It returns an error only where watching cannot begin; Reload then has no
// effect.
//
// It watches the directory and not the file: an editor that renames a new file into place, and Kubernetes, which swaps
// the symbolic link ..data beside it, would leave a watch on the file with the old one.
func (w *Watcher) Run(ctx context.Context) error {
	fs, err := fsnotify.NewWatcher()
	if err != nil {
		return fmt.Errorf("watching %s: %w", w.path, err)
	}
	defer fs.Close()
	if err := fs.Add(filepath.Dir(w.path)); err != nil {
		return fmt.Errorf("watching %s: %w", w.path, err)
	}
	w.follow(fs)
	quiet := time.NewTimer(settle) // at the start too: the file may have changed since Load
	defer quiet.Stop()
	var since time.Time // first event that has not been looked into; zero: none
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-w.ask:
			w.last = w.read()
			w.reload()
		case _, ok := <-fs.Events:
			if !ok {
				return nil
			}
			if since.IsZero() {
				since = time.Now()
			}
			quiet.Reset(min(settle, max(0, patience-time.Since(since))))
		case err, ok := <-fs.Errors: // events may be lost: look
			if !ok {
				return nil
			}
			w.reject(fmt.Errorf("watching %s: %w", w.path, err))
			quiet.Reset(settle)
		case <-quiet.C:
			since = time.Time{}
			w.follow(fs)
			// Any event in the directory leads here, so that links need no resolving; the text decides.
			if now := w.read(); now.differs(w.last) {
				w.last = now
				w.reload()
			}
		}
	}
}

// follow also watches where the path's symbolic links lead now. Watches of folders that are gone end by themselves.
func (w *Watcher) follow(fs *fsnotify.Watcher) {
	target, err := filepath.EvalSymlinks(w.path)
	if err != nil {
		return // not there now; its directory's watch tells when it is
	}
	_ = fs.Add(filepath.Dir(target)) // best effort, and SIGHUP remains
}

// content is what the file held at one moment.
type content struct {
	data []byte
	err  error
}

func (w *Watcher) read() content {
	data, err := readFile(w.path)
	return content{data, err}
}

func (c content) differs(d content) bool {
	return (c.err == nil) != (d.err == nil) || string(c.data) != string(d.data)
}

func (w *Watcher) reload() {
	if w.last.err != nil {
		w.reject(w.last.err)
		return
	}
	cfg, warnings, err := Parse(w.path, w.last.data)
	if err == nil {
		err = w.apply(cfg, warnings)
	}
	if err != nil {
		w.reject(err)
	}
}
