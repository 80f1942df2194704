package listener

import (
	"bytes"
	"context"
	"io"
	"net"
	"strconv"
	"time"

	"github.com/trunkline/trunkline/codec/grpc"
	"github.com/trunkline/trunkline/codec/h2"
	"github.com/trunkline/trunkline/codec/hpack"
	"github.com/trunkline/trunkline/lb/transport"
)

// How many connections are told at once why they are turned away, and for how long: in a flood the others are just closed. Within the first
// part of that a client is to ask for something: gRPC's users read statuses, not GOAWAYs.
//
// Over TLS that takes a handshake, for which a client has tellFor, too. It is what turning away is to save, so a listener makes few of them.
const (
	maxTelling = 16
	maxTold    = 100 // in a second
	maxShaken  = 8   // in a second
	tellFor    = time.Second
	askFor     = 500 * time.Millisecond
	tellTo     = 64 << 10 // bytes that are read of a client that is turned away
)

// turnAway closes a connection that is too many, and says why if there is time for that. headed: its PROXY header was not read yet.
func (l *Listener) turnAway(g *guest, d *Door, headed bool, why tooMany) {
	if !l.guard.tell(time.Now()) {
		_ = g.Conn.Close()
		return
	}
	go func() {
		defer l.guard.hasTold()
		defer func() { _ = g.Conn.Close() }()
		if nc := l.reach(g, d, headed); nc != nil {
			sayWhy(nc, g.First, string(why))
		}
	}()
}

// reach is the connection where its client reads what is said: behind a PROXY header and, if the client begins so, inside of TLS. nil: the client
// does not come there, or it would cost too much.
func (l *Listener) reach(g *guest, d *Door, headed bool) net.Conn {
	ctx, cancel := context.WithTimeout(l.ctx, tellFor)
	defer cancel()
	_ = g.Conn.SetDeadline(time.Now().Add(tellFor))
	if headed {
		if _, err := l.header(g, d); err != nil {
			return nil
		}
	}
	if d == nil || d.TLS == nil {
		return g.Conn
	}
	secured, err := g.beginsTLS()
	switch {
	case err != nil && !d.Plaintext:
		return nil
	case !secured:
		return g.Conn
	case !l.guard.shake(time.Now()):
		return nil
	}
	s, err := transport.SecureServer(ctx, g.Conn, g.First, d.TLS.Config(), l.slots)
	if err != nil {
		return nil
	}
	if state := s.State(); !carriesCalls(&state) {
		return nil
	}
	g.First = nil
	return s.Blocking()
}

// sayWhy answers the first call of a client that is turned away, and tells it to go. first is what was read of it already.
func sayWhy(nc net.Conn, first []byte, why string) {
	now := time.Now()
	_ = nc.SetWriteDeadline(now.Add(tellFor))
	_ = nc.SetReadDeadline(now.Add(askFor))
	if _, err := nc.Write(h2.AppendSettings(nil)); err != nil {
		return
	}
	id, err := firstCall(io.LimitReader(io.MultiReader(bytes.NewReader(first), nc), tellTo))
	if err != nil && !isTimeout(err) {
		return
	}
	_ = nc.SetReadDeadline(now.Add(tellFor))
	if _, err := nc.Write(h2.AppendGoAway(refusal(id, why), id, h2.EnhanceYourCalm, why)); err == nil {
		linger(nc)
	}
}

func isTimeout(err error) bool {
	n, ok := err.(net.Error) //nolint:errorlint // it is as the connection gives it
	return ok && n.Timeout()
}

// firstCall is the stream of the first call that comes, whatever it is.
func firstCall(r io.Reader) (id uint32, err error) {
	var b [len(h2.Preface)]byte
	if _, err := io.ReadFull(r, b[:]); err != nil {
		return 0, err
	}
	for {
		if _, err := io.ReadFull(r, b[:h2.HeaderLen]); err != nil {
			return 0, err
		}
		h := h2.ParseHeader(b[:h2.HeaderLen])
		if _, err := io.CopyN(io.Discard, r, int64(h.Length)); err != nil {
			return 0, err
		}
		if (h.Type == h2.Headers || h.Type == h2.Continuation) && h.Has(h2.FlagEndHeaders) {
			return h.StreamID, nil
		}
	}
}

// refusal is the frames that answer the call on a stream; none if that is 0.
func refusal(id uint32, why string) []byte {
	if id == 0 {
		return nil
	}
	in := hpack.NewInterner()
	var fields []*hpack.Field
	for _, f := range [...][2]string{
		{":status", "200"}, {"content-type", "application/grpc"}, {"grpc-status", strconv.Itoa(int(grpc.Unavailable))},
		{"grpc-message", string(grpc.AppendMessage(nil, why))},
		{"grpc-status-details-bin", string(grpc.AppendStatusDetailsBin(nil, grpc.Unavailable, why, grpc.Details{Reason: "TOO_MANY_CONNECTIONS", Domain: "trunkline"}))},
	} {
		fields = append(fields, in.Intern(f[0], f[1]))
	}
	block := hpack.NewEncoder(in, 0).Append(nil, fields)
	out := append(h2.AppendHeader(nil, len(block), h2.Headers, h2.FlagEndHeaders|h2.FlagEndStream, id), block...)
	return h2.AppendRSTStream(out, id, h2.NoError)
}

// farewell lets what was said on a connection, a TLS alert, reach its client before the connection is closed.
func (l *Listener) farewell(nc net.Conn) {
	if !l.guard.tell(time.Now()) {
		return
	}
	defer l.guard.hasTold()
	_ = nc.SetDeadline(time.Now().Add(tellFor))
	linger(nc)
}

// tell takes one of the places of those that are told; false: none is free.
func (g *guard) tell(now time.Time) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.tick(now)
	if g.telling >= maxTelling || g.told >= maxTold {
		return false
	}
	g.telling++
	g.told++
	return true
}

// tick begins a second if the last one is over. Call it with mu.
func (g *guard) tick(now time.Time) {
	if now.Sub(g.second) >= time.Second {
		g.second, g.told, g.shaken = now, 0, 0
	}
}

// shake takes one of the second's handshakes with those that are told; false: none is left.
func (g *guard) shake(now time.Time) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.tick(now)
	if g.shaken >= maxShaken {
		return false
	}
	g.shaken++
	return true
}

// hasTold gives a place of tell's back.
func (g *guard) hasTold() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.telling--
}

// linger ends our side and reads until the client has ended its own: a close with unread input would destroy what was said.
func linger(nc net.Conn) {
	if cw, ok := nc.(interface{ CloseWrite() error }); ok {
		_ = cw.CloseWrite()
	}
	_, _ = io.Copy(io.Discard, io.LimitReader(nc, tellTo))
}
