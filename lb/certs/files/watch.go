// Package files owns noticing that files may have changed, however they are replaced; it must not read them, nor know what they
// are for.
package files

import (
	"log/slog"
	"path/filepath"
	"sync"
	"time"

	"github.com/fsnotify/fsnotify"
)

// settle is how long the folders must be quiet before changed is called: a certificate and its key come one after the other.
// patience bounds it in folders that never are.
const (
	settle   = 100 * time.Millisecond
	patience = 2 * time.Second
)

// Watcher watches some files until Close.
type Watcher struct {
	stop chan struct{}
	once sync.Once
	done sync.WaitGroup
}

// Watch calls changed, from one goroutine, whenever something happened in the folders of the files at paths and they are quiet
// again, and beside that every `every` (a safety net: network file systems tell nothing). Whether a file holds anything else than
// before is for changed to find out. Without inotify, which log is told, only the safety net remains.
//
// It watches folders, not files: Kubernetes swaps the symbolic link ..data beside the file, certbot the link itself, and editors
// rename a new file into place; a watch on the file would stay with the old one. Where links lead is watched, too.
func Watch(paths []string, every time.Duration, log *slog.Logger, changed func()) *Watcher {
	w := &Watcher{stop: make(chan struct{})}
	fs, err := fsnotify.NewWatcher()
	if err != nil {
		log.Warn("files are not watched, only looked at from time to time", "every", every, "error", err)
		fs = &fsnotify.Watcher{} // its channels are nil: they never tell anything
	} else {
		follow(fs, paths)
	}
	w.done.Add(1)
	go func() {
		defer w.done.Done()
		if err == nil {
			defer fs.Close()
		}
		w.run(fs, paths, every, changed)
	}()
	return w
}

// Close ends the watching; changed is not called any more when it returns. It must not be called from changed.
func (w *Watcher) Close() {
	w.once.Do(func() { close(w.stop) })
	w.done.Wait()
}

func (w *Watcher) run(fs *fsnotify.Watcher, paths []string, every time.Duration, changed func()) {
	poll := time.NewTicker(every)
	defer poll.Stop()
	quiet := time.NewTimer(settle) // at the start too: a file may have changed since it was read
	defer quiet.Stop()
	var since time.Time // first event that has not been looked into; zero: none
	for {
		select {
		case <-w.stop:
			return
		case _, ok := <-fs.Events:
			if !ok {
				return
			}
			if since.IsZero() {
				since = time.Now()
			}
			quiet.Reset(min(settle, max(0, patience-time.Since(since))))
			continue
		case _, ok := <-fs.Errors: // events may be lost: look
			if !ok {
				return
			}
			quiet.Reset(settle)
			continue
		case <-quiet.C:
		case <-poll.C:
		}
		since = time.Time{}
		if fs.Events != nil {
			follow(fs, paths)
		}
		changed()
	}
}

// follow watches the folders of paths and of where their symbolic links lead now. It is best effort, as the safety net remains;
// watches of folders that are gone end by themselves, and adding one twice does nothing.
func follow(fs *fsnotify.Watcher, paths []string) {
	for _, path := range paths {
		_ = fs.Add(filepath.Dir(path))
		if target, err := filepath.EvalSymlinks(path); err == nil {
			_ = fs.Add(filepath.Dir(target))
		}
	}
}
