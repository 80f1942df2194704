package route

import (
	"fmt"
	"slices"
	"strings"
	"testing"
)

func method(tier Tier, m, cluster string) Rule {
	return Rule{Tier: tier, Match: Match{Method: m}, Cluster: cluster}
}
func service_(tier Tier, s, cluster string) Rule {
	return Rule{Tier: tier, Match: Match{Service: s}, Cluster: cluster}
}
func prefix(p, cluster string) Rule {
	return Rule{Match: Match{Prefix: p}, Cluster: cluster}
}
func at(authority string, r Rule) Rule {
	r.Match.Authority = authority
	return r
}

func mustCompile(t testing.TB, rules ...Rule) *Table {
	t.Helper()
	table, err := Compile(rules)
	if err != nil {
		t.Fatal(err)
	}
	return table
}

// cluster is the cluster that a call goes to, "" for none.
func cluster(t *Table, path, authority string) string {
	if r := t.Match(path, authority); r != nil {
		return r.Rule.Cluster
	}
	return ""
}

func TestTheMostSpecificStrongestRuleTakesTheCall(t *testing.T) {
	const C, D, R = TierConfig, TierDeclared, TierReflection
	def := Rule{Cluster: "default"}
	for _, c := range []struct {
		name  string
		rules []Rule
		path  string
		want  string
	}{
		{"method before service", []Rule{service_(C, "a.S", "s"), method(C, "a.S/Get", "m")}, "/a.S/Get", "m"},
		{"service for other methods", []Rule{service_(C, "a.S", "s"), method(C, "a.S/Get", "m")}, "/a.S/List", "s"},
		{"Get is not GetAll", []Rule{method(C, "a.S/Get", "m")}, "/a.S/GetAll", ""},
		{"GetAll is not Get", []Rule{method(C, "a.S/GetAll", "m")}, "/a.S/Get", ""},
		{"a.S is not a.SX", []Rule{service_(C, "a.S", "s")}, "/a.SX/Get", ""},
		{"a.S is not its own sub-path", []Rule{service_(C, "a.S", "s")}, "/a.S/x/Get", ""},
		{"names have case", []Rule{method(C, "a.S/Get", "m")}, "/a.S/get", ""},
		{"service before prefix", []Rule{prefix("a.S/G", "p"), service_(C, "a.S", "s")}, "/a.S/Get", "s"},
		{"the longest prefix", []Rule{prefix("a.", "p1"), prefix("a.b.", "p2"), prefix("a.b.S/Ge", "p3")}, "/a.b.S/List", "p2"},
		{"a prefix into the method", []Rule{prefix("a.", "p1"), prefix("a.S/Ge", "p2")}, "/a.S/Get", "p2"},
		{"a prefix that is the whole name", []Rule{prefix("a.S/Get", "p")}, "/a.S/Get", "p"},
		{"a prefix longer than the name", []Rule{prefix("a.S/GetAll", "p")}, "/a.S/Get", ""},
		{"prefix before default", []Rule{def, prefix("a.", "p")}, "/a.S/Get", "p"},
		{"default for the rest", []Rule{def, prefix("a.", "p")}, "/b.S/Get", "default"},
		{"config service before declared method", []Rule{method(D, "a.S/Get", "d"), service_(C, "a.S", "s")}, "/a.S/Get", "s"},
		{"config prefix before declared method", []Rule{method(D, "a.S/Get", "d"), prefix("a.", "p")}, "/a.S/Get", "p"},
		{"config prefix before declared service", []Rule{service_(D, "a.S", "d"), prefix("a.", "p")}, "/a.S/Get", "p"},
		{"config prefix before reflected method", []Rule{method(R, "a.S/Get", "r"), prefix("a.", "p")}, "/a.S/Get", "p"},
		{"declared service before reflected method", []Rule{method(R, "a.S/Get", "r"), service_(D, "a.S", "d")}, "/a.S/Get", "d"},
		{"declared method before declared service", []Rule{service_(D, "a.S", "s"), method(D, "a.S/Get", "m")}, "/a.S/Get", "m"},
		{"reflected method before reflected service", []Rule{service_(R, "a.S", "s"), method(R, "a.S/Get", "m")}, "/a.S/Get", "m"},
		{"reflected before default", []Rule{def, method(R, "a.S/Get", "r")}, "/a.S/Get", "r"},
		{"an unreflected method of a reflected service is unknown", []Rule{method(R, "a.S/Get", "r")}, "/a.S/List", ""},
		{"or goes to the default", []Rule{def, method(R, "a.S/Get", "r")}, "/a.S/List", "default"},
		{"the last slash splits", []Rule{service_(C, "a/b", "s")}, "/a/b/c", "s"},
		{"no slash in front", []Rule{def}, "a.S/Get", ""},
		{"no method", []Rule{def}, "/a.S/", ""},
		{"no service", []Rule{def}, "//Get", ""},
		{"one part", []Rule{def}, "/a.S", ""},
		{"nothing", []Rule{def}, "", ""},
		{"no rules", nil, "/a.S/Get", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			for range 2 { // the order in which rules are given does not matter
				table := mustCompile(t, c.rules...)
				if got := cluster(table, c.path, "host"); got != c.want {
					t.Errorf("got %q, want %q", got, c.want)
				}
				slices.Reverse(c.rules)
			}
		})
	}
}

