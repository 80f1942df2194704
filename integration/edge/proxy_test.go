package edge

import (
	"context"
	"encoding/binary"
	"fmt"
	"net"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/trunkline/trunkline/integration/harness"
)

// after is a dialler that sends some bytes before anything else, as a proxy does; local is the address it comes from, "" for any.
func after(header []byte, local string) grpc.DialOption {
	return grpc.WithContextDialer(func(ctx context.Context, address string) (net.Conn, error) {
		d := net.Dialer{}
		if local != "" {
			d.LocalAddr = &net.TCPAddr{IP: net.ParseIP(local)}
		}
		nc, err := d.DialContext(ctx, "tcp", address)
		if err == nil {
			if _, err = nc.Write(header); err != nil {
				nc.Close()
			}
		}
		return nc, err
	})
}

func version1(from string) []byte {
	return fmt.Appendf(nil, "PROXY TCP4 %s 10.0.0.1 40000 443\r\n", from)
}

// version2 is a header with an address and one TLV that nobody knows; LOCAL without an address.
func version2(from string) []byte {
	b := []byte("\r\n\r\n\x00\r\nQUIT\n")
	if from == "" {
		return append(b, 0x20, 0, 0, 0)
	}
	ip := net.ParseIP(from)
	family, raw, to := byte(0x11), []byte(ip.To4()), []byte{10, 0, 0, 1}
	if raw == nil {
		family, raw, to = 0x21, ip.To16(), make([]byte, 16)
	}
	tlv := []byte{0xe0, 0, 4, 1, 2, 3, 4}
	b = append(b, 0x21, family)
	b = binary.BigEndian.AppendUint16(b, uint16(2*len(raw)+4+len(tlv)))
	b = append(append(b, raw...), to...)
	return append(append(b, 0x9c, 0x40, 1, 0xbb), tlv...)
}

