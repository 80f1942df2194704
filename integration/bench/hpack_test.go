package main

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"golang.org/x/net/http2/hpack"
)

// TestGRPCStyleIsWhatXNetWrites: block for block, the load's encoder makes the
// same table decisions as x/net's, through which grpc-go speaks.
func TestGRPCStyleIsWhatXNetWrites(t *testing.T) {
	e := newRequestEncoder(styleGRPC, vary{timeout: true, ids: true}, methodPaths[methodPing], "127.0.0.1:7105", 69, 1)
	dec := hpack.NewDecoder(4096, nil)
	var oracle bytes.Buffer
	enc := hpack.NewEncoder(&oracle)
	seen := map[string]bool{}
	for i := range 500 {
		got := e.append(nil)
		fields, err := dec.DecodeFull(got)
		if err != nil {
			t.Fatalf("block %d: %v", i, err)
		}
		oracle.Reset()
		for _, f := range fields {
			if err := enc.WriteField(hpack.HeaderField{Name: f.Name, Value: f.Value}); err != nil {
				t.Fatal(err)
			}
			if f.Name == "traceparent" || f.Name == "x-request-id" {
				if seen[f.Value] {
					t.Fatalf("block %d: %s %s came before", i, f.Name, f.Value)
				}
				seen[f.Value] = true
			}
		}
		if len(fields) != 10 {
			t.Fatalf("block %d: fields %v", i, fields)
		}
		if !bytes.Equal(got, oracle.Bytes()) {
			t.Fatalf("block %d: %v\ngot  %x\nwant %x", i, fields, got, oracle.Bytes())
		}
	}
}

// TestH2loadStyleNeverIndexesPath: and every block decodes to the same fields.
func TestH2loadStyleNeverIndexesPath(t *testing.T) {
	e := newRequestEncoder(styleH2load, vary{}, methodPaths[methodPing], "127.0.0.1:7105", 69, 1)
	dec := hpack.NewDecoder(4096, nil)
	var first, second []byte
	for i := range 5 {
		block := e.append(nil)
		fields, err := dec.DecodeFull(block)
		if err != nil {
			t.Fatal(err)
		}
		want := "[:path=/bench.Echo/Ping :scheme=http :authority=127.0.0.1:7105 :method=POST user-agent=h2load nghttp2/1.52.0 content-type=application/grpc te=trailers content-length=69]"
		var text []string
		for _, f := range fields {
			text = append(text, f.Name+"="+f.Value)
		}
		if got := fmt.Sprint(text); got != want {
			t.Fatalf("block %d: %s", i, got)
		}
		if i == 1 {
			first = block
		} else if i == 2 {
			second = block
		}
	}
	// As caught from h2load 1.52, the same request for the second time.
	const caught = "048c6232d449d7c049cec6b3553786c183c0bfbe0f0d023639"
	if !bytes.Equal(first, second) || fmt.Sprintf("%x", first) != caught {
		t.Fatalf("blocks %x and %x instead of %s", first, second, caught)
	}
}

// TestEncoderObeysASmallerTable: a peer that grants 200 bytes gets a size update
// first, and can decode everything after.
func TestEncoderObeysASmallerTable(t *testing.T) {
	for _, size := range []uint32{0, 60, 200, 1 << 20} {
		e := newRequestEncoder(styleGRPC, vary{timeout: true, ids: true}, methodPaths[methodPing], "a:1", 69, 1)
		var r replyEncoder
		r.max = defaultTable
		dec, rdec := hpack.NewDecoder(4096, nil), hpack.NewDecoder(4096, nil)
		for i := range 50 {
			if i == 7 {
				e.setMax(size)
				r.setMax(size)
				dec.SetAllowedMaxDynamicTableSize(min(size, 4096))
				rdec.SetAllowedMaxDynamicTableSize(min(size, 4096))
			}
			if f, err := dec.DecodeFull(e.append(nil)); err != nil || len(f) != 10 {
				t.Fatalf("size %d, block %d: %v %v", size, i, f, err)
			}
			if f, err := rdec.DecodeFull(r.appendHeaders(nil)); err != nil || len(f) != 2 || f[1].Value != "application/grpc" {
				t.Fatalf("size %d, headers %d: %v %v", size, i, f, err)
			}
			if f, err := rdec.DecodeFull(r.appendTrailers(nil)); err != nil || len(f) != 1 || f[0].Value != "0" {
				t.Fatalf("size %d, trailers %d: %v %v", size, i, f, err)
			}
		}
	}
}

