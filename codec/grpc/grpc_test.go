package grpc

import (
	"errors"
	"math"
	"strings"
	"testing"
	"time"
	"unicode/utf8"
)

func TestAPathSplitsAtItsLastSlash(t *testing.T) {
	for _, c := range []struct {
		path, service, method string
		ok                    bool
	}{
		{"/pkg.Service/Method", "pkg.Service", "Method", true},
		{"/S/M", "S", "M", true},
		{"/a/b/c", "a/b", "c", true},
		{"//a/b", "/a", "b", true},
		{"/pkg.S/M?x=1", "pkg.S", "M?x=1", true},
		{"", "", "", false},
		{"/", "", "", false},
		{"//", "", "", false},
		{"//m", "", "", false},
		{"/s", "", "", false},
		{"/s/", "", "", false},
		{"s/m", "", "", false},
		{"*", "", "", false},
	} {
		service, method, ok := SplitPath(c.path)
		if service != c.service || method != c.method || ok != c.ok {
			t.Errorf("SplitPath(%q) = %q, %q, %v, want %q, %q, %v", c.path, service, method, ok, c.service, c.method, c.ok)
		}
	}
}

func TestOnlyGRPCContentTypesAreGRPC(t *testing.T) {
	for v, want := range map[string]bool{
		"application/grpc": true, "application/grpc+proto": true, "application/grpc+json": true, "application/grpc;charset=utf-8": true,
		"Application/gRPC": true, "application/grpc+": true,
		"application/grpc-web": false, "application/grpcx": false, "application/json": false, "": false, "application/grp": false,
		" application/grpc": false,
	} {
		if IsContentType(v) != want {
			t.Errorf("IsContentType(%q) = %v", v, !want)
		}
	}
}

func TestATimeoutIsDigitsAndAUnit(t *testing.T) {
	for _, c := range []struct {
		v    string
		want time.Duration
		err  error
	}{
		{"1H", time.Hour, nil},
		{"20M", 20 * time.Minute, nil},
		{"5S", 5 * time.Second, nil},
		{"250m", 250 * time.Millisecond, nil},
		{"7u", 7 * time.Microsecond, nil},
		{"99999999n", 99999999, nil},
		{"0n", 0, nil},
		{"00000001S", time.Second, nil},
		{"99999999M", 99999999 * time.Minute, nil},
		{"2562047H", 2562047 * time.Hour, nil},
		{"2562048H", math.MaxInt64, nil},
		{"99999999H", math.MaxInt64, nil},
		{"", 0, ErrTimeoutLength},
		{"S", 0, ErrTimeoutLength},
		{"123456789S", 0, ErrTimeoutLength},
		{"12", 0, ErrTimeoutUnit},
		{"1s", 0, ErrTimeoutUnit},
		{"1h", 0, ErrTimeoutUnit},
		{"-1S", 0, ErrTimeoutDigit},
		{"+1S", 0, ErrTimeoutDigit},
		{"1 S", 0, ErrTimeoutDigit},
		{"1.5S", 0, ErrTimeoutDigit},
		{"SS", 0, ErrTimeoutDigit},
		{"\xb1S", 0, ErrTimeoutDigit},
	} {
		got, err := ParseTimeout(c.v)
		if got != c.want || !errors.Is(err, c.err) {
			t.Errorf("ParseTimeout(%q) = %v, %v, want %v, %v", c.v, got, err, c.want, c.err)
		}
	}
}

func TestATimeoutIsWrittenInTheFinestUnitThatFits(t *testing.T) {
	for d, want := range map[time.Duration]string{
		-1: "0n", 0: "0n", 1: "1n", 99999999: "99999999n", 100000000: "100000u", 100000001: "100001u",
		99999999 * time.Microsecond: "99999999u", 99999999*time.Microsecond + 1: "100000m",
		99999999 * time.Millisecond: "99999999m", 100000 * time.Second: "100000S",
		99999999 * time.Second: "99999999S", 99999999*time.Second + 1: "1666667M",
		99999999 * time.Minute: "99999999M", 99999999*time.Minute + 1: "1666667H", math.MaxInt64: "2562048H",
	} {
		if got := string(AppendTimeout(nil, d)); got != want {
			t.Errorf("AppendTimeout(%d) = %q, want %q", d, got, want)
		}
	}
}

func TestStatusesParseAndHaveCanonicalNames(t *testing.T) {
	for _, c := range []struct {
		v    string
		want Status
		ok   bool
		name string
	}{
		{"0", OK, true, "OK"},
		{"1", Canceled, true, "CANCELLED"},
		{"4", DeadlineExceeded, true, "DEADLINE_EXCEEDED"},
		{"12", Unimplemented, true, "UNIMPLEMENTED"},
		{"14", Unavailable, true, "UNAVAILABLE"},
		{"16", Unauthenticated, true, "UNAUTHENTICATED"},
		{"007", PermissionDenied, true, "PERMISSION_DENIED"},
		{"17", 17, true, "CODE(17)"},
		{"2147483647", 1<<31 - 1, true, "CODE(2147483647)"},
		{"2147483648", Unknown, false, "UNKNOWN"},
		{"99999999999999999999999999", Unknown, false, "UNKNOWN"},
		{"", Unknown, false, "UNKNOWN"},
		{"x", Unknown, false, "UNKNOWN"},
		{"-1", Unknown, false, "UNKNOWN"},
		{"1 ", Unknown, false, "UNKNOWN"},
		{"OK", Unknown, false, "UNKNOWN"},
	} {
		got, ok := ParseStatus(c.v)
		if got != c.want || ok != c.ok || got.String() != c.name {
			t.Errorf("ParseStatus(%q) = %v, %v, want %v, %v", c.v, got, ok, c.name, c.ok)
		}
		if got.Known() != (got <= Unauthenticated) {
			t.Errorf("Known(%d) = %v", got, got.Known())
		}
	}
}

