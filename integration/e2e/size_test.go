package e2e

import (
	"encoding/binary"
	"fmt"
	"math"
	"net"
	"testing"
	"time"

	"golang.org/x/net/http2"
	testpb "google.golang.org/grpc/interop/grpc_testing"

	"github.com/trunkline/trunkline/integration/harness"
)

const mebibyte = 1 << 20

// One client opens 200 streams of 8 MiB each and stops reading. Everybody else, on the same backend, notices nothing, and
// Trunkline holds little of it.
func TestAClientThatStopsReadingStallsNobodyElseAndHoldsLittleMemory(t *testing.T) {
	const streams, message, messages = 200, 1 << 20, 8
	huge := []http2.Setting{{ID: http2.SettingInitialWindowSize, Val: math.MaxInt32}}
	tests := []struct {
		story string
		open  func(t *testing.T, addr string) *harness.FrameClient
	}{
		{"with the first windows", func(t *testing.T, addr string) *harness.FrameClient { return harness.DialFrames(t, addr) }},
		{"with windows as large as they can be: only the socket holds back", func(t *testing.T, addr string) *harness.FrameClient {
			c := harness.DialFrames(t, addr, huge...)
			if err := c.Framer.WriteWindowUpdate(0, math.MaxInt32-65535); err != nil {
				t.Fatal(err)
			}
			return c
		}},
		{"with large windows on the streams and a small one on the connection", func(t *testing.T, addr string) *harness.FrameClient {
			return harness.DialFrames(t, addr, huge...)
		}},
	}
	for _, tt := range tests {
		t.Run(tt.story, func(t *testing.T) {
			backend := harness.StartBackend(t, "backend")
			trunkline := harness.Start(t, static([]string{backend.Addr}))
			load := harness.StartLoad(t, 4, harness.Dial(t, trunkline.Listen), harness.Dial(t, trunkline.Listen))
			load.Await(t, 100)
			before := trunkline.RSS(t)

			stalled := tt.open(t, trunkline.Listen)
			params := make([]*testpb.ResponseParameters, messages)
			for i := range params {
				params[i] = &testpb.ResponseParameters{Size: message}
			}
			for i := range streams {
				id := uint32(2*i + 1)
				stalled.Open(t, id, "StreamingOutputCall")
				stalled.Send(t, id, &testpb.StreamingOutputCallRequest{ResponseParameters: params}, true)
			}
			harness.Eventually(t, stepLimit, "the 200 streams to reach the backend", func() bool { return backend.OpenCalls() >= streams })
			load.Await(t, 500)
			other := harness.StartLoad(t, 2, harness.Dial(t, trunkline.Listen)) // a client that comes now
			other.Await(t, 100)
			bulk(t, trunkline.Listen) // and one that needs window, not only a place
			held := trunkline.PeakRSS(t) - before
			t.Logf("%d stalled streams: %.1f MiB more than before", streams, float64(held)/mebibyte)
			if held > 64*mebibyte && !harness.Race {
				t.Errorf("trunkline holds %d MiB more than before, want at most 64", held/mebibyte)
			}
			load.MustNotHaveFailed(t)
			other.MustNotHaveFailed(t)
		})
	}
}

// bulk downloads 32 MiB in one stream.
func bulk(t *testing.T, addr string) {
	t.Helper()
	params := make([]*testpb.ResponseParameters, 32)
	for i := range params {
		params[i] = &testpb.ResponseParameters{Size: mebibyte}
	}
	c := testpb.NewTestServiceClient(harness.Dial(t, addr))
	stream, err := c.StreamingOutputCall(harness.Context(t, 20*time.Second), &testpb.StreamingOutputCallRequest{ResponseParameters: params})
	if err != nil {
		t.Fatal(err)
	}
	mustEndNormally(t, stream, len(params))
}

// A backend that stops reading, beside a stalled client, is the same thing the other way up.
func TestABackendThatStopsReadingStallsNobodyElse(t *testing.T) {
	deaf, err := net.Listen("tcp", harness.FreeAddr(t))
	if err != nil {
		t.Fatal(err)
	}
	defer deaf.Close()
	good := harness.StartBackend(t, "good")
	trunkline := harness.Start(t, fmt.Sprintf(`
listeners: [ { address: LISTEN } ]
admin: { address: ADMIN }
discovery:
  static:
    clusters:
      - { name: good, endpoints: [ { address: %s } ], grpcServices: [ %s ] }
      - { name: deaf, endpoints: [ { address: %s } ], grpcServices: [ deaf.Service ] }
routes:
  - { match: { method: %s/StreamingInputCall }, cluster: deaf }
  - { match: { service: %s }, cluster: good }
`, good.Addr, harness.Service, deaf.Addr(), harness.Service, harness.Service))
	before := trunkline.RSS(t)
	cc := harness.Dial(t, trunkline.Listen)
	load := harness.StartLoad(t, 4, cc, harness.Dial(t, trunkline.Listen))
	// The deaf backend accepts (the kernel does) and never says or reads anything.
	chunk := make([]byte, 16<<10)
	c := harness.DialFrames(t, trunkline.Listen)
	for i := range 50 { // within the connection's first window, and beyond if it is given more
		id := uint32(2*i + 1)
		c.Open(t, id, "StreamingInputCall")
		frame := binary.BigEndian.AppendUint32([]byte{0}, mebibyte)
		if err := c.Framer.WriteData(id, false, frame); err != nil {
			t.Fatal(err)
		}
		if i < 3 {
			if err := c.Framer.WriteData(id, false, chunk); err != nil {
				t.Fatal(err)
			}
		}
	}
	load.Await(t, 1000)
	load.MustNotHaveFailed(t)
	if held := trunkline.PeakRSS(t) - before; held > 64*mebibyte && !harness.Race {
		t.Errorf("trunkline holds %d MiB more than before", held/mebibyte)
	}
}

func TestAThousandClientsCostLittleMemoryAndFewUpstreamConnections(t *testing.T) {
	const clients, servers = 1000, 10
	var backends []*harness.Backend
	var addrs []string
	for i := range servers {
		b := harness.StartBackend(t, fmt.Sprint("backend-", i))
		backends, addrs = append(backends, b), append(addrs, b.Addr)
	}
	trunkline := harness.Start(t, static(addrs))
	warm := harness.StartLoad(t, 4, harness.Dial(t, trunkline.Listen))
	warm.Await(t, 200)
	warm.MustNotHaveFailed(t)
	before := trunkline.RSS(t)

	conns := make([]*harness.FrameClient, clients)
	for i := range conns {
		conns[i] = harness.DialFrames(t, trunkline.Listen)
		conns[i].Open(t, 1, "UnaryCall")
		conns[i].Send(t, 1, &testpb.SimpleRequest{}, true)
	}
	for _, c := range conns {
		if fields, ending := c.Await(t, 1, stepLimit); fields["grpc-status"] != "0" || ending != "END_STREAM" {
			t.Fatalf("a client's call: %v %s", fields, ending)
		}
	}
	grown := trunkline.RSS(t) - before
	upstream := int64(0)
	for _, b := range backends {
		upstream += b.Conns()
	}
	t.Logf("%d idle clients: %.1f MiB; %d upstream connections to %d backends", clients, float64(grown)/mebibyte, upstream, servers)
	if grown > 25*mebibyte && !harness.Race {
		t.Errorf("%d idle client connections cost %d MiB, want at most 25", clients, grown/mebibyte)
	}
	if upstream > 40 {
		t.Errorf("%d upstream connections, want at most 40", upstream)
	}
}
