package config

import (
	"fmt"
	"net"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/trunkline/trunkline/policy/authn"
	"github.com/trunkline/trunkline/policy/serviceconfig/document"
	configv1 "github.com/trunkline/trunkline/proto/trunkline/config/v1"
	"golang.org/x/net/http/httpguts"
)

// checkAuthentication reports what is wrong with how callers prove who they are.
func (r *report) checkAuthentication(cfg *configv1.Config) {
	const at = "authentication"
	a := cfg.GetAuthentication()
	if a == nil {
		return
	}
	shown := r.checkProofs(a)
	names, issuers := map[string]string{}, map[string]string{}
	for i, p := range a.GetJwt() {
		path := fmt.Sprintf("%s.jwt[%d]", at, i)
		r.once(names, p.GetName(), path+".name", "provider")
		r.checkProvider(path, p)
		// A token is judged by the provider of its issuer; a second one would never be asked.
		key := p.GetIssuer() + " " + tokenField(p)
		if first, ok := issuers[key]; ok && p.GetIssuer() != "" {
			r.errorf(path+".issuer", "is already that of %s (line %d) in the same metadata: put the audiences together in one provider", parent(first), r.line(first))
			continue
		}
		issuers[key] = path + ".issuer"
	}
	set := r.checkClaims(a, shown)
	if name := a.GetIdentityMetadata(); name != "" {
		r.checkTarget(at+".identityMetadata", name, shown)
		if by, ok := set[name]; ok {
			r.errorf(at+".identityMetadata", "%q is already set from a claim (line %d): choose another name", name, r.line(by))
		}
	}
	for i, name := range a.GetProtectedMetadata() {
		path := fmt.Sprintf("%s.protectedMetadata[%d]", at, i)
		if msg := metadataName(name); msg != "" {
			r.errorf(path, "%s", msg)
		} else if by, ok := shown[name]; ok {
			r.errorf(path, "%s is where callers prove who they are (line %d): remove it here. strip: true keeps tokens from endpoints", name, r.line(by))
		}
	}
	r.checkMethods(at+".required", a.GetRequired())
	r.checkMethods(at+".anonymous", a.GetAnonymous())
	switch {
	case len(a.GetRequired()) > 0 && len(a.GetJwt()) == 0 && a.GetApiKeys() == nil && !certificates(cfg):
		r.errorf(at+".required", "asks callers to prove who they are, but they cannot: add authentication.jwt, authentication.apiKeys, or listeners[].tls with clientCaFile")
	case len(a.GetRequired()) == 0 && len(a.GetAnonymous()) > 0:
		r.warnf(at+".anonymous", "has no effect: it excepts methods from required, which names none")
	}
}

// certificates tells whether any listener asks for client certificates.
func certificates(cfg *configv1.Config) bool {
	return slices.ContainsFunc(cfg.GetListeners(), func(l *configv1.Listener) bool {
		t := l.GetTls()
		return t.GetClientAuth() != "none" && (t.GetClientCaFile() != "" || t.GetConnect())
	})
}

func tokenField(p *configv1.JwtProvider) string {
	if p.GetMetadata() == "" {
		return "authorization"
	}
	return p.GetMetadata()
}

// checkProofs returns the metadata that hold tokens and keys, each with the path that says so.
func (r *report) checkProofs(a *configv1.Authentication) map[string]string {
	shown := map[string]string{}
	for i, p := range a.GetJwt() {
		path := fmt.Sprintf("authentication.jwt[%d].metadata", i)
		if msg := proofField(tokenField(p)); msg != "" {
			r.errorf(path, "%s", msg)
			continue
		}
		if p.GetMetadata() == "" {
			path = parent(path)
		}
		if shown[tokenField(p)] == "" {
			shown[tokenField(p)] = path
		}
	}
	k := a.GetApiKeys()
	if k == nil {
		return shown
	}
	path, name := "authentication.apiKeys.metadata", k.GetMetadata()
	if name == "" {
		path, name = parent(path), "x-api-key"
	}
	if msg := proofField(name); msg != "" {
		r.errorf(path, "%s", msg)
		return shown
	}
	if first, ok := shown[name]; ok {
		r.errorf(path, "%s holds tokens already (line %d), and a key there would be a wrong token: choose another name, such as x-api-key", name, r.line(first))
		return shown
	}
	shown[name] = path
	return shown
}

