package hpack

import (
	"bytes"
	"encoding/hex"
	"errors"
	"strings"
	"testing"

	xhpack "golang.org/x/net/http2/hpack"
)

var requestFields = [][2]string{
	{":method", "POST"}, {":scheme", "http"}, {":path", "/bench.Echo/Ping"}, {":authority", "127.0.0.1:7443"},
	{"content-type", "application/grpc"}, {"user-agent", "grpc-go/1.85.0"}, {"te", "trailers"},
	{"grpc-accept-encoding", "gzip"}, {"x-tenant", "blue"},
}

// xnetPeer is the other end of a connection: it encodes and decodes with x/net, as grpc-go does.
type xnetPeer struct {
	buf bytes.Buffer
	enc *xhpack.Encoder
	dec *xhpack.Decoder
}

func newXnetPeer() *xnetPeer {
	p := &xnetPeer{dec: xhpack.NewDecoder(4096, nil)}
	p.enc = xhpack.NewEncoder(&p.buf)
	return p
}

func (p *xnetPeer) encode(fields [][2]string) []byte {
	p.buf.Reset()
	for _, f := range fields {
		if err := p.enc.WriteField(xhpack.HeaderField{Name: f[0], Value: f[1]}); err != nil {
			panic(err)
		}
	}
	return bytes.Clone(p.buf.Bytes())
}

func (p *xnetPeer) decode(t *testing.T, block []byte) [][2]string {
	t.Helper()
	fields, err := p.dec.DecodeFull(block)
	if err != nil {
		t.Fatalf("x/net refuses our block %x: %v", block, err)
	}
	var pairs [][2]string
	for _, f := range fields {
		pairs = append(pairs, [2]string{f.Name, f.Value})
	}
	return pairs
}

func unhex(t *testing.T, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.Join(strings.Fields(s), ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func pairsOf(fields []*Field) [][2]string {
	var pairs [][2]string
	for _, f := range fields {
		pairs = append(pairs, [2]string{strings.Clone(f.Name), strings.Clone(f.Value)})
	}
	return pairs
}

func equalPairs(a, b [][2]string) bool {
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

func releaseAll(in *Interner, fields []*Field) {
	for _, f := range fields {
		in.Release(f)
	}
}

// A block that x/net encoded passes through us and comes out as it was, ten times over.
func TestRelayIsTransparent(t *testing.T) {
	r, p := newRelay(), newXnetPeer()
	for i := range 300 {
		want := varyingRequest(i)
		r.pass(t, p.encode(want))
		if got := p.decode(t, r.out); !equalPairs(got, want) {
			t.Fatalf("call %d: got %q, want %q", i, got, want)
		}
	}
	r.dec.Close()
	r.enc.Close()
	if n := r.in.Len(); n != 0 {
		t.Errorf("%d fields leaked", n)
	}
}

func decodeError(t *testing.T, d *Decoder, block string) error {
	t.Helper()
	fields, err := d.Decode(nil, unhex(t, block))
	if err == nil {
		t.Fatalf("block %s decoded to %q", block, pairsOf(fields))
	}
	if len(fields) != 0 {
		t.Fatalf("block %s: fields returned with error %v", block, err)
	}
	return err
}

// Each way of breaking RFC 7541 is a CompressionError with its own reason, and leaks no field.
func TestBrokenBlocksAreCompressionErrors(t *testing.T) {
	for _, c := range []struct {
		name, block string
		want        *CompressionError
	}{
		{"index 0", "82 80", errIndex},
		{"index beyond the static table", "82 be", errIndex},
		{"literal with a name index beyond the tables", "82 7e 01 61", errIndex},
		{"index cut off", "82 ff", errTruncated},
		{"name missing", "82 40", errTruncated},
		{"name cut off", "82 40 05 61", errTruncated},
		{"value missing", "82 40 01 61", errTruncated},
		{"value cut off", "82 40 01 61 7f 80 01 62", errTruncated},
		{"integer that overflows", "82 ff ff ff ff ff ff ff ff ff ff 01", errInteger},
		{"integer beyond 32 bits", "82 ff ff ff ff ff 7f", errInteger},
		{"size update above what was advertised", "3f e2 1f", errSizeTooBig},
		{"third size update", "20 21 22 82", errSizeTooMany},
		{"size update after a field", "82 20", errSizeLate},
		{"padding of exactly a byte", "82 40 01 61 82 f8 ff", errHuffman},
		{"padding of eleven bits", "82 40 01 61 82 1f ff", errHuffman},
		{"code cut off", "82 40 01 61 81 f0", errHuffman},
		{"padding with a zero bit", "82 40 01 61 81 1e", errHuffman},
		{"EOS inside a string", "82 40 01 61 84 ff ff ff ff", errHuffman},
	} {
		t.Run(c.name, func(t *testing.T) {
			in := NewInterner()
			d := NewDecoder(in, 4096)
			err := decodeError(t, d, c.block)
			var ce *CompressionError
			if !errors.As(err, &ce) || ce != c.want {
				t.Errorf("got %v, want %v", err, c.want)
			}
			d.Close()
			if in.Len() != 0 {
				t.Errorf("%d fields leaked", in.Len())
			}
		})
	}
}
