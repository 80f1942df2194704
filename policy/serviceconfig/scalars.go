package serviceconfig

import (
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/trunkline/trunkline/codec/grpc"
	"github.com/trunkline/trunkline/policy/serviceconfig/document"
	"go.yaml.in/yaml/v3"
)

const (
	// maxDuration keeps sums of durations far from where they overflow. Longer is no limit to anybody.
	maxDuration = 10 * 365 * 24 * time.Hour
	maxCount    = 1 << 30 // of anything
)

// duration is over 0, or from 0 where zero is true. gRPC's part takes gRPC's form alone ("1.5s"), ours also Go's ("250ms").
func (v value) duration(otherwise time.Duration, zero bool) time.Duration {
	if !v.given() {
		return otherwise
	}
	form := `seconds, such as "0.25s" or "30s"`
	parse := parseSeconds
	if v.own {
		form = `a number with its unit, such as "250ms", "0.25s" or "5m"`
		parse = parseUnits
	}
	text := v.n.Value
	d, ok := parse(text)
	switch {
	case v.n.Kind != yaml.ScalarNode || v.n.ShortTag() != "!!str" || !ok:
		v.errorf("%s is not a duration: write %s", document.Describe(v.n), form)
	case d < 0:
		v.errorf("%q is negative: write %s", text, form)
	case d == 0 && !zero:
		v.errorf("%q is no time at all: write %s, or remove it", text, form)
	case d > maxDuration && v.own:
		v.errorf("%q is too long: at most %v", text, maxDuration)
	case d > maxDuration:
		v.warnf("%q is taken as %v, the longest there is", text, maxDuration)
		return maxDuration
	default:
		return d
	}
	return otherwise
}

func parseUnits(s string) (time.Duration, bool) {
	d, err := time.ParseDuration(s)
	return d, err == nil && strings.ContainsAny(s, "smh") && s[0] != '+' // "0" has no unit
}

// parseSeconds reads the JSON form of google.protobuf.Duration, with the freedoms that clients take (".5s", "5.s"). Beyond
// what time.Duration holds, it is the longest.
func parseSeconds(s string) (time.Duration, bool) {
	digits, ok := strings.CutSuffix(s, "s")
	if !ok {
		return 0, false
	}
	digits, negative := strings.CutPrefix(digits, "-")
	whole, fraction, _ := strings.Cut(digits, ".")
	if whole+fraction == "" || len(fraction) > 9 || strings.Trim(whole+fraction, "0123456789") != "" {
		return 0, false
	}
	var seconds, nanos uint64
	var err error
	if whole != "" {
		if seconds, err = strconv.ParseUint(whole, 10, 64); err != nil || seconds > 315_576_000_000 { // protobuf's bound
			return 0, false
		}
	}
	if fraction != "" {
		if nanos, err = strconv.ParseUint((fraction + "000000000")[:9], 10, 64); err != nil {
			return 0, false
		}
	}
	d := time.Duration(math.MaxInt64)
	if seconds < math.MaxInt64/uint64(time.Second) {
		d = time.Duration(seconds)*time.Second + time.Duration(nanos)
	}
	if negative {
		d = -d
	}
	return d, true
}

// statuses is a list of names or numbers of gRPC statuses, not empty and without OK.
func (v value) statuses(otherwise grpc.StatusSet) grpc.StatusSet {
	if !v.given() {
		return otherwise
	}
	if v.n.Kind == yaml.SequenceNode && len(v.n.Content) == 0 {
		v.errorf("is empty: name at least one status, such as \"UNAVAILABLE\"")
		return otherwise
	}
	var set grpc.StatusSet
	for _, item := range v.list() {
		switch s, ok := item.status(); {
		case !ok:
		case s == grpc.OK:
			item.errorf("OK is no failure: remove it")
		default:
			set |= grpc.SetOf(s)
		}
	}
	return set
}

func (v value) status() (grpc.Status, bool) {
	text := v.n.Value
	switch {
	case v.n.Kind != yaml.ScalarNode:
	case v.n.ShortTag() == "!!int":
		if n, err := strconv.ParseUint(text, 10, 32); err == nil && grpc.Status(n).Known() {
			return grpc.Status(n), true
		}
	case v.n.ShortTag() == "!!str":
		names := make([]string, 0, grpc.NumStatuses)
		for s := range grpc.Status(grpc.NumStatuses) {
			if s.String() == text {
				return s, true
			}
			names = append(names, s.String())
		}
		if guess := document.Nearest(text, names); guess != "" {
			v.errorf("%q is not a gRPC status; did you mean %q?", document.Shorten(text), guess)
			return 0, false
		}
	}
	v.errorf("%s is not a gRPC status: write its name, such as \"UNAVAILABLE\", or its number, 1 to 16", document.Describe(v.n))
	return 0, false
}

func share(f float64) bool    { return f > 0 && f <= 1 }
func positive(f float64) bool { return f > 0 && !math.IsInf(f, 0) }
