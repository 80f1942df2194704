package inspect

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/trunkline/trunkline/codec/grpc"
	"github.com/trunkline/trunkline/policy/authn"
)

const (
	// maxDepth bounds how deep messages nest, as C++ and Java do (their default recursion limit).
	maxDepth = 100
	// maxBlindDepth bounds how deep is guessed that bytes are a message.
	maxBlindDepth = 16
	// maxTexts and maxTextBytes bound the texts of one message that are searched: each costs all rules, 0.15 ms for a short one, and
	// about 5 us for a byte of a long one. So a message holds a worker for one to two seconds at the very most.
	maxTexts     = 5000
	maxTextBytes = 256 << 10
	// maxBytesText bounds a field of type bytes that is taken for a text, as it is UTF-8: longer ones are files.
	maxBytesText = 16 << 10
)

// walk reads a message's bytes once, with proto.Unmarshal's understanding of what parses, but builds nothing: decoding costs up
// to a hundred times a message's size in memory, which a client could make us spend. It is owned by its worker.
type walk struct {
	types *types // for extensions and Any; nil in blind walks
	texts bool   // gather them

	found       []text
	textBytes   int  // of found
	overflow    bool // there was more than is searched
	unknown     []unknown
	unknownMore bool
	memory      int64 // bytes that the decoded message would take, about
	elements    int   // messages and values

	path  []string // of field names
	depth int
	blind int  // how deep in bytes whose type is unknown
	any   bool // a google.protobuf.Any was met
	split bool // a singular message came in pieces, which parsers merge
}

// text is a string of a message.
type text struct {
	path  string // field names, joined with points: never what the client chose
	value string
}

// parseError says what does not parse, without values.
type parseError struct {
	message protoreflect.FullName
	why     string
}

// sameFiles is what to do about it.
const sameFiles = "make the client from the same .proto files as the server"

func (e *parseError) refusal() authn.Refusal {
	if e.message == "" {
		return *malformed("is not a protobuf message: %s; "+sameFiles, e.why)
	}
	return *malformed("does not parse as %s: %s; "+sameFiles, e.message, e.why)
}

func tooMuchText(by charge) authn.Refusal {
	return authn.Refusal{Status: grpc.ResourceExhausted, Reason: "MESSAGE_TOO_COMPLEX",
		Message: fmt.Sprintf("holds more text than is searched for attacks, which is %d strings, %d bytes, and %d levels of unknown fields (%s): send several smaller messages, "+
			"or have the method named by an entry of payload that comes first and has no waf", maxTexts, maxTextBytes, maxBlindDepth, by.name)}
}

func tooComplex() authn.Refusal {
	return authn.Refusal{Status: grpc.ResourceExhausted, Reason: "MESSAGE_TOO_COMPLEX", Message: "has too many small parts to be validated: send several smaller messages"}
}

// top walks a message of type md.
func (w *walk) top(b []byte, md protoreflect.MessageDescriptor) *parseError {
	if err := w.message(b, md); err != nil {
		return err
	}
	if w.any && w.split {
		return &parseError{md.FullName(), "it holds a google.protobuf.Any, and a message field in several pieces; send each field once"}
	}
	return nil
}

func (w *walk) message(b []byte, md protoreflect.MessageDescriptor) *parseError {
	if md.IsPlaceholder() {
		w.memory += int64(len(b))
		return w.open(b, md.FullName())
	}
	if w.depth++; w.depth > maxDepth {
		return &parseError{md.FullName(), fmt.Sprintf("messages nest more than %d deep", maxDepth)}
	}
	defer func() { w.depth-- }()
	w.memory += 240
	w.elements++
	isAny := md.FullName() == "google.protobuf.Any"
	var url string
	var value []byte
	var once []protoreflect.FieldNumber // singular messages that were there
	for len(b) > 0 {
		num, typ, n := protowire.ConsumeTag(b)
		if n < 0 || num > protowire.MaxValidNumber {
			return &parseError{md.FullName(), "a field's tag is broken"}
		}
		rest := b[n:]
		fd := w.field(md, num)
		n = unmatched
		var err *parseError
		if fd != nil {
			if fd.Message() != nil && !fd.IsList() && !fd.IsMap() {
				if slices.Contains(once, num) {
					w.split = true
				}
				once = append(once, num)
			}
			n, err = w.known(rest, typ, fd)
			if err != nil {
				return err
			}
		}
		if n == unmatched { // also a known number with another wire type: parsers keep it as unknown
			if n = protowire.ConsumeFieldValue(num, typ, rest); n < 0 {
				return &parseError{md.FullName(), fmt.Sprintf("field %d is broken or cut off", num)}
			}
			w.note(md.FullName(), num)
			w.memory += int64(n)
			w.path = append(w.path, strconv.Itoa(int(num)))
			w.unknownValue(num, typ, rest[:n])
			w.leave()
		} else if isAny && typ == protowire.BytesType {
			switch v, _ := protowire.ConsumeBytes(rest); num {
			case 1:
				url = string(v)
			case 2:
				value = v
			}
		}
		b = rest[n:]
	}
	if isAny {
		return w.anything(url, value)
	}
	return nil
}

