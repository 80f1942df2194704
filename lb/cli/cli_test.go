package cli

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"github.com/trunkline/trunkline/lb/admin"
	"github.com/trunkline/trunkline/lb/decision"
	adminv1 "github.com/trunkline/trunkline/proto/trunkline/admin/v1"
)

var update = flag.Bool("update", false, "write the golden files anew")

func TestWhatTheCommandLinePrints(t *testing.T) {
	t.Setenv("CONSUL_HTTP_ADDR", "")
	t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "")
	t.Setenv("TRUNKLINE_ADMIN_TOKEN_FILE", "")
	for name, line := range map[string]string{
		"version":            "version",
		"help":               "--help",
		"help_serve":         "serve --help",
		"help_demo":          "demo --help",
		"unknown_command":    "sevre",
		"unknown_flag":       "serve --lisen :1",
		"check_good":         "check -c testdata/good.yaml",
		"check_wrong":        "check -c testdata/wrong.yaml",
		"check_missing":      "check -c testdata/none.yaml",
		"check_no_file":      "check",
		"check_files":        "check -c testdata/files.yaml",
		"check_without":      "check -c testdata/files.yaml --no-files",
		"help_check":         "check --help",
		"serve_wrong":        "serve -c testdata/wrong.yaml",
		"explain":            "explain bench.Echo/Ping -c testdata/good.yaml",
		"explain_slash":      "explain /bench.Echo/Ping -c testdata/good.yaml --authority api.example.com",
		"explain_unknown":    "explain bench.Ecko/Ping -c testdata/good.yaml",
		"explain_json":       "explain bench.Ecko/Ping -c testdata/good.yaml --json",
		"explain_wrong_file": "explain bench.Echo/Ping -c testdata/wrong.yaml",
		"explain_no_method":  "explain bench.Echo -c testdata/good.yaml",
		"explain_both":       "explain bench.Echo/Ping -c testdata/good.yaml --admin :1",
		"explain_nothing":    "explain",
		"explain_bad_trace":  "explain --trace 4bf9",
		"explain_two":        "explain --last 3 --last-errors",
		"explain_bad_number": "explain --last=many",
		"explain_calls_file": "explain --last-errors -c testdata/good.yaml",
		"help_explain":       "explain --help",
		"help_certificates":  "certificates --help",
		"demo_no_calls":      "demo --once --calls 0",
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld()
			code := Main(t.Context(), strings.Fields(line), w.env())
			got := fmt.Sprintf("$ trunkline %s\n%s", line, w.out.String())
			if e := w.err.String(); e != "" {
				got += "--- stderr\n" + e
			}
			got += fmt.Sprintf("--- exit %d\n", code)
			golden(t, name, strings.ReplaceAll(got, runtime.Version(), "GOVERSION"))
		})
	}
}

// golden compares what was printed with testdata, or writes it there.
func golden(t *testing.T, name, got string) {
	t.Helper()
	file := filepath.Join("testdata", name+".golden")
	got = strings.ReplaceAll(got, ":  ", ": ") // protojson varies its spaces on purpose
	if *update {
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

func TestExplainAsksTheRunningTrunkline(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	served := make(chan error, 1)
	go func() { served <- admin.New(source{}, nil, slog.New(slog.DiscardHandler)).Serve(ctx, l) }()
	w := newWorld()
	if code := Main(t.Context(), []string{"explain", "bench.Echo/Ping", "--admin", l.Addr().String()}, w.env()); code != 0 || !strings.Contains(w.out.String(), "The call would be placed.") {
		t.Errorf("exit %d\n%s%s", code, &w.out, &w.err)
	}
	cancel()
	if err := <-served; err != nil {
		t.Fatal(err)
	}
	w = newWorld()
	code := Main(t.Context(), []string{"explain", "bench.Echo/Ping", "--admin", l.Addr().String()}, w.env())
	if code != 1 || !strings.Contains(w.err.String(), "is a Trunkline running there?") || !strings.Contains(w.err.String(), l.Addr().String()) {
		t.Errorf("without one: exit %d\n%s", code, &w.err)
	}
}

// source is the least admin.Source that explains.
type source struct {
	admin.Source
	books decision.Books
}

func (s source) Decisions() decision.Books { return s.books }

func (source) Explain(method, authority string) *adminv1.ExplainResponse {
	return answer(method, authority)
}

func TestExplainTellsCallsThatHaveEnded(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	served := make(chan error, 1)
	go func() {
		served <- admin.New(source{books: records()}, nil, slog.New(slog.DiscardHandler)).Serve(ctx, l)
	}()
	for name, line := range map[string]string{
		"calls_trace":       "explain --trace " + traced,
		"calls_traceparent": "explain --trace 00-" + traced + "-00f067aa0ba902b7-01",
		"calls_other_trace": "explain --trace 4bf92f3577b34da6a3ce929d0e0e4737",
		"calls_last_errors": "explain --last-errors",
		"calls_last":        "explain --last",
		"calls_last_one":    "explain --last 1",
		"calls_last_equals": "explain --last=1 bench.Echo/Ping",
		"calls_of_method":   "explain --last-errors 5 bench.Echo/Ping",
		"calls_of_service":  "explain --last-errors bench.Echo",
		"calls_of_nobody":   "explain bench.Nobody --last-errors",
		"calls_full":        "explain --last-errors --full",
		"calls_json":        "explain --last 1 --json",
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld()
			code := Main(t.Context(), append(strings.Fields(line), "--admin", l.Addr().String()), w.env())
			got := fmt.Sprintf("$ trunkline %s\n%s%s--- exit %d\n", line, w.out.String(), w.err.String(), code)
			golden(t, name, regexp.MustCompile(`\([^()]* ago\)`).ReplaceAllString(got, "(N ago)"))
		})
	}
	cancel()
	if err := <-served; err != nil {
		t.Fatal(err)
	}
	w := newWorld()
	if code := Main(t.Context(), []string{"explain", "--last", "--admin", l.Addr().String()}, w.env()); code != 1 || !strings.Contains(w.err.String(), "is a Trunkline running there?") {
		t.Errorf("without one: exit %d\n%s", code, &w.err)
	}
}

