package identity

import (
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/fsnotify/fsnotify"
)

const (
	// settle is how long a directory must be quiet before a file in it is read: it is often written in several steps.
	settle = 100 * time.Millisecond
	// patience bounds it in a directory that never is.
	patience = 2 * time.Second
	// anyway is how often it is read without an event: networks' file systems tell nothing.
	anyway = time.Minute
)

// read reads a file of at most that many bytes.
func read(path string, most int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, most+1))
	if err != nil {
		return nil, err
	}
	if int64(len(text)) > most {
		return nil, fmt.Errorf("%s has more than %d bytes", path, most)
	}
	return text, nil
}

// follow calls use whenever the file has changed, until ctx ends; also once at the start, if it can be read. It watches directories, as
// lb/config does and for its reasons: the file's, and where symbolic links lead.
func follow(ctx context.Context, path string, most int64, log *slog.Logger, use func(text []byte, err error)) {
	var events chan fsnotify.Event
	var errs chan error
	watcher, err := fsnotify.NewWatcher()
	if err != nil {
		log.Warn("cannot watch "+path+": it is read every minute instead", "err", err)
	} else {
		defer watcher.Close()
		events, errs = watcher.Events, watcher.Errors
	}
	add := func() {
		if watcher == nil {
			return
		}
		_ = watcher.Add(filepath.Dir(path)) // best effort: it is read anyway
		if target, err := filepath.EvalSymlinks(path); err == nil {
			_ = watcher.Add(filepath.Dir(target))
		}
	}
	add()
	next := time.NewTimer(settle)
	defer next.Stop()
	var last [sha256.Size]byte
	var since time.Time // first event that has not been looked into; zero: none
	missing := false
	for {
		select {
		case <-ctx.Done():
			return
		case <-events:
			if since.IsZero() {
				since = time.Now()
			}
			next.Reset(min(settle, max(0, patience-time.Since(since))))
		case err := <-errs: // events may be lost
			log.Warn("watching "+path, "err", err)
			next.Reset(settle)
		case <-next.C:
			since = time.Time{}
			next.Reset(anyway)
			add()
			text, err := read(path, most)
			switch now := sha256.Sum256(text); {
			case err != nil && !missing:
				use(nil, err)
			case err == nil && (missing || now != last):
				last = now
				use(text, nil)
			}
			missing = err != nil
		}
	}
}