// field is the field or extension of that number; nil if none is known.
func (w *walk) field(md protoreflect.MessageDescriptor, num protoreflect.FieldNumber) protoreflect.FieldDescriptor {
	if fd := md.Fields().ByNumber(num); fd != nil {
		return fd
	}
	if w.types != nil && md.ExtensionRanges().Has(num) {
		if x, err := w.types.FindExtensionByNumber(md.FullName(), num); err == nil {
			return x.TypeDescriptor()
		}
	}
	return nil
}

// unmatched is the length of a value that is not of its field's type.
const unmatched = -1 << 30

// known walks the value of a known field and returns its length, or unmatched.
func (w *walk) known(b []byte, typ protowire.Type, fd protoreflect.FieldDescriptor) (int, *parseError) {
	want := wireType(fd.Kind())
	packed := typ == protowire.BytesType && fd.IsList() && want != protowire.BytesType && want != protowire.StartGroupType
	if typ != want && !packed {
		return unmatched, nil
	}
	broken := func() *parseError {
		return &parseError{fd.ContainingMessage().FullName(), fmt.Sprintf("field %s (%d) is broken or cut off", fd.Name(), fd.Number())}
	}
	switch typ {
	case protowire.StartGroupType:
		v, n := protowire.ConsumeGroup(fd.Number(), b)
		if n < 0 {
			return 0, broken()
		}
		return n, w.inside(v, fd)
	case protowire.BytesType:
		v, n := protowire.ConsumeBytes(b)
		if n < 0 {
			return 0, broken()
		}
		switch {
		case packed:
			for len(v) > 0 {
				m := protowire.ConsumeFieldValue(fd.Number(), want, v)
				if m < 0 {
					return 0, broken()
				}
				v = v[m:]
				w.count(0)
			}
			return n, nil
		case fd.Message() != nil:
			return n, w.inside(v, fd)
		}
		w.count(n)
		valid := utf8.Valid(v)
		if fd.Kind() == protoreflect.StringKind && !valid && enforcesUTF8(fd) {
			return 0, &parseError{fd.ContainingMessage().FullName(), fmt.Sprintf("field %s (%d) is not UTF-8", fd.Name(), fd.Number())}
		}
		// What an Any holds is walked when it is whole (anything).
		if fd.Kind() == protoreflect.StringKind || valid && len(v) <= maxBytesText && fd.ContainingMessage().FullName() != "google.protobuf.Any" {
			w.text(v, fd)
		}
		return n, nil
	}
	n := protowire.ConsumeFieldValue(fd.Number(), typ, b)
	if n < 0 {
		return 0, broken()
	}
	w.count(0)
	return n, nil
}

func (w *walk) count(n int) {
	w.elements++
	w.memory += int64(n) + 32
}

// inside walks the message that a field holds.
func (w *walk) inside(b []byte, fd protoreflect.FieldDescriptor) *parseError {
	w.enter(fd)
	err := w.message(b, fd.Message())
	w.leave()
	return err
}

func (w *walk) enter(fd protoreflect.FieldDescriptor) {
	name := string(fd.Name())
	if fd.IsExtension() {
		name = "[" + string(fd.FullName()) + "]"
	}
	w.path = append(w.path, name)
}

func (w *walk) leave() { w.path = w.path[:len(w.path)-1] }

func (w *walk) text(v []byte, fd protoreflect.FieldDescriptor) {
	if w.texts {
		w.enter(fd)
		w.take(v)
		w.leave()
	}
}

func (w *walk) take(v []byte) {
	if len(v) == 0 || w.overflow {
		return
	}
	if w.textBytes+len(v) > maxTextBytes || len(w.found) == maxTexts {
		w.overflow = true
		return
	}
	w.textBytes += len(v)
	w.found = append(w.found, text{path: strings.Join(w.path, "."), value: string(v)})
}

// anything walks what an Any holds, where its type is known: to the service's file, to what that imports, or to Trunkline itself
// (google.rpc, the well-known types). Else it is looked through as bytes, and says nothing of unknown fields.
func (w *walk) anything(url string, value []byte) *parseError {
	w.any = true
	if w.types != nil {
		if t, err := w.types.FindMessageByURL(url); err == nil {
			return w.message(value, t.Descriptor())
		}
	}
	w.unknownBytes(value)
	return nil
}

// open looks through a message of a type that the endpoint sent no file for.
func (w *walk) open(b []byte, name protoreflect.FullName) *parseError {
	if !parses(b) {
		return &parseError{name, "its content is broken or cut off"}
	}
	w.guess(b)
	return nil
}

func enforcesUTF8(fd protoreflect.FieldDescriptor) bool {
	if x, ok := fd.(interface{ EnforceUTF8() bool }); ok && fd.ParentFile().Syntax() == protoreflect.Editions {
		return x.EnforceUTF8()
	}
	return fd.ParentFile().Syntax() == protoreflect.Proto3
}

func wireType(k protoreflect.Kind) protowire.Type {
	switch k {
	case protoreflect.Fixed32Kind, protoreflect.Sfixed32Kind, protoreflect.FloatKind:
		return protowire.Fixed32Type
	case protoreflect.Fixed64Kind, protoreflect.Sfixed64Kind, protoreflect.DoubleKind:
		return protowire.Fixed64Type
	case protoreflect.StringKind, protoreflect.BytesKind, protoreflect.MessageKind:
		return protowire.BytesType
	case protoreflect.GroupKind:
		return protowire.StartGroupType
	}
	return protowire.VarintType
}
