// Package tools owns the programs that the integration tests and CI run beside Trunkline (a Consul agent, a Jaeger, buf,
// h2spec, grpcurl, golangci-lint): it finds or builds them; it must not start them.
//
// Each tool has a nested module of its own in a subfolder, because their requirements clash with ours and with each
// other's; its go.mod pins the version and names the package in its `tool` line. A program is built once with `go build`
// and kept under os.UserCacheDir()/trunkline/tools, by the hash of its go.mod and go.sum. Only Go and the module proxy are
// needed.
package tools

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"
)

// fromPath lists the programs that users may have installed already, by tool. buf and golangci-lint are not among them:
// what they say depends on their version.
func fromPath(name string) []string {
	switch name {
	case "consul":
		return []string{"consul"}
	case "jaeger":
		return []string{"jaeger-all-in-one", "jaeger"}
	}
	return nil
}

// Names are the tools there are, sorted.
func Names() ([]string, error) {
	root, err := dir()
	if err != nil {
		return nil, err
	}
	mods, err := filepath.Glob(filepath.Join(root, "*", "go.mod"))
	if err != nil {
		return nil, err
	}
	names := make([]string, len(mods))
	for i, m := range mods {
		names[i] = filepath.Base(filepath.Dir(m))
	}
	slices.Sort(names)
	return names, nil
}

// Path returns the absolute path of the program called name, building it first where it is neither installed nor cached:
// from seconds to three minutes (consul), said on standard error. Processes that ask at once build once. The error names
// the tools that exist, or is the compiler's.
func Path(ctx context.Context, name string) (string, error) {
	for _, candidate := range fromPath(name) {
		if p, err := exec.LookPath(candidate); err == nil && usable(ctx, name, p) {
			return filepath.Abs(p)
		}
	}
	root, err := dir()
	if err != nil {
		return "", err
	}
	module := filepath.Join(root, name)
	pkg, sum, err := readModule(module)
	if errors.Is(err, fs.ErrNotExist) {
		names, _ := Names()
		return "", fmt.Errorf("no tool %q; there are %s", name, strings.Join(names, ", "))
	}
	if err != nil {
		return "", err
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", err
	}
	home := filepath.Join(cache, "trunkline", "tools", name+"-"+sum)
	binary := filepath.Join(home, name)
	if isProgram(binary) {
		return binary, nil
	}
	if err := os.MkdirAll(home, 0o755); err != nil {
		return "", err
	}
	unlock, err := lock(ctx, filepath.Join(home, "lock"))
	if err != nil {
		return "", fmt.Errorf("waiting for another process that builds %s: %w", name, err)
	}
	defer unlock()
	if isProgram(binary) { // built while we waited
		return binary, nil
	}
	return binary, build(ctx, name, module, pkg, binary)
}

// usable keeps Jaeger 2 away: it shares Jaeger 1's name on some systems, but none of its flags.
func usable(ctx context.Context, name, path string) bool {
	if name != "jaeger" {
		return true
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	out, err := exec.CommandContext(ctx, path, "version").Output()
	return err == nil && bytes.Contains(out, []byte(`"gitVersion":"v1.`))
}

// dir is this folder, found upwards from the working directory (a test's is its package), else as it was compiled.
func dir() (string, error) {
	wd, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for at := wd; ; at = filepath.Dir(at) {
		mod, err := os.ReadFile(filepath.Join(at, "go.mod"))
		if err == nil && bytes.HasPrefix(mod, []byte("module github.com/trunkline/trunkline\n")) {
			return filepath.Join(at, "integration", "tools"), nil
		}
		if at == filepath.Dir(at) {
			break
		}
	}
	if _, file, _, ok := runtime.Caller(0); ok && filepath.IsAbs(file) {
		return filepath.Dir(file), nil
	}
	return "", fmt.Errorf("the tools' sources are not around %s: run from inside the repository", wd)
}

// readModule returns the package that a nested module's tool line names, and the hash of what it builds from.
func readModule(module string) (pkg, sum string, err error) {
	mod, err := os.ReadFile(filepath.Join(module, "go.mod"))
	if err != nil {
		return "", "", err
	}
	sums, err := os.ReadFile(filepath.Join(module, "go.sum"))
	if err != nil {
		return "", "", err
	}
	for line := range strings.Lines(string(mod)) {
		if rest, ok := strings.CutPrefix(line, "tool "); ok {
			pkg = strings.TrimSpace(rest)
		}
	}
	if pkg == "" {
		return "", "", fmt.Errorf("%s/go.mod has no tool line", module)
	}
	hash := sha256.New()
	hash.Write(mod)
	hash.Write(sums)
	return pkg, fmt.Sprintf("%x", hash.Sum(nil)[:8]), nil
}

func isProgram(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0
}

// lock takes an exclusive lock that the kernel drops when this process dies.
func lock(ctx context.Context, path string) (unlock func(), err error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, err
	}
	for {
		err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if err == nil {
			return func() { f.Close() }, nil
		}
		if !errors.Is(err, syscall.EWOULDBLOCK) && !errors.Is(err, syscall.EINTR) {
			f.Close()
			return nil, err
		}
		select {
		case <-ctx.Done():
			f.Close()
			return nil, ctx.Err()
		case <-time.After(100 * time.Millisecond):
		}
	}
}

func build(ctx context.Context, name, module, pkg, binary string) error {
	start := time.Now()
	fmt.Fprintf(os.Stderr, "tools: building %s (%s), once; this may take some minutes ...\n", name, pkg)
	partial := binary + ".partial"
	// Nobody debugs them: without DWARF the compiler has a sixth less to do, which is minutes in all.
	cmd := exec.CommandContext(ctx, "go", "build", "-gcflags=all=-dwarf=false", "-ldflags=-w", "-o", partial, pkg)
	cmd.Dir = module
	cmd.Env = append(os.Environ(), "GOWORK=off", "GOFLAGS=-buildvcs=false")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("building %s: %w\n%s", name, err, bytes.TrimSpace(out))
	}
	if err := os.Rename(partial, binary); err != nil {
		return err
	}
	fmt.Fprintf(os.Stderr, "tools: built %s in %v: %s\n", name, time.Since(start).Round(time.Second), binary)
	return nil
}
