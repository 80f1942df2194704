package rogue

import (
	"math/rand/v2"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
	"google.golang.org/grpc/codes"
)

// The reply that Cuts cuts: always of the same length for servers whose names are of the same length.
const cutBody = 40

// CutMessage is what arrives at the client: the message of a Cuts reply has a payload of this size (see Intact) and its
// headers and trailers bear these fields.
const (
	CutMessage      = cutBody
	CutHeader       = "x-rogue-header"
	CutTrailer      = "x-rogue-trailer"
	CutHeaderValue  = "of the headers"
	CutTrailerValue = "of the trailers"
)

// cut says where a reply is cut into frames: each number is a length after which a new frame begins.
type cut struct {
	headers, data, trailers []int
	pad                     uint8
	empty                   bool // empty DATA frames stand between the others
	apart                   bool // every frame is flushed by itself
}

// Cuts answers OK with its blocks and its message cut into frames in one of many ways: n counts through all single cuts of
// the headers, the message and the trailers first (CutCount says how many there are), then through one-byte frames, padding and
// empty DATA; numbers beyond are cut at random, seeded by the number.
func Cuts(n int) Script { return cutScript(n, codes.OK) }

// CutsFailing is Cuts with a status in its trailers that is not OK, and without a message.
func CutsFailing(n int, status codes.Code) Script { return cutScript(n, status) }

func cutScript(n int, status codes.Code) Script {
	return func(s *Stream) {
		if !executed(s) {
			return
		}
		head := responseHeaders(CutHeader, CutHeaderValue)
		tail := trailers(status, "", CutTrailer, CutTrailerValue)
		m := s.Message(cutBody)
		if status != codes.OK {
			m = nil
		}
		if s.reserveAll(len(m) * (2 + maxPad)) {
			s.send(true, func(f *http2.Framer) error { return s.writeCut(f, head, tail, m, n) })
		}
	}
}

// maxPad is the longest padding of a cut, in bytes; a frame's pad length field counts as one more.
const maxPad = 3

// reserveAll waits until the windows have room for n bytes and takes it.
func (s *Stream) reserveAll(n int) bool {
	for n > 0 {
		got := s.reserve(n)
		if got == 0 {
			return false
		}
		n -= got
	}
	return true
}

// CutCount is how many numbers of Cuts stand for a way of their own, for a server with a name of this length.
func CutCount(name string) int {
	h, d, t := cutLengths(name)
	return h + d + t + fixedCuts
}

// fixedCuts are the ways beside single cuts.
const fixedCuts = 8

func cutLengths(name string) (headers, data, tail int) {
	var n counter
	e := hpack.NewEncoder(&n)
	e.SetMaxDynamicTableSize(0)
	length := func(fields []hpack.HeaderField) int {
		n = 0
		for _, f := range fields {
			_ = e.WriteField(f) // a counter takes everything
		}
		return int(n)
	}
	length(nil)
	length(fields(":status", "200")) // the first block of an encoder tells the size of its table
	return length(responseHeaders(CutHeader, CutHeaderValue)) + 1, len(message(name, cutBody)) + 1,
		length(trailers(codes.OK, "", CutTrailer, CutTrailerValue)) + 1
}

// counter is a Writer that counts.
type counter int

func (c *counter) Write(p []byte) (int, error) {
	*c += counter(len(p))
	return len(p), nil
}

// chooseCut is the n-th way to cut.
func chooseCut(n, headers, data, tail int) cut {
	each := func(length int) []int {
		var all []int
		for i := range length {
			all = append(all, i)
		}
		return all
	}
	switch {
	case n < headers:
		return cut{headers: []int{n}, apart: n%2 == 0}
	case n < headers+data:
		return cut{data: []int{n - headers}, apart: n%2 == 0}
	case n < headers+data+tail:
		return cut{trailers: []int{n - headers - data}, apart: n%2 == 0}
	}
	switch n - headers - data - tail {
	case 0:
		return cut{}
	case 1:
		return cut{headers: each(headers), apart: true}
	case 2:
		return cut{data: each(data), apart: true}
	case 3:
		return cut{trailers: each(tail), apart: true}
	case 4:
		return cut{headers: each(headers), data: each(data), trailers: each(tail)}
	case 5:
		return cut{data: each(data), empty: true}
	case 6:
		return cut{data: each(data), pad: maxPad, empty: true, apart: true}
	case 7:
		return cut{empty: true, pad: 1}
	}
	r := rand.New(rand.NewPCG(uint64(n), 0))
	some := func(length int) []int {
		var all []int
		for i := range length {
			if r.IntN(4) == 0 {
				all = append(all, i)
			}
		}
		return all
	}
	return cut{headers: some(headers), data: some(data), trailers: some(tail), pad: uint8(r.IntN(maxPad + 1)),
		empty: r.IntN(2) == 0, apart: r.IntN(2) == 0}
}

func (s *Stream) writeCut(f *http2.Framer, head, tail []hpack.HeaderField, m []byte, n int) error {
	h, d, t := cutLengths(s.c.server.Name)
	way := chooseCut(n, h, d, t)
	flush := func() error {
		if way.apart {
			return s.c.out.Flush()
		}
		return nil
	}
	if err := s.writeBlock(f, s.c.encode(head), way.headers, way.pad, false, flush); err != nil {
		return err
	}
	for _, part := range parts(m, way.data) {
		if way.empty {
			if err := f.WriteData(s.ID, false, nil); err != nil {
				return err
			}
		}
		if err := f.WriteDataPadded(s.ID, false, part, make([]byte, way.pad)); err != nil {
			return err
		}
		if err := flush(); err != nil {
			return err
		}
	}
	if way.empty {
		if err := f.WriteData(s.ID, false, nil); err != nil {
			return err
		}
	}
	return s.writeBlock(f, s.c.encode(tail), way.trailers, way.pad, true, flush)
}

func (s *Stream) writeBlock(f *http2.Framer, block []byte, at []int, pad uint8, end bool, flush func() error) error {
	all := parts(block, at)
	for i, part := range all {
		var err error
		last := i == len(all)-1
		if i == 0 {
			err = f.WriteHeaders(http2.HeadersFrameParam{StreamID: s.ID, BlockFragment: part, EndHeaders: last, EndStream: end, PadLength: pad})
		} else {
			err = f.WriteContinuation(s.ID, last, part)
		}
		if err != nil {
			return err
		}
		if err := flush(); err != nil {
			return err
		}
	}
	return nil
}

// parts cuts b at the given places; a place at the begin or the end makes an empty part. nil stays without parts.
func parts(b []byte, at []int) [][]byte {
	if b == nil {
		return nil
	}
	var all [][]byte
	from := 0
	for _, i := range at {
		i = min(i, len(b))
		all = append(all, b[from:i])
		from = i
	}
	return append(all, b[from:])
}
