package consul

import (
	"bytes"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"sync"
	"time"
)

// token is the ACL token, kept in step with its file where it has one.
type token struct {
	path string       // set once; "": the token does not come from a file
	log  *slog.Logger // set once

	mu    sync.Mutex
	value string    // guarded by mu
	mtime time.Time // guarded by mu; of the file when it was read
	size  int64     // guarded by mu
	err   string    // guarded by mu; the last trouble with the file, told once
}

// current returns the token to send; "" leaves it to the API client. The file is read when it looks changed, or if force
// is set because Consul refused what it said before.
func (t *token) current(force bool) string {
	if t.path == "" {
		return ""
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	info, err := os.Stat(t.path)
	if err == nil && !force && info.ModTime().Equal(t.mtime) && info.Size() == t.size {
		return t.value
	}
	var data []byte
	if err == nil {
		data, err = os.ReadFile(t.path)
	}
	if err != nil { // the last good token goes on
		if err.Error() != t.err {
			t.err = err.Error()
			t.log.Error("the ACL token file cannot be read", "file", t.path, "err", err)
		}
		return t.value
	}
	t.err, t.mtime, t.size = "", info.ModTime(), info.Size()
	if value := strings.TrimSpace(string(data)); value != t.value {
		if t.value != "" {
			t.log.Info("the ACL token changed", "file", t.path)
		}
		t.value = value
	}
	return t.value
}

// maxToken is more than any token has, in bytes.
const maxToken = 4 << 10

// CheckToken reads an ACL token's file and says why it would be of no use; nothing that the file holds is in the error. A source goes on
// without: Consul then refuses what the anonymous token may not see.
func CheckToken(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxToken+1))
	if err != nil {
		return err
	}
	value := bytes.TrimSpace(text)
	switch {
	case len(text) > maxToken:
		return fmt.Errorf("%s has more than %d bytes: write one ACL token", path, maxToken)
	case len(value) == 0:
		return fmt.Errorf("%s is empty: write one ACL token", path)
	case bytes.ContainsFunc(value, func(c rune) bool { return c <= ' ' || c > '~' }):
		return fmt.Errorf("%s has more than one token, or one with other characters than printable ASCII: write one ACL token", path)
	}
	return nil
}
