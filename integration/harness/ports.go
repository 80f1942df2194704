package harness

import (
	"fmt"
	"math/rand/v2"
	"net"
	"testing"
)

// Ports are taken below the range that Linux gives to outgoing connections (32768 and up, see ip_local_port_range):
// a port of that range can be taken by anybody's client socket between our look and the child's bind.
const (
	firstPort = 12000
	lastPort  = 31999
)

// FreeAddr reserves a loopback address, "127.0.0.1:port", that no other test process will be given until this test ends.
func FreeAddr(t testing.TB) string {
	t.Helper()
	return fmt.Sprintf("127.0.0.1:%d", freePort(t))
}

func freePort(t testing.TB) int {
	t.Helper()
	for range 1000 {
		port := firstPort + rand.IntN(lastPort-firstPort)
		// A name in the abstract socket space belongs to one process and goes with it, however it ends.
		lock, err := net.Listen("unix", fmt.Sprintf("@trunkline-test-port-%d", port))
		if err != nil {
			continue // another test process holds it
		}
		if !bindable(port) {
			lock.Close()
			continue
		}
		t.Cleanup(func() { lock.Close() })
		return port
	}
	t.Fatal("ports: no free port in 1000 tries")
	return 0
}

// bindable says whether nobody listens on the port, for TCP and for UDP (Consul's gossip wants both).
func bindable(port int) bool {
	addr := fmt.Sprintf("127.0.0.1:%d", port)
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return false
	}
	l.Close()
	u, err := net.ListenPacket("udp", addr)
	if err != nil {
		return false
	}
	return u.Close() == nil
}
