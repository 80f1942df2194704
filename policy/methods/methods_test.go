package methods

import (
	"errors"
	"testing"
)

func compile(t testing.TB, patterns ...string) Set {
	t.Helper()
	s, err := Compile(patterns)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestAPatternNamesAMethodAServiceAPackageOrAll(t *testing.T) {
	for _, c := range []struct {
		pattern, method string
		want            bool
	}{
		{"shop.v1.Cart/Add", "shop.v1.Cart/Add", true},
		{"shop.v1.Cart/Add", "shop.v1.Cart/AddAll", false},
		{"shop.v1.Cart/Add", "shop.v1.Cart/add", false},
		{"shop.v1.Cart/*", "shop.v1.Cart/Add", true},
		{"shop.v1.Cart/*", "shop.v1.Carts/Add", false},
		{"shop.v1.Cart/*", "shop.v1.Cart", false},
		{"shop.*", "shop.Cart/Add", true},
		{"shop.*", "shop.v1.Cart/Add", true},
		{"shop.*", "shopping.Cart/Add", false},
		{"shop.*", "shop/Add", false},
		{"shop.v1.*", "shop.v1.Cart/Add", true},
		{"shop.v1.*", "shop.v2.Cart/Add", false},
		{"shop.*", "other/shop.Cart", false},
		{"Echo/*", "Echo/Say", true},
		{"*", "anything/At.all", true},
		{"*", "", true},
	} {
		if got := compile(t, c.pattern).Match(c.method); got != c.want {
			t.Errorf("%q matches %q: %v, want %v", c.pattern, c.method, got, c.want)
		}
	}
}

func TestASetIsTheUnionOfItsPatterns(t *testing.T) {
	s := compile(t, "a.B/C", "d.E/*", "f.*")
	for _, m := range []string{"a.B/C", "d.E/X", "f.G/H"} {
		if !s.Match(m) {
			t.Errorf("%s does not match", m)
		}
	}
	if s.Match("a.B/D") || s.Empty() {
		t.Error("more matches than is named, or the set calls itself empty")
	}
	if none := compile(t); none.Match("a.B/C") || !none.Empty() || (Set{}).Match("a.B/C") {
		t.Error("an empty set matches")
	}
}

func TestAWrongPatternIsToldWhatIsRight(t *testing.T) {
	for pattern, want := range map[string]string{
		"":                   `"" is empty: write "pkg.Service/Method", "pkg.Service/*", "pkg.*" or "*"`,
		"/shop.Cart/Add":     `"/shop.Cart/Add" has a slash before it: write "shop.Cart/Add"`,
		"shop.Cart":          `"shop.Cart" names neither a method nor a package: write "shop.Cart/*" for all methods of a service, "shop.Cart.*" for a package`,
		"shop.Cart/":         `"shop.Cart/" names no method: write "shop.Cart/*" for all of the service`,
		"shop.*/*":           `"shop.*/*" has two wildcards: write "shop.*" for all services of the package`,
		"shop.*/Add":         `"shop.*/Add" has a wildcard before its end: write "pkg.Service/Method", "pkg.Service/*", "pkg.*" or "*"`,
		"shop.Cart/Get*":     `"shop.Cart/Get*" does not name methods: write "pkg.Service/Method", "pkg.Service/*", "pkg.*" or "*"`,
		"*/*":                `"*/*" names every method in a form that is not known: write "*"`,
		"shop.Cart/Add/More": `"shop.Cart/Add/More" does not name methods: write "pkg.Service/Method", "pkg.Service/*", "pkg.*" or "*"`,
		" a.B/C":             `" a.B/C" does not name methods: write "pkg.Service/Method", "pkg.Service/*", "pkg.*" or "*"`,
		"a..b/C":             `"a..b/C" does not name methods: write "pkg.Service/Method", "pkg.Service/*", "pkg.*" or "*"`,
	} {
		_, err := Compile([]string{"good.One/*", pattern})
		var wrong *PatternError
		if !errors.As(err, &wrong) || wrong.Index != 1 || err.Error() != want {
			t.Errorf("%q: %v\nwant %s", pattern, err, want)
		}
	}
}

func TestMatchingAllocatesNothing(t *testing.T) {
	s := compile(t, "a.B/C", "d.E/*", "f.g.*")
	if n := testing.AllocsPerRun(100, func() { s.Match("f.g.h.I/J"); s.Match("x.y.Z/W") }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func FuzzCompile(f *testing.F) {
	f.Add("a.B/C", "a.B/C")
	f.Add("a.*", "a.B/C")
	f.Fuzz(func(t *testing.T, pattern, method string) {
		s, err := Compile([]string{pattern})
		if err != nil && s.Match(method) {
			t.Error("a set that was refused matches")
		}
		if err == nil && s.Empty() {
			t.Error("a pattern that is right names nothing")
		}
	})
}
