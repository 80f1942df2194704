package fuzz

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	xhpack "golang.org/x/net/http2/hpack"

	"github.com/trunkline/trunkline/codec/hpack"
)

// header is a field as the oracle sees it.
type header struct {
	name, value string
	sensitive   bool
}

func (h header) String() string { return fmt.Sprintf("%q: %q (%v)", h.name, h.value, h.sensitive) }

func ours(fields []*hpack.Field) []header {
	var hs []header
	for _, f := range fields {
		hs = append(hs, header{strings.Clone(f.Name), strings.Clone(f.Value), f.Flags&hpack.Sensitive != 0})
	}
	return hs
}

func theirs(fields []xhpack.HeaderField) []header {
	var hs []header
	for _, f := range fields {
		hs = append(hs, header{f.Name, f.Value, f.Sensitive})
	}
	return hs
}

func same(a, b []header) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if a[i] != b[i] {
			return false
		}
	}
	return true
}

func release(in *hpack.Interner, fields []*hpack.Field) {
	for _, f := range fields {
		in.Release(f)
	}
}

// blocks cuts fuzz input into blocks, each with a length byte.
func blocks(data []byte) [][]byte {
	var bs [][]byte
	for len(data) > 0 {
		n := min(int(data[0]), len(data)-1)
		bs = append(bs, data[1:1+n])
		data = data[1+n:]
	}
	return bs
}

// FuzzDecode feeds any bytes, as the blocks of one connection, to our decoder and to x/net's. They agree on
// every block up to the first that is broken; we may refuse only size updates that x/net lets pass.
func FuzzDecode(f *testing.F) {
	f.Add([]byte("\x03\x82\x86\x84"))
	f.Add([]byte("\x11\x82\x86\x84\x41\x8c\xf1\xe3\xc2\xe5\xf2\x3a\x6b\xa0\xab\x90\xf4\xff\x04\x82\x86\x84\xbe"))
	f.Add([]byte("\x05\x40\x01a\x01b\x02\x20\xbe\x03\x3f\xe1\x1f\x05\x10\x01a\x01b\x05\x00\x01a\x01b"))
	f.Add(bytes.Repeat([]byte("\x07\x40\x02ab\x02cd"), 80))
	f.Fuzz(func(t *testing.T, data []byte) {
		in := hpack.NewInterner()
		dec := hpack.NewDecoder(in, 4096)
		dec.SetMaxListSize(1 << 30)
		oracle := xhpack.NewDecoder(4096, nil)
		enc := hpack.NewEncoder(in, 4096)
		back := xhpack.NewDecoder(4096, nil)
		for i, block := range blocks(data) {
			want, wantErr := oracle.DecodeFull(block)
			got, err := dec.Decode(nil, block)
			if err != nil {
				var ce *hpack.CompressionError
				if !errors.As(err, &ce) {
					t.Fatalf("block %d %x: %v is not a CompressionError", i, block, err)
				}
				if len(got) != 0 {
					t.Fatalf("block %d %x: fields with an error", i, block)
				}
				if wantErr == nil && !strings.Contains(ce.Reason, "size update") {
					t.Fatalf("block %d %x: we refuse (%v), x/net reads %v", i, block, err, theirs(want))
				}
				break
			}
			if wantErr != nil {
				// x/net refuses a second size update unless the table is empty; RFC 7541 4.2 allows it.
				if strings.Contains(wantErr.Error(), "table size update MUST occur") {
					release(in, got)
					break
				}
				t.Fatalf("block %d %x: x/net refuses (%v), we read %v", i, block, wantErr, ours(got))
			}
			if !same(ours(got), theirs(want)) {
				t.Fatalf("block %d %x: we read %v, x/net %v", i, block, ours(got), theirs(want))
			}
			out := enc.Append(nil, got)
			again, err := back.DecodeFull(out)
			if err != nil {
				t.Fatalf("block %d: x/net refuses our %x: %v", i, out, err)
			}
			if !same(theirs(again), theirs(want)) {
				t.Fatalf("block %d: we relay %v as %v", i, theirs(want), theirs(again))
			}
			release(in, got)
		}
		dec.Close()
		enc.Close()
		if n := in.Len(); n != 0 {
			t.Fatalf("%d fields leaked", n)
		}
	})
}

