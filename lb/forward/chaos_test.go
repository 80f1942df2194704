package forward

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/net/http2"

	"github.com/trunkline/trunkline/codec/grpc"
)

// chance is a source that several goroutines share.
type chance struct {
	mu  sync.Mutex
	rnd *rand.Rand
}

func (c *chance) n(n int) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.rnd.IntN(n)
}

// misbehave answers calls as bad endpoints do: at once, late, never, in part, by resets, GOAWAYs and a closed door.
func misbehave(c *chance) func(p *peer, f http2.Frame) {
	return func(p *peer, f http2.Frame) {
		id := f.Header().StreamID
		var end bool
		switch f := f.(type) {
		case *http2.MetaHeadersFrame:
			end = f.StreamEnded()
		case *http2.DataFrame:
			end = f.StreamEnded()
			n := uint32(len(f.Data()))
			if n > 0 && c.n(20) != 0 { // some never give window back
				p.window(id, n)
				p.window(0, n)
			}
		case *http2.RSTStreamFrame:
			return
		default:
			return
		}
		if !end && c.n(10) != 0 {
			return
		}
		answer := func() {
			switch c.n(16) {
			case 0:
				p.rst(id, http2.ErrCodeRefusedStream)
			case 1:
				p.rst(id, http2.ErrCode(c.n(16)))
			case 2:
				p.goAway(id-uint32(2*c.n(3))&0x7fffffff, http2.ErrCodeNo)
				p.ok(id)
			case 3:
				if c.n(6) == 0 {
					_ = p.nc.Close()
				} else {
					p.ok(id)
				}
			case 4: // a stall
			case 5:
				p.block(id, true, ":status", "200", "grpc-status", "8")
			case 6:
				p.head(id)
				p.rst(id, http2.ErrCodeInternal)
			case 7:
				p.head(id)
				p.data(id, strings.Repeat("y", c.n(16000)), false)
				p.data(id, strings.Repeat("z", c.n(16000)), true)
			case 8:
				p.data(id, "no headers", false)
			case 9:
				p.ok(id)
				p.rst(id, http2.ErrCodeNo)
			default:
				p.head(id)
				for range c.n(4) {
					p.data(id, strings.Repeat("y", c.n(16000)), false)
				}
				p.trail(id)
			}
		}
		if c.n(3) == 0 {
			time.AfterFunc(time.Duration(c.n(3000))*time.Millisecond, answer)
		} else {
			answer()
		}
	}
}

// outcomes checks what one client hears of each of its calls.
type outcomes struct {
	mu    sync.Mutex
	ended map[uint32]int
	reset map[uint32]bool // by us
	last  map[uint32]string
	bad   []string
}

func (o *outcomes) hear(c *chance) func(p *peer, f http2.Frame) {
	return func(p *peer, f http2.Frame) {
		o.mu.Lock()
		defer o.mu.Unlock()
		id := f.Header().StreamID
		var end bool
		switch f := f.(type) {
		case *http2.MetaHeadersFrame:
			end = f.StreamEnded()
		case *http2.DataFrame:
			end = f.StreamEnded()
			if n := uint32(len(f.Data())); n > 0 {
				p.window(0, n)
				if c.n(30) != 0 && !end { // some stop reading
					p.window(id, n)
				}
			}
		case *http2.RSTStreamFrame:
			if o.ended[id] == 0 {
				o.ended[id]++
			}
			return
		case *http2.GoAwayFrame:
			o.bad = append(o.bad, fmt.Sprintf("GOAWAY %v %s", f.ErrCode, f.DebugData()))
			return
		default:
			return
		}
		if o.ended[id] > 0 && !o.reset[id] {
			o.bad = append(o.bad, fmt.Sprintf("stream %d: %v after its end", id, f))
		}
		if end {
			o.ended[id]++
		}
	}
}

func TestWhateverEndpointsAndClientsDoEveryCallEndsOnceAndTheBooksBalance(t *testing.T) {
	for seed := range uint64(6) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { chaos(t, seed, 8, 150) })
		})
	}
}

func chaos(t *testing.T, seed uint64, clients, calls int) {
	c := &chance{rnd: rand.New(rand.NewPCG(seed, 99))}
	r := newRig(t, "one", "two", "three", "four")
	r.budget = 256 << 10
	r.opts.FillMark = 20
	r.on = misbehave(c)
	r.settings["two"] = []http2.Setting{{ID: http2.SettingMaxConcurrentStreams, Val: 3}}
	r.settings["three"] = []http2.Setting{{ID: http2.SettingInitialWindowSize, Val: 100}}
	var all []*outcomes
	var wg sync.WaitGroup
	for k := range clients {
		o := &outcomes{ended: map[uint32]int{}, reset: map[uint32]bool{}, last: map[uint32]string{}}
		all = append(all, o)
		var set []http2.Setting
		if k%2 == 0 {
			set = append(set, http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1000})
		}
		p := r.automatic(o.hear(c), set...)
		wg.Go(func() {
			for i := range calls {
				id := uint32(2*i + 1)
				parts := c.n(4)
				p.call(id, parts == 0, "grpc-timeout", fmt.Sprintf("%dm", 1+c.n(8000)), "x-id", fmt.Sprint(c.n(1000)))
				for j := range parts {
					p.data(id, strings.Repeat("x", c.n(9000)), j == parts-1 && c.n(10) != 0)
				}
				if c.n(12) == 0 {
					o.mu.Lock()
					o.reset[id] = true
					o.mu.Unlock()
					p.rst(id, http2.ErrCodeCancel)
				}
				if c.n(3) == 0 {
					time.Sleep(time.Duration(c.n(300)) * time.Millisecond)
				}
			}
		})
	}
	stop := make(chan struct{})
	wg2 := sync.WaitGroup{}
	wg2.Go(func() {
		names := []string{"one", "two", "three", "four"}
		for {
			select {
			case <-stop:
				return
			case <-time.After(500 * time.Millisecond):
			}
			a := names[c.n(4)]
			r.mu.Lock()
			if r.refuse[a] == nil && c.n(2) == 0 {
				r.refuse[a] = errors.New("refused")
			} else {
				delete(r.refuse, a)
			}
			r.mu.Unlock()
			if c.n(3) == 0 { // a new snapshot
				k := c.n(3)
				r.use(names[k : k+2]...)
			}
		}
	})
	wg.Wait()
	time.Sleep(20 * time.Second) // past all deadlines
	close(stop)
	wg2.Wait()
	synctest.Wait()
	for k, o := range all {
		o.mu.Lock()
		for i := range calls {
			id := uint32(2*i + 1)
			if n := o.ended[id]; n != 1 && !o.reset[id] {
				t.Errorf("client %d: call %d ended %d times", k, id, n)
			}
		}
		for _, b := range o.bad {
			t.Errorf("client %d: %s", k, b)
		}
		o.mu.Unlock()
	}
	r.in(func() {
		if int(r.f.Started()) != clients*calls {
			t.Errorf("%d calls began, %d were made", r.f.Started(), clients*calls)
		}
	})
	for _, st := range []grpc.Status{grpc.OK, grpc.Canceled, grpc.DeadlineExceeded, grpc.Unavailable, grpc.ResourceExhausted, grpc.Internal} {
		if r.count(st) == 0 {
			t.Errorf("no call ended with %v: the test says little", st)
		}
	}
	r.over()
}
