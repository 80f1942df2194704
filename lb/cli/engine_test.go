package cli

import (
	"net"
	"strings"
	"testing"
)

func TestTheDemoMakesItsCallsThroughTheRealEngineAndAllIsAsItMustBe(t *testing.T) {
	t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "")
	w := newWorld()
	env := w.env()
	env.Start = StartEngine
	code := Main(t.Context(), []string{"demo", "--once"}, env)
	if code != 0 {
		t.Fatalf("exit %d\n%s%s", code, &w.out, &w.err)
	}
	for _, want := range []string{"400 calls", "trunkline.demo.v1.Shop/SuggestTea", "refused unprocessed"} {
		if !strings.Contains(w.out.String(), want) {
			t.Errorf("it does not say %q:\n%s%s", want, &w.out, &w.err)
		}
	}
}

func TestAnAddressThatIsTakenIsNamed(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	taken := l.Addr().String()
	for _, args := range [][]string{
		{"demo", "--listen", taken, "--admin", "127.0.0.1:0"},
		{"demo", "--listen", "127.0.0.1:0", "--admin", taken},
	} {
		w := newWorld()
		env := w.env()
		env.Start = StartEngine
		code := Main(t.Context(), args, env)
		if got := w.err.String(); code != 1 || !strings.Contains(got, taken) || !strings.Contains(got, "in use") || strings.Count(got, "\n") != 1 {
			t.Errorf("%v: exit %d\n%s", args, code, got)
		}
	}
}
