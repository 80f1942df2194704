package discovery

import "strings"

// maxServiceName bounds a protobuf service name that came from outside; real ones are far shorter.
const maxServiceName = 512

// ValidServiceName says whether name is a fully-qualified protobuf name (identifiers joined by dots; protobuf language
// specification, "fullIdent").
func ValidServiceName(name string) bool {
	if name == "" || len(name) > maxServiceName {
		return false
	}
	start := true // the next character begins an identifier
	for i := range len(name) {
		c := name[i]
		switch {
		case c == '.':
			if start {
				return false
			}
			start = true
			continue
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c == '_':
		case c >= '0' && c <= '9':
			if start {
				return false
			}
		default:
			return false
		}
		start = false
	}
	return !start
}

// Learnable says whether a route may be learned for a protobuf service: grpc.health.* and grpc.reflection.* are offered
// by every server and belong to none.
func Learnable(service string) bool {
	return !strings.HasPrefix(service, "grpc.health.") && !strings.HasPrefix(service, "grpc.reflection.")
}
