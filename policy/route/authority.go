package route

import (
	"cmp"
	"slices"
	"strings"
)

// hosts holds the levels of rules with an authority.
type hosts struct {
	exact map[string]*level // by "host:port" and by "host", lower case
	wild  []wildcard        // longest suffix first
}

type wildcard struct {
	suffix string // ".example.com", lower case
	port   string // "" is any
	level  *level
}

// maxAuthority is longer than any host name (253) with a port; a longer authority has no rule of its own.
const maxAuthority = 320

// match tries the levels that the authority belongs to, most specific first.
func (h *hosts) match(name, authority string) *Route {
	if len(authority) > maxAuthority {
		return nil
	}
	var buf [maxAuthority]byte
	full := buf[:len(authority)]
	for i := range full { // lower(buf[:0], authority), but twice as fast
		c := authority[i]
		if 'A' <= c && c <= 'Z' {
			c += 'a' - 'A'
		}
		full[i] = c
	}
	n := portAt(full)
	host := full[:n]
	if n < len(full) {
		if l := h.exact[string(full)]; l != nil { // this conversion does not allocate
			if r := l.match(name); r != nil {
				return r
			}
		}
	}
	if l := h.exact[string(host)]; l != nil {
		if r := l.match(name); r != nil {
			return r
		}
	}
	for i := range h.wild {
		w := &h.wild[i]
		if w.covers(host, full) {
			if r := w.level.match(name); r != nil {
				return r
			}
		}
	}
	return nil
}

// covers wants at least one byte before the suffix: "*.example.com" is not "example.com".
func (w *wildcard) covers(host, full []byte) bool {
	if len(host) <= len(w.suffix) || string(host[len(host)-len(w.suffix):]) != w.suffix {
		return false
	}
	return w.port == "" || len(full) > len(host) && string(full[len(host)+1:]) == w.port
}

func lower(dst []byte, s string) []byte {
	for i := range len(s) {
		c := s[i]
		if 'A' <= c && c <= 'Z' {
			c += 'a' - 'A'
		}
		dst = append(dst, c)
	}
	return dst
}

// portAt returns where ":port" begins in an authority, or its length. Brackets of an IPv6 address are part of the host; a bare
// IPv6 address (more than one colon) has no port.
func portAt[T ~string | ~[]byte](s T) int {
	for i := len(s) - 1; i >= 0; i-- {
		switch s[i] {
		case ']':
			return len(s)
		case ':':
			for j := range i {
				if s[j] == ':' && s[i-1] != ']' {
					return len(s)
				}
			}
			return i
		}
	}
	return len(s)
}

// add returns the level of an authority pattern (in lower case), new or known.
func (h *hosts) add(pattern string) *level {
	if !strings.HasPrefix(pattern, "*.") {
		if h.exact == nil {
			h.exact = map[string]*level{}
		}
		l := h.exact[pattern]
		if l == nil {
			l = new(level)
			h.exact[pattern] = l
		}
		return l
	}
	n := portAt(pattern)
	w := wildcard{suffix: pattern[1:n]}
	if n < len(pattern) {
		w.port = pattern[n+1:]
	}
	for _, have := range h.wild {
		if have.suffix == w.suffix && have.port == w.port {
			return have.level
		}
	}
	w.level = new(level)
	h.wild = append(h.wild, w)
	slices.SortStableFunc(h.wild, func(a, b wildcard) int {
		return cmp.Or(cmp.Compare(len(b.suffix), len(a.suffix)), cmp.Compare(len(b.port), len(a.port)))
	})
	return w.level
}

// authorityRank orders patterns from specific to general: with port, host, wildcard by length, any.
func authorityRank(pattern string) (class, length int) {
	n := portAt(pattern)
	switch {
	case pattern == "":
		return 3, 0
	case strings.HasPrefix(pattern, "*."):
		rank := -2 * n // longest first; with a port before without
		if n < len(pattern) {
			rank--
		}
		return 2, rank
	case n < len(pattern):
		return 0, 0
	}
	return 1, 0
}

// authorityCovers says the same as hosts.match for one pattern (in lower case), slowly, for Explain.
func authorityCovers(pattern, authority string) bool {
	if pattern == "" {
		return true
	}
	if len(authority) > maxAuthority {
		return false
	}
	authority = string(lower(nil, authority))
	p, a := portAt(pattern), portAt(authority)
	if p < len(pattern) && (a == len(authority) || pattern[p:] != authority[a:]) {
		return false
	}
	host, want := authority[:a], pattern[:p]
	if suffix, ok := strings.CutPrefix(want, "*"); ok {
		return len(host) > len(suffix) && strings.HasSuffix(host, suffix)
	}
	return host == want
}
