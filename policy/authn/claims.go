package authn

import (
	"strconv"
	"strings"
)

// Claim finds a claim by its name, or by the names of claims inside of claims with dots between them. A claim whose own name has dots
// in it ("https://shop.example.com/roles") comes first.
func Claim(claims map[string]any, path string) (any, bool) {
	if v, ok := claims[path]; ok {
		return v, true
	}
	for i := range len(path) {
		if path[i] != '.' {
			continue
		}
		if inner, ok := claims[path[:i]].(map[string]any); ok {
			if v, ok := Claim(inner, path[i+1:]); ok {
				return v, true
			}
		}
	}
	return nil, false
}

// Value is a claim as the value of a metadata field: strings, numbers and truth values, and lists of them, joined by commas. Not ok:
// there is none, or it cannot be sent as it is, as what holds another claim, or an element with a comma, which would be two.
func Value(claim any) (string, bool) {
	list, ok := claim.([]any)
	if !ok {
		v, ok := scalar(claim)
		return v, ok && ValidValue(v)
	}
	parts := make([]string, 0, len(list))
	for _, item := range list {
		v, ok := scalar(item)
		if !ok || strings.Contains(v, ",") || !ValidValue(v) {
			return "", false
		}
		parts = append(parts, v)
	}
	v := strings.Join(parts, ",")
	return v, v != ""
}

func scalar(claim any) (string, bool) {
	switch v := claim.(type) {
	case string:
		return v, true
	case bool:
		return strconv.FormatBool(v), true
	case float64:
		return strconv.FormatFloat(v, 'f', -1, 64), true
	}
	return "", false
}

// ValidValue tells that v can be the value of a metadata field, and means there what it means here: printable ASCII with no space at
// either end (RFC 9113 section 8.2.1; gRPC over HTTP/2, ASCII-Value), and not empty.
func ValidValue(v string) bool {
	if v == "" || v[0] == ' ' || v[len(v)-1] == ' ' {
		return false
	}
	for i := range len(v) {
		if v[i] < ' ' || v[i] > '~' {
			return false
		}
	}
	return true
}

// Named is the caller's name, "" where nobody knows (p is nil).
func (p *Principal) Named() string {
	if p == nil {
		return ""
	}
	return p.Name
}

// Claim is a claim of the caller's token as text, lists joined by commas; "" where there is none.
func (p *Principal) Claim(path string) string {
	if p == nil {
		return ""
	}
	claim, ok := Claim(p.Claims, path)
	if !ok {
		return ""
	}
	v, _ := Value(claim)
	return v
}
