package fuzz

import (
	"encoding/base64"
	"math"
	"math/big"
	"regexp"
	"strings"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	spb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/trunkline/trunkline/codec/grpc"
)

// FuzzTimeout: a grpc-timeout is what the spec's grammar says it is, computed without bounds.
func FuzzTimeout(f *testing.F) {
	for _, v := range []string{"1S", "99999999H", "00000000n", "100000000n", "", "S", "-1S", "+1m", "1s", "1 S", "٣S"} {
		f.Add(v)
	}
	grammar := regexp.MustCompile(`^[0-9]{1,8}[HMSmun]$`)
	units := map[byte]time.Duration{'H': time.Hour, 'M': time.Minute, 'S': time.Second, 'm': time.Millisecond, 'u': time.Microsecond, 'n': 1}
	f.Fuzz(func(t *testing.T, v string) {
		d, err := grpc.ParseTimeout(v)
		if ok := grammar.MatchString(v) && !strings.HasSuffix(v, "\n"); ok != (err == nil) {
			t.Fatalf("ParseTimeout(%q): %v", v, err)
		}
		if err != nil {
			if d != 0 {
				t.Fatalf("%v with %v", d, err)
			}
			return
		}
		want, _ := new(big.Int).SetString(v[:len(v)-1], 10)
		want.Mul(want, big.NewInt(int64(units[v[len(v)-1]])))
		if most := big.NewInt(math.MaxInt64); want.Cmp(most) > 0 {
			want = most
		}
		if want.Int64() != int64(d) {
			t.Fatalf("ParseTimeout(%q) = %d, want %v", v, d, want)
		}
	})
}

// FuzzStatus: a grpc-status is a number of digits alone that fits 31 bits.
func FuzzStatus(f *testing.F) {
	for _, v := range []string{"0", "16", "17", "", "-1", "+1", "2147483647", "2147483648", "00000000000000000000005", "1_0"} {
		f.Add(v)
	}
	f.Fuzz(func(t *testing.T, v string) {
		s, ok := grpc.ParseStatus(v)
		want, isNumber := new(big.Int).SetString(v, 10)
		if isNumber = isNumber && strings.Trim(v, "0123456789") == "" && want.Cmp(big.NewInt(math.MaxInt32)) <= 0; ok != isNumber {
			t.Fatalf("ParseStatus(%q) = %v, %v", v, s, ok)
		}
		if !ok && s != grpc.Unknown || ok && uint64(s) != want.Uint64() {
			t.Fatalf("ParseStatus(%q) = %v, %v", v, s, ok)
		}
		_ = s.String()
	})
}

// FuzzContentType: what is gRPC's content-type, by a regular expression.
func FuzzContentType(f *testing.F) {
	for _, v := range []string{"application/grpc", "application/grpc+proto", "Application/GRPC;x", "application/grpc-web", "application/grpcs", "application/grp\u212a"} {
		f.Add(v)
	}
	form := regexp.MustCompile(`^(?s)(?i:application/grpc)($|[+;].*$)`)
	f.Fuzz(func(t *testing.T, v string) {
		if got, want := grpc.IsContentType(v), form.MatchString(v); got != want {
			t.Fatalf("IsContentType(%q) = %v", v, got)
		}
	})
}

// FuzzDetails: protobuf reads what we write by hand, whatever is in it.
func FuzzDetails(f *testing.F) {
	f.Add(uint32(14), "no endpoint", "NO_HEALTHY_ENDPOINT", "trunkline", "method", "a.S/M", int64(time.Second+5))
	f.Add(uint32(0), "", "", "", "", "", int64(0))
	f.Add(uint32(1<<31-1), "\xff\x00é", "\xff", "d", "\xed\xa0\x80", strings.Repeat("v", 600), int64(math.MaxInt64))
	f.Fuzz(func(t *testing.T, code uint32, msg, reason, domain, key, value string, delay int64) {
		d := grpc.Details{Reason: reason, Domain: domain, RetryAfter: time.Duration(delay)}
		if key != "" || value != "" {
			d.Metadata = [][2]string{{key, value}}
		}
		raw, err := base64.RawStdEncoding.DecodeString(string(grpc.AppendStatusDetailsBin(nil, grpc.Status(code), msg, d)))
		if err != nil {
			t.Fatal(err)
		}
		st := new(spb.Status)
		if err := proto.Unmarshal(raw, st); err != nil {
			t.Fatalf("%x: %v", raw, err)
		}
		valid := func(s string) string { return strings.ToValidUTF8(s, "\uFFFD") }
		if uint32(st.GetCode()) != code || st.GetMessage() != valid(msg) {
			t.Fatalf("%v", st)
		}
		want := 0
		if reason != "" || domain != "" || d.Metadata != nil {
			var info errdetails.ErrorInfo
			if err := st.GetDetails()[want].UnmarshalTo(&info); err != nil {
				t.Fatal(err)
			}
			want++
			got, has := info.GetMetadata()[valid(key)]
			if info.GetReason() != valid(reason) || info.GetDomain() != valid(domain) || has != (d.Metadata != nil) || got != valid(value) || len(info.GetMetadata()) != len(d.Metadata) {
				t.Fatalf("%v", &info)
			}
		}
		if delay > 0 {
			var retry errdetails.RetryInfo
			if err := st.GetDetails()[want].UnmarshalTo(&retry); err != nil {
				t.Fatal(err)
			}
			want++
			if retry.GetRetryDelay().AsDuration() != d.RetryAfter {
				t.Fatalf("%v", &retry)
			}
		}
		if len(st.GetDetails()) != want {
			t.Fatalf("%v", st)
		}
	})
}
