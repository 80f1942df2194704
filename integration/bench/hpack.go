package main

import (
	"errors"
	"sync"

	"golang.org/x/net/http2/hpack"
)

// method is what a request's :path asks the backend for.
type method uint8

const (
	methodOther    method = iota // any other path: swallow the request, answer an empty message
	methodPing                   // echo the request message
	methodDownload               // answer one message of 1 MiB
	methodUpload                 // answer how many bytes came
	methodEndless                // answer messages without end
)

const service = "/bench.Echo/"

var methodPaths = [...]string{"", service + "Ping", service + "Download", service + "Upload", service + "Endless"}

// fieldName names the few fields that somebody here reads.
type fieldName uint8

const (
	nameOther fieldName = iota
	namePath
	nameStatus
	nameGRPCStatus
	nameGRPCMessage
)

// fields is what is left of a header block after decoding.
type fields struct {
	method  method
	status  bool // :status was there
	ok      bool // and was 200
	grpc    bool // grpc-status was there
	grpcOK  bool // and was 0
	problem string
}

// entry is a field in a table. size counts as RFC 7541 section 4.1 says.
type entry struct {
	name    fieldName
	nameLen int
	size    int
	value   string // kept only when name is not nameOther
}

func nameOf(b []byte) fieldName {
	switch string(b) {
	case ":path":
		return namePath
	case ":status":
		return nameStatus
	case "grpc-status":
		return nameGRPCStatus
	case "grpc-message":
		return nameGRPCMessage
	}
	return nameOther
}

// staticTable is RFC 7541's appendix A, asked from x/net's decoder.
var staticTable = sync.OnceValue(func() *[62]entry {
	var t [62]entry
	dec := hpack.NewDecoder(4096, nil)
	for i := 1; i < len(t); i++ {
		f, err := dec.DecodeFull([]byte{0x80 | byte(i)})
		if err != nil || len(f) != 1 {
			continue
		}
		t[i] = entry{nameOf([]byte(f[0].Name)), len(f[0].Name), int(f[0].Size()), f[0].Value}
	}
	return &t
})

const defaultTable = 4096 // bytes; SETTINGS_HEADER_TABLE_SIZE unless told

var errHPACK = errors.New("COMPRESSION_ERROR: bad header block")

// decoder keeps the whole HPACK state of one direction but makes text only of
// the fields that matter here. It is not safe for concurrent use.
type decoder struct {
	huff    *huffman
	static  *[62]entry
	ring    [128]entry // 4096/32 is the most that fit
	newest  int        // index of the newest entry in ring
	n       int
	size    int
	max     int
	scratch []byte
}

func newDecoder() *decoder {
	return &decoder{huff: huffmanTable(), static: staticTable(), max: defaultTable}
}

func readInt(p []byte, prefix uint8) (v int, rest []byte, err error) {
	if len(p) == 0 {
		return 0, nil, errHPACK
	}
	mask := 1<<prefix - 1
	v = int(p[0]) & mask
	p = p[1:]
	if v < mask {
		return v, p, nil
	}
	for shift := 0; len(p) > 0 && shift < 28; shift += 7 {
		b := p[0]
		p = p[1:]
		v += int(b&127) << shift
		if b < 128 {
			return v, p, nil
		}
	}
	return 0, nil, errHPACK
}

func (d *decoder) readString(p []byte) (s, rest []byte, err error) {
	if len(p) == 0 {
		return nil, nil, errHPACK
	}
	coded := p[0]&0x80 != 0
	n, p, err := readInt(p, 7)
	if err != nil || n > len(p) {
		return nil, nil, errHPACK
	}
	s, rest = p[:n], p[n:]
	if coded {
		d.scratch, err = d.huff.decode(d.scratch[:0], s)
		s = d.scratch
	}
	return s, rest, err
}

