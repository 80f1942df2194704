package inspect

import (
	"strconv"
	"unicode/utf8"

	"google.golang.org/protobuf/encoding/protowire"
)

// blindly walks a message whose type nobody told: every length-delimited value may be a text, a message, or both, and is looked
// at as what it can be. So texts are found, named by field numbers; strings that are not UTF-8 are not.
func (w *walk) blindly(b []byte) *parseError {
	if !parses(b) {
		return &parseError{"", "a field is broken or cut off"}
	}
	w.guess(b)
	return nil
}

// parses tells whether b is fields, one after the other.
func parses(b []byte) bool {
	for len(b) > 0 {
		_, _, n := protowire.ConsumeField(b)
		if n < 0 {
			return false
		}
		b = b[n:]
	}
	return true
}

// guess walks fields that parse.
func (w *walk) guess(b []byte) {
	if !w.texts || len(b) == 0 {
		return
	}
	if w.blind == maxBlindDepth {
		w.overflow = true
		return
	}
	w.blind++
	for len(b) > 0 {
		num, typ, n := protowire.ConsumeTag(b)
		m := protowire.ConsumeFieldValue(num, typ, b[n:])
		w.path = append(w.path, strconv.Itoa(int(num)))
		w.unknownValue(num, typ, b[n:n+m])
		w.leave()
		b = b[n+m:]
	}
	w.blind--
}

// unknownValue looks at one value.
func (w *walk) unknownValue(num protowire.Number, typ protowire.Type, value []byte) {
	switch typ {
	case protowire.StartGroupType:
		if v, n := protowire.ConsumeGroup(num, value); n >= 0 {
			w.guess(v)
		}
	case protowire.BytesType:
		if v, n := protowire.ConsumeBytes(value); n >= 0 {
			w.unknownBytes(v)
		}
	}
}

// unknownBytes looks at what may be a text or a message. What parses as a message and has control characters is one; else it may
// be both, for a text can be made to parse.
func (w *walk) unknownBytes(v []byte) {
	if !w.texts {
		return
	}
	message := parses(v)
	if utf8.Valid(v) && (!message || printable(v)) {
		w.take(v)
	}
	if message {
		w.guess(v)
	}
}

func printable(v []byte) bool {
	for _, c := range v {
		if c < ' ' && c != '\t' && c != '\n' && c != '\r' || c == 0x7f {
			return false
		}
	}
	return true
}
