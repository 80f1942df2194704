package config

import (
	"fmt"
	"net"
	"net/url"
	"regexp"
	"strconv"
	"strings"
)

// Each of these returns what is wrong with a value and what would be right, "" for a good one.

func listenAddress(s string) string {
	host, port, err := net.SplitHostPort(s)
	if err != nil || !validPort(port, 0) || !validHost(host, true) {
		return fmt.Sprintf("%q is not an address to listen on: write host:port or :port, such as 127.0.0.1:7443 or [::1]:7443", s)
	}
	return ""
}

func dialAddress(s string) string {
	host, port, err := net.SplitHostPort(s)
	if err != nil || !validPort(port, 1) || !validHost(host, false) {
		hint := "write host:port, such as 10.0.0.7:7001 or [::1]:7001"
		if u, err := url.Parse(s); err == nil && u.Host != "" {
			hint = fmt.Sprintf("write it without %q", u.Scheme+"://")
		}
		return fmt.Sprintf("%q is not an endpoint's address: %s", s, hint)
	}
	return ""
}

func validPort(s string, least uint64) bool {
	n, err := strconv.ParseUint(s, 10, 16)
	return err == nil && n >= least
}

func validHost(s string, emptyToo bool) bool {
	if s == "" {
		return emptyToo
	}
	return net.ParseIP(s) != nil || ipZone.MatchString(s) || (hostName.MatchString(s) && len(s) <= 253)
}

func consulAddress(s string) string {
	wrong := fmt.Sprintf("%q is not an agent's address: write http://host:port, https://host:port, unix:///path/to/socket or host:port", s)
	if path, ok := strings.CutPrefix(s, "unix://"); ok {
		if !strings.HasPrefix(path, "/") {
			return wrong
		}
		return ""
	}
	if !strings.Contains(s, "://") {
		if dialAddress(s) != "" {
			return wrong
		}
		return ""
	}
	u, err := url.Parse(s)
	if err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Host == "" || u.RawQuery != "" || u.Fragment != "" {
		return wrong
	}
	if u.User != nil {
		return "has a user's name in it, which is not taken to the agent: remove it; a token belongs in tokenFile, basic authentication in CONSUL_HTTP_AUTH"
	}
	return ""
}

const identifier = `[A-Za-z_][A-Za-z0-9_]*`

var (
	hostName = regexp.MustCompile(`^[A-Za-z0-9_]([A-Za-z0-9_.-]*[A-Za-z0-9_.])?$`)
	ipZone   = regexp.MustCompile(`^[0-9A-Fa-f:.]+%[A-Za-z0-9_.-]+$`)

	service    = regexp.MustCompile(`^` + identifier + `(\.` + identifier + `)*$`)
	method     = regexp.MustCompile(`^` + identifier + `(\.` + identifier + `)*/` + identifier + `$`)
	pathPrefix = regexp.MustCompile(`^[A-Za-z0-9_.]+(/[A-Za-z0-9_]*)?$`)
)

func serviceName(s string) string {
	if service.MatchString(s) {
		return ""
	}
	if name := strings.TrimPrefix(s, "/"); method.MatchString(name) {
		return fmt.Sprintf("%q is a method: write %q for the whole service, or match by method", s, name[:strings.Index(name, "/")])
	}
	return fmt.Sprintf("%q is not a protobuf service: write its full name with the package, such as pkg.Service", s)
}

func methodName(s string) string {
	if method.MatchString(s) {
		return ""
	}
	if name := strings.TrimPrefix(s, "/"); method.MatchString(name) {
		return fmt.Sprintf("%q begins with a slash: write %s", s, name)
	}
	if i := strings.LastIndex(s, "."); i > 0 && service.MatchString(s) {
		guess := s + "/Method" // a.B: a package and a service
		if strings.Count(s, ".") > 1 {
			guess = s[:i] + "/" + s[i+1:]
		}
		return fmt.Sprintf("%q has no slash: write pkg.Service/Method, here %s, or match by service", s, guess)
	}
	return fmt.Sprintf("%q is not a method: write pkg.Service/Method", s)
}

func prefix(s string) string {
	if pathPrefix.MatchString(s) {
		return ""
	}
	if name := strings.TrimPrefix(s, "/"); pathPrefix.MatchString(name) {
		return fmt.Sprintf("%q begins with a slash: write %s", s, name)
	}
	return fmt.Sprintf("%q is not the beginning of a method: write pkg. or pkg.Service/Get, without wildcards", s)
}
