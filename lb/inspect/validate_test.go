package inspect

import (
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/reflect/protoreflect"
)

const strict = "payload: [ { validate: { refuseUnknownFields: true, protovalidate: true } } ]"

func TestAConfigurationWithoutPayloadRulesHasNoInspector(t *testing.T) {
	cfg := inspector(t, "{}", nil)
	if cfg != nil || cfg.For(place, nil) != nil {
		t.Fatal("there is one")
	}
	cfg.Close()
}

func TestTheFirstRuleThatNamesAMethodHolds(t *testing.T) {
	i := inspector(t, `
payload:
  - { methods: [ shop.Orders/Place ], maxRequestMessageBytes: 10, maxResponseBytes: 40 }
  - { methods: [ shop.* ], validate: {}, maxInspectedBytes: 77 }
  - { methods: [ shop.Orders/Place, "cart.*" ], maxRequestBytes: 1 }
`, nil)
	if r := i.For(place, nil); r.MaxRequestMessage != 10 || r.MaxResponseMessage != -1 || r.MaxRequest != -1 || r.MaxResponse != 40 || r.Judges || r.Why != "payload[0]" {
		t.Errorf("%+v", r)
	}
	if r := i.For("shop.Orders/Other", nil); r.MaxRequest != -1 || !r.Judges || r.MaxInspected != 77 || r.Why != "payload[1]" {
		t.Errorf("%+v", r)
	}
	if r := i.For("other.S/M", nil); r != nil {
		t.Errorf("%+v", r)
	}
}

// The rules stand in options that went through serialization; predefined rules are extensions of the endpoint's own.
func TestAMessageIsHeldAgainstTheRulesThatTheDescriptorsCarry(t *testing.T) {
	at := describe(t, place)
	r := inspector(t, strict, nil).For(place, at)
	for _, c := range []struct {
		json string
		says []string
	}{
		{`{"id":"7","items":[{"sku":"a","quantity":1}],"customer":{"email":"a@example.com"},"card":"4111","placed":"2026-01-01T00:00:00Z","title":"Calm"}`, nil},
		{`{}`, nil},
		{`{"items":[{"sku":"a","quantity":1},{"quantity":-1}]}`, []string{"message 1 of shop.Orders/Place is not valid: ",
			"items[1].sku: value length must be at least 1 characters; ", "items[1].quantity: value must be greater than 0", "(payload[0].validate)"}},
		{`{"customer":{"parent":{"email":"nobody"}}}`, []string{"customer.parent.email: value must be a valid email address"}},
		{`{"placed":"1970-01-01T00:00:01Z"}`, []string{"placed: value must be greater than"}},
		{`{"title":"SHOUTING"}`, []string{"title: must not shout"}},
		{`{"card":"4111"}`, []string{"breaks the rule order.card_needs_customer"}},
	} {
		v := judge(r, &Message{Body: message(t, at().Input(), c.json)})
		if c.says == nil {
			mustPass(t, v)
			continue
		}
		mustSay(t, v, "INVALID_ARGUMENT", "INVALID_MESSAGE", c.says...)
		if len(v.Notes) != 1 || v.Notes[0].Name != "payload[0].validate" || !v.Notes[0].Refused || v.Notes[0].Shadow {
			t.Errorf("%+v", v.Notes)
		}
	}
}

func TestAFieldToRedactIsNamedButNotShown(t *testing.T) {
	at := describe(t, place)
	r := inspector(t, strict, nil).For(place, at)
	v := judge(r, &Message{Body: message(t, at().Input(), `{"card":"hush","customer":{},"secret":{"email":"hush"}}`)})
	mustSay(t, v, "INVALID_ARGUMENT", "INVALID_MESSAGE", "card: breaks the rule card.digits", "secret.email: breaks the rule string.email")
	if strings.Contains(v.Message, "hush") {
		t.Error(v.Message)
	}
}

func TestManyViolationsAreNotAllTold(t *testing.T) {
	at := describe(t, place)
	r := inspector(t, strict, nil).For(place, at)
	for n, says := range map[int]string{20: "; and 35 more (payload[0].validate)", 2990: "items[0].sku"} {
		v := judge(r, &Message{Body: message(t, at().Input(), `{"items":[`+strings.Repeat(`{},`, n-1)+`{}]}`)})
		mustSay(t, v, "INVALID_ARGUMENT", "INVALID_MESSAGE", says)
		if len(v.Message) > 2000 {
			t.Error(len(v.Message))
		}
	}
}

