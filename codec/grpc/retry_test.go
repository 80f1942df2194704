package grpc

import (
	"math"
	"math/big"
	"strconv"
	"strings"
	"testing"
	"time"
)

func TestPushbackSaysWhenOrNever(t *testing.T) {
	const never = -1
	for v, want := range map[string]time.Duration{
		"0": 0, "1": time.Millisecond, "007": 7 * time.Millisecond, "2147483647": math.MaxInt32 * time.Millisecond,
		"": never, "-1": never, "-0": never, "+5": never, "2147483648": never, "99999999999999999999": never,
		"1.5": never, "1s": never, " 1": never, "1 ": never, "0x10": never, "1_000": never, "١": never,
	} {
		after, retry := ParsePushback(v)
		if retry != (want != never) || retry && after != want || !retry && after != 0 {
			t.Errorf("ParsePushback(%q) = %v, %v, want %v", v, after, retry, want)
		}
	}
}

func TestPreviousAttemptsAreNeverTrustedBlindly(t *testing.T) {
	for v, want := range map[string]int{
		"": 0, "0": 0, "1": 1, "004": 4, "999": 999, "1000": 1000, "1001": 1000, "99999999999999999999999": 1000,
		"-1": 0, "+1": 0, "1.0": 0, "one": 0, " 1": 0, "10000000x": 0,
	} {
		if got := ParsePreviousAttempts(v); got != want {
			t.Errorf("ParsePreviousAttempts(%q) = %d, want %d", v, got, want)
		}
	}
}

func TestRetryFieldsDoNotAllocate(t *testing.T) {
	for _, v := range []string{"250", "-1", "garbage", strings.Repeat("9", 100)} {
		if n := testing.AllocsPerRun(100, func() { _, _ = ParsePushback(v); _ = ParsePreviousAttempts(v) }); n != 0 {
			t.Errorf("%q: %v allocations", v, n)
		}
	}
}

// FuzzPushback compares with the standard library's reading: any 32-bit number of digits alone, and nothing else.
func FuzzPushback(f *testing.F) {
	for _, v := range []string{"", "0", "250", "-1", "+1", "2147483647", "2147483648", "00000000000001", "1_0", "x"} {
		f.Add(v)
	}
	f.Fuzz(func(t *testing.T, v string) {
		n, err := strconv.ParseInt(v, 10, 32)
		want := err == nil && n >= 0 && !strings.ContainsAny(v, "+-")
		after, retry := ParsePushback(v)
		if retry != want || retry && after != time.Duration(n)*time.Millisecond || !retry && after != 0 {
			t.Fatalf("ParsePushback(%q) = %v, %v; strconv has %d, %v", v, after, retry, n, err)
		}
	})
}

// FuzzPreviousAttempts compares with arithmetic without bounds.
func FuzzPreviousAttempts(f *testing.F) {
	for _, v := range []string{"", "0", "3", "1000", "1001", "-1", "+1", "00000000000000000000000000001", "9999999999999999999999", "x"} {
		f.Add(v)
	}
	f.Fuzz(func(t *testing.T, v string) {
		want := 0
		if n, ok := new(big.Int).SetString(v, 10); ok && strings.Trim(v, "0123456789") == "" {
			want = 1000
			if n.Cmp(big.NewInt(1000)) < 0 {
				want = int(n.Int64())
			}
		}
		if got := ParsePreviousAttempts(v); got != want {
			t.Fatalf("ParsePreviousAttempts(%q) = %d, want %d", v, got, want)
		}
	})
}
