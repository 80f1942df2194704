package transparency

import (
	"bytes"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// The frames themselves: field order and representation, where streams end, and which reset comes through.
func TestTheFramesOfACallLookTheSameDirectAndThroughTrunkline(t *testing.T) {
	direct := newWireRig(t, asItIs)
	through := newWireRig(t, func(server string) string { return startTrunkline(t, server).Listen })
	for _, e := range exchanges() {
		t.Run(e.name, func(t *testing.T) {
			if diff := cmp.Diff(direct.play(t, e), through.play(t, e)); diff != "" {
				t.Errorf("direct (-), through Trunkline (+):\n%s", diff)
			}
		})
	}
}

// The control, see TestTheScriptLooksTheSameTwiceDirect.
func TestTheFramesOfACallLookTheSameTwiceDirect(t *testing.T) {
	one, two := newWireRig(t, asItIs), newWireRig(t, asItIs)
	for _, e := range exchanges() {
		t.Run(e.name, func(t *testing.T) {
			first := one.play(t, e)
			if diff := cmp.Diff(first, two.play(t, e)); diff != "" {
				t.Errorf("the first time (-), the second (+):\n%s", diff)
			}
			if strings.Contains(first, broken) || strings.Contains(first, "STRAY") {
				t.Errorf("the exchange does not work even direct:\n%s", first)
			}
		})
	}
}

func field(name, value string) hpack.HeaderField { return hpack.HeaderField{Name: name, Value: value} }

// request is the header block of a call, with more fields at its end.
func request(more ...hpack.HeaderField) []hpack.HeaderField {
	return append([]hpack.HeaderField{
		field(":method", "POST"), field(":scheme", "http"), field(":path", "/"+scriptService+"/Play"), field(":authority", "script.test"),
		field("content-type", "application/grpc"), field("te", "trailers"), field("user-agent", "framer/1"),
	}, more...)
}

func response(more ...hpack.HeaderField) []hpack.HeaderField {
	return append([]hpack.HeaderField{field(":status", "200"), field("content-type", "application/grpc")}, more...)
}

func trailers(status string, more ...hpack.HeaderField) []hpack.HeaderField {
	return append([]hpack.HeaderField{field("grpc-status", status)}, more...)
}

func reset(code http2.ErrCode) *http2.ErrCode { return &code }

// Steps by client and server.
func ch(end bool, fields ...hpack.HeaderField) step {
	return step{byClient: true, fields: fields, end: end}
}
func cd(end bool, data string) step                 { return step{byClient: true, data: []byte(data), end: end} }
func cr(code http2.ErrCode) step                    { return step{byClient: true, reset: reset(code)} }
func sh(end bool, fields ...hpack.HeaderField) step { return step{fields: fields, end: end} }
func sd(data string) step                           { return step{data: []byte(data)} }
func sr(code http2.ErrCode) step                    { return step{reset: reset(code)} }

func message(body string) string {
	return string([]byte{0, 0, 0, byte(len(body) >> 8), byte(len(body))}) + body
}

func exchanges() []exchange {
	ok := trailers("0", field("grpc-message", ""))
	big := strings.Repeat("v", 30000)
	all := []exchange{
		{"a unary call", []step{ch(false, request()...), cd(true, message("q")), sh(false, response()...), sd(message("a")), sh(true, ok...)}},
		{"a second one, from the header tables", []step{ch(false, request()...), cd(true, message("q")), sh(false, response()...), sd(message("a")), sh(true, ok...)}},
		{"END_STREAM on the request's headers", []step{ch(true, request()...), sh(true, response(trailers("5")...)...)}},
		{"END_STREAM on an empty DATA frame", []step{ch(false, request()...), cd(false, message("q")), cd(true, ""), sh(true, response(trailers("5")...)...)}},
		{"Trailers-Only before the client ends, then NO_ERROR", []step{
			ch(false, request()...), cd(false, message("q")), sh(true, response(trailers("8")...)...), sr(http2.ErrCodeNo)}},
		{"order of fields, repeated fields, odd names", []step{
			ch(true, request(field("b", "2"), field("a", "1"), field("b", "1"), field("grpc-timeout-x", "1"), field("x-bin", "AAE"), field("x-bin", "AAE="),
				field("cookie", "a=1"), field("cookie", "b=2"), field("!#$%&'*+-.^_`|~", "token"), field("9", "nine"))...),
			sh(false, response(field("z", "2"), field("y", "1"), field("z", "1"), field("set-cookie", "a"), field("set-cookie", "b"))...),
			sh(true, trailers("0", field("t", "2"), field("s", "1"), field("t", "1"))...)}},
		{"values with bytes above 127 and tabs inside", []step{
			ch(true, request(field("x", "a\tb\x80\xffc"))...), sh(true, response(field("y", "\xc3\xa9 \xff"), field("grpc-status", "0"))...)}},
		{"fields that must never be indexed stay so", []step{
			ch(true, request(hpack.HeaderField{Name: "authorization", Value: "secret", Sensitive: true})...),
			sh(true, response(hpack.HeaderField{Name: "token", Value: "secret", Sensitive: true}, field("grpc-status", "0"))...)}},
		{"padding on HEADERS and DATA", []step{
			{byClient: true, fields: request(), pad: 100}, {byClient: true, data: []byte(message("q")), pad: 255, end: true},
			{fields: response(), pad: 1}, {data: []byte(message("a")), pad: 200}, sh(true, ok...)}},
		{"blocks over CONTINUATION", []step{
			{byClient: true, fields: request(field("a", big), field("b", "1")), split: true, end: true},
			{fields: response(field("a", big)), split: true}, {fields: trailers("0", field("c", big)), split: true, end: true}}},
		{"other content types", []step{
			{byClient: true, fields: append(request()[:4], field("content-type", "application/grpc+json"), field("te", "trailers")), end: true},
			sh(true, field(":status", "200"), field("content-type", "application/grpc+json"), field("grpc-status", "0"))}},
		{"an informational response first", []step{
			ch(true, request()...), sh(false, field(":status", "103"), field("link", "x")), sh(true, response(trailers("0")...)...)}},
		{"a status that is not 200, with a body", []step{
			ch(true, request()...), sh(false, field(":status", "503"), field("content-type", "text/html")), {data: []byte("<html>busy</html>"), end: true}}},
		{"a response without trailers", []step{ch(true, request()...), sh(false, response()...), {data: []byte(message("a")), end: true}}},
		{"trailers of the request", []step{ch(false, request()...), cd(false, message("q")), ch(true, field("x-sum", "1")), sh(true, response(trailers("0")...)...)}},
		{"both directions at once, in turns", []step{
			ch(false, request()...), sh(false, response()...), cd(false, message("1")), sd(message("2")), cd(false, message("3")), sd(message("4")),
			cd(true, ""), sd(message("5")), sh(true, ok...)}},
		{"half a message, then its other half", []step{
			ch(false, request()...), cd(false, message("hello")[:3]), sh(false, response()...), cd(true, message("hello")[3:]),
			sd(message("world")[:6]), sd(message("world")[6:]), sh(true, ok...)}},
		{"DATA that is no gRPC message is relayed as it came", []step{
			ch(false, request()...), cd(true, "\xff\xff\xff\xff\xff"), sh(false, response()...), sd("\x07garbage"), sh(true, ok...)}},
		{"frames of unknown types are ignored", []step{
			ch(false, request()...), {byClient: true, raw: unknownFrame, data: []byte(message("q")), end: true},
			{fields: response()}, {raw: unknownFrame, data: []byte(message("a"))}, sh(true, ok...)}},
		{"a body larger than every first window", bulk()},
	}
	for _, code := range []http2.ErrCode{http2.ErrCodeNo, http2.ErrCodeInternal, http2.ErrCodeCancel, http2.ErrCodeRefusedStream, http2.ErrCodeEnhanceYourCalm, 0xabcdef} {
		all = append(all, exchange{"the client resets with " + code.String(), []step{
			ch(false, request()...), cd(false, message("q")), sh(false, response()...), cr(code)}})
		all = append(all, exchange{"the server resets after its headers with " + code.String(), []step{
			ch(false, request()...), cd(false, message("q")), sh(false, response()...), sd(message("a")), sr(code)}})
	}
	return all
}

func unknownFrame(p *peer, stream uint32) {
	p.framer.WriteRawFrame(0xee, 0xff, stream, []byte("unknown")) // see write
}

// bulk sends 60,000 bytes a step (less than a first window, so that the framer may send it whole) each way.
func bulk() []step {
	steps := []step{ch(false, request()...), sh(false, response()...)}
	for i := range 10 {
		chunk := string(bytes.Repeat([]byte{byte(i)}, 15000))
		for range 4 {
			steps = append(steps, cd(false, chunk), sd(chunk))
		}
	}
	return append(steps, cd(true, ""), sh(true, trailers("0")...))
}