// serve starts the serve command and returns its engine and its exit code to come.
func serve(t *testing.T, w *world, args ...string) (*fake, <-chan int) {
	t.Helper()
	code := make(chan int, 1)
	go func() { code <- Main(context.Background(), append([]string{"serve"}, args...), w.env()) }()
	select {
	case f := <-w.engine:
		return f, code
	case c := <-code:
		t.Fatalf("exit %d\n%s", c, &w.err)
		return nil, nil
	}
}

func TestServeWithoutAFileBalancesWhatConsulKnows(t *testing.T) {
	t.Setenv("CONSUL_HTTP_ADDR", "")
	w := newWorld()
	f, code := serve(t, w)
	if f.Name != "(built in)" || f.Config.GetListeners()[0].GetAddress() != ":7443" || f.Config.GetAdmin().GetAddress() != "127.0.0.1:9901" || f.Config.GetDiscovery().GetConsul().GetTag() != "grpc" {
		t.Errorf("config %q: %v", f.Name, f.Config)
	}
	w.signals <- syscall.SIGHUP
	close(w.live)
	w.signals <- syscall.SIGTERM
	if c := <-code; c != 0 {
		t.Errorf("exit %d", c)
	}
	for _, want := range []string{"there is no config file", "url=http://127.0.0.1:9901/", "draining", "signal=terminated", "ended"} {
		if !strings.Contains(w.err.String(), want) {
			t.Errorf("the log lacks %q:\n%s", want, &w.err)
		}
	}
	if f.cut {
		t.Error("streams were cut that ended by themselves")
	}
}

func TestASecondSignalCutsTheDrainShort(t *testing.T) {
	w := newWorld()
	f, code := serve(t, w, "--listen", "127.0.0.1:0", "--admin", "-")
	w.signals <- os.Interrupt
	select {
	case <-code:
		t.Fatal("the drain did not wait for the live stream")
	case <-f.drained:
		t.Fatal("the drain did not wait for the live stream")
	case w.signals <- os.Interrupt:
	}
	if c := <-code; c != 0 || !f.cut {
		t.Errorf("exit %d, cut: %v", c, f.cut)
	}
}

func TestADrainIsBoundedByTheConfig(t *testing.T) {
	file := write(t, t.TempDir(), "drain: { timeout: 50ms }\n")
	w := newWorld()
	f, code := serve(t, w, "-c", file)
	w.signals <- syscall.SIGTERM
	if c := <-code; c != 0 || !f.cut {
		t.Errorf("exit %d, cut: %v", c, f.cut)
	}
	if !strings.Contains(w.err.String(), "drain.timeout of 50ms is over") {
		t.Errorf("the log:\n%s", &w.err)
	}
}

func TestAChangedFileAndSIGHUPReloadAndTheFlagsStillWin(t *testing.T) {
	dir := t.TempDir()
	file := write(t, dir, "admin: { address: 127.0.0.1:1111 }\n")
	w := newWorld()
	f, code := serve(t, w, "-c", file, "--listen", "127.0.0.1:7777")
	w.signals <- syscall.SIGHUP
	until(t, "SIGHUP to reload", func() bool { a, _ := f.told(); return a == 1 })
	write(t, dir, "admin: { address: 127.0.0.1:2222 }\nlog: { level: debug }\n")
	until(t, "the change to be applied", func() bool { a, _ := f.told(); return a == 2 })
	write(t, dir, "admin: { adress: 127.0.0.1:3333 }\n")
	until(t, "the mistake to be rejected", func() bool { _, r := f.told(); return r == 1 })
	close(w.live)
	w.signals <- syscall.SIGTERM
	<-code
	last := f.applied[1]
	if last.GetAdmin().GetAddress() != "127.0.0.1:2222" || last.GetListeners()[0].GetAddress() != "127.0.0.1:7777" || len(f.applied) != 2 {
		t.Errorf("applied last: %v", last)
	}
	if !strings.Contains(f.rejected[0].Error(), "t.yaml:1:10: admin.adress") || !strings.Contains(w.err.String(), "the old one stays in force") {
		t.Errorf("rejected with %v; the log:\n%s", f.rejected[0], &w.err)
	}
}

func write(t *testing.T, dir, text string) string {
	t.Helper()
	file, next := filepath.Join(dir, "t.yaml"), filepath.Join(dir, ".next")
	if err := os.WriteFile(next, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(next, file); err != nil {
		t.Fatal(err)
	}
	return file
}

func TestAnEngineThatCannotStartIsAFailureInOneSentence(t *testing.T) {
	w := newWorld()
	env := w.env()
	env.Start = func(context.Context, EngineOptions) (Engine, error) {
		return nil, errors.New("listener 127.0.0.1:7443: address already in use")
	}
	if code := Main(t.Context(), []string{"serve"}, env); code != 1 || w.err.String() != "trunkline: listener 127.0.0.1:7443: address already in use\n" {
		t.Errorf("exit %d\n%s", code, &w.err)
	}
}
