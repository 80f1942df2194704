package hpack

import (
	"errors"
	"strings"
	"testing"
)

// A list above the limit is refused and the table stays in step: the next block may refer to its fields.
func TestTooLargeListKeepsTheTableInStep(t *testing.T) {
	in := NewInterner()
	d, p := NewDecoder(in, 4096), newXnetPeer()
	d.SetMaxListSize(200)
	first := in.Intern("not", "mine")
	dst := []*Field{first}
	big := [][2]string{{"x-a", strings.Repeat("a", 50)}, {"x-b", strings.Repeat("b", 50)}, {"x-c", strings.Repeat("c", 50)}}
	got, err := d.Decode(dst, p.encode(big))
	if !errors.Is(err, ErrListTooLarge) {
		t.Fatalf("got %v", err)
	}
	if len(got) != 1 || got[0] != first || first.refs != 1 {
		t.Errorf("what was in dst before is touched: %v", pairsOf(got))
	}
	for _, want := range big {
		block := p.encode([][2]string{want})
		if len(block) != 1 {
			t.Fatalf("the peer does not refer to its table: %x", block)
		}
		fields, err := d.Decode(nil, block)
		if err != nil || !equalPairs(pairsOf(fields), [][2]string{want}) {
			t.Fatalf("got %q, %v, want %q", pairsOf(fields), err, want)
		}
		releaseAll(in, fields)
	}
	in.Release(first)
	d.Close()
	if in.Len() != 0 {
		t.Errorf("%d fields leaked", in.Len())
	}
}

// A list of exactly the limit passes, and one more byte is too much: RFC 9113 6.5.2 counts 32 for each field.
func TestListSizeIsCountedAsRFC9113Says(t *testing.T) {
	for _, c := range []struct {
		limit uint32
		want  error
	}{{2*(1+1+32) + 42, nil}, {2*(1+1+32) + 41, ErrListTooLarge}} {
		in := NewInterner()
		d := NewDecoder(in, 4096)
		d.SetMaxListSize(c.limit)
		fields, err := d.Decode(nil, unhex(t, "40 01 61 01 62  be 82")) // a: b twice, :method GET
		if err != c.want {
			t.Errorf("limit %d: got %v, want %v", c.limit, err, c.want)
		}
		releaseAll(in, fields)
		d.Close()
		if in.Len() != 0 {
			t.Errorf("%d fields leaked", in.Len())
		}
	}
}

// One-byte fields cannot make a list without end, whatever the size limit says.
func TestNumberOfFieldsIsBounded(t *testing.T) {
	in := NewInterner()
	d := NewDecoder(in, 4096)
	d.SetMaxListSize(1 << 31)
	if _, err := d.Decode(nil, []byte(strings.Repeat("\x82", defaultMaxFields))); err != nil {
		t.Errorf("%d fields: %v", defaultMaxFields, err)
	}
	if _, err := d.Decode(nil, []byte(strings.Repeat("\x82", defaultMaxFields+1))); !errors.Is(err, ErrListTooLarge) {
		t.Errorf("one more: %v", err)
	}
}

// Two size updates may open a block, and the later one holds; a table may be switched off.
func TestSizeUpdatesOpenABlock(t *testing.T) {
	in := NewInterner()
	d := NewDecoder(in, 4096)
	fields, err := d.Decode(nil, unhex(t, "40 01 61 01 62"))
	if err != nil {
		t.Fatal(err)
	}
	releaseAll(in, fields)
	if _, err = d.Decode(nil, unhex(t, "20 3f e1 1f 82")); err != nil {
		t.Fatal(err)
	}
	if d.t.max != 4096 || d.t.n != 0 || in.Len() != 0 {
		t.Errorf("max %d, %d entries, %d fields", d.t.max, d.t.n, in.Len())
	}
	// A field larger than the table empties it and is not an error (RFC 7541 4.4).
	fields, err = d.Decode(nil, unhex(t, "3f 03 40 01 61 01 62 40 01 63 01 64"))
	if err != nil || d.t.n != 1 || d.t.max != 34 {
		t.Fatalf("%v, %d entries", err, d.t.n)
	}
	releaseAll(in, fields)
	fields, err = d.Decode(nil, unhex(t, "40 01 61 02 62 62"))
	if err != nil || d.t.n != 0 {
		t.Fatalf("%v, %d entries", err, d.t.n)
	}
	releaseAll(in, fields)
	d.Close()
	if in.Len() != 0 {
		t.Errorf("%d fields leaked", in.Len())
	}
}

// A literal may take its name from the very entry that its insertion evicts (RFC 7541 4.4).
func TestNameOfAnEvictedEntryIsUsable(t *testing.T) {
	in := NewInterner()
	d := NewDecoder(in, 4096)
	// Table of 50: x-name: v (39 bytes) goes when x-name: w comes, named by it.
	fields, err := d.Decode(nil, unhex(t, "3f 13 40 06 782d6e616d65 01 76 7e 01 77 be"))
	if err != nil {
		t.Fatal(err)
	}
	want := [][2]string{{"x-name", "v"}, {"x-name", "w"}, {"x-name", "w"}}
	if !equalPairs(pairsOf(fields), want) {
		t.Errorf("got %q", pairsOf(fields))
	}
	releaseAll(in, fields)
	d.Close()
	if in.Len() != 0 {
		t.Errorf("%d fields leaked", in.Len())
	}
}

// In a steady state neither repeated nor varying fields, inserted by the peer or not, allocate.
func TestSteadyStateDoesNotAllocate(t *testing.T) {
	r, p := newRelay(), newXnetPeer()
	for range 3 {
		r.pass(t, p.encode(requestFields))
	}
	// One run passes many blocks: AllocsPerRun rounds down, and one allocation in many blocks is one too many.
	constant := p.encode(requestFields)
	if n := testing.AllocsPerRun(1, func() {
		for range 1000 {
			r.pass(t, constant)
		}
	}); n != 0 {
		t.Errorf("repeated fields: %v allocations in 1000 blocks", n)
	}
	r, blocks := newRelay(), varyingCycle(2000)
	if n := testing.AllocsPerRun(1, func() {
		for _, b := range blocks {
			r.pass(t, b)
		}
	}); n != 0 {
		t.Errorf("varying fields: %v allocations in %d blocks", n, len(blocks))
	}
}
