package inspect

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	configv1 "github.com/trunkline/trunkline/proto/trunkline/config/v1"
)

func put(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// A list that directives name counts as they do, though Coraza would rather remember it: the old firewall lives beside the new one.
func TestRulesThatAreMadeAnewHaveWhatTheirFilesHoldNow(t *testing.T) {
	dir := t.TempDir()
	own, list, more := filepath.Join(dir, "own.conf"), filepath.Join(dir, "own.data"), filepath.Join(dir, "more.conf")
	put(t, own, "Include more.conf\nSecRule ARGS \"@pmFromFile own.data\" \"id:1000,phase:2,deny,log\"\n")
	put(t, list, "apples\n")
	put(t, more, "SecRule ARGS \"@contains plums\" \"id:1001,phase:2,deny,log\"\n")
	yaml := "payload: [ { waf: { directivesFile: " + own + " } } ]"
	at := describe(t, place)
	refuses := func(i *Inspector, note string) bool {
		return judge(i.For(place, at), &Message{Body: message(t, at().Input(), `{"note":"`+note+`"}`)}).Refused
	}
	first := inspector(t, yaml, nil)
	if got := first.Changed(); got != "" || !refuses(first, "apples") || refuses(first, "pears") || !refuses(first, "plums") {
		t.Fatalf("changed: %q", got)
	}
	put(t, list, "pears\n")
	second := inspector(t, yaml, nil)
	if got := first.Changed(); got != list || second.Changed() != "" {
		t.Errorf("changed: %q, and just made: %q", got, second.Changed())
	}
	if refuses(second, "apples") || !refuses(second, "pears") || !refuses(first, "apples") {
		t.Error("the list is not the one that was there when the rules were made")
	}
	put(t, more, "\n")
	if got := second.Changed(); got != more {
		t.Errorf("changed: %q", got)
	}
	if err := os.Remove(own); err != nil {
		t.Fatal(err)
	}
	if got := second.Changed(); got != more && got != own {
		t.Errorf("changed: %q", got)
	}
}

func TestAListThatIsMissingIsNamedAsTheOperatorWroteIt(t *testing.T) {
	own := filepath.Join(t.TempDir(), "own.conf")
	put(t, own, `SecRule ARGS "!@pmFromFile nowhere.data" "id:1000,phase:2,deny,log"`)
	_, err := newWall(&configv1.Waf{Mode: "block", Paranoia: proto.Uint32(1), AnomalyThreshold: proto.Uint32(5), DirectivesFile: own}, "payload[0].waf")
	if err == nil || !strings.Contains(err.Error(), "nowhere.data: no such file") {
		t.Error(err)
	}
}
