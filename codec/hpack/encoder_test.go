package hpack

import (
	"fmt"
	"strings"
	"testing"
)

// ends are our encoder and an x/net decoder behind it.
type ends struct {
	t   *testing.T
	in  *Interner
	enc *Encoder
	p   *xnetPeer
}

func newEnds(t *testing.T, ownMax uint32) *ends {
	in := NewInterner()
	return &ends{t, in, NewEncoder(in, ownMax), newXnetPeer()}
}

// send interns, encodes, releases, and checks what arrives; it returns the block.
func (e *ends) send(pairs ...[2]string) []byte {
	e.t.Helper()
	var fields []*Field
	for _, p := range pairs {
		fields = append(fields, e.in.Intern(p[0], p[1]))
	}
	block := e.enc.Append(nil, fields)
	releaseAll(e.in, fields)
	if got := e.p.decode(e.t, block); !equalPairs(got, pairs) {
		e.t.Fatalf("sent %q, %q arrived", pairs, got)
	}
	return block
}

func (e *ends) close() {
	e.t.Helper()
	e.enc.Close()
	if n := e.in.Len(); n != 0 {
		e.t.Errorf("%d fields leaked", n)
	}
}

func (e *ends) inTable(name, value string) bool {
	for age := range e.enc.t.n {
		if f := e.enc.t.at(age); f.Name == name && f.Value == value {
			return true
		}
	}
	return false
}

// A field goes out as a literal first, is inserted when it comes again, and is one byte from then on, though
// nobody holds it in between.
func TestOnlyRepeatedFieldsAreInserted(t *testing.T) {
	e := newEnds(t, 4096)
	f := [2]string{"user-agent", "grpc-go/1.85.0"}
	if b := e.send(f); b[0]&0xf0 != 0 {
		t.Errorf("first: %x, want a literal without indexing", b)
	}
	if b := e.send(f); b[0]&0xc0 != 0x40 {
		t.Errorf("second: %x, want a literal with indexing", b)
	}
	for range 3 {
		if b := e.send(f); len(b) != 1 || b[0] != 0xbe {
			t.Errorf("later: %x, want an index", b)
		}
	}
	e.close()
}

// Of a name that varies by nature one value is inserted, for its name, and no other however often it repeats.
func TestVaryingNamesAreInsertedOnce(t *testing.T) {
	e := newEnds(t, 4096)
	for i := range 50 {
		e.send([2]string{"traceparent", fmt.Sprintf("00-%032x-%016x-01", i, i)}, [2]string{"grpc-timeout", "1S"},
			[2]string{"x-customer-id", fmt.Sprintf("%016x", i)})
	}
	if e.enc.t.n != 3 {
		t.Errorf("%d entries, want one for each name", e.enc.t.n)
	}
	b := e.send([2]string{"traceparent", strings.Repeat("x", 55)})
	if len(b) > 2+1+55 {
		t.Errorf("the name is not indexed: %x", b)
	}
	e.close()
}

// Values of one name cannot flush the table: a few have a place, and the fields that repeat stay.
func TestRepeatedValuesOfOneNameDoNotFlushTheTable(t *testing.T) {
	e := newEnds(t, 4096)
	constant := [2]string{"x-tenant", "blue"}
	e.send(constant)
	e.send(constant)
	for i := range 100 {
		user := [2]string{"x-user", fmt.Sprintf("user-%d", i)}
		e.send(user)
		e.send(user)
		e.send(constant)
	}
	if !e.inTable("x-tenant", "blue") {
		t.Error("the repeated field was flushed")
	}
	// One in refusalsPerOK gets through: 100 refusals at most here.
	if e.enc.t.n > 1+maxValues+2 {
		t.Errorf("%d entries", e.enc.t.n)
	}
	for i := range 200 {
		path := [2]string{":path", fmt.Sprintf("/%d", i)}
		e.send(path)
		e.send(path)
	}
	if n := int(e.enc.t.n); n < maxPaths || n > maxPaths+maxValues+8 {
		t.Errorf("%d entries with the paths", n)
	}
	e.close()
}

// The values of yesterday do not hold their places for ever: one that goes on repeating gets in.
func TestNewValuesGetInAfterAWhile(t *testing.T) {
	e := newEnds(t, 4096)
	for i := range 2 * maxValues {
		old := [2]string{"x-release", fmt.Sprintf("v1.%d", i)}
		e.send(old)
		e.send(old)
	}
	for range refusalsPerOK + 2 {
		e.send([2]string{"x-release", "v2"})
	}
	if !e.inTable("x-release", "v2") {
		t.Error("it did not")
	}
	e.close()
}

