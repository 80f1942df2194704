package identity

import (
	"context"
	"log/slog"
	"time"

	"github.com/trunkline/trunkline/lb/files"
)

// anyway is how often a file is read without an event: networks' file systems tell nothing.
const anyway = time.Minute

// follow calls use whenever the file has changed, and once at the start, until ctx ends. Of errors it tells the first.
func follow(ctx context.Context, path string, most int64, log *slog.Logger, use func(text []byte, err error)) {
	var seen files.Seen
	_ = files.Follow(ctx, []string{path}, files.Options{Every: anyway, Log: log}, func(bool) {
		if text, err := files.Read(path, most); seen.News(text, err) {
			use(text, err)
		}
	}) // it has no error to give
}