// FuzzInternedContent checks that a field says what it was made of, with the flags of a plain reading of RFC
// 9113 8.2, and that equal content is one field.
func FuzzInternedContent(f *testing.F) {
	f.Add("content-type", "application/grpc")
	f.Add(":path", "/")
	f.Add("X-Upper", " lead")
	f.Add(":bogus", "a\nlong value with a line feed\n in it")
	f.Fuzz(func(t *testing.T, name, value string) {
		in := hpack.NewInterner()
		a := in.Intern(name, value)
		b := in.InternBytes([]byte(name), []byte(value))
		if a != b {
			t.Fatal("equal content, two fields")
		}
		if a.Name != name || a.Value != value {
			t.Fatalf("got %q: %q", a.Name, a.Value)
		}
		if a.ID != hpack.LookupID(name) || (a.ID != hpack.Other && a.ID.String() != name) {
			t.Fatalf("ID %d", a.ID)
		}
		var want hpack.Flags
		rest, pseudo := strings.CutPrefix(name, ":")
		badName := name == "" || strings.ContainsFunc(rest, func(r rune) bool {
			return r <= 0x20 || r >= 0x7f || 'A' <= r && r <= 'Z' || r == ':'
		})
		if badName {
			want |= hpack.BadName
		}
		if strings.ContainsAny(value, "\x00\r\n") {
			want |= hpack.BadValue
		}
		if pseudo {
			want |= hpack.Pseudo
			switch rest {
			case "authority", "method", "path", "scheme", "status", "protocol":
			default:
				want |= hpack.UnknownPseudo
			}
		}
		switch name {
		case "connection", "proxy-connection", "keep-alive", "transfer-encoding", "upgrade":
			want |= hpack.ConnectionSpecific
		}
		if a.Flags != want {
			t.Fatalf("%q: %q has flags %08b, want %08b", name, value, a.Flags, want)
		}
		in.Release(a)
		in.Release(b)
		if in.Len() != 0 {
			t.Fatal("leak")
		}
	})
}

// FuzzConversation plays a random conversation on one relayed connection: x/net encodes, we decode and encode
// again, x/net decodes; fields repeat and vary, both tables change their size, and some references are kept
// for a while. What arrives is what was sent, and in the end nothing is left.
func FuzzConversation(f *testing.F) {
	for s := range uint64(20) {
		f.Add(s, uint16(100))
	}
	f.Fuzz(func(t *testing.T, s uint64, rounds uint16) {
		converse(t, rand.New(rand.NewPCG(s, 1)), int(rounds%600))
	})
}

func converse(t *testing.T, r *rand.Rand, rounds int) {
	in := hpack.NewInterner()
	advertised := []uint32{4096, 4096, 100, 0, 16384, 65536}[r.IntN(6)]
	dec := hpack.NewDecoder(in, advertised)
	ownMax := []uint32{4096, 4096, 300, 0, 65536}[r.IntN(5)]
	enc := hpack.NewEncoder(in, ownMax)

	var buf bytes.Buffer
	client := xhpack.NewEncoder(&buf)
	client.SetMaxDynamicTableSizeLimit(advertised)
	server := xhpack.NewDecoder(4096, nil)

	vocabulary := words(r)
	type held struct {
		fields []*hpack.Field
		want   []header
	}
	var kept []held
	for range rounds {
		if r.IntN(20) == 0 {
			for range r.IntN(3) + 1 {
				client.SetMaxDynamicTableSize(r.Uint32N(advertised + 1))
			}
		}
		if r.IntN(20) == 0 {
			for range r.IntN(3) + 1 {
				n := r.Uint32N(1 << (1 + r.IntN(17)))
				enc.SetPeerMaxTableSize(n)
				server.SetAllowedMaxDynamicTableSize(n)
			}
		}
		buf.Reset()
		var want []header
		for range r.IntN(12) {
			h := vocabulary[min(r.IntN(len(vocabulary)), r.IntN(len(vocabulary)))]
			if r.IntN(4) == 0 {
				h.value = fmt.Sprint(r.Uint64())
			}
			want = append(want, h)
			if err := client.WriteField(xhpack.HeaderField{Name: h.name, Value: h.value, Sensitive: h.sensitive}); err != nil {
				t.Fatal(err)
			}
		}
		fields, err := dec.Decode(nil, buf.Bytes())
		if err != nil {
			t.Fatalf("we refuse %x: %v", buf.Bytes(), err)
		}
		if !same(ours(fields), want) {
			t.Fatalf("got %v, want %v", ours(fields), want)
		}
		out := enc.Append(nil, fields)
		got, err := server.DecodeFull(out)
		if err != nil {
			t.Fatalf("x/net refuses %x: %v", out, err)
		}
		if !same(theirs(got), want) {
			t.Fatalf("got %v, want %v", theirs(got), want)
		}
		kept = append(kept, held{fields, want})
		for len(kept) > 0 && r.IntN(3) != 0 {
			i := r.IntN(len(kept))
			if !same(ours(kept[i].fields), kept[i].want) {
				t.Fatalf("held fields changed to %v from %v", ours(kept[i].fields), kept[i].want)
			}
			release(in, kept[i].fields)
			kept[i] = kept[len(kept)-1]
			kept = kept[:len(kept)-1]
		}
	}
	for _, h := range kept {
		release(in, h.fields)
	}
	dec.Close()
	enc.Close()
	if n := in.Len(); n != 0 {
		t.Fatalf("%d fields leaked", n)
	}
}

