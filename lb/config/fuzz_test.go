package config

import (
	"errors"
	"os"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"
)

// Whatever the bytes are, Parse returns either a config that ApplyDefaults leaves alone, or problems with a place.
func FuzzParse(f *testing.F) {
	for _, pattern := range []string{"testdata/*.yaml", "testdata/wrong/*.yaml", "testdata/warned/*.yaml"} {
		for _, file := range files(f, pattern) {
			data, err := os.ReadFile(file)
			if err != nil {
				f.Fatal(err)
			}
			f.Add(data)
		}
	}
	f.Add([]byte("a: &a [*a]\nadmin: *a\n"))
	f.Add([]byte("admin:\u2028  address: \"\u0085\"\r"))
	f.Add([]byte("? {a: b}\n: c\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		cfg, _, err := Parse("fuzz.yaml", data)
		if err == nil {
			before := proto.CloneOf(cfg)
			ApplyDefaults(cfg)
			if !proto.Equal(before, cfg) {
				t.Error("ApplyDefaults changes a config that has its defaults")
			}
			if _, _, err := ServiceConfig(cfg); err != nil {
				t.Errorf("the service config that was good is not: %v", err)
			}
			return
		}
		var problems Errors
		if !errors.As(err, &problems) || cfg != nil {
			t.Fatalf("Parse = %v, %T %v", cfg, err, err)
		}
		for _, p := range problems {
			if p.Line < 1 || p.Column < 1 || p.Message == "" {
				t.Errorf("no place or message in %q", p)
			}
			if strings.Contains(p.Message, "cannot be read") {
				t.Errorf("protoyaml refused what the schema accepted: %s", p)
			}
		}
	})
}
