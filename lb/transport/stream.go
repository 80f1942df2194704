package transport

import "net"

// stream is any net.Conn, used by blocking calls outside of the shard: in-memory connections of tests, and systems without
// file descriptors. A flusher goroutine lives while there is something to write.
type stream struct {
	nc net.Conn
}

const streamChunk = 32 << 10

func (s *stream) read(c *Conn) error {
	chunk := make([]byte, streamChunk+2*streamChunk)
	c.Shard.Lock()
	k := copy(chunk, c.rest) // bytes of a partial frame at the head of chunk
	c.Shard.Unlock()
	for {
		n, err := s.nc.Read(chunk[k:])
		if n > 0 {
			c.Shard.Enter()
			if c.gone {
				c.Shard.Leave()
				return errClosed
			}
			c.feed(chunk[:k+n])
			k = copy(chunk, c.rest)
			c.Shard.Leave()
		}
		if err != nil {
			return err
		}
	}
}

// write takes nothing at once: the flusher does it.
func (s *stream) write([]byte) (int, error) { return 0, nil }

func (s *stream) flush(c *Conn) {
	for {
		c.Shard.Enter()
		if c.gone {
			c.Shard.Leave()
			return
		}
		out := c.Sess.TakeOutput()
		if len(out) == 0 {
			c.Sess.Blocked = false
			c.Sess.Pump()
			if len(c.Sess.Output()) == 0 {
				c.flushing = false
				c.goodbye()
				c.Shard.Leave()
				return
			}
			c.Sess.Blocked = true
			out = c.Sess.TakeOutput()
		}
		c.Shard.Leave()
		_, err := s.nc.Write(out)
		c.Shard.Enter()
		c.Shard.Env.Buffers.Put(out)
		if err != nil {
			c.End(err)
		}
		c.Shard.Leave()
	}
}

func (s *stream) closeWrite() {
	if cw, ok := s.nc.(interface{ CloseWrite() error }); ok {
		_ = cw.CloseWrite() // a peer that is gone is told nothing
	}
}

func (s *stream) close() { _ = s.nc.Close() }
func (s *stream) drop()  {}
