package config

import (
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"regexp"
	"slices"
	"strings"

	configv1 "github.com/trunkline/trunkline/proto/trunkline/config/v1"
)

// checkTLS reports what is wrong with certificates, authorities and trust before any file is read: what is missing, contradicts, or
// would never be used. What the files hold is lb/certs' to judge.
func (r *report) checkTLS(cfg *configv1.Config) {
	for i, l := range cfg.GetListeners() {
		at := fmt.Sprintf("listeners[%d]", i)
		if l.GetTls() != nil {
			r.checkListenerTLS(cfg, at+".tls", l.GetTls())
		}
		r.checkTrustedProxies(at+".proxyProtocol.trusted", l.GetProxyProtocol().GetTrusted())
	}
	r.checkAdminAccess(cfg.GetAdmin())
	mesh := r.checkMesh(cfg)
	for i, c := range cfg.GetClusters() {
		at := fmt.Sprintf("clusters[%d].tls", i)
		if c.GetTls() == nil {
			continue
		}
		if first, ok := mesh[c.GetName()]; ok {
			r.errorf(at, "is given, but %s is reached through the mesh (line %d), whose certificates it uses: remove one", c.GetName(), r.line(first))
			continue
		}
		r.checkUpstreamTLS(at, c.GetTls())
	}
	if x := cfg.GetExternalAuthorization(); x.GetTls() != nil {
		r.checkUpstreamTLS("externalAuthorization.tls", x.GetTls())
	}
}

func (r *report) checkListenerTLS(cfg *configv1.Config, at string, t *configv1.ListenerTLS) {
	r.checkPair(at, t.GetCertFile(), t.GetKeyFile())
	if t.GetCertFile() == "" && t.GetKeyFile() == "" && len(t.GetCertificates()) == 0 && t.GetAcme() == nil && !t.GetConnect() {
		r.errorf(at, "has no certificate to show: write certFile and keyFile, or acme, or connect: true")
	}
	if t.GetConnect() && cfg.GetDiscovery().GetConsul().GetConnect() == nil {
		r.errorf(at+".connect", "is true, but this process is no member of the mesh: write discovery.consul.connect: { service: <its name in Consul> }")
	}
	if t.GetConnect() && t.GetClientCaFile() != "" {
		r.errorf(at+".connect", "stands beside clientCaFile (line %d), whose clients are not the mesh's: give these a listener of their own", r.line(at+".clientCaFile"))
	}
	r.checkClientAuth(at, t)
	if a := t.GetAcme(); a != nil {
		r.checkAcme(cfg, at+".acme", a)
	}
}

// checkPair reports half of a certificate.
func (r *report) checkPair(at, cert, key string) {
	switch {
	case cert != "" && key == "":
		r.errorf(at+".certFile", "stands without keyFile: a certificate needs its key")
	case cert == "" && key != "":
		r.errorf(at+".keyFile", "stands without certFile: a key needs its certificate")
	}
}

func (r *report) checkClientAuth(at string, t *configv1.ListenerTLS) {
	mode, ca := t.GetClientAuth(), t.GetClientCaFile()
	asks := mode == "optional" || mode == "required" || mode == "strict"
	if asks && ca == "" && !t.GetConnect() {
		r.errorf(at+".clientAuth", "is %s, but no authority of client certificates is named: add clientCaFile, or connect: true", mode)
	}
	if mode == "none" && ca != "" {
		r.errorf(at+".clientCaFile", "is never used, as clientAuth (line %d) is none: remove one", r.line(at+".clientAuth"))
	}
	if t.GetCrlFile() != "" && ca == "" {
		r.errorf(at+".crlFile", "stands without clientCaFile, whose authorities sign revocation lists: add it, or remove crlFile")
	}
	if t.GetPlaintext() && (mode == "required" || mode == "strict") {
		r.errorf(at+".plaintext", "lets clients in that can show no certificate, and clientAuth (line %d) is %s: remove plaintext, or write clientAuth: optional",
			r.line(at+".clientAuth"), mode)
	}
	if t.GetPlaintext() && mode == "" && (ca != "" || t.GetConnect()) {
		r.errorf(at+".plaintext", "lets clients in that can show no certificate, and clientAuth is required by default here: remove plaintext, or write clientAuth: optional")
	}
}

func (r *report) checkAcme(cfg *configv1.Config, at string, a *configv1.Acme) {
	seen := map[string]string{}
	for i, d := range a.GetDomains() {
		path := fmt.Sprintf("%s.domains[%d]", at, i)
		if msg := acmeDomain(d); msg != "" {
			r.errorf(path, "%s", msg)
			continue
		}
		r.once(seen, strings.ToLower(d), path, "domain")
	}
	if !a.GetAgreeToTerms() {
		r.errorf(at+".agreeToTerms", "must be true: an authority gives certificates only to those who agree to its terms (Let's Encrypt: https://letsencrypt.org/repository)")
	}
	if e := a.GetEmail(); e != "" && !email.MatchString(e) {
		r.errorf(at+".email", "%q is not an address of e-mail: write it as ops@example.com", e)
	}
	if d := a.GetDirectoryUrl(); d != "" {
		if u, err := url.Parse(d); err != nil || u.Scheme != "https" || u.Host == "" {
			r.errorf(at+".directoryUrl", "%q is not an authority's directory: write its https URL", d)
		}
	}
	address := a.GetHttpAddress()
	switch {
	case address == "":
	case a.GetChallenge() != "http-01":
		r.errorf(at+".httpAddress", "is never used, as the challenge is tls-alpn-01: write challenge: http-01, or remove it")
	case listenAddress(address) != "":
		r.errorf(at+".httpAddress", "%s", listenAddress(address))
	case slices.ContainsFunc(cfg.GetListeners(), func(l *configv1.Listener) bool { return l.GetAddress() == address }) || cfg.GetAdmin().GetAddress() == address:
		r.errorf(at+".httpAddress", "%s is already the address of a listener, or admin's: authorities come by plain HTTP, so give it its own port", address)
	}
}

