package main

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"time"
)

// shakes says which handshakes a load makes instead of calls.
type shakes int

const (
	none shakes = iota
	full
	resumed
)

// beginShakes starts clients that connect, shake hands, wait for the peer's SETTINGS, and leave, again and again. What comes
// before the SETTINGS is the session ticket, so that the next handshake can be a resumed one.
func (l *load) beginShakes() {
	for range l.spec.conns {
		l.active.Add(1)
		l.wg.Go(func() {
			defer l.active.Add(-1)
			var sessions tls.ClientSessionCache
			if l.spec.shakes == resumed {
				sessions = tls.NewLRUClientSessionCache(1)
			}
			config := clientConfig(l.spec.hybrid, sessions)
			for first := true; !l.stopped.Load(); first = false {
				start := l.now()
				if err := shake(l.addr, config, sessions != nil && !first); err != nil {
					l.fail("handshake: %v", err)
					return
				}
				l.done.Add(1)
				if l.record.Load() {
					l.hist.record(l.now() - start)
				}
			}
		})
	}
}

// shake makes one connection.
func shake(addr string, config *tls.Config, resumed bool) error {
	nc, err := net.DialTimeout("tcp", addr, dialTimeout)
	if err != nil {
		return err
	}
	defer nc.Close()
	if err := errors.Join(nc.SetDeadline(time.Now().Add(dialTimeout)), nc.(*net.TCPConn).SetLinger(0)); err != nil { // no port waits afterwards
		return err
	}
	conn := tls.Client(nc, config)
	if err := conn.Handshake(); err != nil {
		return err
	}
	s := conn.ConnectionState()
	if err := checkTLS(s); err != nil {
		return err
	}
	if s.DidResume != resumed {
		return fmt.Errorf("resumed: %v, want %v", s.DidResume, resumed)
	}
	if _, err := conn.Write(appendSettings([]byte(preface))); err != nil {
		return err
	}
	var header [9]byte
	if _, err := io.ReadFull(conn, header[:]); err != nil {
		return err
	}
	if header[3] != frameSettings {
		return fmt.Errorf("the first frame is of type %d, not SETTINGS", header[3])
	}
	return nil
}
