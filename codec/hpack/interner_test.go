package hpack

import (
	"fmt"
	"strings"
	"testing"
)

// Equal content is one field, however it came, until the last reference is gone.
func TestEqualContentIsOneField(t *testing.T) {
	in := NewInterner()
	a := in.Intern("x-tenant", "blue")
	if b := in.InternBytes([]byte("x-tenant"), []byte("blue")); b != a {
		t.Error("interned twice, two fields")
	}
	d := NewDecoder(in, 4096)
	fields, err := d.Decode(nil, newXnetPeer().encode([][2]string{{"x-tenant", "blue"}, {"x-tenant", "green"}}))
	if err != nil {
		t.Fatal(err)
	}
	if fields[0] != a || fields[1] == a {
		t.Error("a decoded literal is not the field of its content")
	}
	releaseAll(in, fields)
	d.Close()
	in.Release(a)
	if in.Len() != 1 {
		t.Errorf("%d fields are live, want the one with a reference left", in.Len())
	}
	in.Release(a)
	if in.Len() != 0 {
		t.Errorf("%d fields leaked", in.Len())
	}
}

// A recycled field starts anew: no memo, no flags, no content of its former life.
func TestRecycledFieldForgetsItsFormerLife(t *testing.T) {
	in := NewInterner()
	a := in.Intern(":bogus", "line\nfeed")
	a.Memo, a.MemoGen = t, 7
	in.Release(a)
	b := in.Intern("x", "")
	if b != a {
		t.Fatal("the free field was not taken")
	}
	if b.Memo != nil || b.MemoGen != 0 || b.Flags != 0 || b.ID != Other || b.Name != "x" || b.Value != "" || b.sighted {
		t.Errorf("left over: %+v", *b)
	}
	in.Release(b)
}

// What Intern was given may change afterwards; the field does not.
func TestInternCopies(t *testing.T) {
	in := NewInterner()
	name, value := []byte("x-name"), []byte("value")
	f := in.InternBytes(name, value)
	copy(name, "zzzzzz")
	copy(value, "zzzzz")
	if f.Name != "x-name" || f.Value != "value" {
		t.Errorf("got %s: %s", f.Name, f.Value)
	}
	in.Release(f)
}

// Releasing a field that nobody holds is a bug that would mix up two calls, so it panics.
func TestReleaseOfADeadFieldPanics(t *testing.T) {
	in := NewInterner()
	f := in.Intern("x", "y")
	in.Release(f)
	defer func() {
		if recover() == nil {
			t.Error("no panic")
		}
	}()
	in.Release(f)
}

// Flags are what RFC 9113 8.2 says about name and value.
func TestFlags(t *testing.T) {
	long := strings.Repeat("0123456789", 5)
	for _, c := range []struct {
		name, value string
		want        Flags
	}{
		{"content-type", "application/grpc", 0},
		{"", "", BadName},
		{"Content-Type", "x", BadName},
		{"a b", "", BadName},
		{"a:b", "", BadName},
		{"a\x7f", "", BadName},
		{"caf\xc3\xa9", "", BadName},
		{":path", "/", Pseudo},
		{":protocol", "websocket", Pseudo},
		{":bogus", "", Pseudo | UnknownPseudo},
		{":", "", Pseudo | UnknownPseudo},
		{"::path", "", Pseudo | UnknownPseudo | BadName},
		{"x", " a", 0},
		{"x", "a\t", 0},
		{"x", " ", 0},
		{"x", "a b\tc \xff\x01", 0},
		{"x", "\n", BadValue},
		{"x", long + "\r" + long, BadValue},
		{"x", long + "\x00", BadValue},
		{"x", "\n" + long, BadValue},
		{"x", long + "\x01\x0b\x0c" + long, 0},
		{"connection", "close", ConnectionSpecific},
		{"proxy-connection", "", ConnectionSpecific},
		{"keep-alive", "", ConnectionSpecific},
		{"transfer-encoding", "chunked", ConnectionSpecific},
		{"upgrade", "h2c", ConnectionSpecific},
		{"te", "trailers", 0},
	} {
		in := NewInterner()
		f := in.Intern(c.name, c.value)
		if f.Flags != c.want {
			t.Errorf("%q: %q has flags %08b, want %08b", c.name, c.value, f.Flags, c.want)
		}
		in.Release(f)
	}
}

// Each ID has a spelling of its own and is found by it.
func TestIDsAndNamesMatch(t *testing.T) {
	in := NewInterner()
	seen := map[string]ID{}
	for id := Other + 1; id < numIDs; id++ {
		s := id.String()
		if s == "" || s != strings.ToLower(s) {
			t.Errorf("ID %d is spelled %q", id, s)
		}
		if other, ok := seen[s]; ok {
			t.Errorf("IDs %d and %d are both %q", other, id, s)
		}
		seen[s] = id
		f := in.Intern(s, "v")
		if LookupID(s) != id || f.ID != id {
			t.Errorf("%q has ID %d and its field %d, want %d", s, LookupID(s), f.ID, id)
		}
		in.Release(f)
	}
	if LookupID("x-unheard-of") != Other || Other.String() != "" || ID(255).String() != "" {
		t.Error("Other is not other")
	}
}

// Many live fields are all found again, and when they die their memory is bounded.
func TestManyFieldsComeAndGo(t *testing.T) {
	in := NewInterner()
	const n = 20000
	fields := make([]*Field, n)
	key := func(i int) (string, string) { return fmt.Sprintf("x-%d", i%5000), fmt.Sprintf("v%d", i) }
	for i := range fields {
		fields[i] = in.Intern(key(i))
	}
	for i, f := range fields {
		name, value := key(i)
		again := in.Intern(name, value)
		if again != f || f.Name != name || f.Value != value {
			t.Fatalf("field %d is lost", i)
		}
		in.Release(again)
	}
	if in.Len() != n {
		t.Errorf("%d live, want %d", in.Len(), n)
	}
	releaseAll(in, fields)
	if in.Len() != 0 {
		t.Errorf("%d leaked", in.Len())
	}
	if in.freeLen > maxFree+n/2+1 {
		t.Errorf("%d fields kept free", in.freeLen)
	}
	for i := range 100000 {
		in.Release(in.Intern(fmt.Sprintf("x-random-%d", i), ""))
	}
	if len(in.names) > 1<<15 || in.nameBytes > 4*nameSlack {
		t.Errorf("names of the dead take %d slots, %d bytes", len(in.names), in.nameBytes)
	}
}
