package attacks

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// order is what the test tells the process that attacks: it is a process of its own, so that the well-behaved client, which
// is measured, does not wait for an attacker's goroutines.
type order struct {
	Attack string
	Addr   string
	CA     string // PEM of the authority of a TLS listener, "" for h2c
	Lasts  time.Duration
}

// orderKey is the environment variable with the order, as JSON.
const orderKey = "TRUNKLINE_ATTACK"

// seen is how an attack went for its attacker.
type seen struct {
	mu sync.Mutex

	Opened  int            // connections that were made
	Refused int            // that could not even be made
	GoAway  map[string]int // ended by the server with a GOAWAY: "CODE: sentence"
	Closed  int            // ended by the server without
	Hanging int            // got a GOAWAY, and were not closed
	Left    int            // were given up by the attacker, for the attack is like that
	Cut     int            // were open when the attack was over
	Spared  int            // of those: had been at it longer than the attack's patience
	Welcome int            // most that were open at once and had got the server's SETTINGS
	Resets  map[string]int // RST_STREAM that came, by code
	Status  map[string]int // calls that were answered, by grpc-status and grpc-message
	Sent    int64          // bytes
	Goodbye time.Duration  // the longest from a GOAWAY to the end of its connection
	Errors  []string

	welcome int
}

func (s *seen) count(f func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f()
}

// ByGoAway is how many connections ended by GOAWAY.
func (s *seen) ByGoAway() (n int) {
	for _, k := range s.GoAway {
		n += k
	}
	return n
}

// attackAsOrdered is the main function of the attacking process.
func attackAsOrdered(text string) error {
	var o order
	if err := json.Unmarshal([]byte(text), &o); err != nil {
		return err
	}
	for _, a := range attacks() {
		if a.name == o.Attack {
			return json.NewEncoder(os.Stdout).Encode(a.carryOut(o))
		}
	}
	return fmt.Errorf("no attack is called %q", o.Attack)
}

// carryOut attacks with all of the attack's workers until it is over.
func (a *attack) carryOut(o order) *seen {
	s := &seen{GoAway: map[string]int{}, Resets: map[string]int{}, Status: map[string]int{}}
	ctx, cancel := context.WithTimeout(context.Background(), o.Lasts)
	defer cancel()
	var all sync.WaitGroup
	for i := range a.workers {
		all.Go(func() {
			for ctx.Err() == nil {
				a.connect(ctx, o, s, i)
				sleep(ctx, a.again) // what follows a disconnection at once is another connection
			}
		})
	}
	all.Wait()
	return s
}

func sleep(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

// connect leads the life of one connection.
func (a *attack) connect(ctx context.Context, o order, s *seen, worker int) {
	from := net.IPv4(127, 0, 0, 66)
	if a.from != nil {
		from = a.from(worker)
	}
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: from}}
	nc, err := d.DialContext(ctx, "tcp", o.Addr)
	if err != nil {
		var late net.Error
		if ctx.Err() == nil && !(errors.As(err, &late) && late.Timeout()) { // the attack was over before
			s.count(func() {
				if s.Refused++; len(s.Errors) < 5 {
					s.Errors = append(s.Errors, err.Error())
				}
			})
		}
		return
	}
	s.count(func() { s.Opened++ })
	v := &villain{nc: nc, ctx: ctx, seen: s, order: o, worker: worker, began: time.Now(), over: make(chan struct{}), gone: make(chan struct{})}
	until, _ := ctx.Deadline()
	_ = nc.SetWriteDeadline(until) // a fresh connection takes it
	a.life(v)
	v.finish(a.patience)
}

// villain is one connection of an attacker. Its life runs in one goroutine, its reader in another.
type villain struct {
	nc     net.Conn
	ctx    context.Context // ends with the attack
	seen   *seen
	order  order
	worker int
	began  time.Time

	listening bool
	failed    bool          // a write did not succeed
	left      bool          // the attacker has seen enough of this connection
	over      chan struct{} // closed when the server has said GOAWAY, or the connection has ended
	gone      chan struct{} // closed when the connection has ended
	ends      atomic.Int64  // streams that ended
	// Written by the reader, read after gone.
	goaway string
	told   time.Time // when it came
}

// hello begins HTTP/2: the preface, SETTINGS, a reader.
func (v *villain) hello(settings ...http2.Setting) {
	v.deaf(settings...)
	v.listen()
}

// deaf is hello for one who reads nothing.
func (v *villain) deaf(settings ...http2.Setting) {
	v.write(append([]byte(http2.ClientPreface), frames(func(w *wire) {
		if err := w.framer.WriteSettings(settings...); err != nil {
			panic(err) // it writes into a buffer
		}
	})...))
}

