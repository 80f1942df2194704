package architecture

import (
	"go/ast"
	"slices"
	"strconv"
	"testing"
)

// pure are the rooms that get bytes, facts, the time and randomness as arguments: so a test can replay any of them, and
// the shell (lb) alone decides what blocks, where and when. Their tests may do as they like.
func pure(f *file) bool { return (f.room() == "codec" || f.room() == "policy") && !f.test }

// impure are the packages that pure code has no use for.
func impure(importPath string) string {
	switch importPath {
	case "net", "net/http", "net/http/httputil", "crypto/tls", "golang.org/x/net/http2", "google.golang.org/grpc":
		return "sockets and those who own them are lb's"
	case "os", "os/signal", "syscall", "io/ioutil", "golang.org/x/sys/unix", "log", "log/slog":
		return "files, the environment and logs are lb's"
	case "crypto/rand":
		return "randomness is an argument"
	}
	return ""
}

// clocks are the functions of package time that read the clock or wait for it.
func clocks() []string {
	return []string{"Now", "Since", "Until", "Sleep", "After", "AfterFunc", "Tick", "NewTimer", "NewTicker"}
}

// seeded are the names of math/rand and math/rand/v2 that touch no global source.
func seeded() []string {
	return []string{"New", "NewPCG", "NewChaCha8", "NewSource", "NewZipf", "Rand", "Source", "Source64", "PCG", "ChaCha8", "Zipf"}
}

func impurities(t *tree) []string {
	var found []string
	for _, f := range t.files {
		if !pure(f) {
			continue
		}
		for _, spec := range f.ast.Imports {
			if target, err := strconv.Unquote(spec.Path.Value); err == nil && impure(target) != "" {
				found = append(found, t.finding(spec, "%s may not import %s: %s", f.room(), target, impure(target)))
			}
		}
		ast.Inspect(f.ast, func(n ast.Node) bool {
			if _, ok := n.(*ast.GoStmt); ok {
				found = append(found, t.finding(n, "%s starts no goroutine: concurrency is lb's", f.room()))
			}
			return true
		})
		f.selected(func(importPath, name string, at ast.Node) {
			switch {
			case importPath == "time" && slices.Contains(clocks(), name):
				found = append(found, t.finding(at, "%s does not read the clock (time.%s): now is an argument", f.room(), name))
			case (importPath == "math/rand" || importPath == "math/rand/v2") && !slices.Contains(seeded(), name):
				found = append(found, t.finding(at, "%s does not use the global source (rand.%s): randomness is an argument", f.room(), name))
			}
		})
	}
	return found
}

func TestCodecAndPolicyArePure(t *testing.T) {
	check(t, impurities, map[string]string{
		"codec/h2/a.go":     `package h2; import _ "net"`,
		"codec/h2/b.go":     `package h2; func f() { go f() }`,
		"policy/retry/c.go": `package retry; import "time"; var x = time.Now`,
		"policy/retry/d.go": `package retry; import clock "time"; func f() { clock.Sleep(1) }`,
		"policy/retry/e.go": `package retry; import "math/rand/v2"; func f() int { return rand.IntN(3) }`,
		"policy/retry/f.go": `package retry; import "math/rand"; func f() int { return rand.Int() }`,
	})
	passes(t, impurities, map[string]string{
		"policy/retry/a.go": `package retry; import "time"; func f(now time.Time) time.Duration { return now.Sub(now) + time.Second }`,
		"policy/retry/b.go": `package retry; import "math/rand/v2"; func f(r *rand.Rand) int { return r.IntN(3) }`,
		"policy/c_test.go":  `package policy; import "net"; func f() { go net.Dial("", "") }`,
		"lb/d.go":           `package lb; import "time"; var start = time.Now()`,
	})
}
