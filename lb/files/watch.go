// Package files owns noticing that files have changed, however they are replaced, and telling news from what was seen before; it must
// not know what they are for, nor keep what they hold.
package files

import (
	"context"
	"log/slog"
	"path/filepath"
	"sync"
	"time"

	"github.com/fsnotify/fsnotify"
)

// settle is how long the folders must be quiet before anybody looks: a certificate and its key come one after the other, and editors and
// Kubernetes write in several steps. patience bounds it in folders that never are.
const (
	settle   = 100 * time.Millisecond
	patience = 2 * time.Second
)

// Options say what Follow does beside listening to the folders.
type Options struct {
	Every time.Duration   // look that often in any case, since network file systems tell nothing; 0: never
	Log   *slog.Logger    // is told if Every is all that remains; nil only without it
	Ask   <-chan struct{} // look at once when something comes; nil: nobody asks
	Lost  func(error)     // is told why events may be lost, before the look that follows; nil: nobody
}

// Follow calls look, from its caller's goroutine, until ctx ends: when it begins, and whenever something happened in the folders of the
// files at paths and they are quiet again; and as o says. Whether a file holds anything else than before is for look to find out, see
// [Seen]. An error says that nothing can be listened to; it comes at once, without a look, and only if o.Every is 0.
//
// It watches folders, not files: Kubernetes swaps the symbolic link ..data beside the file, certbot the link itself, and editors
// rename a new file into place; a watch on the file would stay with the old one. Where links lead is watched, too.
func Follow(ctx context.Context, paths []string, o Options, look func(asked bool)) error {
	fs, err := fsnotify.NewWatcher()
	if err == nil {
		defer fs.Close()
		if err := follow(fs, paths); err != nil && o.Every == 0 {
			return err
		}
	} else if o.Every == 0 {
		return err
	} else {
		o.Log.Warn("files are not watched, only looked at from time to time", "every", o.Every, "error", err)
		fs = &fsnotify.Watcher{} // its channels are nil: they never tell anything
	}
	var poll <-chan time.Time
	if o.Every > 0 {
		t := time.NewTicker(o.Every)
		defer t.Stop()
		poll = t.C
	}
	quiet := time.NewTimer(settle) // at the start too: a file may have changed since it was read
	defer quiet.Stop()
	var since time.Time // first event that has not been looked into; zero: none
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-o.Ask:
			look(true)
			continue
		case _, ok := <-fs.Events:
			if !ok {
				return nil
			}
			if since.IsZero() {
				since = time.Now()
			}
			quiet.Reset(min(settle, max(0, patience-time.Since(since))))
			continue
		case err, ok := <-fs.Errors: // events may be lost: look
			if !ok {
				return nil
			}
			if o.Lost != nil {
				o.Lost(err)
			}
			quiet.Reset(settle)
			continue
		case <-quiet.C:
		case <-poll:
		}
		since = time.Time{}
		if fs.Events != nil {
			_ = follow(fs, paths)
		}
		look(false)
	}
}

// follow watches the folders of paths and of where their symbolic links lead now. Adding one twice does nothing, and watches of folders
// that are gone end by themselves. An error says that not one of the paths' own can be watched now.
func follow(fs *fsnotify.Watcher, paths []string) (err error) {
	listens := false
	for _, path := range paths {
		at := fs.Add(filepath.Dir(path))
		if listens = listens || at == nil; at != nil {
			err = at
		}
		if target, err := filepath.EvalSymlinks(path); err == nil { // else it is not there now; its own folder tells when it is
			_ = fs.Add(filepath.Dir(target)) // best effort
		}
	}
	if listens {
		return nil
	}
	return err
}

// Watcher is a Follow in a goroutine of its own.
type Watcher struct {
	cancel context.CancelFunc
	done   sync.WaitGroup
}

// Watch calls changed as Follow does, also once every `every` (more than 0), until Close.
func Watch(paths []string, every time.Duration, log *slog.Logger, changed func()) *Watcher {
	ctx, cancel := context.WithCancel(context.Background())
	w := &Watcher{cancel: cancel}
	w.done.Go(func() {
		_ = Follow(ctx, paths, Options{Every: every, Log: log}, func(bool) { changed() }) // it has none to give
	})
	return w
}

// Close ends the watching; changed is not called any more when it returns. It must not be called from changed.
func (w *Watcher) Close() {
	w.cancel()
	w.done.Wait()
}