// Credentials stay out of a table that many clients share, and so does what would fill it.
func TestCredentialsAndLargeFieldsAreNotInserted(t *testing.T) {
	e := newEnds(t, 4096)
	for range 5 {
		e.send([2]string{"authorization", "Bearer x"}, [2]string{"cookie", "a=b"}, [2]string{"proxy-authorization", "y"},
			[2]string{"x-large", strings.Repeat("x", 1024)})
	}
	if e.enc.t.n != 0 {
		t.Errorf("%d entries", e.enc.t.n)
	}
	e.close()
}

// A never-indexed field is another one than the indexed field of the same content, and leaves as it came.
func TestSensitiveFieldsStaySensitive(t *testing.T) {
	r := newRelay()
	p := newXnetPeer()
	for range 4 {
		block := append([]byte{0x10, 1, 'a', 1, 'b'}, 0, 1, 'a', 1, 'b')
		block = append(block, 0x12, 3, 'G', 'E', 'T')
		r.pass(t, block)
		got, err := p.dec.DecodeFull(r.out)
		if err != nil {
			t.Fatal(err)
		}
		if len(got) != 3 || !got[0].Sensitive || got[1].Sensitive || !got[2].Sensitive || got[2].Value != "GET" {
			t.Fatalf("got %v", got)
		}
	}
	r.dec.Close()
	r.enc.Close()
	if r.in.Len() != 0 {
		t.Errorf("%d fields leaked", r.in.Len())
	}
}

// Table size changes are announced at the start of the next block: the last one, and a smaller one before it
// if there was one; nothing if nothing has changed in the end.
func TestTableSizeUpdates(t *testing.T) {
	update := func(sizes ...uint32) string {
		var b []byte
		for _, n := range sizes {
			b = appendInt(b, 0x20, 5, n)
		}
		return string(b)
	}
	for _, c := range []struct {
		name  string
		own   uint32
		sizes []uint32
		want  string
	}{
		{"nothing", 4096, nil, ""},
		{"the default again", 4096, []uint32{4096}, ""},
		{"more than we want", 4096, []uint32{65536}, ""},
		{"more", 65536, []uint32{16384}, update(16384)},
		{"less", 4096, []uint32{100}, update(100)},
		{"none", 4096, []uint32{0}, update(0)},
		{"we want less", 512, nil, update(512)},
		{"we want less than the peer, who changes nothing", 512, []uint32{8192}, update(512)},
		{"less, then as before", 4096, []uint32{100, 4096}, update(0, 4096)},
		{"less, then a little more", 4096, []uint32{100, 200}, update(0, 200)},
		{"more, then even more", 65536, []uint32{8192, 16384}, update(16384)},
		{"more, then less", 65536, []uint32{8192, 100}, update(100)},
	} {
		t.Run(c.name, func(t *testing.T) {
			e := newEnds(t, c.own)
			warm := [2]string{"x-tenant", "blue"}
			if c.own == 4096 {
				e.send(warm)
				e.send(warm)
			}
			for _, n := range c.sizes {
				e.enc.SetPeerMaxTableSize(n)
				e.p.dec.SetAllowedMaxDynamicTableSize(max(n, 4096))
			}
			method := [2]string{":method", "POST"}
			if got := e.send(method); string(got) != c.want+"\x83" {
				t.Errorf("got %x, want %x83", got, c.want)
			}
			for i := range 200 { // and both ends go on in step
				e.send(warm, [2]string{fmt.Sprintf("x-%d", i%20), "v"})
			}
			if got := e.send(method); string(got) != "\x83" {
				t.Errorf("announced again: %x", got)
			}
			e.close()
		})
	}
}

// An encoder that has sent nothing worth a table has allocated none; with a few entries it stays small.
func TestTablesAreLazy(t *testing.T) {
	e := newEnds(t, 65536)
	e.send([2]string{":method", "POST"}, [2]string{"authorization", "x"})
	if e.enc.t.ring != nil || e.enc.fieldHead != nil {
		t.Error("memory without entries")
	}
	e.send([2]string{"te", "trailers"})
	if len(e.enc.t.ring) != minRing {
		t.Errorf("a ring of %d for one entry", len(e.enc.t.ring))
	}
	e.close()
}
