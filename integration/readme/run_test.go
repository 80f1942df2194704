package readme

import (
	"context"
	"errors"
	"io"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	"github.com/trunkline/trunkline/integration/tools"
	"github.com/trunkline/trunkline/lb/cli"
	"github.com/trunkline/trunkline/lb/config"
	adminv1 "github.com/trunkline/trunkline/proto/trunkline/admin/v1"
	configv1 "github.com/trunkline/trunkline/proto/trunkline/config/v1"
)

// Each YAML block is a whole file that check finds good, without a warning.
func TestEveryExampleOfConfigurationLoads(t *testing.T) {
	for _, b := range blocks(t, "yaml") {
		_, warnings, err := config.Parse("README.md", []byte(b))
		if err != nil {
			t.Errorf("%v in\n%s", err, b)
		}
		for _, w := range warnings {
			t.Errorf("a warning: %v in\n%s", w, b)
		}
	}
}

// The command line's own parser takes each line as far as --help, which it does not obey before it has understood all else.
func TestEveryCommandLineIsUnderstood(t *testing.T) {
	env := cli.Env{
		Out: io.Discard, Command: "trunkline", Signals: make(chan os.Signal),
		Start: func(context.Context, cli.EngineOptions) (cli.Engine, error) { return nil, errors.ErrUnsupported },
		Explain: func(*configv1.Config, string, string) (*adminv1.ExplainResponse, error) {
			return nil, errors.ErrUnsupported
		},
	}
	understood := func(words []string) (string, bool) {
		var complaint strings.Builder
		env.Err = &complaint
		ok := cli.Main(t.Context(), append(words, "--help"), env) == 0
		return complaint.String(), ok
	}
	if _, ok := understood([]string{"serve", "--no-such-flag"}); ok {
		t.Fatal("the parser takes everything: this test shows nothing")
	}
	seen := map[string]bool{}
	for _, b := range blocks(t, "sh") {
		for line := range strings.Lines(b) {
			command, _, _ := strings.Cut(line, " #")
			words := strings.Fields(command)
			switch {
			case len(words) > 1 && words[0] == "trunkline":
				words = words[1:]
			case len(words) > 3 && strings.Join(words[:3], " ") == "go run .":
				words = words[3:]
			default:
				continue
			}
			seen[words[0]] = true
			if complaint, ok := understood(words); !ok {
				t.Errorf("%s: %s", strings.TrimSpace(line), complaint)
			}
		}
	}
	for _, name := range []string{"serve", "check", "explain", "demo", "version"} {
		if !seen[name] {
			t.Errorf("README.md does not show %s", name)
		}
	}
}

// The methods that grpcurl and curl lines call are in our APIs, the packages of go run lines and the tools are there.
func TestWhatTheOtherLinesNameExists(t *testing.T) {
	method := regexp.MustCompile(`(trunkline\.[a-z]+\.v1\.\w+)/(\w+)`)
	known, err := tools.Names()
	if err != nil {
		t.Fatal(err)
	}
	methods, packages := 0, 0
	for _, b := range blocks(t, "sh") {
		for line := range strings.Lines(b) {
			words := strings.Fields(line)
			switch {
			case len(words) > 1 && (words[0] == "grpcurl" || words[0] == "curl"):
				for _, m := range method.FindAllStringSubmatch(line, -1) {
					methods++
					if _, err := protoregistry.GlobalFiles.FindDescriptorByName(protoreflect.FullName(m[1] + "." + m[2])); err != nil {
						t.Errorf("%s: %v", strings.TrimSpace(line), err)
					}
				}
			case len(words) > 2 && words[0] == "go" && words[1] == "run" && words[2] != ".":
				packages++
				if _, err := os.Stat(root + words[2]); err != nil {
					t.Errorf("%s: %v", strings.TrimSpace(line), err)
				}
				if strings.HasSuffix(words[2], "/tool") && !slices.Contains(known, words[3]) {
					t.Errorf("%s: there is no tool %s", strings.TrimSpace(line), words[3])
				}
			}
		}
	}
	if methods == 0 || packages == 0 {
		t.Errorf("%d methods and %d packages found: this test shows nothing", methods, packages)
	}
}

// CI runs the very line that the first screen shows.
func TestTheTestCommandIsCIs(t *testing.T) {
	line := regexp.MustCompile(`(?m)^go test .*?\./\.\.\.`)
	first, _, _ := strings.Cut(text(t, "README.md"), "\n## ")
	shown := line.FindString(first)
	if shown == "" {
		t.Fatal("the first screen shows no test command")
	}
	if !strings.Contains(text(t, ".ci/run"), "tests() { "+shown+"; }") {
		t.Errorf(".ci/run does not run %q as its step tests", shown)
	}
}