func TestUnknownFieldsAreRefusedAtAnyDepth(t *testing.T) {
	at := describe(t, place)
	bytesField := func(num protowire.Number, b []byte) []byte {
		return protowire.AppendBytes(protowire.AppendTag(nil, num, protowire.BytesType), b)
	}
	number := func(num protowire.Number) []byte {
		return protowire.AppendVarint(protowire.AppendTag(nil, num, protowire.VarintType), 7)
	}
	anyOf := func(url string, b []byte) []byte {
		return bytesField(5, append(bytesField(1, []byte(url)), bytesField(2, b)...))
	}
	both := inspector(t, "payload: [ { methods: [ shop.Orders/Place ], validate: { refuseUnknownFields: true } }, { validate: {} } ]", nil)
	r := both.For(place, at)
	for _, c := range []struct {
		name string
		body []byte
		says string // "": passes
	}{
		{"top", append(number(77), number(78)...), "fields 77, 78 of shop.Order"},
		{"nested", bytesField(6, bytesField(3, number(9))), "field 9 of shop.Customer"},
		{"repeated", bytesField(3, number(5)), "field 5 of shop.Item"},
		{"map entry", bytesField(4, number(3)), "field 3 of shop.Order.LabelsEntry"},
		{"map value's type", bytesField(4, number(2)), "field 2 of shop.Order.LabelsEntry"},
		{"another wire type", number(2), "field 2 of shop.Order"},
		{"in an Any", anyOf("type.googleapis.com/shop.Item", number(5)), "field 5 of shop.Item"},
		{"in a group", bytesField(13, append(append(protowire.AppendTag(nil, 2, protowire.StartGroupType), number(9)...), protowire.AppendTag(nil, 2, protowire.EndGroupType)...)), "field 9 of shop.Old.Part"},
		{"extension", bytesField(13, bytesField(100, []byte("x"))), ""},
		{"no such extension", bytesField(13, number(101)), "field 101 of shop.Old"},
		{"an Any of an unknown type", anyOf("type.googleapis.com/shop.Nobody", number(5)), ""},
		{"a type whose file was not sent", bytesField(14, number(5)), ""},
		{"packed or not", append(bytesField(9, []byte{1, 2}), number(9)...), ""},
	} {
		t.Log(c.name)
		v := judge(r, &Message{Body: c.body})
		if c.says == "" {
			mustPass(t, v)
			continue
		}
		mustSay(t, v, "INVALID_ARGUMENT", "UNKNOWN_FIELDS", c.says, "deploy the server that knows them first")
		mustPass(t, judge(both.For("shop.Orders/Other", at), &Message{Body: c.body}))
	}
}

func TestAMessageThatDoesNotParseIsRefused(t *testing.T) {
	at := describe(t, place)
	i := inspector(t, "payload: [ { validate: {} } ]", nil)
	r := i.For(place, at)
	for body, says := range map[string]string{
		"\x0a\x05ab":         "message 1 of shop.Orders/Place does not parse as shop.Order: field id (1) is broken or cut off",
		"\x0a\x02a\xff":      "field id (1) is not UTF-8",
		"\x00":               "shop.Order: a field's tag is broken",
		"\x32\x03\x0a\x05ab": "does not parse as shop.Customer: field name (1) is broken or cut off",
		"\xfa\x07\x01":       "field 127 is broken or cut off",
		"\x32\x02\x0a\x00\x2a\x04\x0a\x02ab\x32\x00": "in several pieces",
		deep(200): "nest more than 100 deep",
	} {
		mustSay(t, judge(r, &Message{Body: []byte(body)}), "INVALID_ARGUMENT", "MESSAGE_MALFORMED", says)
	}
	mustPass(t, judge(r, &Message{Body: nil}))
	mustPass(t, judge(r, &Message{Body: []byte(deep(90))}))
}

// deep is an order with n customers in each other.
func deep(n int) string {
	var b []byte
	for range n {
		b = protowire.AppendBytes(protowire.AppendTag(nil, 3, protowire.BytesType), b)
	}
	return string(protowire.AppendBytes(protowire.AppendTag(nil, 6, protowire.BytesType), b))
}

func TestCompressedMessagesAreLookedIntoWithinBounds(t *testing.T) {
	at := describe(t, place)
	r := inspector(t, "payload: [ { validate: { protovalidate: true }, maxInspectedBytes: 100000 } ]", nil).For(place, at)
	good := message(t, at().Input(), `{"id":"7"}`)
	bad := message(t, at().Input(), `{"items":[{"sku":"a"}]}`)
	bomb := zip(t, protowire.AppendBytes(protowire.AppendTag(nil, 1, protowire.BytesType), make([]byte, 5<<20)))
	mustPass(t, judge(r, &Message{Compressed: true, Encoding: "gzip", Body: zip(t, good)}))
	mustPass(t, judge(r, &Message{Encoding: "gzip", Body: good}))
	mustSay(t, judge(r, &Message{Compressed: true, Encoding: "gzip", Body: zip(t, bad)}), "INVALID_ARGUMENT", "INVALID_MESSAGE", "items[0].quantity")
	mustSay(t, judge(r, &Message{Compressed: true, Encoding: "gzip", Body: good}), "INVALID_ARGUMENT", "MESSAGE_MALFORMED", "compressed with gzip, but is not")
	mustSay(t, judge(r, &Message{Compressed: true, Encoding: "gzip", Body: zip(t, good)[:12]}), "INVALID_ARGUMENT", "MESSAGE_MALFORMED", "compressed with gzip, but is not")
	mustSay(t, judge(r, &Message{Compressed: true, Encoding: "gzip", Body: bomb}), "RESOURCE_EXHAUSTED", "MESSAGE_TOO_LARGE_TO_INSPECT", "larger than 100000 bytes", "payload[0].maxInspectedBytes")
	mustSay(t, judge(r, &Message{Body: make([]byte, 100001)}), "RESOURCE_EXHAUSTED", "MESSAGE_TOO_LARGE_TO_INSPECT")
	mustSay(t, r.TooLarge(place, 3), "RESOURCE_EXHAUSTED", "MESSAGE_TOO_LARGE_TO_INSPECT", "message 3 of shop.Orders/Place is larger than 100000 bytes")
	mustSay(t, judge(r, &Message{Compressed: true, Encoding: "zstd", Body: good}), "UNIMPLEMENTED", "ENCODING_NOT_INSPECTED", `compressed with "zstd"`, "send it with gzip, or not compressed")
	mustSay(t, judge(r, &Message{Compressed: true, Body: good}), "INTERNAL", "MESSAGE_MALFORMED", "names no grpc-encoding")
}