func TestTheMostSpecificAuthorityGoesFirst(t *testing.T) {
	s := func(c string) Rule { return service_(TierConfig, "a.S", c) }
	table := mustCompile(t, s("any"), at("API.example.com", s("host")), at("api.example.com:8443", s("port")),
		at("*.example.com", s("wild")), at("*.eu.example.com", s("eu")), at("*.eu.example.com:443", s("eu443")),
		at("[::1]:50", s("v6port")), at("[::1]", s("v6")),
		at("only.net", method(TierConfig, "b.S/Get", "only")), method(TierConfig, "b.S/Get", "anyB"), at("all.net", Rule{Cluster: "all"}))
	for authority, want := range map[string]string{
		"api.example.com": "host", "Api.Example.COM": "host", "api.example.com:1": "host", "api.example.com:8443": "port",
		"x.example.com": "wild", "x.y.example.com:9": "wild", "example.com": "any", ".example.com": "any", "xexample.com": "any",
		"a.eu.example.com": "eu", "a.eu.example.com:443": "eu443", "a.eu.example.com:444": "eu", "eu.example.com": "wild",
		"[::1]:50": "v6port", "[::1]:51": "v6", "[::1]": "v6", "::1": "any", "": "any", "only.net": "any", "all.net": "all",
		strings.Repeat("x", 400) + ".example.com": "any",
	} {
		if got := cluster(table, "/a.S/Get", authority); got != want {
			t.Errorf("%q: got %q, want %q", authority, got, want)
		}
	}
	if got := cluster(table, "/b.S/Get", "only.net"); got != "only" {
		t.Errorf("only.net: %q", got)
	}
	if got := cluster(table, "/b.S/Get", "other.net"); got != "anyB" {
		t.Errorf("other.net: %q", got)
	}
}

func TestContradictionsInTheConfigNameBothPlaces(t *testing.T) {
	a, b := service_(TierConfig, "a.S", "one"), service_(TierConfig, "a.S", "two")
	a.Source, b.Source = "trunkline.yaml:12", "trunkline.yaml:30"
	bad := Rule{Match: Match{Method: "a.S"}, Source: "trunkline.yaml:40"}
	_, err := Compile([]Rule{a, b, bad})
	if err == nil {
		t.Fatal("no error")
	}
	for _, want := range []string{"trunkline.yaml:12", "trunkline.yaml:30", "trunkline.yaml:40", `"one"`, `"two"`, "service a.S"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q does not say %s", err, want)
		}
	}
	b.Cluster = "one"
	mustCompile(t, a, b) // the same twice is no contradiction
	b.Data = 1
	if _, err := Compile([]Rule{a, b}); err == nil {
		t.Error("different targets pass for the same")
	}
	mustCompile(t, a, at("x", b))
	if _, err := Compile([]Rule{at("X.com", a), at("x.com", b)}); err == nil {
		t.Error("authorities that differ only in case pass for different")
	}
}

func TestAMatchThatCanNeverMatchIsAnError(t *testing.T) {
	for _, r := range []Rule{
		{Match: Match{Method: "a.S"}}, {Match: Match{Method: "/a.S/Get"}}, {Match: Match{Method: "a.S/"}}, {Match: Match{Service: "/a.S"}},
		{Match: Match{Service: "a.S/"}}, {Match: Match{Prefix: "/a."}}, {Match: Match{Method: "a.S/G", Service: "a.S"}},
		{Match: Match{Authority: "*"}}, {Match: Match{Authority: "*."}}, {Match: Match{Authority: "a.*.com"}}, {Match: Match{Authority: ":80"}},
		{Match: Match{Authority: "host:"}}, {Match: Match{Authority: "http://host"}}, {Match: Match{Authority: strings.Repeat("a", 999)}},
		{Tier: TierReflection}, {Tier: TierDeclared, Match: Match{Prefix: "a."}}, {Tier: 9, Match: Match{Service: "a.S"}},
	} {
		if _, err := Compile([]Rule{r}); err == nil {
			t.Errorf("%+v is accepted", r.Match)
		}
	}
}