var (
	email      = regexp.MustCompile(`^[^@\s]+@[^@\s]+$`)
	dnsName    = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?(\.[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?)*$`)
	spiffePath = regexp.MustCompile(`^(/[A-Za-z0-9._-]+)+$`)
	spiffeHost = regexp.MustCompile(`^[a-z0-9._-]+$`)
)

func acmeDomain(d string) string {
	switch {
	case strings.HasPrefix(d, "*."):
		return fmt.Sprintf("%q is a wildcard, which needs the challenge dns-01, and that is not offered: write each name, or get the certificate otherwise and name it in certificates", d)
	case net.ParseIP(strings.Trim(d, "[]")) != nil:
		return fmt.Sprintf("%q is an IP address: write a name", d)
	case !dnsName.MatchString(d) || len(d) > 253:
		return fmt.Sprintf("%q is not a domain: write a name such as lb.example.com, without scheme, port or final dot", d)
	}
	return ""
}

func (r *report) checkTrustedProxies(at string, trusted []string) {
	for i, s := range trusted {
		path := fmt.Sprintf("%s[%d]", at, i)
		if a, err := netip.ParseAddr(s); err == nil && a.Zone() == "" {
			continue
		}
		p, err := netip.ParsePrefix(s)
		switch {
		case err != nil:
			r.errorf(path, "%q is neither an address nor a network: write 10.0.0.7, 10.0.0.0/8 or fd00::/8", s)
		case p != p.Masked():
			r.errorf(path, "%q is an address inside of a network: write %s for the network, or %s for the address", s, p.Masked(), p.Addr())
		case p.Bits() == 0:
			r.warnf(path, "%s is everybody: any client can then say that it comes from anywhere; name your proxies", s)
		}
	}
}

// checkAdminAccess reports an admin address that strangers can reach and that asks for nothing.
func (r *report) checkAdminAccess(a *configv1.Admin) {
	address := a.GetAddress()
	if address == "" || address == "-" || listenAddress(address) != "" || onlyLocal(address) {
		return
	}
	switch {
	case a.GetTokenFile() == "" && a.GetTls().GetClientCaFile() == "":
		r.errorf("admin.address", "%s can be reached from elsewhere, and whoever reaches it can see and drain everything: "+
			"add tokenFile, or tls with clientCaFile, or write a loopback address such as 127.0.0.1:9901", address)
	case a.GetTls() == nil:
		r.warnf("admin.address", "%s can be reached from elsewhere, and the token is sent in the clear: add tls", address)
	}
}

// onlyLocal tells whether only this host can reach address. An absent host means all interfaces.
func onlyLocal(address string) bool {
	host, _, err := net.SplitHostPort(address)
	ip := net.ParseIP(host)
	return err == nil && (ip != nil && ip.IsLoopback() || strings.EqualFold(host, "localhost"))
}

// checkMesh returns where the Consul services stand that are reached through the mesh, by name.
func (r *report) checkMesh(cfg *configv1.Config) map[string]string {
	c, mesh := cfg.GetDiscovery().GetConsul(), map[string]string{}
	for i, s := range c.GetServices() {
		if !s.GetConnect() {
			continue
		}
		path := fmt.Sprintf("discovery.consul.services[%d].connect", i)
		mesh[s.GetName()] = path
		if c.GetConnect() == nil {
			r.errorf(path, "is true, but this process is no member of the mesh: write discovery.consul.connect: { service: <its name in Consul> }")
		}
	}
	return mesh
}

func (r *report) checkUpstreamTLS(at string, t *configv1.UpstreamTLS) {
	r.checkPair(at, t.GetCertFile(), t.GetKeyFile())
	if n := t.GetServerName(); n != "" && !validHost(n, false) {
		r.errorf(at+".serverName", "%q is not a name: write it as it stands in the certificate, without scheme or port", n)
	}
	r.checkSkipVerify(at, t.GetInsecureSkipVerify(), "caFile", t.GetCaFile())
	r.checkSkipVerify(at, t.GetInsecureSkipVerify(), "spiffeId", t.GetSpiffeId())
	if id := t.GetSpiffeId(); id != "" && !spiffeID(id) {
		r.errorf(at+".spiffeId", "%q is not a SPIFFE id: write spiffe://trust-domain/path", id)
	}
}

// checkSkipVerify reports what would be verified if anything were: whoever wrote it believes that it is.
func (r *report) checkSkipVerify(at string, skip bool, key, value string) {
	if skip && value != "" {
		r.errorf(at+".insecureSkipVerify", "is true, so that any certificate is trusted and %s (line %d) is never looked at: remove one", key, r.line(at+"."+key))
	}
}

// spiffeID follows https://github.com/spiffe/spiffe/blob/main/standards/SPIFFE-ID.md, 2.
func spiffeID(id string) bool {
	rest, ok := strings.CutPrefix(id, "spiffe://")
	domain, path := rest, ""
	if i := strings.IndexByte(rest, '/'); i >= 0 {
		domain, path = rest[:i], rest[i:]
	}
	return ok && len(id) <= 2048 && spiffeHost.MatchString(domain) && (path == "" || spiffePath.MatchString(path)) &&
		!slices.ContainsFunc(strings.Split(path, "/"), func(segment string) bool { return segment == "." || segment == ".." })
}