func (r *report) checkProvider(at string, p *configv1.JwtProvider) {
	file, keys := p.GetJwksFile(), p.GetJwksUrl()
	switch {
	case file != "" && keys != "":
		r.errorf(at+".jwksUrl", "stands beside jwksFile (line %d): keep one", r.line(at+".jwksFile"))
	case keys != "":
		r.checkKeyURL(at, p)
	case file == "" && p.GetIssuer() != "":
		u, err := url.Parse(p.GetIssuer())
		if err != nil || u.Host == "" || u.RawQuery != "" || u.Fragment != "" || u.User != nil || u.Scheme != "https" && (u.Scheme != "http" || !loopback(u)) {
			r.errorf(at+".issuer", "%q is no place to find keys by OIDC discovery: write jwksUrl or jwksFile, or an issuer such as https://login.example.com", p.GetIssuer())
		}
	}
	for i, name := range p.GetAudiences() {
		if strings.TrimSpace(name) == "" {
			r.errorf(fmt.Sprintf("%s.audiences[%d]", at, i), "is empty: write what tokens for this service have in aud")
		}
	}
	for i, name := range p.GetAlgorithms() {
		path := fmt.Sprintf("%s.algorithms[%d]", at, i)
		known := authn.Algorithms()
		switch {
		case slices.Contains(known, name):
		case strings.EqualFold(name, "none"):
			r.errorf(path, "is %q: then anybody could make tokens; write one of %s", name, strings.Join(known, ", "))
		case strings.HasPrefix(name, "HS"):
			r.errorf(path, "is %q, for which whoever can verify tokens can make them, too: write one of %s", name, strings.Join(known, ", "))
		default:
			hint := ""
			if guess := document.Nearest(name, known); guess != "" {
				hint = fmt.Sprintf("; did you mean %q?", guess)
			}
			r.errorf(path, "%q is not one of %s%s", name, strings.Join(known, ", "), hint)
		}
	}
	if s := p.GetClockSkew().AsDuration(); s > 10*time.Minute {
		r.warnf(at+".clockSkew", "is %v: so much longer is every token good, also one that was stolen", s)
	}
}

func (r *report) checkKeyURL(at string, p *configv1.JwtProvider) {
	path := at + ".jwksUrl"
	u, err := url.Parse(p.GetJwksUrl())
	switch {
	case err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http":
		r.errorf(path, "%q is not the address of a key set: write https://host/path", p.GetJwksUrl())
	case u.Scheme == "http" && p.GetCaFile() != "":
		r.errorf(at+".caFile", "is given, but jwksUrl (line %d) is plain http: write it with https", r.line(path))
	case u.Scheme == "http" && !loopback(u):
		r.warnf(path, "is plain http: whoever is on the way to it can put in keys, and so make tokens; write it with https")
	}
}

func loopback(u *url.URL) bool {
	ip := net.ParseIP(u.Hostname())
	return u.Hostname() == "localhost" || ip != nil && ip.IsLoopback()
}

// checkClaims returns the metadata that are set from claims, each with the path that says so.
func (r *report) checkClaims(a *configv1.Authentication, shown map[string]string) map[string]string {
	set := map[string]string{}
	for i, p := range a.GetJwt() {
		mine := map[string]string{}
		for j, c := range p.GetClaimsToMetadata() {
			path := fmt.Sprintf("authentication.jwt[%d].claimsToMetadata[%d].metadata", i, j)
			if c.GetMetadata() == "" {
				continue // reported as missing
			}
			r.checkTarget(path, c.GetMetadata(), shown)
			r.once(mine, c.GetMetadata(), path, "metadata")
			set[c.GetMetadata()] = path
		}
	}
	return set
}

// checkTarget reports metadata that cannot be set for endpoints.
func (r *report) checkTarget(path, name string, shown map[string]string) {
	if msg := proofField(name); msg != "" {
		r.errorf(path, "%s", msg)
	} else if by, ok := shown[name]; ok {
		r.errorf(path, "%s is where callers prove who they are (line %d): choose another name", name, r.line(by))
	} else if name == "authorization" || name == "x-forwarded-client-cert" || strings.HasPrefix(name, "x-trunkline-") {
		r.errorf(path, "%s has a meaning of its own: choose another name, such as x-user", name)
	}
}

// proofField is metadataName, for text alone.
func proofField(name string) string {
	if msg := metadataName(name); msg != "" {
		return msg
	}
	if strings.HasSuffix(name, "-bin") {
		return fmt.Sprintf("%q is binary metadata, for its name ends with -bin: choose one that does not", name)
	}
	return ""
}

// metadataName says what is wrong with the name of request metadata, "" for a good one.
func metadataName(name string) string {
	const right = "write it in lower case, such as x-tenant"
	lower := strings.ToLower(name)
	switch {
	case strings.HasPrefix(name, ":") || !httpguts.ValidHeaderFieldName(name) || strings.Contains(name, "*"):
		return fmt.Sprintf("%q is not the name of request metadata: %s", name, right)
	case lower != name:
		return fmt.Sprintf("%q has capitals, which HTTP/2 does not: write %s", name, lower)
	case strings.HasPrefix(name, "grpc-"):
		return fmt.Sprintf("%s is gRPC's own, as all names that begin with grpc-: choose another name", name)
	}
	switch name {
	case "te", "content-type", "content-length", "content-encoding", "connection", "keep-alive", "proxy-connection", "transfer-encoding", "upgrade", "host", "trailer":
		return fmt.Sprintf("%s belongs to HTTP and is no metadata: choose another name", name)
	}
	return ""
}
