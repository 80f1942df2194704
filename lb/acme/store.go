package acme

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/caddyserver/certmagic"
	"golang.org/x/sys/unix"
)

// store is certmagic's storage in files, but for its locks: certmagic's are files that a goroutine keeps young, so that after a crash
// they hold up the next start, and the goroutine outlives Close. Ours are the kernel's, and go with their process.
type store struct {
	certmagic.Storage
	dir string // set once in openStore

	mu   sync.Mutex
	held map[string]*os.File // guarded by mu

	writing sync.RWMutex // held for reading by whoever writes
	closed  bool         // guarded by writing
}

// errClosed is for certmagic's jobs that outlive Close: it does not wait for them.
var errClosed = errors.New("the storage is closed")

// close waits for what is being written. Nothing is written after it.
func (s *store) close() {
	s.writing.Lock()
	defer s.writing.Unlock()
	s.closed = true
}

// write does what changes the folder, unless the store is closed.
func (s *store) write(do func() error) error {
	s.writing.RLock()
	defer s.writing.RUnlock()
	if s.closed {
		return errClosed
	}
	return do()
}

// Store implements certmagic.Storage.
func (s *store) Store(ctx context.Context, key string, value []byte) error {
	return s.write(func() error { return s.Storage.Store(ctx, key, value) })
}

// Delete implements certmagic.Storage.
func (s *store) Delete(ctx context.Context, key string) error {
	return s.write(func() error { return s.Storage.Delete(ctx, key) })
}

// openStore makes the folder where it is missing, and keeps others out of it.
func openStore(dir string) (*store, error) {
	if err := os.MkdirAll(filepath.Join(dir, "locks"), 0o700); err != nil {
		return nil, err
	}
	if err := os.Chmod(dir, 0o700); err != nil { //nolint:gosec // it is a folder
		return nil, exposed(err)
	}
	return &store{Storage: &certmagic.FileStorage{Path: dir}, dir: dir, held: map[string]*os.File{}}, nil
}

func exposed(err error) error {
	return fmt.Errorf("the folder has keys in it, and nobody else may read it: %w", err)
}

// Lock waits until nobody else holds the lock, or ctx ends.
func (s *store) Lock(ctx context.Context, name string) error {
	var f *os.File
	err := s.write(func() (err error) {
		f, err = os.OpenFile(filepath.Join(s.dir, "locks", url.PathEscape(name)+".lock"), os.O_CREATE|os.O_RDWR, 0o600)
		return err
	})
	if err != nil {
		return err
	}
	for {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			s.mu.Lock()
			defer s.mu.Unlock()
			s.held[name] = f
			return nil
		}
		if !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR) {
			f.Close()
			return err
		}
		select {
		case <-ctx.Done():
			f.Close()
			return ctx.Err()
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// Unlock gives the lock back.
func (s *store) Unlock(_ context.Context, name string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	f, ok := s.held[name]
	if !ok {
		return fmt.Errorf("%s is not locked", name)
	}
	delete(s.held, name)
	return f.Close()
}
