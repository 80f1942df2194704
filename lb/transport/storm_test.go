package transport

import (
	"bytes"
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"crypto/tls"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/http2"

	"github.com/trunkline/trunkline/codec/session"
	"github.com/trunkline/trunkline/lb/shard"
)

// Connections over TLS on one shard, whose clients read slowly or not at all, and go at any moment in any way. More seeds:
// TRUNKLINE_CHAOS_SEEDS=100 (and TRUNKLINE_CHAOS_FROM for the first).
func TestHoweverClientsGoTheirConnectionsOverTLSLeaveNothing(t *testing.T) {
	from, n := uint64(0), uint64(3)
	if v, err := strconv.ParseUint(os.Getenv("TRUNKLINE_CHAOS_SEEDS"), 10, 32); err == nil {
		n = v
	}
	if v, err := strconv.ParseUint(os.Getenv("TRUNKLINE_CHAOS_FROM"), 10, 32); err == nil {
		from = v
	}
	cfg := &tls.Config{Certificates: []tls.Certificate{identity(t)}, NextProtos: []string{"h2"}, DynamicRecordSizingDisabled: true}
	for seed := from; seed < from+n; seed++ {
		t.Run(fmt.Sprint(seed), func(t *testing.T) { tlsStorm(t, seed, cfg) })
	}
}

func tlsStorm(t *testing.T, seed uint64, cfg *tls.Config) {
	s := shard.New(0, time.Now(), 1)
	slots := make(Slots, 1)
	var mu sync.Mutex
	rnd := rand.New(rand.NewPCG(seed, 11))
	chance := func(n int) int { mu.Lock(); defer mu.Unlock(); return rnd.IntN(n) }
	var wg sync.WaitGroup
	var servers []*server
	whole := 0 // clients that got all that they asked for
	for range 24 {
		ours, theirs := sockets(t)
		version := uint16(tls.VersionTLS12 + chance(2))
		wg.Go(func() {
			defer theirs.Close()
			c := tls.Client(theirs, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"h2"}, MaxVersion: version})
			if chance(10) == 0 {
				time.AfterFunc(time.Duration(chance(3000))*time.Microsecond, func() { _ = theirs.Close() }) // perhaps amid the handshake
			}
			if c.Handshake() != nil {
				return
			}
			calls := 1 + chance(8)
			hello(c, calls, uint32(1000+chance(1<<20)))
			ends := chance(3) == 0
			left := 1 << 40
			if !ends {
				left = chance(400 << 10)
			}
			fr := http2.NewFramer(c, io.LimitReader(slow{c}, int64(left)))
			for ended := 0; ended < calls; {
				f, err := fr.ReadFrame()
				if err != nil {
					break
				}
				if d, ok := f.(*http2.DataFrame); ok {
					if k := uint32(len(d.Data())); k > 0 && !d.StreamEnded() {
						_ = fr.WriteWindowUpdate(d.StreamID, k)
					}
					if d.StreamEnded() {
						ended++
					}
				}
				if ended == calls {
					mu.Lock()
					whole++
					mu.Unlock()
				}
			}
			switch chance(5) {
			case 0:
				_ = theirs.SetLinger(0)
			case 1:
				_ = c.Close()
			case 2:
				_ = c.CloseWrite()
				_, _ = io.Copy(io.Discard, c)
			case 3:
				_, _ = theirs.Write([]byte{23, 3, 3, 0, 20, 1, 2, 3})
			}
		})
		nc, err := SecureServer(context.Background(), ours, nil, cfg, slots)
		if err != nil {
			_ = ours.Close()
			continue
		}
		v := &server{s: s, body: make([]byte, chance(200<<10))}
		servers = append(servers, v)
		v.in(func() {
			v.c = New(s, nc, session.Server, &limits, v)
			v.c.OnGone = func(err error) { v.gone++; v.err = err }
			if chance(6) == 0 { // we go first
				time.AfterFunc(time.Duration(chance(20))*time.Millisecond, func() {
					v.in(func() {
						if chance(2) == 0 {
							v.c.Finish()
						} else {
							v.c.End(errors.New("cut"))
						}
					})
				})
			}
		})
		wg.Go(v.c.Serve)
	}
	wg.Wait()
	time.Sleep(25 * time.Millisecond) // what we wanted to end is over anyhow
	s.Enter()
	defer s.Leave()
	for i, v := range servers {
		if v.gone != 1 || v.open != 0 {
			t.Errorf("connection %d: gone %d times, %d streams are open", i, v.gone, v.open)
		}
	}
	if n, m := s.Env.Interner.Len(), s.Env.Buffers.Outstanding(); n != 0 || m != 0 {
		t.Errorf("%d fields and %d buffers are left", n, m)
	}
	if whole == 0 || len(servers) < 10 {
		t.Errorf("%d of %d connections were used to their end: the test says little", whole, len(servers))
	}
	s.Timer.Stop()
}