// words makes the fields of a conversation: real ones, strange ones, and ones of all sizes.
func words(r *rand.Rand) []header {
	hs := []header{
		{":method", "POST", false}, {":method", "GET", false}, {":path", "/a.B/C", false}, {":path", "/a.B/D", false},
		{":scheme", "http", false}, {":authority", "example", false}, {":authority", "", false},
		{"content-type", "application/grpc", false}, {"te", "trailers", false}, {"grpc-timeout", "1S", false},
		{"authorization", "Bearer x", false}, {"authorization", "Bearer x", true}, {"cookie", "a=b", true},
		{"x-a", "1", false}, {"x-a", "2", false}, {"x-a", "1", true}, {"", "", false}, {"", "v", false},
		{":status", "200", false}, {":status", "200", true}, {"accept-encoding", "gzip, deflate", false},
	}
	for range r.IntN(60) {
		var seed [8]byte
		binary.LittleEndian.PutUint64(seed[:], r.Uint64())
		size := 1 << r.IntN(11)
		value := make([]byte, r.IntN(size+1))
		for i := range value {
			value[i] = byte(r.Uint32())
			if r.IntN(3) != 0 {
				value[i] = "0123456789abcdef-/"[value[i]%18]
			}
		}
		hs = append(hs, header{fmt.Sprintf("x-%x", seed[:1+r.IntN(3)]), string(value), r.IntN(10) == 0})
	}
	r.Shuffle(len(hs), func(i, j int) { hs[i], hs[j] = hs[j], hs[i] })
	return hs
}

// FuzzHuffman decodes any bytes as a Huffman string, ours against x/net's.
func FuzzHuffman(f *testing.F) {
	f.Add(xhpack.AppendHuffmanString(nil, "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"))
	f.Add(xhpack.AppendHuffmanString(nil, "\x00\xff\\~{}^ long codes \x16"))
	f.Fuzz(func(t *testing.T, data []byte) {
		want, wantErr := xhpack.HuffmanDecodeToString(data)
		block := appendHuffmanLiteral([]byte{0, 1, 'a'}, data)
		in := hpack.NewInterner()
		dec := hpack.NewDecoder(in, 0)
		dec.SetMaxListSize(1 << 30)
		got, err := dec.Decode(nil, block)
		switch {
		case (err != nil) != (wantErr != nil):
			t.Fatalf("%x: we say %v, x/net %v", data, err, wantErr)
		case err == nil && got[0].Value != want:
			t.Fatalf("%x: we read %q, x/net %q", data, got[0].Value, want)
		}
		// And what x/net encodes of these bytes we read back.
		coded := xhpack.AppendHuffmanString(nil, string(data))
		again, err := dec.Decode(nil, appendHuffmanLiteral([]byte{0, 1, 'a'}, coded))
		if err != nil || again[0].Value != string(data) {
			t.Fatalf("%q does not come back: %v", data, err)
		}
		release(in, got)
		release(in, again)
		if in.Len() != 0 {
			t.Fatal("leak")
		}
	})
}

func appendHuffmanLiteral(dst, coded []byte) []byte {
	n := len(coded)
	if n < 0x7f {
		dst = append(dst, 0x80|byte(n))
	} else {
		dst = binary.AppendUvarint(append(dst, 0xff), uint64(n-0x7f))
	}
	return append(dst, coded...)
}