// write sends; false when the connection, or the attack, is over.
func (v *villain) write(p []byte) bool {
	select {
	case <-v.over:
		return false
	case <-v.ctx.Done():
		return false
	default:
	}
	n, err := v.nc.Write(p)
	atomic.AddInt64(&v.seen.Sent, int64(n))
	if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
		v.failed = true
	}
	return err == nil
}

// pause waits; false when the connection, or the attack, is over before.
func (v *villain) pause(d time.Duration) bool {
	select {
	case <-v.over:
		return false
	case <-v.ctx.Done():
		return false
	case <-time.After(d):
		return true
	}
}

// await waits until n streams of the connection have ended; false as for pause.
func (v *villain) await(n int64) bool {
	for v.ends.Load() < n {
		if !v.pause(time.Millisecond) {
			return false
		}
	}
	return true
}

// linger waits for the end, whichever comes first.
func (v *villain) linger() {
	for v.pause(time.Hour) {
	}
}

// listen begins to read frames.
func (v *villain) listen() {
	v.listening = true
	go v.read()
}

// watch begins to read bytes that are no frames, to see the end of the connection.
func (v *villain) watch() {
	v.listening = true
	go func() {
		_, _ = io.Copy(io.Discard, v.nc)
		close(v.over)
		close(v.gone)
	}()
}

// read reads frames until the connection has ended.
func (v *villain) read() {
	f := http2.NewFramer(io.Discard, bufio.NewReaderSize(v.nc, 64<<10))
	f.SetMaxReadFrameSize(1<<24 - 1)
	f.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	welcome := false
	for {
		fr, err := f.ReadFrame()
		var odd http2.StreamError
		if err != nil && !errors.As(err, &odd) {
			break
		}
		switch fr := fr.(type) {
		case *http2.SettingsFrame:
			if !welcome {
				welcome = true
				v.seen.count(func() { v.seen.welcome++; v.seen.Welcome = max(v.seen.Welcome, v.seen.welcome) })
			}
		case *http2.GoAwayFrame:
			if v.goaway == "" {
				v.told = time.Now()
				v.goaway = fr.ErrCode.String() + ": " + string(fr.DebugData())
				close(v.over)
				_ = v.nc.SetWriteDeadline(v.told) // what is stuck in a write comes back
			}
		case *http2.RSTStreamFrame:
			if fr.ErrCode != http2.ErrCodeNo { // else it follows an answer
				v.ends.Add(1)
			}
			v.seen.count(func() { v.seen.Resets[fr.ErrCode.String()]++ })
		case *http2.MetaHeadersFrame:
			if fr.StreamEnded() {
				v.ends.Add(1)
				v.answered(fr.Fields)
			}
		}
	}
	if v.goaway == "" {
		close(v.over)
	}
	if welcome {
		v.seen.count(func() { v.seen.welcome-- })
	}
	close(v.gone)
}

// answered counts a call's answer.
func (v *villain) answered(fields []hpack.HeaderField) {
	var code, text string
	for _, f := range fields {
		switch f.Name {
		case "grpc-status":
			code = f.Value
		case "grpc-message":
			text = f.Value
		}
	}
	v.seen.count(func() {
		key := code + " " + text
		if _, ok := v.seen.Status[key]; !ok && len(v.seen.Status) > 20 {
			key = code + " ..."
		}
		v.seen.Status[key]++
	})
}

// closing is how long the server may take to close a connection that it has told to go.
const closing = 5 * time.Second

// finish ends the connection and says how it went.
func (v *villain) finish(patience time.Duration) {
	age := time.Since(v.began)
	wait := time.Duration(0)
	if v.left {
		_ = v.nc.Close()
	}
	if !v.listening {
		v.listen() // what a deaf one would have heard
		wait = 300 * time.Millisecond
	}
	select {
	case <-v.over:
		wait = closing
	default:
		if v.failed {
			wait = closing
		}
	}
	ended := false
	select {
	case <-v.gone:
		ended = true
	case <-time.After(wait):
		select {
		case <-v.gone:
			ended = true
		default:
		}
	}
	_ = v.nc.Close() // the reader ends by it
	<-v.gone
	v.seen.count(func() {
		if v.goaway != "" && ended {
			v.seen.Goodbye = max(v.seen.Goodbye, time.Since(v.told))
		}
		switch s := v.seen; {
		case v.goaway != "" && !ended && wait == closing:
			s.Hanging++
		case v.goaway != "" && ended:
			s.GoAway[v.goaway]++
		case v.left:
			s.Left++
		case ended:
			s.Closed++
		default:
			s.Cut++
			if age > patience {
				s.Spared++
			}
		}
	})
}
