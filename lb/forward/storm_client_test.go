package forward

import (
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/net/http2"
)

// reply is what a client got of one call.
type reply struct {
	heads, ends int
	mark        string
}

// listener is one client's ears. Guarded by its mutex.
type listener struct {
	mu      sync.Mutex
	replies map[uint32]*reply
	quit    map[uint32]bool // we reset it
	lost    bool            // we cut the connection
}

func (l *listener) hear(st *storm) func(p *peer, f http2.Frame) {
	c := st.c
	return func(p *peer, f http2.Frame) {
		id := f.Header().StreamID
		l.mu.Lock()
		defer l.mu.Unlock()
		r := l.replies[id]
		if r == nil {
			r = &reply{}
			l.replies[id] = r
		}
		fail := func(format string, args ...any) {
			st.mu.Lock()
			st.wrong("%s, stream %d: %s", p.name, id, fmt.Sprintf(format, args...))
			st.mu.Unlock()
		}
		var end bool
		switch f := f.(type) {
		case *http2.MetaHeadersFrame:
			end = f.StreamEnded()
			if f.PseudoValue("status") == "103" {
				return
			}
			for _, h := range f.RegularFields() {
				if h.Name == "mark" {
					if r.mark != "" && r.mark != h.Value {
						fail("mark %s after %s", h.Value, r.mark)
					}
					r.mark = h.Value
				}
			}
			if status := f.PseudoValue("status"); (status != "") != (r.heads == 0) {
				fail("header block %d has status %q", r.heads, status)
			}
			if r.heads++; r.heads == 2 && !end {
				fail("a second header block that does not end it")
			}
			if end {
				for _, h := range f.RegularFields() {
					if h.Name == "grpc-status" {
						st.mu.Lock()
						st.counted["status "+h.Value]++
						st.mu.Unlock()
						if h.Value == "0" && r.mark == "" {
							fail("an OK that no endpoint said")
						}
					}
				}
			}
		case *http2.DataFrame:
			end = f.StreamEnded()
			for _, b := range f.Data() {
				if b >= 128 && strconv.Itoa(int(b)) != r.mark {
					fail("data of %d after the headers of %s", b, r.mark)
					break
				}
			}
			if n := uint32(len(f.Data())); n > 0 {
				p.window(0, n)
				if !end && !c.yes(5) { // some stop reading
					if c.yes(30) {
						time.AfterFunc(time.Duration(c.n(700))*time.Millisecond, func() { p.window(id, n) })
					} else {
						p.window(id, n)
					}
				}
			}
		case *http2.RSTStreamFrame:
			if r.ends == 0 {
				r.ends++
			}
			return
		case *http2.GoAwayFrame:
			fail("GOAWAY %v %s", f.ErrCode, f.DebugData())
			return
		default:
			return
		}
		if r.ends > 0 && !l.quit[id] {
			fail("%v after its end", f)
		}
		if end {
			r.ends++
		}
	}
}

// client makes calls of all kinds.
func (st *storm) client(k, calls int, wg *sync.WaitGroup) *listener {
	c := st.c
	l := &listener{replies: map[uint32]*reply{}, quit: map[uint32]bool{}}
	var set []http2.Setting
	if k%2 == 0 {
		set = append(set, http2.Setting{ID: http2.SettingInitialWindowSize, Val: pick(c, uint32(0), 10, 1000)})
	}
	p := st.automatic(l.hear(st), set...)
	if k%2 == 0 && set[0].Val == 0 {
		// Windows open late.
		go func() {
			time.Sleep(500 * time.Millisecond)
			p.do(func() error { return p.fr.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 2000}) })
		}()
	}
	wg.Go(func() {
		for i := range calls {
			id := uint32(2*i + 1)
			ta := &tale{id: fmt.Sprintf("%d-%d", k, id), once: c.yes(40), extra: c.yes(10)}
			pieces := c.n(4)
			var parts []string
			for range pieces {
				n := c.n(pick(c, 10, 100, 9000))
				parts = append(parts, string([]byte{0, 0, 0, byte(n >> 8), byte(n)})+strings.Repeat(string(rune('a'+i%26)), n))
			}
			for j := range parts { // messages need not be frames
				if j > 0 && c.yes(30) {
					cut := c.n(len(parts[j]) + 1)
					parts[j-1] += parts[j][:cut]
					parts[j] = parts[j][cut:]
				}
			}
			ta.body = strings.Join(parts, "")
			st.mu.Lock()
			st.calls[ta.id] = ta
			st.mu.Unlock()
			path := "/s.S/Idem"
			if ta.once {
				path = pick(c, "/s.S/Once", "/s.S/Other")
			}
			kv := []string{":method", "POST", ":scheme", "http", ":path", path, ":authority", "a", "te", "trailers", "content-type", "application/grpc",
				"x-call", ta.id, "x-user", pick(c, "a", "b", "c", "d", "e")}
			timed := c.yes(75)
			if timed {
				kv = append(kv, "grpc-timeout", fmt.Sprintf("%dm", 1+c.n(pick(c, 50, 2000, 8000))))
			}
			if c.yes(10) {
				kv = append(kv, "grpc-previous-rpc-attempts", "1")
			}
			if c.yes(5) {
				kv = append(kv, "x-long", strings.Repeat("l", freeMetadata+c.n(3000)))
			}
			p.block(id, len(parts) == 0 && !ta.extra, kv...)
			quit := c.yes(10) || !timed
			after := time.Duration(c.n(pick(c, 1, 50, 3000))) * time.Millisecond
			if !timed {
				after += 2 * time.Second
			}
			late := c.yes(30)
			wg.Go(func() {
				stalled := c.yes(5) && timed
				for j, s := range parts {
					if late {
						time.Sleep(time.Duration(c.n(150)) * time.Millisecond)
					}
					if stalled && j == len(parts)-1 {
						return
					}
					l.mu.Lock()
					over := l.quit[id] || l.lost
					l.mu.Unlock()
					if over {
						return
					}
					for len(s) > 16000 {
						p.data(id, s[:16000], false)
						s = s[16000:]
					}
					p.data(id, s, j == len(parts)-1 && !ta.extra)
				}
				if ta.extra {
					l.mu.Lock()
					over := l.quit[id] || l.lost
					l.mu.Unlock()
					if !over {
						p.block(id, true, "x-trailer", "y")
					}
				}
			})
			if quit {
				wg.Go(func() {
					time.Sleep(after)
					l.mu.Lock()
					if r := l.replies[id]; r != nil && r.ends > 0 {
						l.mu.Unlock()
						return
					}
					l.quit[id] = true
					l.mu.Unlock()
					p.rst(id, http2.ErrCodeCancel)
				})
			}
			if c.yes(40) {
				time.Sleep(time.Duration(c.n(150)) * time.Millisecond)
			}
			if k == 1 && i == calls/2 {
				l.mu.Lock()
				l.lost = true
				l.mu.Unlock()
				_ = p.nc.Close()
				return
			}
		}
	})
	return l
}
