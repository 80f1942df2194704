package admin

import (
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"strings"
)

// guard keeps foreign web pages away from the admin address, which may have no login.
//
//   - A page of another origin cannot post: the browser's own Sec-Fetch-Site or Origin header gives it away. Nor can it make the browser
//     fetch what costs something, such as a profile, though it could not read it: beside the page itself nothing is for links.
//   - A page whose name was rebound to 127.0.0.1 looks like its own origin, but its Host is a name. So a request that
//     arrives on a loopback address must name localhost or an IP address.
//
// What is not a browser sends neither header and may name what it likes only where the name is right as well; curl and
// grpcurl do by default.
func guard(next http.Handler) http.Handler {
	var origin http.CrossOriginProtection
	return origin.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if onLoopback(r) && !namesThisMachine(r.Host) {
			say(w, http.StatusForbidden, fmt.Sprintf("the admin address is on loopback and answers to localhost or an IP address, not to %q", r.Host))
			return
		}
		if site := r.Header.Get("Sec-Fetch-Site"); (site == "cross-site" || site == "same-site") && r.URL.Path != "/" && !open(r.URL.Path) {
			say(w, http.StatusForbidden, "a page of another origin asks for this; open it by itself")
			return
		}
		h := w.Header()
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("X-Frame-Options", "DENY")
		h.Set("Referrer-Policy", "no-referrer")
		next.ServeHTTP(w, r)
	}))
}

func onLoopback(r *http.Request) bool {
	local, ok := r.Context().Value(http.LocalAddrContextKey).(net.Addr)
	if !ok {
		return false
	}
	addr, err := netip.ParseAddrPort(local.String())
	return err == nil && addr.Addr().Unmap().IsLoopback()
}

func namesThisMachine(host string) bool {
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	host = strings.ToLower(strings.TrimSuffix(strings.Trim(host, "[]"), "."))
	if host == "localhost" || strings.HasSuffix(host, ".localhost") || host == "" {
		return true
	}
	_, err := netip.ParseAddr(host)
	return err == nil
}