// forger seals records as a TLS 1.3 client would (RFC 8446 sections 5.2 and 7).
type forger struct {
	secret []byte
	seq    uint64
}

func (f *forger) expand(label string, n int) []byte {
	label = "tls13 " + label
	out, err := hkdf.Expand(sha256.New, f.secret, string([]byte{0, byte(n), byte(len(label))})+label+"\x00", n)
	if err != nil {
		panic(err)
	}
	return out
}

func (f *forger) seal(typ byte, content []byte) []byte {
	b, err := aes.NewCipher(f.expand("key", 16))
	if err != nil {
		panic(err)
	}
	a, err := cipher.NewGCM(b)
	if err != nil {
		panic(err)
	}
	nonce := f.expand("iv", 12)
	binary.BigEndian.PutUint64(nonce[4:], binary.BigEndian.Uint64(nonce[4:])^f.seq)
	f.seq++
	n := len(content) + 17
	record := []byte{23, 3, 3, byte(n >> 8), byte(n)}
	return a.Seal(record, nonce, append(bytes.Clone(content), typ), record[:5:5])
}

// newKeys is a KeyUpdate that asks for one.
func (f *forger) newKeys() []byte {
	r := f.seal(22, []byte{24, 0, 0, 1, 1})
	f.secret, f.seq = f.expand("traffic upd", 32), 0
	return r
}

// forged is a connection to ours whose client's keys are known.
func forged(t *testing.T) (v *server, wait func(), f *forger, theirs *net.TCPConn) {
	t.Helper()
	a, b := sockets(t)
	var keys strings.Builder
	c := tls.Client(b, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"h2"}, KeyLogWriter: &keys, MinVersion: tls.VersionTLS13})
	done := make(chan error, 1)
	go func() { done <- c.Handshake() }()
	ours, err := SecureServer(context.Background(), a, nil, &tls.Config{Certificates: []tls.Certificate{identity(t)}, NextProtos: []string{"h2"}}, nil)
	if err != nil || <-done != nil {
		t.Fatal(err)
	}
	if c.ConnectionState().CipherSuite != tls.TLS_AES_128_GCM_SHA256 {
		_ = b.Close()
		t.Skip("this machine prefers another cipher")
	}
	for line := range strings.Lines(keys.String()) {
		if w := strings.Fields(line); w[0] == "CLIENT_TRAFFIC_SECRET_0" {
			secret, _ := hex.DecodeString(w[2])
			f = &forger{secret: secret}
		}
	}
	v, wait = serve(t, ours, make([]byte, 10))
	return v, wait, f, b
}

func TestWhoChangesKeysAllTheTimeIsCutOffThoughDataComesBetween(t *testing.T) {
	v, wait, f, theirs := forged(t)
	go func() { _, _ = io.Copy(io.Discard, theirs) }()
	var said bytes.Buffer
	hello(&said, 1, 1<<20)
	for _, b := range said.Bytes() {
		for range 15 {
			if _, err := theirs.Write(f.newKeys()); err != nil {
				break
			}
		}
		if _, err := theirs.Write(f.seal(23, []byte{b})); err != nil {
			break
		}
	}
	wait()
	v.in(func() {
		if !errors.Is(v.err, errIdle) {
			t.Errorf("the end is %v", v.err)
		}
	})
	_ = theirs.Close()
}

func TestAKeyUpdateIsAnsweredThoughThereIsNothingElseToSay(t *testing.T) {
	v, wait, f, theirs := forged(t)
	eventually(t, func() (ok bool) { v.in(func() { ok = len(v.c.Sess.Output()) == 0 }); return ok }, "the beginning is not written")
	came := make(chan int, 100)
	go func() {
		defer close(came)
		b := make([]byte, 1)
		for {
			n, err := theirs.Read(b)
			if err != nil {
				return
			}
			came <- n
		}
	}()
	for drained := false; !drained; {
		select {
		case <-came:
		case <-time.After(100 * time.Millisecond): // handshake and SETTINGS
			drained = true
		}
	}
	_, _ = theirs.Write(f.newKeys())
	select {
	case <-came:
	case <-time.After(10 * time.Second):
		t.Error("no answer")
	}
	v.in(func() {
		if s := v.c.sock.(*sealed); s.wire.out != nil || s.off != 0 {
			t.Errorf("%d bytes are kept", len(s.wire.out))
		}
	})
	go func() {
		for range came { //nolint:revive // until it is closed
		}
	}()
	_ = theirs.Close()
	wait()
}
