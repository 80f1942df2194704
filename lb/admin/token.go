package admin

import (
	"bytes"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	_ "embed"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"html/template"
	"io"
	"log/slog"
	"net/http"
	"os"
	"strings"
	"sync/atomic"
	"time"

	"github.com/trunkline/trunkline/lb/files"
)

const (
	maxToken = 4 << 10
	// leastToken is what cannot be tried out, however it was made.
	leastToken = 16
	// remembered is how long a browser needs not show the token again.
	remembered = 12 * time.Hour
	cookie     = "trunkline_admin"
)

// token is what the admin address's callers must know. Nil: nothing.
type token struct {
	path  string
	log   *slog.Logger
	watch *files.Watcher
	// Of the token; itself it is not kept. Compared in constant time.
	sum atomic.Pointer[[sha256.Size]byte]
	key [32]byte // of this process, for what browsers remember; set once in openToken
}

func openToken(path string, log *slog.Logger) (*token, error) {
	t := &token{path: path, log: log}
	if _, err := rand.Read(t.key[:]); err != nil {
		return nil, err
	}
	if err := t.read(); err != nil {
		return nil, fmt.Errorf("admin.tokenFile: %w", err)
	}
	t.watch = files.Watch([]string{path}, time.Minute, log, t.reload)
	return t, nil
}

func (t *token) close() {
	if t != nil {
		t.watch.Close()
	}
}

// read never puts a part of the file into its error.
func (t *token) read() error {
	f, err := os.Open(t.path)
	if err != nil {
		return err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxToken+1))
	if err != nil {
		return err
	}
	if len(text) > maxToken {
		return fmt.Errorf("%s has more than %d bytes: write one token, such as `openssl rand -hex 32` prints", t.path, maxToken)
	}
	text = bytes.TrimSpace(text)
	switch {
	case len(text) < leastToken:
		return fmt.Errorf("%s has a token of %d characters, less than %d: write one such as `openssl rand -hex 32` prints", t.path, len(text), leastToken)
	case bytes.ContainsFunc(text, func(c rune) bool { return c <= ' ' || c > '~' }):
		return fmt.Errorf("%s has more than one token, or one with other characters than printable ASCII: write one such as `openssl rand -hex 32` prints", t.path)
	}
	sum := sha256.Sum256(text)
	t.sum.Store(&sum)
	return nil
}

func (t *token) reload() {
	before := t.sum.Load()
	if err := t.read(); err != nil {
		t.log.Error("the changed file of the admin token cannot be used; the token before it stays in force", "key", "admin.tokenFile", "error", err)
		return
	}
	if *t.sum.Load() != *before {
		t.log.Info("the admin token has changed", "file", t.path)
	}
}

func (t *token) is(value string) bool {
	sum := sha256.Sum256([]byte(value))
	return subtle.ConstantTimeCompare(sum[:], t.sum.Load()[:]) == 1
}

// bearer is the token of an authorization header field.
func bearer(header string) (value string, given bool) {
	scheme, value, ok := strings.Cut(header, " ")
	return strings.Trim(value, " "), ok && strings.EqualFold(scheme, "Bearer")
}

// What a browser remembers is not the token, for cookies go to every port of a host: when it ends, and a MAC of that, which neither another
// process nor a later token takes for its own.

func (t *token) session(ends time.Time) string {
	value := binary.BigEndian.AppendUint64(nil, uint64(ends.Unix()))
	return base64.RawURLEncoding.EncodeToString(append(value, t.mac(value)...))
}

func (t *token) mac(value []byte) []byte {
	h := hmac.New(sha256.New, t.key[:])
	h.Write(value)
	h.Write(t.sum.Load()[:])
	return h.Sum(nil)
}

// remembers tells whether r comes from a browser that has shown the token.
func (t *token) remembers(r *http.Request, now time.Time) bool {
	c, err := r.Cookie(cookie)
	if err != nil {
		return false
	}
	value, err := base64.RawURLEncoding.DecodeString(c.Value)
	if err != nil || len(value) != 8+sha256.Size || !hmac.Equal(value[8:], t.mac(value[:8])) {
		return false
	}
	ends := binary.BigEndian.Uint64(value)
	return now.Unix() >= 0 && uint64(now.Unix()) < ends
}

// login takes the page's form. The guard has seen that it comes from this very origin.
func (t *token) login(w http.ResponseWriter, r *http.Request) {
	r.Body = http.MaxBytesReader(w, r.Body, 2*maxToken)
	if err := r.ParseForm(); err != nil {
		loginPage(w, "The form cannot be read.")
		return
	}
	if !t.is(strings.TrimSpace(r.PostForm.Get("token"))) {
		loginPage(w, "That is not the token. It stands in the file that admin.tokenFile names.")
		return
	}
	http.SetCookie(w, &http.Cookie{Name: cookie, Value: t.session(time.Now().Add(remembered)), Path: "/", HttpOnly: true, Secure: r.TLS != nil, SameSite: http.SameSiteStrictMode}) //nolint:gosec // without TLS a secure cookie would not come back
	http.Redirect(w, r, "/", http.StatusSeeOther)
}

//go:embed login.html
var loginHTML string

var loginForm = template.Must(template.New("login").Parse(loginHTML))

// loginPage asks for the token, with problem above it.
func loginPage(w http.ResponseWriter, problem string) {
	h := w.Header()
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Set("Cache-Control", "no-store")
	h.Set("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'self'; frame-ancestors 'none'")
	w.WriteHeader(http.StatusUnauthorized)
	_ = loginForm.Execute(w, problem)
}
