package inspect

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	configv1 "github.com/trunkline/trunkline/proto/trunkline/config/v1"
)

const injection = "1' OR '1'='1' -- "

func TestAnAttackIsBlockedWhereverItStands(t *testing.T) {
	at := describe(t, place)
	var log lines
	i := inspector(t, "payload: [ { waf: {} } ]", &log)
	r := i.For(place, at)
	field := func(num protowire.Number, b []byte) []byte {
		return protowire.AppendBytes(protowire.AppendTag(nil, num, protowire.BytesType), b)
	}
	hidden, err := anypb.New(wrapperspb.String(injection))
	if err != nil {
		t.Fatal(err)
	}
	anyBytes, err := proto.Marshal(hidden)
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		body []byte
		path string
	}{
		"a string":                       {message(t, at().Input(), `{"note":"`+injection+`"}`), "note"},
		"an element":                     {message(t, at().Input(), `{"tags":["a","b","`+injection+`"]}`), "tags"},
		"a nested message":               {message(t, at().Input(), `{"customer":{"parent":{"name":"`+injection+`"}}}`), "customer.parent.name"},
		"a map's value":                  {message(t, at().Input(), `{"labels":{"a":"`+injection+`"}}`), "labels.value"},
		"a map's key":                    {message(t, at().Input(), `{"labels":{"`+injection+`":"a"}}`), "labels.key"},
		"an Any of a known type":         {field(5, anyBytes), "extra.value"},
		"an Any of an unknown type":      {field(5, append(field(1, []byte("x.y/z.Z")), field(2, field(3, []byte(injection)))...)), "extra.3"},
		"bytes":                          {field(7, []byte(injection)), "blob"},
		"a redacted field":               {message(t, at().Input(), `{"card":"`+injection+`"}`), "card"},
		"an unknown field":               {field(77, field(4, []byte(injection))), "77.4"},
		"a value that a later one hides": {append(field(2, []byte(injection)), field(2, []byte("fine"))...), "note"},
	} {
		t.Run(name, func(t *testing.T) {
			v := judge(r, &Message{Body: c.body, Index: 2})
			mustSay(t, v, "PERMISSION_DENIED", "WAF_BLOCKED", "message 2 of shop.Orders/Place looks like an attack: field "+c.path+
				", rule 942100 (SQL Injection Attack Detected via libinjection)", "anomaly score 5 of 5 (payload[0].waf)")
			if len(v.Notes) != 1 || v.Notes[0].Name != "payload[0].waf" || !v.Notes[0].Refused || v.Notes[0].Shadow {
				t.Errorf("%+v", v.Notes)
			}
		})
	}
	// Full-width forms, which some databases convert.
	mustSay(t, judge(r, &Message{Body: message(t, at().Input(), `{"note":"＇ OR ＇1＇＝＇1"}`)}), "PERMISSION_DENIED", "WAF_BLOCKED", "rule 942100")
	mustPass(t, judge(r, &Message{Body: message(t, at().Input(), `{"note":"O'Brien's order","id":"7","tags":["北京是一个很大的城市。"]}`)}))
	mustPass(t, judge(r, &Message{}))
}

// Neither the refusal, nor the note, nor the log holds what the field held.
func TestWhatMatchedIsNeverShown(t *testing.T) {
	at := describe(t, place)
	var log lines
	r := inspector(t, "payload: [ { waf: { paranoia: 4, directivesFile: testdata/own.conf } } ]", &log).For(place, at)
	for _, json := range []string{`{"card":"hush ' OR '1'='1' -- "}`, `{"labels":{"hush<script>alert(1)</script>":"../../etc/passwd hush"}}`, `{"note":"hush forbidden words"}`} {
		v := judge(r, &Message{Body: message(t, at().Input(), json), Address: "192.0.2.7", Principal: "alice"})
		mustSay(t, v, "PERMISSION_DENIED", "WAF_BLOCKED")
		if all := fmt.Sprint(v.Message, v.Notes, log.String()); strings.Contains(all, "hush") || strings.Contains(all, "passwd") {
			t.Error(all)
		}
	}
	for _, want := range []string{"a message looks like an attack", "method=shop.Orders/Place", "field=card", "address=192.0.2.7", "principal=alice", "blocked=true"} {
		if !strings.Contains(log.String(), want) {
			t.Errorf("the log does not say %s:\n%s", want, log.String())
		}
	}
}