// The table of PROTOCOL-HTTP2.md, "Errors", and the codes that it does not have.
func TestAResetStreamHasTheStatusOfItsCode(t *testing.T) {
	want := [...]Status{Internal, Internal, Internal, Internal, Internal, Internal, Internal, Unavailable, Canceled, Internal,
		Internal, ResourceExhausted, PermissionDenied, Internal, Internal}
	for code, w := range want {
		if got := FromH2Code(uint32(code)); got != w {
			t.Errorf("FromH2Code(%#x) = %v, want %v", code, got, w)
		}
	}
	if got := FromH2Code(math.MaxUint32); got != Internal {
		t.Errorf("an unknown code is %v", got)
	}
}

func TestAMessageIsPercentEncoded(t *testing.T) {
	for msg, want := range map[string]string{
		"":                  "",
		"no such method":    "no such method",
		"100%":              "100%25",
		"two\nlines\t":      "two%0Alines%09",
		" spaced ":          "%20spaced%20",
		" ":                 "%20",
		"~\x7f":             "~%7F",
		"é€😀":               "%C3%A9%E2%82%AC%F0%9F%98%80",
		"bad \xff\xfe utf8": "bad %EF%BF%BD%EF%BF%BD utf8",
		"cut \xe2\x82":      "cut %EF%BF%BD%EF%BF%BD",
		"\x00":              "%00",
	} {
		if got := string(AppendMessage(nil, msg)); got != want {
			t.Errorf("AppendMessage(%q) = %q, want %q", msg, got, want)
		}
	}
}

func TestABrokenEscapeIsKept(t *testing.T) {
	for v, want := range map[string]string{
		"": "", "plain": "plain", "100%25": "100%", "%41%4a%4A": "AJJ", "%": "%", "%4": "%4", "a%zz%41": "a%zzA", "%%41": "%A", "%e2%82": "\xe2\x82",
	} {
		if got := DecodeMessage(v); got != want {
			t.Errorf("DecodeMessage(%q) = %q, want %q", v, got, want)
		}
	}
}

func TestMessagesAreCountedAcrossFrames(t *testing.T) {
	const hello = "\x00\x00\x00\x00\x05hello"
	const empty = "\x01\x00\x00\x00\x00"
	var c MessageCounter
	for i, step := range []struct {
		p       string
		n       int
		partial bool
	}{
		{"", 0, false},
		{hello, 1, false},
		{empty, 1, false},
		{hello + empty + hello, 3, false},
		{hello[:3], 0, true},
		{"", 0, true},
		{hello[3:7], 0, true},
		{hello[7:], 1, false},
		{hello[:5], 0, true},
		{hello[5:] + empty[:4], 1, true},
		{empty[4:] + hello, 2, false},
		{"\x00\x00\x01\x00\x00", 0, true},
		{strings.Repeat("x", 65535), 0, true},
		{"x" + empty, 2, false},
		{"\x00\xff\xff\xff\xff...", 0, true},
	} {
		if n := c.Add([]byte(step.p)); n != step.n || c.Partial() != step.partial {
			t.Fatalf("step %d: %d messages, partial %v, want %d, %v", i, n, c.Partial(), step.n, step.partial)
		}
	}
}

func TestTheWayOfACallDoesNotAllocate(t *testing.T) {
	dst := make([]byte, 0, 4096)
	frame := []byte("\x00\x00\x00\x00\x05hello")
	var c MessageCounter
	var sink int
	for name, f := range map[string]func(){
		"SplitPath":     func() { s, _, _ := SplitPath("/pkg.Service/Method"); sink += len(s) },
		"ParseTimeout":  func() { d, _ := ParseTimeout("20000000u"); sink += int(d) },
		"a bad timeout": func() { _, err := ParseTimeout("20000000x"); sink += len(err.Error()) },
		"AppendTimeout": func() { sink += len(AppendTimeout(dst, 20*time.Second)) },
		"ParseStatus":   func() { s, _ := ParseStatus("14"); sink += len(s.String()) },
		"IsContentType": func() { IsContentType("application/grpc+proto") },
		"AppendMessage": func() { sink += len(AppendMessage(dst, "no é")) },
		"DecodeMessage": func() { sink += len(DecodeMessage("plain")) },
		"Add":           func() { sink += c.Add(frame) },
		"AppendStatusDetailsBin": func() {
			md := [...][2]string{{"method", "pkg.Service/Method"}, {"phase", "pick"}}
			sink += len(AppendStatusDetailsBin(dst, Unavailable, "no healthy endpoint",
				Details{Reason: "NO_HEALTHY_ENDPOINT", Domain: "trunkline", Metadata: md[:], RetryAfter: time.Second}))
		},
	} {
		if n := testing.AllocsPerRun(100, f); n != 0 {
			t.Errorf("%s: %v allocations", name, n)
		}
	}
	_ = sink
}

