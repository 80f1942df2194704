package session

import (
	"github.com/trunkline/trunkline/codec/h2"
	"github.com/trunkline/trunkline/codec/hpack"
)

// Stream is one HTTP/2 stream of a connection (RFC 9113 section 5). All fields are guarded by the shard.
type Stream struct {
	ID    uint32
	Owner any // the handler's; cleared when the stream is recycled

	conn       *Conn
	recvClosed bool // the peer has ended its side
	sendClosed bool // we have ended ours
	headersIn  bool // the peer's (final) header block has come
	told       bool // HandleReset was called
	queued     bool // stands in conn.waiting
	spoke      bool // data was sent on it

	sendWin    int32 // bytes that we may send; below 0 after the peer shrank its initial window
	recvWin    int32 // bytes that the peer may send
	recvCredit int32 // bytes handed over, not yet given back
	recvMax    int32 // the window that we aim to keep open
	declared   int64 // content-length, or -1
	received   int64 // bytes of DATA so far

	pend     []byte // what could not be sent yet, from pendOff; owned, from the shard's pool
	pendOff  int
	pendEnd  bool           // END_STREAM follows pend
	trailers []*hpack.Field // to be sent after pend, with END_STREAM; one reference each
	resetTo  h2.Code        // after all that: RST_STREAM with this code
	resetSet bool
	budget   *Budget // of the client; may be nil
	born     int64   // when it began: Env.Now
	since    int64   // when what waits last moved, or began to wait, or got a window

	// HeadersAt is the connection's output offset (Conn.Appended) at which our header block ended: compare with Conn.Written.
	HeadersAt int64

	prev, next *Stream // in conn.waiting
}

// RecvClosed says whether the peer has ended its side.
func (s *Stream) RecvClosed() bool { return s.recvClosed }

// SendClosed says whether we have ended our side.
func (s *Stream) SendClosed() bool { return s.sendClosed }

// Ending says whether the last thing that we will say on the stream is said or queued.
func (s *Stream) Ending() bool { return s.sendClosed || s.pendEnd || s.trailers != nil }

// Held is how many bytes wait on the stream.
func (s *Stream) Held() int { return len(s.pend) - s.pendOff }

// table finds streams by id: open addressing over a power of two; ids of live streams are mostly neighbours, so that the
// low bits of id/2 are a perfect hash almost always.
type table struct {
	slots []*Stream
	n     int
}

func (t *table) get(id uint32) *Stream {
	if t.n == 0 {
		return nil
	}
	mask := uint32(len(t.slots) - 1)
	for i := (id >> 1) & mask; ; i = (i + 1) & mask {
		s := t.slots[i]
		if s == nil || s.ID == id {
			return s
		}
	}
}

func (t *table) put(s *Stream) {
	if 2*t.n >= len(t.slots) {
		old := t.slots
		t.slots = make([]*Stream, max(8, 2*len(old)))
		for _, o := range old {
			if o != nil {
				t.insert(o)
			}
		}
	}
	t.insert(s)
	t.n++
}

// insert keeps those that are farther from home in front (Robin Hood hashing), so that del can stop early.
func (t *table) insert(s *Stream) {
	mask := uint32(len(t.slots) - 1)
	i := (s.ID >> 1) & mask
	for far := uint32(0); t.slots[i] != nil; far++ {
		if o := t.slots[i]; (i-o.ID>>1)&mask < far {
			t.slots[i], s = s, o
			far = (i - s.ID>>1) & mask
		}
		i = (i + 1) & mask
	}
	t.slots[i] = s
}

func (t *table) del(id uint32) {
	mask := uint32(len(t.slots) - 1)
	i := (id >> 1) & mask
	for t.slots[i] == nil || t.slots[i].ID != id {
		if t.slots[i] == nil {
			return
		}
		i = (i + 1) & mask
	}
	t.n--
	// Close the gap: move back all that follow, up to the first that is at home.
	for {
		j := (i + 1) & mask
		if o := t.slots[j]; o == nil || (o.ID>>1)&mask == j {
			break
		}
		t.slots[i] = t.slots[j]
		i = j
	}
	t.slots[i] = nil
}

// each calls f for the streams that are in the table now; f may close any of them, and the Stream of one that it closes may
// serve another connection by the time its turn would have come: hence ids.
func (t *table) each(f func(*Stream)) {
	if t.n == 0 {
		return
	}
	live := make([]uint32, 0, t.n)
	for _, s := range t.slots {
		if s != nil {
			live = append(live, s.ID)
		}
	}
	for _, id := range live {
		if s := t.get(id); s != nil {
			f(s)
		}
	}
}