// TestDecoderKeepsTheTableLikeXNet: whatever an encoder does with its table, the
// decoder sees the fields that matter, and its table's size is the encoder's.
func TestDecoderKeepsTheTableLikeXNet(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 4))
	d := newDecoder()
	var buf bytes.Buffer
	enc := hpack.NewEncoder(&buf)
	for i := range 5000 {
		buf.Reset()
		if rng.IntN(50) == 0 {
			enc.SetMaxDynamicTableSize(uint32(rng.IntN(4097)))
		}
		method := methodPing + method(rng.IntN(4))
		status := []string{"200", "204", "503"}[rng.IntN(3)]
		grpc := []string{"0", "0", "14"}[rng.IntN(3)]
		write := func(name, value string) {
			sensitive := rng.IntN(10) == 0
			if err := enc.WriteField(hpack.HeaderField{Name: name, Value: value, Sensitive: sensitive}); err != nil {
				t.Fatal(err)
			}
		}
		write(":status", status)
		write(":path", methodPaths[method])
		for range rng.IntN(6) {
			write(fmt.Sprintf("x-%d", rng.IntN(30)), strings.Repeat(string(rune('!'+rng.IntN(90))), rng.IntN(80)))
		}
		write("grpc-status", grpc)
		var f fields
		if err := d.decode(buf.Bytes(), &f); err != nil {
			t.Fatalf("block %d: %v", i, err)
		}
		if f.method != method || f.ok != (status == "200") || f.grpcOK != (grpc == "0") || !f.status || !f.grpc {
			t.Fatalf("block %d: %s %s %s decoded to %+v", i, methodPaths[method], status, grpc, f)
		}
	}
}

// TestDecoderRefusesNonsense: cut and garbled blocks are errors, never a panic.
func TestDecoderRefusesNonsense(t *testing.T) {
	rng := rand.New(rand.NewPCG(5, 6))
	for range 20000 {
		block := make([]byte, rng.IntN(20))
		for i := range block {
			block[i] = byte(rng.Uint32())
		}
		var f fields
		_ = newDecoder().decode(block, &f)
	}
	for _, block := range []string{"\x80", "\xff\xff\xff\xff\xff\xff", "\xbe", "\x40", "\x40\x05ab", "\x3f\xff\xff\xff\x7f"} {
		var f fields
		if err := newDecoder().decode([]byte(block), &f); err == nil {
			t.Errorf("%x was taken", block)
		}
	}
}

// TestHuffmanAgreesWithXNet: text and length, for every byte value.
func TestHuffmanAgreesWithXNet(t *testing.T) {
	h := huffmanTable()
	rng := rand.New(rand.NewPCG(7, 8))
	for n := range 300 {
		text := make([]byte, n)
		for i := range text {
			text[i] = byte(rng.Uint32())
		}
		coded := hpack.AppendHuffmanString(nil, string(text))
		got, err := h.decode(nil, coded)
		if err != nil || !bytes.Equal(got, text) {
			t.Fatalf("%x decoded to %x, %v", text, got, err)
		}
		if k, err := h.length(coded); err != nil || k != n {
			t.Fatalf("%d bytes counted as %d, %v", n, k, err)
		}
	}
}

// TestHistogramQuantilesAreWithinThreePercent of the true ones.
func TestHistogramQuantilesAreWithinThreePercent(t *testing.T) {
	var h histogram
	for i := int64(1); i <= 100000; i++ {
		h.record(i * 1000)
	}
	for _, q := range []float64{0.01, 0.5, 0.9, 0.99, 0.999} {
		want := q * 100000 * 1000
		if got := float64(h.quantile(q)); got < want*0.97 || got > want*1.03 {
			t.Errorf("quantile %v: %v instead of %v", q, got, want)
		}
	}
}