func TestWithoutDescriptorsNothingIsCalledValid(t *testing.T) {
	i := inspector(t, strict, nil)
	for _, r := range []*Rules{i.For(place, nil), i.For(place, func() protoreflect.MethodDescriptor { return nil }), i.For(place, describe(t, "shop.Orders/Open"))} {
		mustSay(t, judge(r, &Message{}), "FAILED_PRECONDITION", "NO_DESCRIPTORS", "no endpoint of the method told its descriptors; register gRPC server reflection")
	}
}

func TestRulesThatDoNotCompileRefuseWhatTheyCannotJudge(t *testing.T) {
	r := inspector(t, strict, nil).For("shop.Orders/Break", describe(t, "shop.Orders/Break"))
	for range 2 {
		mustSay(t, judge(r, &Message{Method: "shop.Orders/Break"}), "FAILED_PRECONDITION", "RULES_NOT_UNDERSTOOD", "the rules of shop.Broken in the server's descriptors do not compile")
	}
}

// A message of two-byte parts would take a hundred times its size when decoded.
func TestAMessageThatWouldGrowWhenDecodedIsRefused(t *testing.T) {
	at := describe(t, place)
	r := inspector(t, strict, nil).For(place, at)
	v := judge(r, &Message{Body: []byte(strings.Repeat("\x1a\x00", 1<<20))})
	mustSay(t, v, "RESOURCE_EXHAUSTED", "MESSAGE_TOO_COMPLEX", "too many small parts")
}

func TestAShadowOnlyNotes(t *testing.T) {
	at := describe(t, place)
	i := inspector(t, "payload: [ { validate: { refuseUnknownFields: true, protovalidate: true, shadow: true } } ]", nil)
	for body, reason := range map[string]string{
		"\x0a\x05ab":           "does not parse",
		"\xe8\x04\x01":         "field 77",
		"\x1a\x00":             "items[0].sku",
		"\xe8\x04\x01\x1a\x00": "field 77",
	} {
		v := judge(i.For(place, at), &Message{Body: []byte(body)})
		if v.Refused || len(v.Notes) == 0 || !v.Notes[0].Shadow || !v.Notes[0].Refused || !strings.Contains(v.Notes[0].Text, reason) {
			t.Errorf("%+v", v)
		}
	}
	if v := judge(i.For(place, nil), &Message{}); v.Refused || len(v.Notes) != 1 || !strings.Contains(v.Notes[0].Text, "told its descriptors") {
		t.Errorf("%+v", v)
	}
	if v := judge(i.For(place, at), &Message{Compressed: true, Encoding: "br"}); v.Refused || len(v.Notes) != 1 {
		t.Errorf("%+v", v)
	}
}

func TestAMethodThatNoFileDefinesIsSaid(t *testing.T) {
	l, s := NewLibrary(), schema(t)
	for _, method := range []string{"shop.Nobody/X", "shop.Orders/Nothing", ""} {
		if md, err := l.Method(s, method); md != nil || err == nil {
			t.Errorf("%q: %v, %v", method, md, err)
		}
	}
	if _, err := l.Method(nil, place); err == nil {
		t.Error("found in no schema")
	}
	a, _ := l.Method(s, place)
	b, _ := l.Method(s, place)
	if a == nil || a != b {
		t.Error("not the same descriptor")
	}
}

// What is kept for methods of descriptors that no longer hold is given up.
func TestPlansAreBounded(t *testing.T) {
	s := schema(t)
	var p plans
	for range maxPlans + 50 {
		md, err := NewLibrary().Method(s, place)
		if err != nil {
			t.Fatal(err)
		}
		p.of(md)
	}
	if len(p.plans) != maxPlans || len(p.order) != maxPlans || len(p.types) != maxPlans {
		t.Error(len(p.plans), len(p.order), len(p.types))
	}
}
