package inspect

import (
	"strconv"
	"unicode/utf8"

	"google.golang.org/protobuf/encoding/protowire"
)

// blindly walks a message whose type nobody told: every length-delimited value may be a text, a message, or both, and is looked
// at as what it can be. So texts are found, named by field numbers; strings that are not UTF-8 are not.
func (w *walk) blindly(b []byte) error {
	if !parses(b) {
		return &parseError{"", "a field is broken or cut off"}
	}
	return w.guess(b)
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
func (w *walk) guess(b []byte) error {
	if !w.texts || w.blind == maxBlindDepth {
		return nil
	}
	w.blind++
	defer func() { w.blind-- }()
	for len(b) > 0 {
		num, typ, n := protowire.ConsumeTag(b)
		m := protowire.ConsumeFieldValue(num, typ, b[n:])
		w.path = append(w.path, strconv.Itoa(int(num)))
		err := w.unknownValue(num, typ, b[n:n+m])
		w.path = w.path[:len(w.path)-1]
		if err != nil {
			return err
		}
		b = b[n+m:]
	}
	return nil
}

// unknownValue looks at one value.
func (w *walk) unknownValue(num protowire.Number, typ protowire.Type, value []byte) error {
	if !w.texts {
		return nil
	}
	switch typ {
	case protowire.StartGroupType:
		if v, n := protowire.ConsumeGroup(num, value); n >= 0 {
			return w.guess(v)
		}
	case protowire.BytesType:
		v, n := protowire.ConsumeBytes(value)
		if n < 0 || len(v) == 0 {
			return nil
		}
		message := parses(v)
		// What parses as a message and has control characters is one; else it may be both: a text can be made to parse.
		if utf8.Valid(v) && (!message || printable(v)) {
			if err := w.take(v); err != nil {
				return err
			}
		}
		if message {
			return w.guess(v)
		}
	}
	return nil
}

func printable(v []byte) bool {
	for _, c := range v {
		if c < ' ' && c != '\t' && c != '\n' && c != '\r' || c == 0x7f {
			return false
		}
	}
	return true
}
