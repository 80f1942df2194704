package inspect

import (
	"testing"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/dynamicpb"
)

func seeds(f *testing.F, md protoreflect.MessageDescriptor) {
	for _, json := range []string{
		`{}`, `{"id":"7","note":"1' OR '1'='1","items":[{"sku":"a","quantity":1}],"labels":{"a":"b"},"counts":[1,2,3],"blob":"AAEC","ratio":1.5,"tags":["x","y"]}`,
		`{"extra":{"@type":"type.googleapis.com/shop.Item","sku":"x"},"customer":{"parent":{"parent":{"name":"n"}}},"placed":"2026-01-01T00:00:00Z"}`,
		`{"old":{"name":"n","part":[{"text":"t","weight":[1,2]}],"flags":[true],"[shop.added]":"x"}}`,
	} {
		f.Add(message(f, md, json))
	}
	f.Add([]byte("\x0a\x02a\xff"))
	f.Add([]byte("\x6a\x04\x13\x0a\x00\x14"))
	f.Add([]byte(deep(120)))
	f.Add([]byte("\x2a\x22\x0a\x1etype.googleapis.com/shop.Nobody\x12\x00"))
}

// The walk takes what proto.Unmarshal takes, and finds an unknown field where that keeps one.
func FuzzTheWalkAgreesWithProtobuf(f *testing.F) {
	input := describe(f, place)().Input()
	types := newTypes(describe(f, place)().ParentFile())
	seeds(f, input)
	f.Fuzz(func(t *testing.T, b []byte) {
		w := walk{types: types, texts: true}
		err := w.top(b, input)
		m := dynamicpb.NewMessage(input)
		oracle := proto.UnmarshalOptions{AllowPartial: true, Resolver: types}.Unmarshal(b, m)
		if w.any || holdsOpen(b) {
			return // we look into those, Unmarshal does not
		}
		if err != nil && oracle == nil && !deepErr(err) {
			t.Fatalf("the walk says %+v, protobuf takes it", err)
		}
		if err == nil && oracle != nil {
			t.Fatalf("the walk takes it, protobuf says %v", oracle)
		}
		if err == nil && keepsUnknown(m) && len(w.unknown) == 0 {
			t.Fatal("the walk did not see an unknown field")
		}
	})
}

func deepErr(err *parseError) bool { return err.why == "messages nest more than 100 deep" }

// holdsOpen: field 14 is of a type whose file is missing.
func holdsOpen(b []byte) bool {
	for len(b) > 0 {
		num, _, n := protowire.ConsumeField(b)
		if n < 0 || num == 14 {
			return true
		}
		b = b[n:]
	}
	return false
}

func keepsUnknown(m protoreflect.Message) bool {
	found := len(m.GetUnknown()) > 0
	m.Range(func(fd protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		switch {
		case fd.IsMap():
			v.Map().Range(func(_ protoreflect.MapKey, v protoreflect.Value) bool {
				found = found || fd.MapValue().Message() != nil && keepsUnknown(v.Message())
				return true
			})
		case fd.Message() == nil:
		case fd.IsList():
			for i := range v.List().Len() {
				found = found || keepsUnknown(v.List().Get(i).Message())
			}
		default:
			found = found || keepsUnknown(v.Message())
		}
		return true
	})
	return found
}

// Whatever comes, there is a verdict, and none of them is that Trunkline has a defect.
func FuzzJudge(f *testing.F) {
	at := describe(f, place)
	seeds(f, at().Input())
	i := inspector(f, "payload: [ { methods: [ shop.* ], validate: { refuseUnknownFields: true, protovalidate: true, shadow: true }, waf: {} }, { waf: { mode: detect } } ]", nil)
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, r := range []*Rules{i.For(place, at), i.For(place, nil), i.For("x.Y/Z", nil)} {
			for _, encoding := range []string{"", "gzip"} {
				v := judge(r, &Message{Body: b, Compressed: encoding != "", Encoding: encoding})
				if v.Refused && (v.Reason == "" || v.Reason == "INSPECTION_FAILED" || v.Message == "" || v.Status == 0) {
					t.Fatalf("%+v", v)
				}
			}
		}
	})
}
