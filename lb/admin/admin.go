// Package admin owns what an operator sees: the AdminService API, /healthz, /readyz, /metrics, /debug/pprof and the page.
// It must not decide anything or touch a call: it asks a Source and shows the answer.
//
// Everything is served on one address: HTTP/1.1 and HTTP/2, in clear text or over TLS, so that curl, a browser and grpcurl can all
// call it. It is meant for loopback: who reaches it may drain the process, and elsewhere it must ask for a token or a client certificate
// (see security.go). Browsers are held to their own origin, and a page that had its name rebound to 127.0.0.1 is turned away (see
// guard.go).
package admin

import (
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"net/http/pprof"
	"sync"
	"time"

	"github.com/trunkline/trunkline/lb/certs"
	"github.com/trunkline/trunkline/lb/decision"
	adminv1 "github.com/trunkline/trunkline/proto/trunkline/admin/v1"
	"github.com/trunkline/trunkline/proto/trunkline/admin/v1/adminv1connect"
)

// Source is the running balancer as the admin API sees it. Its methods are called from many goroutines, must return
// promptly, and give messages that belong to the caller. All of them show the moment of the call.
type Source interface {
	Status() *adminv1.Status
	// Routes are in the order in which a call's rules are considered.
	Routes() []*adminv1.Route
	// Clusters are the clusters and sources, sorted by name, and the conflicts, sorted by service.
	Clusters() *adminv1.ListClustersResponse
	// Streams are the oldest live streams, at most limit of them, and how many there are in all.
	Streams(limit int) (oldest []*adminv1.Stream, total uint64)
	Connections() []*adminv1.Connection
	// Explain says where a call would go. method has no leading slash and is of the form "pkg.Service/Method"; a method
	// that nobody serves is an answer, not an error.
	Explain(method, authority string) *adminv1.ExplainResponse
	// Decisions are the records of finished calls, one book per shard; none if nothing is recorded.
	Decisions() decision.Books
	// Policies are the clusters' policies and their state, sorted by cluster.
	Policies() *adminv1.GetPoliciesResponse
	// Certificates are those of listeners, clusters and the mesh, and how the mesh fares; without the admin address's own.
	Certificates() *adminv1.ListCertificatesResponse
	// StartDrain begins the drain and returns at once; already is true if one was under way.
	StartDrain() (already bool, streams uint64)
	// Changed is closed at the next change of generation, snapshot, readiness or drain. Ask for it before reading what it
	// announces; ask anew after it was closed.
	Changed() <-chan struct{}
}

// Server serves the admin address. Use New.
type Server struct {
	source  Source
	log     *slog.Logger
	reflect *reflection
	handler http.Handler
	token   *token        // nil: none is asked for
	certs   *certs.Server // nil: clear text
	api     []string      // the paths of API calls, each with what is below it
	// stopping is closed when Serve ends, to end the watches.
	stopping context.Context
	stop     context.CancelFunc
	once     sync.Once
}

// New makes a server of source that asks for no proof; metrics answers /metrics and may be nil. It starts nothing: call Serve, or mount Handler.
func New(source Source, metrics http.Handler, log *slog.Logger) *Server {
	return assemble(Options{Source: source, Metrics: metrics, Log: log}, nil, nil)
}

func assemble(o Options, t *token, shown *certs.Server) *Server {
	s := &Server{source: o.Source, log: o.Log, reflect: newReflection(), token: t, certs: shown}
	s.stopping, s.stop = context.WithCancel(context.Background())
	mux := http.NewServeMux()
	call := func(path string, h http.Handler) {
		mux.Handle(path, s.authorized(o, h))
		s.api = append(s.api, path)
	}
	call(adminv1connect.NewAdminServiceHandler(&service{source: o.Source, own: shown, stopping: s.stopping}))
	for _, path := range s.reflect.paths {
		call(path, s.reflect.server)
	}
	mux.HandleFunc("GET /healthz", s.healthz)
	mux.HandleFunc("GET /readyz", s.readyz)
	if o.Metrics != nil {
		mux.Handle("GET /metrics", o.Metrics)
	}
	mux.HandleFunc("GET /{$}", page)
	mux.HandleFunc("/debug/pprof/", pprof.Index)
	mux.HandleFunc("/debug/pprof/cmdline", pprof.Cmdline)
	mux.HandleFunc("/debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("/debug/pprof/symbol", pprof.Symbol)
	mux.HandleFunc("/debug/pprof/trace", pprof.Trace)
	s.handler = guard(s.admit(mux))
	return s
}

// Handler serves everything the admin address has, for a server of the caller's own.
func (s *Server) Handler() http.Handler { return s.handler }

// Serve answers on l until ctx ends, then lets answers in the making finish for a moment, and closes. It always closes l.
// It returns nil when it ended because of ctx.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	protocols.SetHTTP2(true)
	protocols.SetUnencryptedHTTP2(true)
	if s.certs != nil {
		l = tls.NewListener(l, s.certs.Config())
	}
	srv := &http.Server{
		Handler:   s.handler,
		Protocols: protocols,
		// No read or write timeouts beyond the header's: watches and profiles are long.
		ReadHeaderTimeout: 10 * time.Second,
		IdleTimeout:       2 * time.Minute,
		ErrorLog:          slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
	}
	ended := make(chan error, 1)
	go func() { ended <- srv.Serve(l) }()
	select {
	case err := <-ended:
		s.Close()
		_ = srv.Close()
		return err
	case <-ctx.Done():
	}
	s.Close()
	grace, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	if srv.Shutdown(grace) != nil {
		_ = srv.Close()
	}
	if err := <-ended; !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// Close ends the watches, of files too, and the reflection server. Serve calls it; only who mounts Handler must.
func (s *Server) Close() {
	s.once.Do(func() {
		s.stop()
		s.reflect.server.Stop()
		s.token.close()
		if s.certs != nil {
			s.certs.Close()
		}
	})
}

// healthz says that the process is alive: that it answers at all is the answer.
func (s *Server) healthz(w http.ResponseWriter, _ *http.Request) { say(w, http.StatusOK, "ok") }

// readyz says whether new clients should be sent here: from the first full routing table until a drain begins.
func (s *Server) readyz(w http.ResponseWriter, _ *http.Request) {
	switch st := s.source.Status(); {
	case st.GetDraining():
		say(w, http.StatusServiceUnavailable, "not ready: draining")
	case !st.GetReady():
		reason := st.GetNotReadyReason()
		if reason == "" {
			reason = "no full routing table yet"
		}
		say(w, http.StatusServiceUnavailable, "not ready: "+reason)
	default:
		say(w, http.StatusOK, "ready")
	}
}

func say(w http.ResponseWriter, code int, text string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(code)
	_, _ = w.Write([]byte(text + "\n")) //nolint:gosec // it is plain text, and says so
}
