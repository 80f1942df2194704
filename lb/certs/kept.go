package certs

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"sync/atomic"
	"time"
)

// maxFile bounds what is read: revocation lists can be large, but not without bound.
const maxFile = 64 << 20

// source is a file and the key of the configuration that names it.
type source struct{ key, path string }

// errorf is an error that names both.
func (s source) errorf(format string, args ...any) error {
	return fmt.Errorf("%s: %s: %w", s.key, s.path, fmt.Errorf(format, args...))
}

func (s source) read() ([]byte, error) {
	f, err := os.Open(s.path)
	if err == nil {
		defer f.Close()
		var data []byte
		if data, err = io.ReadAll(io.LimitReader(f, maxFile+1)); err == nil && len(data) > maxFile {
			err = fmt.Errorf("is larger than %d MiB", maxFile>>20)
		}
		if err == nil {
			return data, nil
		}
	}
	if at, ok := errors.AsType[*fs.PathError](err); ok {
		err = at.Err // the path is named already
	}
	return nil, s.errorf("%w", err)
}

// kept is what files hold together, last time they were good. Guarded by its owner, but for what is atomic.
type kept[T any] struct {
	sources []source
	parse   func(contents [][]byte) (T, error)
	value   T
	sum     [sha256.Size]byte // of the contents that value, or the last refusal, comes from
	failed  atomic.Pointer[failure]
}

// failure is why what was read last is not good. Immutable; nil: it is.
type failure struct {
	text string
	at   time.Time
}

// newKept reads for the first time: then nothing but good files will do.
func newKept[T any](parse func(contents [][]byte) (T, error), sources ...source) (*kept[T], error) {
	k := &kept[T]{sources: sources, parse: parse}
	_, err := k.refresh()
	return k, err
}

// refresh reads again. An error is told once: not again until the contents, or the reason why they cannot be read, change.
func (k *kept[T]) refresh() (changed bool, err error) {
	contents := make([][]byte, len(k.sources))
	hash := sha256.New()
	for i, s := range k.sources {
		data, err := s.read()
		if err != nil {
			k.sum = [sha256.Size]byte{} // when it can be read again, it is looked at again
			return false, k.refused(err)
		}
		contents[i] = data
		_ = binary.Write(hash, binary.BigEndian, uint64(len(data)))
		hash.Write(data)
	}
	sum := [sha256.Size]byte(hash.Sum(nil))
	if sum == k.sum {
		return false, nil
	}
	k.sum = sum
	value, err := k.parse(contents)
	if err != nil {
		return false, k.refused(err)
	}
	k.value = value
	k.failed.Store(nil)
	return true, nil
}

func (k *kept[T]) refused(err error) error {
	if was := k.failed.Load(); was != nil && err.Error() == was.text {
		return nil
	}
	k.failed.Store(&failure{err.Error(), time.Now()})
	return err
}

// tell adds to a certificate's description how its files fare. It needs no lock.
func (k *kept[T]) tell(c Certificate) Certificate {
	if f := k.failed.Load(); f != nil {
		c.Error, c.ErrorAt = f.text, f.at
	}
	return c
}

// take is refresh for files that were good before.
func (k *kept[T]) take(log *slog.Logger) bool {
	if k == nil {
		return false
	}
	changed, err := k.refresh()
	if err != nil {
		log.Error("a file has changed and is not good; what it held before remains in force", "error", err)
	}
	if changed {
		log.Info("a file has changed and was taken up", "file", k.sources[0].path, "key", k.sources[0].key)
	}
	return changed
}

func paths(sources []source) []string {
	list := make([]string, len(sources))
	for i, s := range sources {
		list[i] = s.path
	}
	return list
}
