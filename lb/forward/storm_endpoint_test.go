package forward

import (
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/net/http2"
)

// endpoint answers as bad ones do; what it says carries the attempt's mark.
func (st *storm) endpoint() func(p *peer, f http2.Frame) {
	c := st.c
	var mu sync.Mutex // what is noted and what is said of it are one
	visits := map[*peer]map[uint32]*visit{}
	lasts := map[*peer]uint32{} // of GOAWAYs
	get := func(p *peer, id uint32) *visit {
		mu.Lock()
		defer mu.Unlock()
		return visits[p][id]
	}
	return func(p *peer, f http2.Frame) {
		id := f.Header().StreamID
		var end bool
		switch f := f.(type) {
		case *http2.MetaHeadersFrame:
			end = f.StreamEnded()
			v := get(p, id)
			if v == nil {
				mu.Lock()
				last, leaving := lasts[p]
				leaving = leaving && id > last
				v = st.visited(p, f, leaving)
				if visits[p] == nil {
					visits[p] = map[uint32]*visit{}
				}
				visits[p][id] = v
				mu.Unlock()
				if leaving {
					return
				}
			} else {
				st.mu.Lock()
				if !v.tale.extra || !end {
					st.wrong("%s at %s: trailers that the client never sent", v.tale.id, v.at)
				}
				st.mu.Unlock()
			}
			if end {
				st.whole(v, len(f.PseudoFields()) == 0)
			}
		case *http2.DataFrame:
			end = f.StreamEnded()
			v := get(p, id)
			st.mu.Lock()
			v.got = append(v.got, f.Data()...)
			if st.watched && strings.Contains(string(f.Data()), foulLetter+foulLetter) {
				st.wrong("%s at %s: a foul message", v.tale.id, v.at)
			}
			if !strings.HasPrefix(v.tale.body, string(v.got)) {
				st.wrong("%s at %s: %d bytes that are not the beginning of the request", v.tale.id, v.at, len(v.got))
			}
			st.mu.Unlock()
			if end {
				st.whole(v, false)
			}
			if n := uint32(len(f.Data())); n > 0 && !c.yes(4) { // some never give window back
				p.window(id, n)
				p.window(0, n)
			}
		case *http2.RSTStreamFrame:
			if v := get(p, id); v != nil {
				st.mu.Lock()
				v.ended = true
				st.mu.Unlock()
			}
			return
		default:
			return
		}
		if !end && !c.yes(15) {
			return
		}
		v := get(p, id)
		answer := func() {
			tell := func(do func(v *visit), say func()) { // noted before it is said: what follows from it comes after
				mu.Lock()
				defer mu.Unlock()
				st.mu.Lock()
				if v.answered || v.ended || v.refused {
					st.mu.Unlock()
					return
				}
				do(v)
				st.mu.Unlock()
				say()
			}
			name := fmt.Sprint(v.mark)
			head := func() {
				tell(func(v *visit) { v.said = true }, func() {
					p.block(id, false, ":status", "200", "content-type", "application/grpc", "mark", name)
				})
			}
			message := func(cut bool) {
				n := c.n(16000)
				b := string([]byte{0, 0, 0, byte(n >> 7 & 0x7f), byte(n & 0x7f)})
				n = n>>7&0x7f<<8 | n&0x7f
				b += strings.Repeat(string([]byte{v.mark}), n)
				if cut {
					b = b[:c.n(len(b))]
				}
				p.data(id, b[:min(len(b), 16000)], false)
				if len(b) > 16000 {
					p.data(id, b[16000:], false)
				}
			}
			trail := func(status string, kv ...string) {
				tell(func(v *visit) { v.answered = true }, func() {
					p.block(id, true, append([]string{"grpc-status", status, "mark", name}, kv...)...)
				})
			}
			only := func(status string, kv ...string) {
				tell(func(v *visit) { v.answered, v.said = true, true }, func() {
					p.block(id, true, append([]string{":status", "200", "content-type", "application/grpc", "grpc-status", status, "mark", name}, kv...)...)
				})
			}
			reset := func(code http2.ErrCode) {
				tell(func(v *visit) {
					v.ended, v.refused = true, code == http2.ErrCodeRefusedStream && !v.said
				}, func() { p.rst(id, code) })
			}
			pause := func() {
				if c.yes(40) {
					time.Sleep(time.Duration(c.n(400)) * time.Millisecond)
				}
			}
			bad := func() string { return pick(c, "14", "14", "14", "8", "13", "4", "1", "3", "77", "x") }
			var push []string
			if c.yes(20) {
				push = []string{"grpc-retry-pushback-ms", pick(c, "-1", "0", "20", "500", "99999999", "x")}
			}
			kind := c.n(24)
			st.mu.Lock()
			v.how += fmt.Sprintf(" %d@%v", kind, time.Since(st.began))
			st.mu.Unlock()
			switch kind {
			case 0, 1:
				reset(http2.ErrCodeRefusedStream)
			case 2:
				reset(http2.ErrCode(c.n(16)))
			case 3:
				head()
				pause()
				reset(pick(c, http2.ErrCodeRefusedStream, http2.ErrCodeInternal, http2.ErrCodeCancel, http2.ErrCodeNo))
			case 4:
				head()
				pause()
				message(true)
				pause()
				reset(pick(c, http2.ErrCodeRefusedStream, http2.ErrCodeInternal))
			case 5:
				last := (id - uint32(2*c.n(3))) & 0x7fffffff
				mu.Lock()
				if old, ok := lasts[p]; ok {
					last = min(last, old)
				}
				lasts[p] = last
				st.mu.Lock()
				for k, v := range visits[p] {
					if k > last && !v.said {
						v.refused = true
					}
				}
				st.mu.Unlock()
				p.goAway(last, http2.ErrCodeNo)
				mu.Unlock()
				pause()
				only("0")
			case 6:
				if c.yes(40) {
					_ = p.nc.Close()
				}
			case 7: // silence
			case 8, 9, 10:
				only(bad(), push...)
			case 11, 12:
				head()
				pause()
				trail(bad(), push...)
			case 13:
				head()
				message(true)
				pause()
				trail(bad(), push...)
			case 14:
				head()
				message(false)
				pause()
				trail(bad(), push...)
			case 15:
				only(bad(), append(push, "grpc-retry-pushback-ms", "7")...)
			case 16: // no trailers
				head()
				tell(func(v *visit) { v.answered = true }, func() {
					p.data(id, string([]byte{v.mark, v.mark}), true)
				})
			case 17:
				tell(func(v *visit) { v.said = true }, func() {
					p.block(id, false, ":status", "103", "hint", "x")
				})
				pause()
				head()
				trail("0")
			case 18:
				trail("0")
				reset(http2.ErrCodeNo)
			case 19:
				tell(func(v *visit) { v.answered, v.said = true, true }, func() {
					p.block(id, true, ":status", pick(c, "503", "429", "404", "502"))
				})
			default:
				head()
				for range c.n(4) {
					message(false)
					pause()
				}
				trail("0")
				if c.yes(20) {
					reset(http2.ErrCodeNo)
				}
			}
		}
		if c.yes(50) {
			d := time.Duration(c.n(pick(c, 5, 100, 3000))) * time.Millisecond
			time.AfterFunc(d, answer)
		} else {
			go answer()
		}
	}
}

