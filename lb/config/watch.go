package config

import (
	"context"
	"fmt"

	lbfiles "github.com/trunkline/trunkline/lb/files"
	configv1 "github.com/trunkline/trunkline/proto/trunkline/config/v1"
)

// Watcher reloads one config file when it changes and when asked to. Every reload is all or nothing: apply sees only
// configs without an error.
type Watcher struct {
	path   string
	apply  func(*configv1.Config, []Warning) error
	reject func(error)

	ask  chan struct{} // set once in NewWatcher; capacity 1
	seen lbfiles.Seen  // what was read last; Load's, then Run's
}

// NewWatcher makes a Watcher for the file at path: call Load, then Run. apply is given each config that differs from the
// text before; its error means that the old one still holds. reject is told why a reload changed nothing (unreadable,
// Errors, or apply's error). Both are called from Run's goroutine, one at a time.
func NewWatcher(path string, apply func(*configv1.Config, []Warning) error, reject func(error)) *Watcher {
	return &Watcher{path: path, apply: apply, reject: reject, ask: make(chan struct{}, 1)}
}

// Load reads the config to begin with, as the package's Load does; apply is not called. Run reports what differs from it.
func (w *Watcher) Load() (*configv1.Config, []Warning, error) {
	data, err := readFile(w.path)
	w.seen.News(data, err)
	if err != nil {
		return nil, nil, err
	}
	return Parse(w.path, data)
}

// Reload asks for a reload, also where the text is the same as before (SIGHUP). It does not wait for it.
func (w *Watcher) Reload() {
	select {
	case w.ask <- struct{}{}:
	default: // one is waiting already and will see what this one would
	}
}

// Run watches until ctx ends, then returns nil. It returns an error only where watching cannot begin; Reload then has no
// effect. Nobody looks without an event: file systems that tell nothing have SIGHUP.
func (w *Watcher) Run(ctx context.Context) error {
	watching := func(err error) error { return fmt.Errorf("watching %s: %w", w.path, err) }
	err := lbfiles.Follow(ctx, []string{w.path}, lbfiles.Options{Ask: w.ask, Lost: func(err error) { w.reject(watching(err)) }}, func(asked bool) {
		data, err := readFile(w.path)
		if news := w.seen.News(data, err); !news && !asked {
			return
		}
		if err == nil {
			err = w.take(data)
		}
		if err != nil {
			w.reject(err)
		}
	})
	if err != nil {
		return watching(err)
	}
	return nil
}

func (w *Watcher) take(data []byte) error {
	cfg, warnings, err := Parse(w.path, data)
	if err != nil {
		return err
	}
	return w.apply(cfg, warnings)
}
