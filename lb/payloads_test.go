package lb

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// A reload of the same configuration looks into the directives' file, and a bad one there is a bad configuration.
func TestAReloadTakesUpChangedDirectivesAndKeepsTheLastGoodOnes(t *testing.T) {
	own := filepath.Join(t.TempDir(), "own.conf")
	forbid := func(text string) {
		t.Helper()
		if err := os.WriteFile(own, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	rule := func(word string) string { return `SecRule ARGS "@contains ` + word + `" "id:1000,phase:2,deny,log"` }
	yaml := echoAt(backend(t)) + "payload: [ { waf: { directivesFile: " + own + " } } ]\n"
	forbid(rule("apples"))
	r := run(t, yaml)
	ask := func(word string) codes.Code {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		return status.Code(r.cc.Invoke(ctx, "/bench.Echo/Ping", wrapperspb.String("fresh "+word), new(wrapperspb.StringValue)))
	}
	holds := func(refused, passed string) {
		t.Helper()
		if got := ask(refused); got != codes.PermissionDenied {
			t.Errorf("%s: %v", refused, got)
		}
		if got := ask(passed); got != codes.OK {
			t.Errorf("%s: %v", passed, got)
		}
	}
	holds("apples", "pears")
	was := r.edge.Load().payloads
	if err := r.Apply(parse(t, yaml)); err != nil || r.edge.Load().payloads != was {
		t.Errorf("nothing has changed, but the rules were made anew: %v", err)
	}
	forbid(rule("pears"))
	if err := r.Apply(parse(t, yaml)); err != nil {
		t.Fatal(err)
	}
	holds("pears", "apples")
	for what, spoil := range map[string]func(){
		"does not parse": func() { forbid("SecNothing On") },
		"is gone":        func() { _ = os.Remove(own) },
	} {
		spoil()
		err := r.Apply(parse(t, yaml))
		if said := r.Status().GetConfig().GetLastError(); err == nil || !strings.Contains(said, "payload[0].waf.directivesFile") || !strings.Contains(said, own) {
			t.Errorf("a file that %s: %v; the admin API says %q", what, err, said)
		}
		holds("pears", "apples")
	}
	forbid(rule("plums"))
	if err := r.Apply(parse(t, yaml)); err != nil {
		t.Fatal(err)
	}
	holds("plums", "pears")
}