// readValue is readString for a field of the given name. Of a value that nobody
// reads it returns the length only.
func (d *decoder) readValue(name fieldName, p []byte) (s []byte, length int, rest []byte, err error) {
	if name != nameOther || len(p) == 0 || p[0]&0x80 == 0 {
		s, rest, err = d.readString(p)
		return s, len(s), rest, err
	}
	n, p, err := readInt(p, 7)
	if err != nil || n > len(p) {
		return nil, 0, nil, errHPACK
	}
	length, err = d.huff.length(p[:n])
	return nil, length, p[n:], err
}

func (d *decoder) at(i int) (*entry, error) {
	if i > 0 && i < len(d.static) {
		return &d.static[i], nil
	}
	i -= len(d.static)
	if i < 0 || i >= d.n {
		return nil, errHPACK
	}
	return &d.ring[(d.newest-i)&(len(d.ring)-1)], nil
}

func (d *decoder) evictTo(limit int) {
	for d.size > limit && d.n > 0 {
		d.size -= d.ring[(d.newest-d.n+1)&(len(d.ring)-1)].size
		d.n--
	}
}

func (d *decoder) insert(e entry) {
	d.evictTo(max(d.max-e.size, 0))
	if e.size > d.max {
		return // RFC 7541 section 4.4: it only empties the table
	}
	d.newest = (d.newest + 1) & (len(d.ring) - 1)
	d.ring[d.newest] = e
	d.n++
	d.size += e.size
}

func (f *fields) note(name fieldName, value []byte) {
	switch name {
	case namePath:
		f.method = methodOther
		for m := methodPing; int(m) < len(methodPaths); m++ {
			if string(value) == methodPaths[m] {
				f.method = m
				break
			}
		}
	case nameStatus:
		f.status = true
		f.ok = string(value) == "200"
		if !f.ok {
			f.problem += ":status " + string(value) + " "
		}
	case nameGRPCStatus:
		f.grpc = true
		f.grpcOK = string(value) == "0"
		if !f.grpcOK {
			f.problem += "grpc-status " + string(value) + " "
		}
	case nameGRPCMessage:
		f.problem += string(value)
	}
}

func (f *fields) noteString(name fieldName, value string) {
	// The two that come with every reply, without a conversion.
	switch {
	case name == nameGRPCStatus && value == "0":
		f.grpc, f.grpcOK = true, true
	case name == nameStatus && value == "200":
		f.status, f.ok = true, true
	default:
		f.note(name, []byte(value))
	}
}

// decode reads one whole block into f, which it clears first.
func (d *decoder) decode(p []byte, f *fields) error {
	*f = fields{}
	for len(p) > 0 {
		b := p[0]
		var i int
		var err error
		switch {
		case b&0x80 != 0: // indexed
			if i, p, err = readInt(p, 7); err != nil {
				return err
			}
			e, err := d.at(i)
			if err != nil {
				return err
			}
			if e.name != nameOther {
				f.noteString(e.name, e.value)
			}
			continue
		case b&0xe0 == 0x20: // table size update
			if i, p, err = readInt(p, 5); err != nil || i > defaultTable {
				return errHPACK
			}
			d.max = i
			d.evictTo(i)
			continue
		case b&0xc0 == 0x40: // literal, to be indexed
			i, p, err = readInt(p, 6)
		default: // literal, not to be indexed, or never
			i, p, err = readInt(p, 4)
		}
		if err != nil {
			return err
		}
		var e entry
		if i > 0 {
			known, err := d.at(i)
			if err != nil {
				return err
			}
			e.name, e.nameLen = known.name, known.nameLen
		} else {
			var name []byte
			if name, p, err = d.readString(p); err != nil {
				return err
			}
			e.name, e.nameLen = nameOf(name), len(name)
		}
		value, length, rest, err := d.readValue(e.name, p)
		if err != nil {
			return err
		}
		p = rest
		if e.name != nameOther {
			f.note(e.name, value)
		}
		if b&0xc0 == 0x40 {
			e.size = e.nameLen + length + 32
			if e.name != nameOther {
				e.value = string(value)
			}
			d.insert(e)
		}
	}
	return nil
}
