//go:build unix

package transport

import (
	"io"
	"net"
	"os"
	"runtime"
	"syscall"
	"time"
)

// raw is a kernel socket, used through its file descriptor: Go's poller tells when to try, we read and write without
// blocking inside of the shard.
//
// The descriptor stays valid inside of the shard while Conn.gone is false: close is called only after gone was set.
type raw struct {
	nc net.Conn
	rc syscall.RawConn
	fd int
}

func newSocket(c *Conn, nc net.Conn) socket {
	t, secured := nc.(*Secured)
	if secured {
		nc = t.wire.Conn
	}
	r := newRaw(nc)
	switch {
	case r == nil && secured:
		return &stream{nc: t.tls}
	case r == nil:
		return &stream{nc: nc}
	case secured:
		return newSealed(c, r, t)
	}
	return r
}

// newRaw returns nil for what has no file descriptor.
func newRaw(nc net.Conn) *raw {
	sc, ok := nc.(interface {
		syscall.Conn
		CloseWrite() error
	})
	if !ok {
		return nil
	}
	rc, err := sc.SyscallConn()
	if err != nil {
		return nil
	}
	r := &raw{nc: nc, rc: rc, fd: -1}
	if err := rc.Control(func(fd uintptr) { r.fd = int(fd) }); err != nil || r.fd < 0 {
		return nil
	}
	return r
}

func (r *raw) read(c *Conn) error { return r.each(c, func() (bool, error) { return r.turn(c) }) }

// each has turn called whenever there may be something to read, until it returns an error.
func (r *raw) each(c *Conn, turn func() (done bool, err error)) error {
	var end error
	for end == nil {
		err := r.rc.Read(func(uintptr) (done bool) {
			done, end = turn()
			return done
		})
		if end == nil && err != nil {
			end = err
		}
		if c.wasteful {
			time.Sleep(pause)
		} else {
			runtime.Gosched() // it had its turns
		}
	}
	return end
}

// turn reads until nothing is left (done is false: wait) or the connection had its turns, or is over (err says why).
func (r *raw) turn(c *Conn) (done bool, err error) {
	// To EAGAIN: waiting after a short read could miss a FIN that came with the data.
	began := int64(0)
	for i := range turns {
		c.Shard.Lock()
		if c.gone {
			c.Shard.Unlock()
			return true, errClosed
		}
		if c.drained > maxDrain {
			c.Shard.Unlock()
			return false, nil // Close ends the wait
		}
		chunk := c.Shard.ReadBuffer()
		k := copy(chunk, c.rest)
		room := c.room()
		n, err := r.take(chunk[k : k+room])
		if n <= 0 {
			c.Shard.Unlock()
			return err != nil, err
		}
		late := c.tooLong(&began)
		c.feed(chunk[:k+n])
		late = c.ends(i, n, room, late)
		c.Shard.LeaveBatch()
		if late {
			break
		}
	}
	return true, nil
}

// take reads what is there: nothing and no error if that is nothing.
func (r *raw) take(p []byte) (int, error) {
	for {
		n, err := sysRead(r.fd, p)
		switch {
		case err == nil && n > 0:
			return n, nil
		case err == nil:
			return 0, io.EOF
		case err == syscall.EAGAIN:
			return 0, nil
		case err != syscall.EINTR:
			return 0, os.NewSyscallError("read", err)
		}
	}
}

func (r *raw) write(p []byte) (int, error) {
	for {
		n, err := sysWrite(r.fd, p)
		switch err {
		case nil:
			return n, nil
		case syscall.EAGAIN:
			return 0, nil
		case syscall.EINTR:
		default:
			return 0, os.NewSyscallError("write", err)
		}
	}
}

func (r *raw) flush(c *Conn) {
	_ = r.rc.Write(func(uintptr) bool { // its error is that the connection was closed: the reader tells
		c.Shard.Enter()
		defer c.Shard.Leave()
		if c.gone {
			return true
		}
		out := c.Sess.Output()
		n, err := c.sock.write(out)
		if err != nil {
			c.End(err)
			return true
		}
		c.Sess.Advance(n)
		if n < len(out) {
			return false
		}
		c.flushing, c.Sess.Blocked = false, false
		c.Sess.Pump()
		c.Flush()
		return true
	})
}

func (r *raw) closeWrite() { _ = syscall.Shutdown(r.fd, syscall.SHUT_WR) }
func (r *raw) close()      { _ = r.nc.Close() }
func (r *raw) drop()       {}
