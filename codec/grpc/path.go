package grpc

import "strings"

// SplitPath splits a :path "/pkg.Service/Method" into service and method, which are substrings of path. The last slash
// splits, as in grpc-go, so a service may itself contain slashes. ok is false without a leading slash, without a second
// one, or when either part is empty. (grpc-go lets empty parts through and then answers UNIMPLEMENTED.)
func SplitPath(path string) (service, method string, ok bool) {
	if path == "" || path[0] != '/' {
		return "", "", false
	}
	i := strings.LastIndexByte(path, '/')
	if i < 2 || i == len(path)-1 {
		return "", "", false
	}
	return path[1:i], path[i+1:], true
}

const contentType = "application/grpc"

// IsContentType says whether a content-type is gRPC's: "application/grpc", alone or followed by "+codec" or ";parameter".
// application/grpc-web is not. Letters compare without case, as media types do (RFC 9110 section 8.3.1).
func IsContentType(v string) bool {
	if len(v) < len(contentType) || !strings.EqualFold(v[:len(contentType)], contentType) {
		return false
	}
	return len(v) == len(contentType) || v[len(contentType)] == '+' || v[len(contentType)] == ';'
}