func TestDetectingOnlyNotes(t *testing.T) {
	at := describe(t, place)
	var log lines
	r := inspector(t, "payload: [ { waf: { mode: detect } } ]", &log).For(place, at)
	v := judge(r, &Message{Body: message(t, at().Input(), `{"note":"`+injection+`"}`)})
	if v.Refused || len(v.Notes) != 1 || !v.Notes[0].Shadow || !strings.Contains(v.Notes[0].Text, "rule 942100") {
		t.Errorf("%+v", v)
	}
	if !strings.Contains(log.String(), "blocked=false") {
		t.Error(log.String())
	}
	// What cannot be searched passes too, with a note.
	for body, says := range map[string]string{"\x0a\x05a": "does not parse", "\x12" + string(protowire.AppendBytes(nil, make([]byte, maxTextBytes+1))): "more text than is searched"} {
		if v := judge(r, &Message{Body: []byte(body)}); v.Refused || len(v.Notes) == 0 || !strings.Contains(v.Notes[0].Text, says) {
			t.Errorf("%+v", v)
		}
	}
}

func TestValidationRefusesWhatOnlyTheFirewallWatches(t *testing.T) {
	at := describe(t, place)
	r := inspector(t, "payload: [ { validate: { protovalidate: true }, waf: { mode: detect } } ]", nil).For(place, at)
	v := judge(r, &Message{Body: message(t, at().Input(), `{"note":"`+injection+`","items":[{"sku":"a"}]}`)})
	mustSay(t, v, "INVALID_ARGUMENT", "INVALID_MESSAGE", "items[0].quantity")
	v = judge(r, &Message{Body: message(t, at().Input(), `{"note":"`+strings.Repeat("long ", maxTextBytes/4)+`"}`)})
	if v.Refused || len(v.Notes) != 1 || !strings.Contains(v.Notes[0].Text, "more text than is searched") {
		t.Errorf("%t %+v", v.Refused, v.Notes)
	}
}

func TestWithoutDescriptorsTextsAreFoundByGuessing(t *testing.T) {
	at := describe(t, place)
	r := inspector(t, "payload: [ { waf: {} } ]", nil).For(place, nil)
	v := judge(r, &Message{Body: message(t, at().Input(), `{"customer":{"parent":{"name":"`+injection+`"}}}`)})
	mustSay(t, v, "PERMISSION_DENIED", "WAF_BLOCKED", "field 6.3.1, rule 942100")
	mustPass(t, judge(r, &Message{Body: message(t, at().Input(), `{"id":"7","note":"two o'clock","customer":{"name":"Conor O'Brien"},"counts":[1,2,3]}`)}))
	mustSay(t, judge(r, &Message{Body: []byte("\x0a\x05a")}), "INVALID_ARGUMENT", "MESSAGE_MALFORMED", "is not a protobuf message")
}

func TestTooMuchTextIsRefused(t *testing.T) {
	at := describe(t, place)
	r := inspector(t, "payload: [ { waf: {} } ]", nil).For(place, at)
	for _, json := range []string{`{"note":"` + strings.Repeat("a", maxTextBytes+1) + `"}`, `{"tags":["` + strings.Repeat(`a","`, maxTexts) + `a"]}`} {
		mustSay(t, judge(r, &Message{Body: message(t, at().Input(), json)}), "RESOURCE_EXHAUSTED", "MESSAGE_TOO_COMPLEX", "more text than is searched for attacks, which is 5000 strings, 262144 bytes, and 16 levels of unknown fields (payload[0].waf)")
	}
	hidden := protowire.AppendBytes(nil, []byte(injection))
	for range maxBlindDepth + 1 {
		hidden = protowire.AppendBytes(nil, append([]byte{0x9a, 0x01}, hidden...)) // field 19
	}
	mustSay(t, judge(r, &Message{Body: append([]byte{0x9a, 0x01}, hidden...)}), "RESOURCE_EXHAUSTED", "MESSAGE_TOO_COMPLEX", "16 levels of unknown fields")
	// A file in a bytes field is none.
	mustPass(t, judge(r, &Message{Body: protowire.AppendBytes(protowire.AppendTag(nil, 7, protowire.BytesType), make([]byte, maxTextBytes+1))}))
}

