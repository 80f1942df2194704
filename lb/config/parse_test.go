package config

import (
	"errors"
	"flag"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
)

var update = flag.Bool("update", false, "write the golden files")

// golden compares what was said about a file with the .txt beside it.
func golden(t *testing.T, file string, got string) {
	t.Helper()
	want := strings.TrimSuffix(file, ".yaml") + ".txt"
	if *update {
		if err := os.WriteFile(want, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	text, err := os.ReadFile(want)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(text), got); diff != "" {
		t.Errorf("%s (-want +got; go test -update rewrites it):\n%s", want, diff)
	}
}

func files(t testing.TB, pattern string) []string {
	t.Helper()
	found, err := filepath.Glob(pattern)
	if err != nil || len(found) == 0 {
		t.Fatalf("%s: %v, %d files", pattern, err, len(found))
	}
	return found
}

// Every mistake in testdata/wrong is reported with file, line, column and field, in the order of the file.
func TestAWrongFileIsExplained(t *testing.T) {
	for _, file := range files(t, "testdata/wrong/*.yaml") {
		t.Run(filepath.Base(file), func(t *testing.T) {
			cfg, _, err := Load(file)
			var problems Errors
			if !errors.As(err, &problems) || cfg != nil || len(problems) == 0 {
				t.Fatalf("Load = %v, %v; want problems and no config", cfg, err)
			}
			for _, p := range problems {
				if p.File != file || p.Line < 1 || p.Column < 1 {
					t.Errorf("no place in %q", p)
				}
			}
			if !slices.IsSortedFunc(problems, func(a, b Problem) int { return a.Line - b.Line }) {
				t.Error("not in the order of the file")
			}
			golden(t, file, err.Error()+"\n")
		})
	}
}

// What is merely suspicious is said, and the config is used.
func TestASuspiciousFileIsUsedWithWarnings(t *testing.T) {
	for _, file := range files(t, "testdata/warned/*.yaml") {
		t.Run(filepath.Base(file), func(t *testing.T) {
			cfg, warnings, err := Load(file)
			if err != nil || cfg == nil {
				t.Fatal(err)
			}
			golden(t, file, Errors(warnings).Error()+"\n")
		})
	}
}

func TestTheFixedKeysOfTheFirstIssueParse(t *testing.T) {
	cfg, warnings, err := Load("testdata/first.yaml")
	if err != nil || len(warnings) > 0 {
		t.Fatal(err, warnings)
	}
	cluster := cfg.Discovery.Static.Clusters[0]
	if cluster.Name != "echo" || cluster.Endpoints[0].Meta["version"] != "v1" || cluster.Endpoints[1].GetWeight() != 1 {
		t.Errorf("cluster = %v", cluster)
	}
	if got := cfg.Routes[0].GetMatch().GetService(); got != "bench.Echo" {
		t.Errorf("route matches %q", got)
	}
	if got := cfg.Upstream.ConnectTimeout.AsDuration(); got != 5*time.Second {
		t.Errorf("connectTimeout = %v, want its default", got)
	}
}

func TestEveryKeyOfTheSchemaCanBeWritten(t *testing.T) {
	cfg, warnings, err := Load("testdata/every_key.yaml")
	if err != nil || len(warnings) > 0 {
		t.Fatal(err, warnings)
	}
	before := proto.CloneOf(cfg)
	ApplyDefaults(cfg)
	if !proto.Equal(before, cfg) {
		t.Error("ApplyDefaults changes a config that has its defaults")
	}
	// token cannot stand beside tokenFile, nor insecureSkipVerify beside caFile.
	if missing := absent(cfg.ProtoReflect(), ""); !slices.Equal(missing, []string{"discovery.consul.token", "discovery.consul.tls.insecureSkipVerify",
		"clusters[].tls.insecureSkipVerify", "externalAuthorization.tls.insecureSkipVerify"}) {
		t.Errorf("testdata/every_key.yaml does not set %q", missing)
	}
}

func TestAnAliasStandsForItsValue(t *testing.T) {
	cfg, _, err := Parse("x.yaml", []byte(`
discovery:
  static:
    clusters:
      - name: a
        endpoints: &both [ { address: 127.0.0.1:7001 }, { address: 127.0.0.1:7002 } ]
      - name: b
        endpoints: *both
`))
	if err != nil || len(cfg.Discovery.Static.Clusters[1].Endpoints) != 2 {
		t.Fatal(cfg, err)
	}
}

func TestAliasesCannotMultiplyWithoutBound(t *testing.T) {
	var b strings.Builder
	b.WriteString("discovery: { static: { clusters: [ &c { name: a, endpoints: [ &e { address: 127.0.0.1:7001 }")
	b.WriteString(strings.Repeat(", *e", 1_000))
	b.WriteString(" ] }")
	b.WriteString(strings.Repeat(", *c", 1_000))
	b.WriteString(" ] } }\n")
	_, _, err := parse("bomb.yaml", []byte(b.String()), 20_000, nil)
	if !IsProblem(err) || !strings.Contains(err.Error(), "too large") {
		t.Fatalf("err = %.300v", err)
	}
}
