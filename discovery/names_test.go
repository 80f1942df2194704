package discovery_test

import (
	"testing"

	"github.com/trunkline/trunkline/discovery"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// A service name is accepted exactly when protobuf itself would accept it.
func FuzzServiceNameAgreesWithProtobuf(f *testing.F) {
	for _, s := range []string{"", "a", "a.B", ".a", "a.", "a..b", "1a", "a.1", "a_1.B2", "a b", "ä"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if len(s) > 500 {
			return
		}
		if got, want := discovery.ValidServiceName(s), protoreflect.FullName(s).IsValid(); got != want {
			t.Fatalf("ValidServiceName(%q) = %v, protobuf says %v", s, got, want)
		}
	})
}

// Health and reflection services are offered by everybody and so are learned from nobody.
func TestHealthAndReflectionAreNotLearnable(t *testing.T) {
	for name, want := range map[string]bool{
		"grpc.health.v1.Health":                    false,
		"grpc.reflection.v1.ServerReflection":      false,
		"grpc.reflection.v1alpha.ServerReflection": false,
		"grpc.healthy.Service":                     true,
		"bench.Echo":                               true,
		"my.grpc.health.v1.Health":                 true,
	} {
		if got := discovery.Learnable(name); got != want {
			t.Errorf("Learnable(%q) = %v, want %v", name, got, want)
		}
	}
}