func TestSettingsOfTheFirewallHold(t *testing.T) {
	at := describe(t, place)
	sql := message(t, at().Input(), `{"note":"`+injection+`"}`)
	script := message(t, at().Input(), `{"note":"<script>alert(1)</script>"}`)
	for waf, refused := range map[string][2]bool{
		"{}":                                    {true, true},
		"{ disabledRules: [ 942100 ] }":         {false, true},
		"{ anomalyThreshold: 6 }":               {false, true},
		"{ anomalyThreshold: 1000 }":            {false, false},
		"{ paranoia: 3, anomalyThreshold: 6 }":  {true, true},
		"{ directivesFile: testdata/own.conf }": {false, true}, // it excludes the field from 942100
	} {
		r := inspector(t, "payload: [ { waf: "+waf+" } ]", nil).For(place, at)
		if got := [2]bool{judge(r, &Message{Body: sql}).Refused, judge(r, &Message{Body: script}).Refused}; got != refused {
			t.Errorf("%s: %v", waf, got)
		}
	}
}

// Fields are named by the schema, so their names are no evidence: not even session_id.
func TestFieldNamesAreNotSearched(t *testing.T) {
	w := wallOf(t, &configv1.Waf{Mode: "block", Paranoia: proto.Uint32(4), AnomalyThreshold: proto.Uint32(1)})
	for _, name := range []string{"session_id", "jsessionid", "select.union.from", "onload", "document.cookie", "etc.passwd", "exec"} {
		h, err := w.judge(place, []text{{path: name, value: "7"}})
		if err != nil || h.score > 0 {
			t.Errorf("%s: %+v, %v", name, h, err)
		}
	}
}

func TestADirectivesFileThatCannotBeUsedIsExplained(t *testing.T) {
	for text, says := range map[string]string{
		"SecRule ARGS":                       "payload[0].waf.directivesFile: ",
		"SecNothing On":                      "unknown directive",
		"  SecAuditLog /tmp/x":               "holds SecAuditLog: Trunkline writes no files",
		"secremoterules key https://x.test/": "holds secremoterules",
		"Include other.conf":                 "other.conf",
	} {
		file := filepath.Join(t.TempDir(), "own.conf")
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := newWall(&configv1.Waf{Mode: "block", Paranoia: proto.Uint32(1), AnomalyThreshold: proto.Uint32(5), DirectivesFile: file}, "payload[0].waf")
		if err == nil || !strings.Contains(err.Error(), says) || !strings.Contains(err.Error(), file) {
			t.Errorf("%q: %v", text, err)
		}
	}
	_, err := newWall(&configv1.Waf{DirectivesFile: "/nonexistent/x"}, "payload[0].waf")
	if err == nil || !strings.Contains(err.Error(), "/nonexistent/x") {
		t.Error(err)
	}
}

func wallOf(t testing.TB, c *configv1.Waf) *wall {
	t.Helper()
	var w walls
	t.Cleanup(w.close)
	made, err := w.get(c, "payload[0].waf")
	if err != nil {
		t.Fatal(err)
	}
	if again, err := w.get(proto.CloneOf(c), "payload[1].waf"); again != made || err != nil {
		t.Fatal("the same settings, another firewall")
	}
	return made
}

func BenchmarkWall(b *testing.B) {
	w := wallOf(b, &configv1.Waf{Mode: "block", Paranoia: proto.Uint32(1), AnomalyThreshold: proto.Uint32(5)})
	ten := []string{"7f3a2c1e-58d1-4b7e-9b0a-1c2d3e4f5a6b", "Conor O'Brien", "conor@example.com", "12 Main Street, Apt. 4", "Dublin", "IE", "EUR",
		"please leave it at the door, thanks", "SKU-00123-XL", "https://example.com/products/42"}
	for _, n := range []int{1, 10, 1000, maxTexts} {
		b.Run(fmt.Sprint("short/", n), func(b *testing.B) {
			var in []text
			for i := range n {
				in = append(in, text{path: fmt.Sprintf("order.f%d", i), value: ten[i%10]})
			}
			b.ReportAllocs()
			for b.Loop() {
				if h, err := w.judge(place, in); err != nil || h.attack {
					b.Fatal(h, err)
				}
			}
		})
	}
	for name, s := range map[string]string{"prose": "please leave it at the door, thanks. ", "quotes": "'", "a": "a", "tags": "<a ", "select": "select ", "slashes": "../"} {
		b.Run(fmt.Sprintf("long/%d/%s", maxTextBytes, name), func(b *testing.B) {
			in := []text{{path: "x", value: strings.Repeat(s, maxTextBytes/len(s))}}
			for b.Loop() {
				if _, err := w.judge(place, in); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
