package main

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"text/template"
	"time"
)

//go:embed configs
var configs embed.FS

// lab is what every measurement shares: where things run and lie. Set once in newLab.
type lab struct {
	dir        string // for configs, logs and the built binary; removed at the end
	proxyCores []int
	loadCores  []int
	trunkline  string // path of the binary, "" if there is none
	sink       string // where traces go
}

// peer is something to measure. prepare says what is missing, "" if nothing;
// command returns the program and its arguments for a written config file.
type peer struct {
	name    string
	config  string // template under configs; "": no process, the load goes to a backend
	program string
	command func(config, dir string) []string
	version []string // arguments that print the version
}

const trunklineName, directName = "trunkline", "direct"

// policedName is Trunkline with a full set of policies on every method. It is measured only when it is named.
const policedName = "policies"

var peers = []peer{
	{name: trunklineName, config: "trunkline.yaml",
		command: func(c, _ string) []string { return []string{"serve", "-c", c} }},
	{name: policedName, config: "trunkline-policies.yaml",
		command: func(c, _ string) []string { return []string{"serve", "-c", c} }},
	{name: "haproxy", config: "haproxy.cfg", program: "haproxy", version: []string{"-v"},
		command: func(c, _ string) []string { return []string{"-db", "-f", c} }},
	{name: "nghttpx", config: "nghttpx.conf", program: "nghttpx", version: []string{"--version"},
		command: func(c, _ string) []string { return []string{"--conf=" + c} }},
	{name: "nginx", config: "nginx.conf", program: "nginx", version: []string{"-v"},
		command: func(c, dir string) []string { return []string{"-p", dir, "-c", c} }},
	{name: "l4", config: "haproxy-tcp.cfg", program: "haproxy", version: []string{"-v"},
		command: func(c, _ string) []string { return []string{"-db", "-f", c} }},
	{name: directName},
}

// ours says whether the peer is Trunkline.
func (p *peer) ours() bool { return p.name == trunklineName || p.name == policedName }

// find returns the path of the peer's program, or why there is none. Debian
// keeps servers in /usr/sbin, which a user's PATH often lacks.
func (p *peer) find(l *lab) (string, error) {
	if p.ours() {
		if l.trunkline == "" {
			return "", errors.New("was not built")
		}
		return l.trunkline, nil
	}
	path, err := exec.LookPath(p.program)
	if err != nil {
		path, err = exec.LookPath("/usr/sbin/" + p.program)
	}
	if err != nil {
		return "", fmt.Errorf("%s is not installed", p.program)
	}
	return path, nil
}

// versionText asks the program.
func (p *peer) versionText(l *lab) string {
	path, err := p.find(l)
	if err != nil || p.version == nil {
		return ""
	}
	out, _ := exec.Command(path, p.version...).CombinedOutput()
	first, _, _ := strings.Cut(string(out), "\n")
	return strings.TrimSpace(first)
}

// speaksTLS says whether the peer can be in front of a workload behind TLS.
func (p *peer) speaksTLS() bool { return p.config != "" && p.name != "l4" }

// setup is what a peer's configuration is for.
type setup struct {
	bulk bool // large messages
	tls  bool // there is a second listener, with TLS
}

func (w *workload) setup() setup { return setup{w.bulk, w.spec.tls} }

// instance is a running peer.
type instance struct {
	peer  *peer
	addr  string // the one to load
	plain string // without TLS
	admin string
	child *child // nil for the direct run
	pids  []int
}

func freeAddr() (string, error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer ln.Close()
	return ln.Addr().String(), nil
}

// start runs the peer in front of the backends and waits until a call passes.
func (p *peer) start(ctx context.Context, l *lab, s setup, backends []*backend) (*instance, error) {
	if p.config == "" {
		return &instance{peer: p, addr: backends[0].addr}, nil
	}
	program, err := p.find(l)
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp(l.dir, p.name+"-")
	if err != nil {
		return nil, err
	}
	// nginx's worker gives its rights away and must still reach its folder.
	if err := os.Chmod(dir, 0o755); err != nil {
		return nil, err
	}
	in := &instance{peer: p}
	if in.plain, err = freeAddr(); err != nil {
		return nil, err
	}
	in.addr = in.plain
	if s.tls {
		if in.addr, err = freeAddr(); err != nil {
			return nil, err
		}
	}
	if in.admin, err = freeAddr(); err != nil {
		return nil, err
	}
	config := filepath.Join(dir, p.config)
	if err := p.writeConfig(config, l, in, s, backends); err != nil {
		return nil, err
	}
	if in.child, err = startChild(dir, p.name, l.proxyCores, program, p.command(config, dir)...); err != nil {
		return nil, err
	}
	if err := in.awaitReady(ctx, s.tls); err != nil {
		in.stop()
		return nil, fmt.Errorf("%w; it said: %s", err, in.child.tail())
	}
	in.pids = processTree(in.child.cmd.Process.Pid)
	return in, nil
}

func (p *peer) writeConfig(path string, l *lab, in *instance, s setup, backends []*backend) error {
	t, err := template.ParseFS(configs, "configs/"+p.config)
	if err != nil {
		return err
	}
	host, port, err := net.SplitHostPort(in.plain)
	if err != nil {
		return err
	}
	_, tlsPort, err := net.SplitHostPort(in.addr)
	if err != nil {
		return err
	}
	v := struct {
		Addr, Host, Port, Admin, Sink, Dir string
		Threads                            int
		Bulk, TLS                          bool
		TLSAddr, TLSPort, Certs            string
		Backends, HostPorts                []string
	}{in.plain, host, port, in.admin, l.sink, filepath.Dir(path), len(l.proxyCores), s.bulk, s.tls, in.addr, tlsPort, l.dir, nil, nil}
	for _, b := range backends {
		v.Backends = append(v.Backends, b.addr)
		v.HostPorts = append(v.HostPorts, strings.Replace(b.addr, ":", ",", 1))
	}
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer f.Close()
	return t.Execute(f, v)
}

// awaitReady tries one call until it succeeds.
func (in *instance) awaitReady(ctx context.Context, tls bool) error {
	deadline := time.Now().Add(10 * time.Second)
	for {
		err := oneCall(in.addr, tls)
		if err == nil {
			return nil
		}
		switch {
		case in.child.exited():
			return errors.New("it ended")
		case ctx.Err() != nil:
			return ctx.Err()
		case time.Now().After(deadline):
			return fmt.Errorf("no call passed within 10 s: %w", err)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// oneCall makes a single echo call.
func oneCall(addr string, tls bool) error {
	l, err := connect(addr, spec{conns: 1, streams: 1, method: methodPing, style: styleGRPC, tls: tls})
	defer l.close()
	if err != nil {
		return err
	}
	l.once()
	l.finish(2 * time.Second)
	if p := l.firstProblems(); len(p) > 0 {
		return errors.New(strings.Join(p, "; "))
	}
	return nil
}

func (in *instance) stop() {
	if in.child != nil {
		in.child.stop()
	}
}
