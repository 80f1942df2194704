package transport

import (
	"bytes"
	"errors"
	"testing"
	"time"

	"golang.org/x/net/http2"

	"github.com/trunkline/trunkline/codec/hpack"
	"github.com/trunkline/trunkline/codec/session"
	"github.com/trunkline/trunkline/lb/shard"
)

// talker begins to answer each call, and leaves it so.
type talker struct{ *server }

func (k talker) HandleHeaders(s *session.Stream, _ *session.Block) {
	k.open++
	in := k.s.Env.Interner
	status := in.Intern(":status", "200")
	defer in.Release(status)
	k.c.Sess.SendHeaders(s, []*hpack.Field{status}, false)
}

// Small data is joined to the frame before it; but what TLS has encrypted already is said, though the kernel has not taken it yet: else
// what a client says in its messages would become frames of the connection.
func TestDataThatFollowsWhatIsEncryptedAlreadyIsAFrameOfItsOwn(t *testing.T) {
	for name, version := range versions {
		t.Run(name, func(t *testing.T) {
			ours, theirs, _ := secured(t, version)
			sh := shard.New(0, time.Now(), 1)
			v := &server{s: sh}
			v.in(func() { v.c = New(sh, ours, session.Server, &limits, talker{v}) })
			done := make(chan struct{})
			go func() { defer close(done); v.c.Serve() }()
			t.Cleanup(func() { _ = theirs.Close(); <-done; v.in(func() { sh.Timer.Stop() }) })
			hello(theirs, 0, 1<<30)
			var b bytes.Buffer
			if err := http2.NewFramer(&b, nil).WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: request(), EndHeaders: true}); err != nil {
				t.Fatal(err)
			}
			if _, err := theirs.Write(b.Bytes()); err != nil {
				t.Fatal(err)
			}
			var s *session.Stream
			eventually(t, func() (ok bool) {
				v.in(func() { v.c.Sess.EachStream(func(x *session.Stream) { s, ok = x, true }) })
				return ok
			}, "no stream")
			message, sent := bytes.Repeat([]byte{0xff}, 100), 0
			for blocked := 0; blocked < 20 && sent < 1<<28; {
				v.in(func() {
					if _, ok := v.c.Sess.SendData(s, message, false); !ok {
						t.Fatal("over budget")
					}
				})
				sent += len(message)
				v.in(func() {
					if v.c.Sess.Blocked {
						blocked++
					}
				})
			}
			v.in(func() { v.c.Sess.SendData(s, nil, true) })
			fr, got := http2.NewFramer(nil, theirs), 0
			_ = theirs.SetReadDeadline(time.Now().Add(10 * time.Second))
			for end := false; !end; {
				f, err := fr.ReadFrame()
				if err != nil {
					t.Fatalf("after %d of %d bytes: %v", got, sent, errors.Join(err, fr.ErrorDetail()))
				}
				switch f := f.(type) {
				case *http2.DataFrame:
					got += len(f.Data())
					end = f.StreamEnded()
					if len(bytes.Trim(f.Data(), "\xff")) > 0 {
						t.Fatalf("after %d of %d bytes: data that was never sent", got, sent)
					}
				case *http2.UnknownFrame:
					t.Fatalf("after %d of %d bytes: %v", got, sent, f)
				}
			}
			if got != sent {
				t.Errorf("%d of %d bytes came", got, sent)
			}
		})
	}
}
