package hpack

import (
	"fmt"
	"math/rand/v2"
	"testing"

	xhpack "golang.org/x/net/http2/hpack"
)

// relay is what the engine does with headers: decode from one connection, encode to another.
type relay struct {
	in  *Interner
	dec *Decoder
	enc *Encoder

	fields []*Field
	out    []byte
}

func newRelay() *relay {
	in := NewInterner()
	return &relay{in: in, dec: NewDecoder(in, 4096), enc: NewEncoder(in, 4096)}
}

// pass decodes a block, encodes it again and lets the fields go.
func (r *relay) pass(tb testing.TB, block []byte) {
	var err error
	if r.fields, err = r.dec.Decode(r.fields[:0], block); err != nil {
		tb.Fatal(err)
	}
	r.out = r.enc.Append(r.out[:0], r.fields)
	for _, f := range r.fields {
		r.in.Release(f)
	}
}

func varyingRequest(i int) [][2]string {
	return append(requestFields[:6:6],
		[2]string{"grpc-timeout", fmt.Sprintf("%du", 900000+i%99999)},
		[2]string{"traceparent", fmt.Sprintf("00-%032x-%016x-01", i*7919, i*104729)},
		[2]string{"x-request-id", fmt.Sprintf("%08x-c2d3-4e5f-8a9b-%012x", i*31, i*65537)},
		requestFields[6], requestFields[7], requestFields[8])
}

func BenchmarkRelayConstantRequest(b *testing.B) {
	r, p := newRelay(), newXnetPeer()
	for range 3 {
		r.pass(b, p.encode(requestFields))
	}
	block := p.encode(requestFields)
	b.ReportAllocs()
	for b.Loop() {
		r.pass(b, block)
	}
}

func BenchmarkRelayConstantResponse(b *testing.B) {
	r, p := newRelay(), newXnetPeer()
	headers := [][2]string{{":status", "200"}, {"content-type", "application/grpc"}}
	trailers := [][2]string{{"grpc-status", "0"}, {"grpc-message", ""}}
	for range 3 {
		r.pass(b, p.encode(headers))
		r.pass(b, p.encode(trailers))
	}
	h, t := p.encode(headers), p.encode(trailers)
	b.ReportAllocs()
	for b.Loop() {
		r.pass(b, h)
		r.pass(b, t)
	}
}

// varyingCycle encodes calls as grpc-go does: everything with indexing, Huffman where shorter. The first block
// empties the table, so that the blocks can be passed again and again.
func varyingCycle(n int) [][]byte {
	p := newXnetPeer()
	p.enc.SetMaxDynamicTableSize(0)
	p.enc.SetMaxDynamicTableSize(4096)
	var blocks [][]byte
	for i := range n {
		blocks = append(blocks, p.encode(varyingRequest(i)))
	}
	return blocks
}

func BenchmarkRelayThreeVarying(b *testing.B) {
	r, blocks := newRelay(), varyingCycle(1024)
	i := 0
	b.ReportAllocs()
	for b.Loop() {
		r.pass(b, blocks[i&1023])
		i++
	}
}

// The same from a peer that encodes as we do: raw strings, the varying fields with indexed names and not inserted.
func BenchmarkRelayThreeVaryingFromTrunkline(b *testing.B) {
	r, in := newRelay(), NewInterner()
	enc := NewEncoder(in, 4096)
	var blocks [][]byte
	for i := range 1024 {
		var fields []*Field
		for _, f := range varyingRequest(i) {
			fields = append(fields, in.Intern(f[0], f[1]))
		}
		if block := enc.Append(nil, fields); i < 4 {
			r.pass(b, block)
		} else {
			blocks = append(blocks, block)
		}
	}
	i := 0
	b.ReportAllocs()
	for b.Loop() {
		r.pass(b, blocks[i%len(blocks)])
		i++
	}
}

// h2load sends :path as a raw literal that is never inserted.
func BenchmarkRelayLiteralPath(b *testing.B) {
	r := newRelay()
	block := []byte{0x83, 0x86, 0x04, 16}
	block = append(block, "/bench.Echo/Ping"...)
	block = append(block, 0x01, 14)
	block = append(block, "127.0.0.1:7443"...)
	block = append(block, 0x0f, 0x10, 16)
	block = append(block, "application/grpc"...)
	block = append(block, 0, 2, 't', 'e', 8)
	block = append(block, "trailers"...)
	b.ReportAllocs()
	for b.Loop() {
		r.pass(b, block)
	}
}

// Different strings, so that the branch predictor cannot learn them.
func BenchmarkHuffmanTraceparent(b *testing.B) {
	var coded [][]byte
	for i := range 1024 {
		coded = append(coded, xhpack.AppendHuffmanString(nil, fmt.Sprintf("00-%016x%016x-%016x-01", rand.Uint64(), rand.Uint64(), i*104729)))
	}
	buf := make([]byte, 256)
	i := 0
	b.ReportAllocs()
	for b.Loop() {
		if _, err := decodeHuffman(buf, coded[i&1023]); err != nil {
			b.Fatal(err)
		}
		i++
	}
}
