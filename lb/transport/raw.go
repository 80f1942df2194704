//go:build unix

package transport

import (
	"io"
	"net"
	"os"
	"runtime"
	"syscall"
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

func newSocket(nc net.Conn) socket {
	sc, ok := nc.(interface {
		syscall.Conn
		CloseWrite() error
	})
	if !ok {
		return &stream{nc: nc}
	}
	rc, err := sc.SyscallConn()
	if err != nil {
		return &stream{nc: nc}
	}
	r := &raw{nc: nc, rc: rc, fd: -1}
	if err := rc.Control(func(fd uintptr) { r.fd = int(fd) }); err != nil || r.fd < 0 {
		return &stream{nc: nc}
	}
	return r
}

// turns is how many full chunks one connection may bring before others get the processor.
const turns = 4

func (r *raw) read(c *Conn) error {
	var end error
	for end == nil {
		err := r.rc.Read(func(uintptr) (done bool) {
			done, end = r.turn(c)
			return done
		})
		if end == nil && err != nil {
			end = err
		}
		runtime.Gosched() // it had its turns
	}
	return end
}

// turn reads until nothing is left (done is false: wait) or the connection had its turns, or is over (err says why).
func (r *raw) turn(c *Conn) (done bool, err error) {
	// To EAGAIN: waiting after a short read could miss a FIN that came with the data.
	for range turns {
		c.Shard.Lock()
		if c.gone {
			c.Shard.Unlock()
			return true, errClosed
		}
		chunk := c.Shard.ReadBuffer()
		k := copy(chunk, c.rest)
		n, err := sysRead(r.fd, chunk[k:])
		if n <= 0 || err != nil {
			c.Shard.Unlock()
			switch err {
			case syscall.EAGAIN:
				return false, nil
			case syscall.EINTR:
				continue
			case nil:
				return true, io.EOF
			}
			return true, os.NewSyscallError("read", err)
		}
		c.Shard.Tick()
		c.feed(chunk[:k+n])
		c.Shard.LeaveBatch()
	}
	return true, nil
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
		n, err := r.write(out)
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
