package acme

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"path"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/caddyserver/certmagic"
	"github.com/mholt/acmez/v3/acme"
	"golang.org/x/sys/unix"
)

// challengeKey is where a challenge is kept while the authority may ask for its answer.
func (i *issuer) challengeKey(name string) string {
	return path.Join("challenges", i.challenge, certmagic.StorageKeys.Safe(i.IssuerKey()), certmagic.StorageKeys.Safe(name)+".json")
}

// Present makes a challenge's answer known.
func (i *issuer) Present(ctx context.Context, challenge acme.Challenge) error {
	text, err := json.Marshal(challenge)
	if err != nil {
		return err
	}
	return i.storage.Store(ctx, i.challengeKey(challenge.Identifier.Value), text)
}

// CleanUp forgets a challenge.
func (i *issuer) CleanUp(ctx context.Context, challenge acme.Challenge) error {
	return i.storage.Delete(ctx, i.challengeKey(challenge.Identifier.Value))
}

// load is the challenge that is awaited for the name, of Trunkline or of a replica with the same storage.
func (i *issuer) load(name string) (challenge acme.Challenge, err error) {
	if !slices.Contains(i.names, name) {
		return challenge, fs.ErrNotExist
	}
	text, err := i.storage.Load(context.Background(), i.challengeKey(name))
	if err == nil {
		err = json.Unmarshal(text, &challenge)
	}
	return challenge, err
}

// answers is the HTTP server that answers http-01 (RFC 8555 section 8.3), and nothing else.
type answers struct {
	server *http.Server
	done   chan struct{}
}

// listen serves at the address. A Manager that takes another's place may listen while that one still does.
func listen(address string, i *issuer, log *slog.Logger) (*answers, error) {
	if address == "" {
		address = ":80"
	}
	config := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) (err error) {
		return errors.Join(c.Control(func(fd uintptr) {
			err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEPORT, 1)
		}), err)
	}}
	l, err := config.Listen(context.Background(), "tcp", address)
	if err != nil {
		return nil, fmt.Errorf("the authority's challenges cannot be answered: %w", err)
	}
	a := &answers{done: make(chan struct{}), server: &http.Server{
		Handler:           i,
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       5 * time.Second,
		WriteTimeout:      5 * time.Second,
		MaxHeaderBytes:    8 << 10,
		ErrorLog:          slog.NewLogLogger(i.log.Handler(), slog.LevelDebug), // what strangers do wrong
	}}
	a.server.SetKeepAlivesEnabled(false)
	go func() {
		defer close(a.done)
		if err := a.server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			log.Error("the authority's challenges are answered no more", "error", err)
		}
	}()
	return a, nil
}

func (a *answers) close() {
	a.server.Close() //nolint:errcheck // nothing is left to do about it
	<-a.done
}

// ServeHTTP answers the challenge of the name that is asked for.
func (i *issuer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	name := r.Host
	if host, _, err := net.SplitHostPort(name); err == nil {
		name = host
	}
	if !strings.HasPrefix(r.URL.Path, "/.well-known/acme-challenge/") || r.Method != http.MethodGet {
		http.NotFound(w, r)
		return
	}
	challenge, err := i.load(strings.ToLower(strings.TrimSuffix(name, ".")))
	if err != nil || r.URL.Path != challenge.HTTP01ResourcePath() {
		http.NotFound(w, r)
		return
	}
	w.Header().Set("Content-Type", "application/octet-stream")
	io.WriteString(w, challenge.KeyAuthorization) //nolint:errcheck // the authority asks again
}