func TestTwoClustersThatClaimTheSameGetNothing(t *testing.T) {
	table := mustCompile(t, service_(TierDeclared, "a.S", "one"), service_(TierDeclared, "a.S", "two"), service_(TierDeclared, "b.S", "one"),
		service_(TierDeclared, "b.S", "one"))
	if got := cluster(table, "/a.S/Get", ""); got != "" {
		t.Errorf("guessed %q", got)
	}
	if got := cluster(table, "/b.S/Get", ""); got != "one" {
		t.Errorf("a claim made twice by one cluster is lost: %q", got)
	}
	shown := 0
	for _, s := range table.Explain("/a.S/Get", "") {
		if strings.Contains(s.Why, "dropped") {
			shown++
		}
	}
	if shown != 2 {
		t.Errorf("Explain shows %d dropped rules, want 2", shown)
	}
}

func TestExplainTellsTheWholeStory(t *testing.T) {
	table := mustCompile(t, Rule{Cluster: "d"}, method(TierConfig, "a.S/Get", "m"), service_(TierConfig, "a.S", "s"),
		at("other.com", service_(TierConfig, "a.S", "o")), service_(TierReflection, "a.S", "r"))
	var got []string
	for _, s := range table.Explain("/a.S/List", "x.com") {
		got = append(got, fmt.Sprintf("%s %v %v: %s", s.Rule.Cluster, s.Matched, s.Chosen, s.Why))
	}
	want := []string{
		`o false false: authority "x.com" is not other.com`,
		"m false false: another method",
		"s true true: the service",
		"r true false: the service, but outranked by service a.S (config)",
		"d true false: the default takes all, but outranked by service a.S (config)",
	}
	if !slices.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

func TestRoutesAreTheSamePointersInPrecedenceOrder(t *testing.T) {
	table := mustCompile(t, Rule{Cluster: "d"}, service_(TierConfig, "a.S", "s"), method(TierReflection, "a.S/Get", "r"))
	r := table.Match("/a.S/Get", "")
	if r != table.Match("/a.S/Other", "") || r.Rule.Cluster != "s" {
		t.Error("one rule has two routes")
	}
	for i, rule := range table.Rules() {
		if table.routes[i].Index != i || rule.Name != rule.Match.String() {
			t.Errorf("rule %d: index %d, name %q", i, table.routes[i].Index, rule.Name)
		}
	}
}

func TestAnUnknownMethodGetsTheNearestName(t *testing.T) {
	table := mustCompile(t, method(TierReflection, "bench.Echo/Ping", "e"), method(TierReflection, "bench.Echo/PingStream", "e"),
		method(TierReflection, "demo.v1.Users/GetUser", "u"), method(TierReflection, "demo.v1.Users/ListUsers", "u"),
		service_(TierConfig, "shop.Cart", "c"), prefix("zzz.", "z"),
		method(TierConfig, "google.cloud.aiplatform.v1beta1.PredictionServiceForModels/StreamGenerateContent", "g"))
	for path, want := range map[string]string{
		"/bench.Echo/Pin":            "bench.Echo/Ping",
		"/bench.Echo/ping":           "bench.Echo/Ping",
		"/bench.Ecko/Ping":           "bench.Echo/Ping",
		"/bench.Echo/PingStreams":    "bench.Echo/PingStream",
		"/Users/GetUser":             "demo.v1.Users/GetUser", // the package forgotten
		"/demo.v2.Users/ListUser":    "demo.v1.Users/ListUsers",
		"/bench.Echo/SomethingElse":  "bench.Echo",
		"/shop.Card/Add":             "shop.Cart",
		"/totally.Different/Thing":   "",
		"/zzz.X/Y":                   "",
		"":                           "",
		"/":                          "",
		"//":                         "",
		"/bench.Echo/":               "bench.Echo",
		"/x":                         "",
		"/\xff\xfe\x80.Echo/\xffing": "",
		"/google.cloud.aiplatform.v1.PredictionServiceForModels/StreamGeneratedContent": "google.cloud.aiplatform.v1beta1.PredictionServiceForModels/StreamGenerateContent",
	} {
		if got := table.Nearest(path); got != want {
			t.Errorf("Nearest(%q) = %q, want %q", path, got, want)
		}
	}
}

// The bit-parallel distance must be the textbook's.
func FuzzTheDistanceIsTheTextbooks(f *testing.F) {
	f.Add("bench.Echo", "bench.Ecko")
	f.Add("", "a")
	f.Add(strings.Repeat("ab", 32), strings.Repeat("ba", 32))
	f.Fuzz(func(t *testing.T, a, b string) {
		budget := 1 << 20
		got, ok := newPattern(a).near(b, letters(b), &budget)
		a, b = clip(a), clip(b)
		row := make([]int, len(b)+1)
		for j := range row {
			row[j] = j
		}
		for i := range len(a) {
			diag := row[0]
			row[0] = i + 1
			for j := range len(b) {
				cost := 1
				if fold(a[i]) == fold(b[j]) {
					cost = 0
				}
				diag, row[j+1] = row[j+1], min(diag+cost, row[j]+1, row[j+1]+1)
			}
		}
		want := row[len(b)]
		if near := a != "" && want <= max(len(a), len(b))/3; ok != near || ok && got != want {
			t.Fatalf("%q, %q: got %d, %v, want %d, %v", a, b, got, ok, want, near)
		}
	})
}

func TestNearestIsBoundedInAHugeTable(t *testing.T) {
	var rules []Rule
	for i := range 20000 {
		rules = append(rules, method(TierReflection, fmt.Sprintf("pkg%05d.Service/Method", i), "c"))
	}
	table := mustCompile(t, rules...)
	table.Nearest("/pkgxxxxx.Servicf/Methed") // must not panic when the budget ends; its time is BenchmarkNearest's matter
	if got := table.Nearest("/pkg00000.Service/Methed"); got != "pkg00000.Service/Method" {
		t.Errorf("got %q", got)
	}
}

func TestMatchDoesNotAllocate(t *testing.T) {
	table := benchTable(t, true)
	for _, authority := range []string{"", "Api.Example.com:443", "x.y.example.com", "[::1]:80"} {
		for _, path := range []string{"/pkg10.Service/Method3", "/conf10.Service/Any", "/pre.fix.S/M", "/un.Known/M", "bad"} {
			if n := testing.AllocsPerRun(50, func() { table.Match(path, authority) }); n != 0 {
				t.Errorf("%s at %q: %v allocations", path, authority, n)
			}
		}
	}
}

func benchTable(t testing.TB, authorities bool) *Table {
	rules := []Rule{{Cluster: "default"}, prefix("pre.", "p"), prefix("pre.fix.", "p2")}
	for i := range 100 {
		rules = append(rules, service_(TierConfig, fmt.Sprintf("conf%d.Service", i), "c"))
		for j := range 10 {
			rules = append(rules, method(TierReflection, fmt.Sprintf("pkg%d.Service/Method%d", i, j), "r"))
		}
	}
	if authorities {
		rules = append(rules, at("api.example.com", method(TierConfig, "a.S/M", "a")), at("*.example.com", method(TierConfig, "a.S/M", "w")))
	}
	return mustCompile(t, rules...)
}

func BenchmarkMatch(b *testing.B) {
	for _, authorities := range []bool{false, true} {
		table := benchTable(b, authorities)
		for name, path := range map[string]string{"method": "/pkg10.Service/Method3", "service": "/conf10.Service/Any", "prefix": "/pre.fix.S/M", "default": "/un.Known/M"} {
			b.Run(fmt.Sprintf("%s/authorities=%v", name, authorities), func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					if table.Match(path, "web.example.com:443") == nil {
						b.Fatal("no route")
					}
				}
			})
		}
	}
}

func BenchmarkNearest(b *testing.B) {
	var similar []Rule
	for i := range 20000 {
		similar = append(similar, method(TierReflection, fmt.Sprintf("com.example.pkg%05d.v1.Service/Method", i), "c"))
	}
	for name, c := range map[string]struct {
		table *Table
		path  string
	}{
		"1000 methods":  {benchTable(b, false), "/pkg10.Servise/Method33"},
		"20000 similar": {mustCompile(b, similar...), "/com.example.pkgxxxxx.v1.Service/Methed"},
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				c.table.Nearest(c.path)
			}
		})
	}
}
