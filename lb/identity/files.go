package identity

import (
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"log/slog"
	"os"
	"time"

	"github.com/trunkline/trunkline/lb/certs/files"
)

// anyway is how often a file is read without an event: networks' file systems tell nothing.
const anyway = time.Minute

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

// follow calls use whenever the file has changed, and once at the start, until ctx ends. Of errors it tells the first.
func follow(ctx context.Context, path string, most int64, log *slog.Logger, use func(text []byte, err error)) {
	var last [sha256.Size]byte
	missing := false
	w := files.Watch([]string{path}, anyway, log, func() {
		text, err := read(path, most)
		switch now := sha256.Sum256(text); {
		case err != nil && !missing:
			use(nil, err)
		case err == nil && (missing || now != last):
			last = now
			use(text, nil)
		}
		missing = err != nil
	})
	<-ctx.Done()
	w.Close()
}
