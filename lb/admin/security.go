package admin

import (
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/genproto/googleapis/rpc/errdetails"

	"github.com/trunkline/trunkline/lb/certs"
	"github.com/trunkline/trunkline/policy/authn"
	configv1 "github.com/trunkline/trunkline/proto/trunkline/config/v1"
)

// Options are what a Server is made of.
type Options struct {
	Source  Source
	Metrics http.Handler // answers /metrics; nil: none are shown
	Log     *slog.Logger
	// Config says who may come: its token and TLS. Nil: everybody who reaches the address.
	Config *configv1.Admin
	// Authorize is asked about each API call, reflection too, after the token and the certificate were found good; nil: about none. method is
	// "pkg.Service/Method"; r is without the credentials for the admin address itself. It may block for as long as the call may.
	// What the caller is to be told beside the answer, or the refusal, it puts into reply, the answer's headers.
	Authorize func(reply http.Header, r *http.Request, method string, peer *authn.Peer) *authn.Refusal
}

// Open makes a server, and reads and watches the files of o.Config until Close. An error names the configuration key. It also refuses
// to be open to everybody on an address that others than this host can reach: the command line may have changed it.
func Open(o Options) (*Server, error) {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	a := o.Config
	if address := a.GetAddress(); a.GetTokenFile() == "" && a.GetTls().GetClientCaFile() == "" && !localOnly(address) {
		return nil, fmt.Errorf("admin.address: %s can be reached from elsewhere, and whoever reaches it can see and drain everything: "+
			"add admin.tokenFile, or admin.tls with clientCaFile, or take a loopback address such as 127.0.0.1:9901", address)
	}
	var err error
	var t *token
	var shown *certs.Server
	if a.GetTokenFile() != "" {
		if t, err = openToken(a.GetTokenFile(), o.Log); err != nil {
			return nil, err
		}
	}
	if files := a.GetTls(); files != nil {
		shown, err = certs.NewServer(tlsOptions(files, o.Log))
		if err != nil {
			t.close()
			return nil, err
		}
	}
	return assemble(o, t, shown), nil
}

func tlsOptions(t *configv1.AdminTLS, log *slog.Logger) certs.ServerOptions {
	asked := &configv1.ListenerTLS{CertFile: t.GetCertFile(), KeyFile: t.GetKeyFile(), ClientCaFile: t.GetClientCaFile(), ClientAuth: "none"}
	if asked.ClientCaFile != "" {
		asked.ClientAuth = "strict"
	}
	return certs.ServerOptions{TLS: asked, Path: "admin.tls", Protocols: []string{"h2", "http/1.1"}, Log: log}
}

// Check reads the files that a names as Open does, and nothing more: what is wrong with them.
func Check(a *configv1.Admin) (wrong []error) {
	if a.GetTokenFile() != "" {
		if err := (&token{path: a.GetTokenFile()}).read(); err != nil {
			wrong = append(wrong, fmt.Errorf("admin.tokenFile: %w", err))
		}
	}
	if a.GetTls() != nil {
		wrong = append(wrong, certs.CheckServer(tlsOptions(a.GetTls(), nil))...)
	}
	return wrong
}

// localOnly tells whether only this host can reach address; "" and "-" are the default and none.
func localOnly(address string) bool {
	if address == "" || address == "-" {
		return true
	}
	host, _, err := net.SplitHostPort(address)
	ip := net.ParseIP(host)
	return err == nil && (ip != nil && ip.IsLoopback() || strings.EqualFold(host, "localhost"))
}

// open are the paths that ask for nothing: they tell no more than whether to send clients here.
func open(path string) bool { return path == "/healthz" || path == "/readyz" }

// admit lets in who bears the token, or has shown it to /login.
func (s *Server) admit(next http.Handler) http.Handler {
	if s.token == nil {
		return next
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		value, given := bearer(r.Header.Get("Authorization"))
		switch {
		case open(r.URL.Path), given && s.token.is(value), !given && s.token.remembers(r, time.Now()):
			next.ServeHTTP(w, r)
		case r.URL.Path == "/login" && r.Method == http.MethodPost:
			s.token.login(w, r)
		case r.URL.Path == "/" && !given:
			loginPage(w, "")
		default:
			s.unknown(w, r, given)
		}
	})
}

// unknown says how to get in, in the protocol of who asks.
func (s *Server) unknown(w http.ResponseWriter, r *http.Request, given bool) {
	text := "the admin address asks for its token: send authorization: Bearer <token>, with the token from the file that admin.tokenFile names " +
		"(trunkline explain: --admin-token-file)"
	if given {
		text = "the token is not that of this admin address: send the one from the file that admin.tokenFile names (trunkline explain: --admin-token-file)"
	}
	w.Header().Set("Www-Authenticate", `Bearer realm="trunkline admin"`)
	if _, ok := s.apiMethod(r.URL.Path); ok {
		refuseCall(w, r, connect.NewError(connect.CodeUnauthenticated, errors.New(text)))
		return
	}
	say(w, http.StatusUnauthorized, text)
}

func refuseCall(w http.ResponseWriter, r *http.Request, err error) {
	_ = connect.NewErrorWriter().Write(w, r, err) // who is gone needs no answer
}

// apiMethod is the method that a path names, if it is one of the API's.
func (s *Server) apiMethod(path string) (string, bool) {
	for _, prefix := range s.api {
		if strings.HasPrefix(path, prefix) {
			return strings.TrimPrefix(path, "/"), true
		}
	}
	return "", false
}

// authorized asks o.Authorize before next answers an API call.
func (s *Server) authorized(o Options, next http.Handler) http.Handler {
	if o.Authorize == nil {
		return next
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		q := r.Clone(r.Context())
		q.Header.Del("Cookie")
		if s.token != nil {
			q.Header.Del("Authorization") // it is the admin address's own, and no caller's proof
		}
		if refused := o.Authorize(w.Header(), q, strings.TrimPrefix(r.URL.Path, "/"), s.peer(r.TLS)); refused != nil {
			err := connect.NewError(connect.Code(refused.Status), errors.New(refused.Message))
			if info, e := connect.NewErrorDetail(&errdetails.ErrorInfo{Reason: refused.Reason, Domain: "trunkline"}); e == nil {
				err.AddDetail(info)
			}
			refuseCall(w, r, err)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// peer is who is at the other end by certificate.
func (s *Server) peer(cs *tls.ConnectionState) *authn.Peer {
	if s.certs == nil || cs == nil {
		return nil
	}
	return s.certs.Peer(cs)
}