func FuzzSplitPathLosesNothing(f *testing.F) {
	for _, s := range []string{"/a.S/M", "/a/b/c", "//", "/a/", "", "a/b"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, path string) {
		service, method, ok := SplitPath(path)
		if ok && ("/"+service+"/"+method != path || service == "" || method == "" || strings.Contains(method, "/")) {
			t.Fatalf("%q, %q from %q", service, method, path)
		}
		if !ok && service+method != "" {
			t.Fatalf("%q, %q from bad %q", service, method, path)
		}
	})
}

// What is written is never shorter than the time, and by less than a unit longer; what is read is never negative.
func FuzzTimeoutsRoundUp(f *testing.F) {
	f.Add(int64(1), "1S")
	f.Add(int64(math.MaxInt64), "99999999H")
	f.Add(int64(100000001), "-1n")
	f.Fuzz(func(t *testing.T, ns int64, v string) {
		if d, err := ParseTimeout(v); d < 0 || err != nil && d != 0 {
			t.Fatalf("ParseTimeout(%q) = %v, %v", v, d, err)
		}
		d := time.Duration(ns)
		s := string(AppendTimeout(nil, d))
		back, err := ParseTimeout(s)
		if err != nil {
			t.Fatalf("%v was written as %q: %v", d, s, err)
		}
		d = max(d, 0)
		if back < d || back-d > d/10000+1 && back != math.MaxInt64 { // 8 digits: a unit is at most 1/1666666 of it
			t.Fatalf("%v was written as %q, which is %v", d, s, back)
		}
	})
}

func FuzzMessagesComeBack(f *testing.F) {
	for _, s := range []string{"plain", "100%", " é\n", "\xff", "%41", "%"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, msg string) {
		DecodeMessage(msg) // anything may arrive
		enc := AppendMessage(nil, msg)
		for _, c := range enc {
			if c < ' ' || c > '~' {
				t.Fatalf("%q has a byte that a field value may not have", enc)
			}
		}
		if n := len(enc); n > 0 && (enc[0] == ' ' || enc[n-1] == ' ') {
			t.Fatalf("%q has a space at an end", enc)
		}
		if back := DecodeMessage(string(enc)); back != string([]rune(msg)) || !utf8.ValidString(back) {
			t.Fatalf("%q became %q", msg, back)
		}
	})
}

// However the bytes are cut into frames, the count is the same, and a naive walk over the whole agrees.
func FuzzAnySplitCountsTheSame(f *testing.F) {
	f.Add([]byte("\x00\x00\x00\x00\x05hello\x00\x00\x00\x00\x00"), []byte{1, 2, 3})
	f.Add([]byte("\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"), []byte{4, 0, 2})
	f.Add([]byte("\x00\x00\x00\x01\x00"), []byte{})
	f.Fuzz(func(t *testing.T, stream, cuts []byte) {
		want, rest := 0, stream
		for len(rest) >= 5 {
			size := uint64(rest[1])<<24 | uint64(rest[2])<<16 | uint64(rest[3])<<8 | uint64(rest[4])
			if size > uint64(len(rest)-5) {
				break
			}
			rest = rest[5+size:]
			want++
		}
		var c MessageCounter
		got, left := 0, stream
		for _, cut := range cuts {
			n := min(int(cut), len(left))
			got += c.Add(left[:n])
			left = left[n:]
		}
		got += c.Add(left)
		if got != want || c.Partial() != (len(rest) > 0) {
			t.Fatalf("%x cut at %v: %d messages, partial %v; want %d, %v", stream, cuts, got, c.Partial(), want, len(rest) > 0)
		}
	})
}

func BenchmarkMessageCounter(b *testing.B) {
	unary := append([]byte{0, 0, 0, 0, 64}, make([]byte, 64)...)
	bulk := append([]byte{0, 0, 16, 0, 0}, make([]byte, 16379)...)
	for name, frame := range map[string][]byte{"unary64": unary, "bulk16k": bulk} {
		b.Run(name, func(b *testing.B) {
			var c MessageCounter
			b.ReportAllocs()
			for b.Loop() {
				c.Add(frame)
			}
		})
	}
}

func BenchmarkAppendStatusDetailsBin(b *testing.B) {
	dst := make([]byte, 0, 1024)
	d := Details{Reason: "NO_HEALTHY_ENDPOINT", Domain: "trunkline", Metadata: [][2]string{{"method", "pkg.Service/Method"}}}
	b.ReportAllocs()
	for b.Loop() {
		AppendStatusDetailsBin(dst, Unavailable, "no healthy endpoint", d)
	}
}
