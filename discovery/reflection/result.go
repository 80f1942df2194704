package reflection

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/descriptorpb"

	"github.com/trunkline/trunkline/discovery"
)

// Idempotency is what a method's option idempotency_level declares (google/protobuf/descriptor.proto).
type Idempotency uint8

// The levels of idempotency_level.
const (
	IdempotencyUnknown Idempotency = iota // not declared
	NoSideEffects                         // NO_SIDE_EFFECTS: a safe read
	Idempotent                            // IDEMPOTENT: once or twice is the same
)

// Method is one method of a Service.
type Method struct {
	Name            string
	ClientStreaming bool
	ServerStreaming bool
	Idempotency     Idempotency
}

// Service is one protobuf service that an endpoint offers.
type Service struct {
	Name    string   // fully qualified
	Methods []Method // sorted by Name; nil where the endpoint names the service but has no descriptor for it
}

// Result is what one endpoint said. It is immutable.
type Result struct {
	Services []Service // sorted by Name, without grpc.health.* and grpc.reflection.*
	Version  string    // of the reflection protocol that answered: "v1" or "v1alpha"
	// Schema holds the files that define the services and what those import, as far as the endpoint told; nil where they
	// were too many to be kept (Options.SchemaBytes).
	Schema *Schema
	Hash   string    // over Services and Schema: equal exactly when they are equal
	At     time.Time // when the answer was complete
	Took   time.Duration

	offers map[string][]string // set once in newResult
}

// Offers maps each service to its method names, as discovery.Endpoint.Services wants it. The map is shared: read only.
func (r *Result) Offers() map[string][]string { return r.offers }

func newResult(services []Service, schema *Schema, version string) *Result {
	slices.SortFunc(services, func(a, b Service) int { return strings.Compare(a.Name, b.Name) })
	r := &Result{Services: services, Schema: schema, Version: version, offers: make(map[string][]string, len(services))}
	h := sha256.New()
	for _, s := range services {
		fmt.Fprintf(h, "service %s %t\n", s.Name, s.Methods != nil)
		var names []string
		for _, m := range s.Methods {
			fmt.Fprintf(h, "method %s %t %t %d\n", m.Name, m.ClientStreaming, m.ServerStreaming, m.Idempotency)
			names = append(names, m.Name)
		}
		r.offers[s.Name] = names
	}
	for _, name := range slices.Sorted(maps.Keys(schema.files)) {
		f := schema.files[name]
		fmt.Fprintf(h, "file %q %d\n", name, f.Size())
		_, _ = io.WriteString(h, f.raw.Value()) // a hash takes everything
	}
	r.Hash = hex.EncodeToString(h.Sum(nil))
	return r
}

// collect reads serialized FileDescriptorProtos, adds the methods of each wanted service that they define to found, and the
// files to schema.
// The files' imports are not resolved: method names and flags stand in the file itself, so a server that sends no
// dependencies, or broken ones, is understood all the same.
func collect(files [][]byte, wanted map[string]bool, found map[string][]Method, schema *Schema) error {
	for _, raw := range files {
		var file descriptorpb.FileDescriptorProto
		if err := proto.Unmarshal(raw, &file); err != nil {
			return fmt.Errorf("a file descriptor cannot be read: %w", err)
		}
		schema.add(raw, &file)
		for _, s := range file.GetService() {
			name := s.GetName()
			if pkg := file.GetPackage(); pkg != "" {
				name = pkg + "." + name
			}
			if _, have := found[name]; have || !wanted[name] {
				continue
			}
			methods := make([]Method, 0, len(s.GetMethod()))
			for _, m := range s.GetMethod() {
				if !discovery.ValidServiceName(m.GetName()) || strings.Contains(m.GetName(), ".") {
					continue // no such method can be called
				}
				methods = append(methods, Method{
					Name:            m.GetName(),
					ClientStreaming: m.GetClientStreaming(),
					ServerStreaming: m.GetServerStreaming(),
					Idempotency:     idempotency(m.GetOptions().GetIdempotencyLevel()),
				})
			}
			slices.SortFunc(methods, func(a, b Method) int { return strings.Compare(a.Name, b.Name) })
			found[name] = slices.CompactFunc(methods, func(a, b Method) bool { return a.Name == b.Name })
		}
	}
	return nil
}

func idempotency(level descriptorpb.MethodOptions_IdempotencyLevel) Idempotency {
	switch level {
	case descriptorpb.MethodOptions_NO_SIDE_EFFECTS:
		return NoSideEffects
	case descriptorpb.MethodOptions_IDEMPOTENT:
		return Idempotent
	}
	return IdempotencyUnknown
}
