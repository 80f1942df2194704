package attacks

import (
	"bytes"
	"sync"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/trunkline/trunkline/integration/harness"
)

// wire is bytes that an attacker will send: frames, legal or not, made in advance, so that its share of the processor goes into
// the attack.
type wire struct {
	bytes.Buffer
	framer *http2.Framer
}

func frames(write func(w *wire)) []byte {
	w := &wire{}
	w.framer = http2.NewFramer(&w.Buffer, nil)
	write(w)
	return w.Bytes()
}

// frame appends one frame, whatever it means.
func (w *wire) frame(typ http2.FrameType, flags http2.Flags, stream uint32, payload ...byte) {
	if err := w.framer.WriteRawFrame(typ, flags, stream, payload); err != nil {
		panic(err) // it writes into a buffer, less than 16 MiB
	}
}

// headers appends a header block in as many frames as it needs; end is END_STREAM.
func (w *wire) headers(stream uint32, block []byte, end bool) {
	typ, flags := http2.FrameHeaders, http2.Flags(0)
	if end {
		flags = http2.FlagHeadersEndStream
	}
	for {
		n := min(len(block), frameSize)
		if n == len(block) {
			flags |= http2.FlagHeadersEndHeaders
		}
		w.frame(typ, flags, stream, block[:n]...)
		if block = block[n:]; len(block) == 0 {
			return
		}
		typ, flags = http2.FrameContinuation, 0
	}
}

// frameSize is the largest payload that every server takes.
const frameSize = 16 << 10

// Frame payloads that recur.
func u32(n uint32) []byte { return []byte{byte(n >> 24), byte(n >> 16), byte(n >> 8), byte(n)} }

func setting(id http2.SettingID, v uint32) []byte {
	return append([]byte{byte(id >> 8), byte(id)}, u32(v)...)
}

// message is a gRPC message with its prefix.
func message(body ...byte) []byte {
	return append(append([]byte{0}, u32(uint32(len(body)))...), body...)
}

// request is the header block of a call: in full, and as one who has sent it before says it again.
type request struct{ first, again []byte }

// newRequest makes the block of a call of a method ("UnaryCall" of the test service, or "/a.Service/Method") with more fields, in pairs.
func newRequest(method string, pairs ...string) request {
	if method[0] != '/' {
		method = "/" + harness.Service + "/" + method
	}
	pairs = append([]string{":method", "POST", ":scheme", "http", ":path", method, ":authority", "attack.test",
		"content-type", "application/grpc", "te", "trailers"}, pairs...)
	var b bytes.Buffer
	e := hpack.NewEncoder(&b)
	block := func() []byte {
		b.Reset()
		for i := 0; i+1 < len(pairs); i += 2 {
			if err := e.WriteField(hpack.HeaderField{Name: pairs[i], Value: pairs[i+1]}); err != nil {
				panic(err) // it writes into a buffer
			}
		}
		return bytes.Clone(b.Bytes())
	}
	return request{first: block(), again: block()}
}

// block is what opens the n-th stream of a connection, from 0.
func (r request) block(n int) []byte {
	if n == 0 {
		return r.first
	}
	return r.again
}

// perStream makes chunks of a flood in which every stream is treated alike, per streams in a chunk.
func perStream(r request, per int, each func(w *wire, stream uint32, block []byte)) func(w *wire, i int) {
	return func(w *wire, i int) {
		for n := i * per; n < (i+1)*per; n++ {
			each(w, uint32(2*n+1), r.block(n))
		}
	}
}

// repeat makes chunks of a flood that says the same thing all over.
func repeat(times int, each func(w *wire)) func(w *wire, i int) {
	return func(w *wire, _ int) {
		for range times {
			each(w)
		}
	}
}

// flood is the life of a connection that says chunk after chunk as fast as it can. The first ones are made once, for all connections.
func flood(prologue func(w *wire), chunk func(w *wire, i int)) func(*villain) {
	const kept = 64
	var mu sync.Mutex
	var made [][]byte
	get := func(i int) []byte {
		mu.Lock()
		defer mu.Unlock()
		for len(made) <= min(i, kept) {
			n := len(made)
			made = append(made, frames(func(w *wire) { chunk(w, n) }))
		}
		if i <= kept {
			return made[i]
		}
		return frames(func(w *wire) { chunk(w, i) })
	}
	return func(v *villain) {
		v.hello()
		if prologue != nil && !v.write(frames(prologue)) {
			return
		}
		for i := 0; v.write(get(i)); i++ {
		}
	}
}

// uncompressed is the block of a call that leaves the compression table alone, and refers to nothing in it.
func uncompressed(method string, pairs ...string) []byte {
	b := []byte{0x83, 0x86} // POST, http
	path := "/" + harness.Service + "/" + method
	b = append(append(b, 0x04, byte(len(path))), path...)
	b = append(b, "\x01\x06attack"...) // :authority
	pairs = append([]string{"content-type", "application/grpc", "te", "trailers"}, pairs...)
	for i := 0; i+1 < len(pairs); i += 2 {
		b = append(b, literal(pairs[i], pairs[i+1])...)
	}
	return b
}

// literal is a header field without indexing (RFC 7541 section 6.2.2), its strings in plain and shorter than 127 bytes.
func literal(name, value string) []byte {
	return []byte("\x00" + string(rune(len(name))) + name + string(rune(len(value))) + value)
}