// visited is an attempt's coming to an endpoint: the laws of who may come.
func (st *storm) visited(p *peer, f *http2.MetaHeadersFrame, refused bool) *visit {
	var name string
	before := 0
	for _, h := range f.RegularFields() {
		switch h.Name {
		case "x-call":
			name = h.Value
		case "grpc-previous-rpc-attempts":
			before, _ = strconv.Atoi(h.Value)
		}
	}
	st.mu.Lock()
	defer st.mu.Unlock()
	ta := st.calls[name]
	at, _, _ := strings.Cut(p.name, "[")
	if ta == nil {
		st.wrong("%s got a request that nobody made: %v", at, f.Fields)
		ta = &tale{id: "nobody's"}
	}
	if ta.stopped {
		st.wrong("%s came to %s though the gate had not let it pass", ta.id, at)
	}
	st.marks++
	v := &visit{at: at, tale: ta, mark: byte(128 + st.marks%120), refused: refused}
	if refused { // by a GOAWAY that was on its way: the call may be elsewhere by now
		return v
	}
	count := 1
	for _, o := range ta.seen {
		if o.refused {
			continue
		}
		count++
		if ta.once && !o.answered {
			st.wrong("%s, not idempotent, came to %s after %s had it (said something: %v):%s; now %v", ta.id, at, o.at, o.said, o.how, time.Since(st.began))
		}
	}
	if count > st.most {
		st.wrong("%s: %d attempts that count", ta.id, count)
	}
	if before > 5 {
		st.wrong("%s: %d attempts before", ta.id, before)
	}
	if count > 1 {
		st.counted["again"]++
	}
	ta.seen = append(ta.seen, v)
	return v
}

// whole: the request's end has come, so all of it has.
func (st *storm) whole(v *visit, trailers bool) {
	st.mu.Lock()
	defer st.mu.Unlock()
	if string(v.got) != v.tale.body || trailers != (v.tale.extra && !st.watched && !v.tale.changed) {
		st.wrong("%s at %s: the request ended after %d of %d bytes, trailers %v, not %v", v.tale.id, v.at, len(v.got), len(v.tale.body), trailers, v.tale.extra)
	}
}
