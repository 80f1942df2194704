package attacks

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	testpb "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/trunkline/trunkline/integration/harness"
)

// backendKey in the environment makes a backend of this test's binary: what attackers make it do must not keep the well-behaved
// client, which is measured, from the processor.
const backendKey = "TRUNKLINE_ATTACK_BACKEND"

type backend struct {
	addr string
	pid  int
}

// startBackend runs a backend until the test ends.
func startBackend(t *testing.T) *backend {
	t.Helper()
	me, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(me)
	// It is not what is measured: it collects its garbage seldom.
	cmd.Env, cmd.Stderr = []string{backendKey + "=1", "GORACE=atexit_sleep_ms=50", "GOGC=400"}, os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		in.Close() // it ends by that, and by our own end
		if err := cmd.Wait(); err != nil {
			t.Errorf("the backend: %v", err)
		}
	})
	addr, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatalf("the backend has not begun: %v", err)
	}
	b := &backend{strings.TrimSpace(addr), cmd.Process.Pid}
	b.warm(t)
	return b
}

// warm has the backend send much at once, as it will have to amid attacks: the memory for that is new to its process once, and the first
// attack is not to be charged for it.
func (b *backend) warm(t *testing.T) {
	t.Helper()
	client := testpb.NewTestServiceClient(harness.Dial(t, b.addr))
	in := &testpb.StreamingOutputCallRequest{}
	for range 10 {
		in.ResponseParameters = append(in.ResponseParameters, &testpb.ResponseParameters{Size: 16 << 10})
	}
	var all sync.WaitGroup
	for range 300 {
		all.Go(func() {
			stream, err := client.StreamingOutputCall(t.Context(), in)
			for err == nil {
				_, err = stream.Recv()
			}
			if !errors.Is(err, io.EOF) {
				t.Errorf("the backend: %v", err)
			}
		})
	}
	all.Wait()
}

// mark is the metadata field of calls whose other metadata are forged.
const mark = "x-attack"

// serveAsBackend is the main function of the backend's process: a stock grpc-go server that refuses calls which bring along
// what only Trunkline may set.
func serveAsBackend() error {
	l, err := new(net.ListenConfig).Listen(context.Background(), "tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	s := grpc.NewServer(grpc.UnaryInterceptor(func(ctx context.Context, in any, _ *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
		if md, _ := metadata.FromIncomingContext(ctx); len(md.Get(mark)) > 0 {
			for name := range md {
				if name == "x-forwarded-client-cert" || strings.HasPrefix(name, "x-trunkline-") {
					return nil, status.Error(codes.DataLoss, "the forged "+name+" has arrived")
				}
			}
		}
		return next(ctx, in)
	}))
	testpb.RegisterTestServiceServer(s, &harness.Backend{Name: "backend"})
	fmt.Println(l.Addr())
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		s.Stop()
	}()
	return s.Serve(l)
}