func TestATrustedProxySaysWhereAConnectionComesFrom(t *testing.T) {
	ca := newAuthority(t, "edge test CA")
	b := startServer(t, "b")
	log := filepath.Join(t.TempDir(), "access.log")
	optional, overTLS, strangers := harness.FreeAddr(t), harness.FreeAddr(t), harness.FreeAddr(t)
	tr := harness.Start(t, config([]string{
		"{ address: LISTEN, proxyProtocol: { trusted: [ 127.0.0.1 ] } }",
		"{ address: '" + optional + "', proxyProtocol: { trusted: [ 127.0.0.0/8 ], optional: true } }",
		"{ address: '" + overTLS + "', proxyProtocol: { trusted: [ 127.0.0.1 ] }, tls: { " + ca.issue(nil, "localhost").yaml() + " } }",
		"{ address: '" + strangers + "', proxyProtocol: { trusted: [ 10.0.0.0/8 ] } }",
	}, b.Addr, "accessLog: { mode: all, path: "+log+" }", "limits: { maxConnectionsPerAddress: 40 }",
		"authorization: { rules: [ { name: not-from-there, action: deny, when: \"peer.address == '203.0.113.66'\" } ] }"))
	seen := func(t *testing.T, agent, peer string) {
		t.Helper()
		line := record(t, log, "the call", func(m map[string]any) bool { return strings.HasPrefix(m["user_agent"].(string), agent) })
		if host, _, _ := net.SplitHostPort(line["peer"].(string)); host != peer {
			t.Errorf("the record says that the client is %v, want %s", line["peer"], peer)
		}
	}
	for name, header := range map[string][]byte{"version-1": version1("203.0.113.7"), "version-2": version2("203.0.113.7"), "version-2-of-IPv6": version2("2001:db8::7")} {
		want := "203.0.113.7"
		if strings.HasSuffix(name, "6") {
			want = "2001:db8::7"
		}
		t.Run(name+" tells the client's address", func(t *testing.T) {
			mustCall(t, harness.Dial(t, tr.Listen, after(header, ""), grpc.WithUserAgent(name)))
			seen(t, name+" ", want)
		})
		t.Run(name+" tells it before TLS", func(t *testing.T) {
			if mustCall(t, dial(t, overTLS, secure(ca, "localhost"), after(header, ""), grpc.WithUserAgent("tls-"+name))).Version == 0 {
				t.Error("the call was without TLS")
			}
			seen(t, "tls-"+name+" ", want)
		})
		t.Run(name+" is taken where it may be absent", func(t *testing.T) {
			mustCall(t, harness.Dial(t, optional, after(header, ""), grpc.WithUserAgent("optional-"+name)))
			seen(t, "optional-"+name+" ", want)
		})
	}
	t.Run("LOCAL and UNKNOWN are the proxy's own connections", func(t *testing.T) {
		mustCall(t, harness.Dial(t, tr.Listen, after(version2(""), ""), grpc.WithUserAgent("local")))
		seen(t, "local ", "127.0.0.1")
		mustCall(t, harness.Dial(t, tr.Listen, after([]byte("PROXY UNKNOWN\r\n"), ""), grpc.WithUserAgent("unknown")))
		seen(t, "unknown ", "127.0.0.1")
	})
	t.Run("rules see the client's address, not the proxy's", func(t *testing.T) {
		mustSay(t, call(t, harness.Dial(t, tr.Listen, after(version1("203.0.113.66"), ""))), codes.PermissionDenied, "DENIED_BY_RULE", "rule not-from-there")
	})
	t.Run("optional: the header may be absent", func(t *testing.T) {
		mustCall(t, harness.Dial(t, optional, grpc.WithUserAgent("absent")))
		seen(t, "absent ", "127.0.0.1")
	})
	for name, cc := range map[string]*grpc.ClientConn{
		"a header from an address that is not trusted":          harness.Dial(t, strangers, after(version1("203.0.113.7"), "")),
		"a binary header from an address that is not trusted":   harness.Dial(t, strangers, after(version2("203.0.113.7"), "")),
		"a header from another address than the trusted":        harness.Dial(t, tr.Listen, after(version1("203.0.113.7"), "127.0.0.2")),
		"no header from a trusted address":                      harness.Dial(t, tr.Listen),
		"a header that is no header":                            harness.Dial(t, tr.Listen, after([]byte("PROXY TCP4 here there 1 2\r\n"), "")),
		"no header from a trusted address, but a TLS handshake": dial(t, overTLS, secure(ca, "localhost")),
		"two headers": harness.Dial(t, tr.Listen, after(append(version1("203.0.113.7"), version1("203.0.113.8")...), "")),
	} {
		t.Run(name, func(t *testing.T) {
			err := call(t, cc)
			if status.Code(err) != codes.Unavailable {
				t.Errorf("got %v, want a connection that is refused", err)
			}
		})
	}
	t.Run("an address that is not trusted is an ordinary client", func(t *testing.T) {
		mustCall(t, harness.Dial(t, strangers, grpc.WithUserAgent("ordinary")))
		seen(t, "ordinary ", "127.0.0.1")
	})
	t.Run("a flood of one client behind the proxy is that client's alone", func(t *testing.T) {
		var crowd []*grpc.ClientConn
		for range 40 {
			cc := harness.Dial(t, tr.Listen, after(version2("198.51.100.1"), ""))
			crowd = append(crowd, cc)
			mustCall(t, cc)
		}
		nc := version2("198.51.100.1")
		mustSay(t, call(t, harness.Dial(t, tr.Listen, after(nc, ""))), codes.Unavailable, "TOO_MANY_CONNECTIONS", "your address has 40 connections already")
		mustCall(t, harness.Dial(t, tr.Listen, after(version2("198.51.100.2"), "")))
		crowd[0].Close()
		harness.Eventually(t, limit, "a place to be free again", func() bool {
			return shortCall(t, harness.Dial(t, tr.Listen, after(nc, ""))) == nil
		})
	})
}
