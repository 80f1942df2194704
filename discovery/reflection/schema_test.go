package reflection

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	v1 "google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/descriptorpb"
)

// written is a serialized FileDescriptorProto, written as text.
func written(t testing.TB, text string) []byte {
	t.Helper()
	var f descriptorpb.FileDescriptorProto
	if err := prototext.Unmarshal([]byte(text), &f); err != nil {
		t.Fatal(err)
	}
	b, err := proto.Marshal(&f)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

const (
	shopText = `name: "shop.proto" package: "p" dependency: "tea.proto" dependency: "gone.proto"
		service { name: "Shop" method { name: "Get" input_type: ".p.Tea" output_type: ".p.Tea" } }
		extension { name: "hot" number: 100 extendee: ".p.Tea" } extension { name: "cold" number: 90 extendee: ".p.Tea" }`
	teaText = `name: "tea.proto" package: "p" dependency: "leaf.proto" dependency: "shop.proto"
		message_type { name: "Tea" field { name: "kind" number: 1 } oneof_decl { name: "one" }
			nested_type { name: "Cup" enum_type { name: "Size" value { name: "SMALL" number: 0 } } extension { name: "in" number: 7 extendee: ".p.Leaf" } } }
		enum_type { name: "Colour" value { name: "GREEN" number: 0 } }`
	leafText = `name: "leaf.proto" message_type { name: "Leaf" }`
)

// A schema knows which file defines each name that protobuf gives, and which extends what.
func TestSchemaKnowsWhereNamesAreDefined(t *testing.T) {
	s := NewSchema([][]byte{written(t, shopText), written(t, teaText), {0xff}, written(t, leafText), written(t, `name: "leaf.proto" package: "second"`)})
	for symbol, want := range map[string]string{
		"p.Shop": "shop.proto", "p.Shop.Get": "shop.proto", "p.hot": "shop.proto", "p.Tea": "tea.proto", "p.Tea.kind": "tea.proto",
		"p.Tea.one": "tea.proto", "p.Tea.Cup": "tea.proto", "p.Tea.Cup.Size": "tea.proto", "p.Tea.Cup.SMALL": "tea.proto",
		"p.Tea.Cup.in": "tea.proto", "p.Colour": "tea.proto", "p.GREEN": "tea.proto", "Leaf": "leaf.proto",
		"p": "", "": "", "p.Colour.GREEN": "", "p.Leaf": "", "Shop": "", ".p.Shop": "",
	} {
		if f, ok := s.Symbol(symbol); f.Name != want || ok != (want != "") {
			t.Errorf("%q is in %q, want %q", symbol, f.Name, want)
		}
	}
	if got := s.ExtensionNumbers("p.Tea"); !slices.Equal(got, []int32{90, 100}) {
		t.Errorf("extensions of p.Tea: %v", got)
	}
	if f, ok := s.Extension("Leaf", 7); ok || f.Name != "" {
		t.Error("Leaf is extended by p.Leaf's extension")
	}
	if f, _ := s.Extension("p.Leaf", 7); f.Name != "tea.proto" {
		t.Errorf("p.Leaf 7 is in %q", f.Name)
	}
	root, _ := s.File("shop.proto")
	var order []string
	for f := range s.WithImports(root) {
		order = append(order, f.Name)
	}
	if got := strings.Join(order, " "); got != "shop.proto tea.proto leaf.proto" {
		t.Errorf("with imports: %s", got)
	}
	var none *Schema
	if _, ok := none.Symbol("p.Shop"); ok || none.ExtensionNumbers("p.Tea") != nil {
		t.Error("a nil schema is not empty")
	}
}

// A message nested ten thousand deep in a small file does not fill the memory.
func TestDeepNestingIsBounded(t *testing.T) {
	m := &descriptorpb.DescriptorProto{Name: proto.String("leaf")}
	for range 4000 {
		m = &descriptorpb.DescriptorProto{Name: proto.String(strings.Repeat("x", 100)), NestedType: []*descriptorpb.DescriptorProto{m}}
	}
	b, err := proto.Marshal(&descriptorpb.FileDescriptorProto{Name: proto.String("deep.proto"), MessageType: []*descriptorpb.DescriptorProto{m}})
	if err != nil {
		t.Fatal(err)
	}
	s := NewSchema([][]byte{b})
	if _, ok := s.Symbol(strings.Repeat("x", 100)); !ok {
		t.Error("the outermost message is not found")
	}
	held := 0
	for name := range s.symbols {
		held += len(name)
	}
	if held > maxNames || len(s.symbols) > 1000 {
		t.Errorf("%d names, %d bytes", len(s.symbols), held)
	}
}

// one answers every question about a file with that file alone, as some servers do.
func one(t testing.TB, symbols, texts map[string]string) func(*v1.ServerReflectionRequest) (*v1.ServerReflectionResponse, error) {
	return func(q *v1.ServerReflectionRequest) (*v1.ServerReflectionResponse, error) {
		name := q.GetFileByFilename()
		switch symbol := q.GetFileContainingSymbol(); {
		case symbol != "":
			name = symbols[symbol]
		case name == "":
			return list(slices.Collect(maps.Keys(symbols))...), nil
		}
		switch text, ok := texts[name]; {
		case !ok:
			return refused(codes.NotFound), nil
		case text == "fail":
			return nil, status.Error(codes.Internal, "no")
		default:
			return files(written(t, text)), nil
		}
	}
}

// Imports that a server did not send with the file are asked for by name; what fails there costs nothing of what is known.
func TestImportsAreAskedForByName(t *testing.T) {
	for _, c := range []struct {
		name, leaf string
		limits     Limits
		want       []string
	}{
		{"all", leafText, Limits{}, []string{"leaf.proto", "shop.proto", "tea.proto"}},
		{"one fails", "fail", Limits{}, []string{"shop.proto", "tea.proto"}},
		{"too many", leafText, Limits{Imports: 2}, []string{"shop.proto", "tea.proto"}}, // gone.proto counts
		{"too large", leafText, Limits{Bytes: len(written(t, shopText)) + len("p.Shop") + 1}, []string{"shop.proto"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			answer := one(t, map[string]string{"p.Shop": "shop.proto"}, map[string]string{"shop.proto": shopText, "tea.proto": teaText, "leaf.proto": c.leaf})
			address := serve(t, func(s *grpc.Server) { v1.RegisterServerReflectionServer(s, scripted{answer: answer}) })
			r, err := (&Asker{Limits: c.limits}).Ask(t.Context(), address)
			if err != nil || len(r.Services) != 1 || len(r.Services[0].Methods) != 1 {
				t.Fatalf("%+v %v", r, err)
			}
			var got []string
			for name := range r.Schema.files {
				got = append(got, name)
			}
			slices.Sort(got)
			if !slices.Equal(got, c.want) {
				t.Errorf("files %v, want %v", got, c.want)
			}
		})
	}
}

// Equal descriptors of many endpoints are held once, all of them together within the limit, and given up with the last one.
func TestDescriptorsAreSharedAndBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork()
		for i := range 4 {
			service := fmt.Sprintf("S%d", i/2) // two equal endpoints of each
			defer n.listen(fmt.Sprintf("e%d:1", i), offering(service))()
		}
		target := func(i int) Target { return Target{Address: fmt.Sprintf("e%d:1", i)} }
		probe, err := (&Asker{Dial: n.dial}).Ask(t.Context(), "e0:1")
		if err != nil {
			t.Fatal(err)
		}
		size := 0
		for _, f := range probe.Schema.files {
			size += f.Size()
		}
		p := NewProber(Options{Asker: &Asker{Dial: n.dial}, SchemaBytes: size + size/2})
		defer p.Close()
		p.Set(set(target(0), target(1)))
		after(time.Second)
		a, b := p.State(target(0)).Result, p.State(target(1)).Result
		if a.Schema == nil || a.Schema != b.Schema || p.shelf.bytes != size {
			t.Fatalf("%p %p, %d bytes of %d", a.Schema, b.Schema, p.shelf.bytes, size)
		}
		p.Set(set(target(1), target(2)))
		after(time.Second)
		if r := p.State(target(2)).Result; r == nil || r.Schema != nil || len(r.Services) != 1 {
			t.Fatalf("over the limit: %+v", r)
		}
		p.Set(set(target(3)))
		after(time.Second)
		if r := p.State(target(3)).Result; r == nil || r.Schema == nil || p.shelf.bytes != size {
			t.Fatalf("room was not given back: %+v, %d bytes", r, p.shelf.bytes)
		}
		p.Set(nil)
		if p.shelf.bytes != 0 || len(p.shelf.files)+len(p.shelf.schemas) != 0 {
			t.Fatalf("%+v", p.shelf)
		}
	})
}
