package transparency

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/encoding/gzip"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"
)

// noise is a message that does not compress, the same in every run.
func noise(n int) []byte {
	r := rand.NewChaCha8([32]byte{byte(n), byte(n >> 8), byte(n >> 16)})
	b := make([]byte, n)
	r.Read(b) // never fails
	return b
}

const printable = " !\"#$%&'()*+,-./0123456789:;<=>?@ABCDEFGHIJKLMNOPQRSTUVWXYZ[\\]^_`abcdefghijklmnopqrstuvwxyz{|}~"

// theScript is every case. A case's sides take turns: where the order of events matters, one waits for the other.
func theScript() []call {
	return slices.Concat(shapes(), metadataCases(), statusCases(), sizeCases(), cancelCases(), deadlineCases(), orderCases())
}

// unary, client stream, server stream and bidi are the same thing on the wire with other numbers of messages.
func shapes() []call {
	shape := func(name string, up, down int) call {
		return call{
			name: name,
			client: func(c *client) {
				c.open()
				for i := range up {
					c.send(fmt.Appendf(nil, "up %d", i))
				}
				c.closeSend()
				c.header()
				c.rest()
			},
			server: func(s *server) error {
				s.rest()
				for i := range down {
					s.send(fmt.Appendf(nil, "down %d", i))
				}
				return nil
			},
		}
	}
	return []call{
		shape("unary", 1, 1), shape("client stream", 20, 1), shape("server stream", 1, 20), shape("no message at all", 0, 0),
		{
			name: "bidi, in turns",
			client: func(c *client) {
				c.open()
				for i := range 20 {
					c.send(fmt.Appendf(nil, "ping %d", i))
					c.recv()
				}
				c.closeSend()
				c.rest()
			},
			server: func(s *server) error {
				for i := 0; s.recv(); i++ {
					s.send(fmt.Appendf(nil, "pong %d", i))
				}
				return nil
			},
		},
		{
			name:   "unknown method of a known service: the backend's own words come through",
			method: "NoSuchMethod",
			client: func(c *client) { c.open(); c.closeSend(); c.header(); c.rest() },
		},
	}
}

func metadataCases() []call {
	echo := func(name string, header, trailer metadata.MD, pairs ...string) call {
		return call{
			name:   name,
			client: func(c *client) { c.open(pairs...); c.closeSend(); c.header(); c.rest() },
			server: func(s *server) error {
				if err := s.SetHeader(header); err != nil {
					s.add("SetHeader: %v", err)
				}
				s.SetTrailer(trailer)
				s.rest()
				s.send([]byte("x"))
				return nil
			},
		}
	}
	binary := string(noise(33)) + "\x00\xff\n"
	many := metadata.MD{}
	var manyPairs []string
	for i := range 60 {
		key, value := fmt.Sprintf("x-many-%02d", i), strings.Repeat(string(rune('a'+i%26)), i)
		many.Append(key, value)
		manyPairs = append(manyPairs, key, value)
	}
	big := strings.Repeat("0123456789abcdef", 3<<10) // 48 KiB: more than two frames, so CONTINUATION
	return []call{
		echo("binary metadata", metadata.Pairs("h-bin", binary, "h-bin", "", "h2-bin", "\x00"), metadata.Pairs("t-bin", binary),
			"a-bin", binary, "a-bin", "second", "b-bin", ""),
		echo("a repeated key keeps its values and their order", metadata.Pairs("h", "1", "h", "2", "h", "1"),
			metadata.Pairs("t", "z", "t", "a", "t", "z"), "k", "b", "k", "a", "k", "b", "other", "x", "k", "c"),
		echo("values may be empty, or any printable characters", metadata.Pairs("h-empty", "", "h-all", "x"+printable+"x"),
			metadata.Pairs("t-empty", "", "t-all", "x"+printable+"x"),
			"empty", "", "all", "x"+printable+"x", "list", "a, b;c=\"d\"", "percent", "%zz%00%", "_under.dot-dash_0", "k"),
		echo("values with spaces around", metadata.Pairs("h", " v "), metadata.Pairs("t", " v "), "k", " v "),
		echo("many keys", many, many, manyPairs...),
		echo("big metadata", metadata.Pairs("h-big", big), metadata.Pairs("t-big", big), "big", big, "big-bin", big),
		echo("names that a proxy is tempted to touch", metadata.Pairs("server", "s", "date", "d", "via", "v", "vary", "v", "x-envoy-a", "e"),
			metadata.Pairs("server-timing", "t", "etag", "e"),
			"via", "v", "x-forwarded-for", "f", "forwarded", "f", "x-request-id", "id", "accept-encoding", "br", "cookie", "a=b; c=d",
			"authorization", "Bearer x", "host", "h.test", "expect", "e", "range", "r", "content-language", "l", "cache-control", "no-cache"),
	}
}

func statusCases() []call {
	fail := func(name string, before int, err error) call {
		return call{
			name:   name,
			client: func(c *client) { c.open(); c.send([]byte("q")); c.closeSend(); c.header(); c.rest() },
			server: func(s *server) error {
				s.SetTrailer(metadata.Pairs("t", "v", "t-bin", "\x01\x02"))
				s.rest()
				for range before {
					s.send([]byte("partial"))
				}
				return err
			},
		}
	}
	detailed, err := status.New(codes.FailedPrecondition, "with details").WithDetails(
		&errdetails.ErrorInfo{Reason: "R", Domain: "d.test", Metadata: map[string]string{"k": "v"}},
		&errdetails.RetryInfo{RetryDelay: durationpb.New(time.Second)},
		&errdetails.DebugInfo{Detail: strings.Repeat("deep ", 2000)})
	if err != nil {
		panic(err) // fixed input of the test
	}
	calls := []call{
		fail("status with details, as Trailers-Only", 0, detailed.Err()),
		fail("status with details, after messages", 2, detailed.Err()),
		fail("a message with every character", 0, status.Error(codes.DataLoss, "\t\n\r\x00 %41 % é 日本語 😈 \xff "+printable)),
		// Common: "no such user: " + name, and the name was empty. On the wire the space is as it is.
		fail("a message that ends with a space", 0, status.Error(codes.NotFound, "no such user: ")),
		fail("an empty message", 1, status.Error(codes.Aborted, "")),
		fail("a code beyond the known ones", 0, status.Error(codes.Code(1234), "odd")),
		{
			name:   "headers, then a status without a message",
			client: func(c *client) { c.open(); c.header(); c.closeSend(); c.rest() },
			server: func(s *server) error {
				if err := s.SendHeader(metadata.Pairs("early", "yes")); err != nil {
					s.add("SendHeader: %v", err)
				}
				s.rest()
				return status.Error(codes.PermissionDenied, "no")
			},
		},
	}
	for code := codes.OK; code <= codes.Unauthenticated; code++ {
		calls = append(calls, fail("status "+code.String(), 0, status.Error(code, "says the backend")))
	}
	return calls
}

func sizeCases() []call {
	echo := func(name string, sizes ...int) call {
		return call{
			name: name,
			client: func(c *client) {
				c.open()
				for _, n := range sizes {
					c.send(noise(n))
					c.recv()
				}
				c.closeSend()
				c.rest()
			},
			server: func(s *server) error {
				for _, n := range sizes {
					if !s.recv() {
						break
					}
					s.send(noise(n + 1)[:n]) // other bytes than went up
				}
				s.rest()
				return nil
			},
		}
	}
	text := bytes.Repeat([]byte("compress me "), 20000)
	compressed := call{
		name: "compressed messages",
		client: func(c *client) {
			c.openWith([]grpc.CallOption{grpc.UseCompressor(gzip.Name)})
			c.send(text)
			c.send(nil)
			c.closeSend()
			c.header()
			c.rest()
		},
		server: func(s *server) error {
			s.rest()
			s.send(text)
			return nil
		},
	}
	return []call{
		echo("empty messages", 0, 0, 0), echo("messages around a frame's size", 16378, 16379, 16380, 16384, 16385),
		echo("messages around the first window", 65529, 65530, 65535, 65536, 131072), echo("16 MiB", 16<<20),
		echo("one byte after 1 MiB", 1<<20, 1), compressed,
	}
}

func cancelCases() []call {
	wait := func(before func(*server)) func(*server) error {
		return func(s *server) error {
			before(s)
			close(s.get("ready"))
			return s.awaitCancel()
		}
	}
	return []call{
		{
			name:   "cancelled before any message",
			client: func(c *client) { c.open(); <-c.get("ready"); c.cancel(); c.rest() },
			server: wait(func(*server) {}),
		},
		{
			name:   "cancelled after the headers",
			client: func(c *client) { c.open(); c.header(); <-c.get("ready"); c.cancel(); c.rest() },
			server: wait(func(s *server) { s.SendHeader(metadata.Pairs("h", "v")) }), // seen by the client
		},
		{
			name: "cancelled between two messages",
			client: func(c *client) {
				c.open()
				c.send([]byte("one"))
				c.recv()
				<-c.get("ready")
				c.cancel()
				c.rest()
			},
			server: wait(func(s *server) { s.recv(); s.send([]byte("two")) }),
		},
		{
			name:   "cancelled after the client half-closed",
			client: func(c *client) { c.open(); c.closeSend(); <-c.get("ready"); c.cancel(); c.rest() },
			server: wait(func(s *server) { s.rest() }),
		},
		{
			name: "cancelled while the server fills the client's window",
			client: func(c *client) {
				c.open()
				c.recv()
				c.cancel()
				for { // how many messages were under way is chance
					var m []byte
					if err := c.stream.RecvMsg(&m); err != nil {
						c.add("end: %s", describe(err, false))
						return
					}
				}
			},
			server: func(s *server) error {
				for s.SendMsg(noise(64<<10)) == nil {
				}
				return s.awaitCancel()
			},
		},
	}
}

func deadlineCases() []call {
	race := "whose clock strikes first, the client's or the other's, is chance; the code is the same"
	return []call{
		{
			name: "the deadline reaches the server",
			client: func(c *client) {
				ctx, cancel := context.WithTimeout(c.ctx, 10*time.Second)
				defer cancel()
				c.ctx = ctx
				c.open()
				c.closeSend()
				c.rest()
			},
			server: func(s *server) error {
				deadline, ok := s.Context().Deadline()
				left := time.Until(deadline)
				s.add("deadline %v, about 10 s: %v", ok, left > 9*time.Second && left <= 10*time.Second)
				s.rest()
				return nil
			},
		},
		{
			name: "the deadline passes", codeOnly: race,
			client: func(c *client) {
				ctx, cancel := context.WithTimeout(c.ctx, 100*time.Millisecond)
				defer cancel()
				c.ctx = ctx
				c.open()
				c.rest()
			},
			server: func(s *server) error { return s.awaitCancel() },
		},
		{
			name: "the deadline passes in mid-stream", codeOnly: race,
			client: func(c *client) {
				ctx, cancel := context.WithTimeout(c.ctx, 200*time.Millisecond)
				defer cancel()
				c.ctx = ctx
				c.open()
				c.header()
				c.rest()
			},
			server: func(s *server) error { s.send([]byte("one")); s.send([]byte("two")); return s.awaitCancel() },
		},
		{
			name: "the deadline has passed before the call",
			client: func(c *client) {
				ctx, cancel := context.WithTimeout(c.ctx, -time.Second)
				defer cancel()
				c.ctx = ctx
				c.open()
				c.add("opened: %v", c.stream != nil)
			},
		},
	}
}

func orderCases() []call {
	return []call{
		{
			name: "the status comes before the client has finished sending",
			client: func(c *client) {
				c.open()
				c.send([]byte("first"))
				c.recv() // the end
				err := c.stream.SendMsg([]byte("late"))
				c.add("a late message: %v", errors.Is(err, io.EOF))
			},
			server: func(s *server) error { s.recv(); return status.Error(codes.ResourceExhausted, "enough") },
		},
		{
			name: "the status comes while the client fills the server's window",
			client: func(c *client) {
				c.open()
				for c.stream.SendMsg(noise(256<<10)) == nil {
				}
				c.rest()
			},
			server: func(s *server) error { s.recv(); return status.Error(codes.OutOfRange, "stop") },
		},
		{
			name: "an OK comes before the client has finished sending",
			client: func(c *client) {
				c.open()
				c.header()
				c.rest()
			},
			server: func(s *server) error { s.send([]byte("done")); return nil },
		},
		{
			name: "the server speaks first",
			client: func(c *client) {
				c.open()
				c.header()
				c.recv()
				c.send([]byte("now me"))
				c.closeSend()
				c.rest()
			},
			server: func(s *server) error { s.send([]byte("hello")); s.rest(); return nil },
		},
		{
			name: "the server goes on after the client half-closed",
			client: func(c *client) {
				c.open()
				c.send([]byte("one"))
				c.closeSend()
				c.rest()
			},
			server: func(s *server) error {
				s.rest()
				for i := range 50 {
					s.send(noise(i * 100))
				}
				return nil
			},
		},
		interleaved(),
	}
}

// interleaved has many streams under way at once on the one connection; what each of them saw is told in one line.
func interleaved() call {
	const streams, rounds = 64, 20
	return call{
		name:   "many interleaved streams",
		method: "Echo",
		client: func(c *client) {
			lines := make([]string, streams)
			var all sync.WaitGroup
			for i := range streams {
				all.Go(func() {
					one := &client{signals: c.signals, cc: c.cc, method: c.method, ctx: metadata.AppendToOutgoingContext(c.ctx, "x-stream", fmt.Sprint(i))}
					one.open()
					for n := range rounds {
						one.send(noise(n*137 + i))
						one.recv()
					}
					one.closeSend()
					one.rest()
					lines[i] = fmt.Sprintf("stream %d: %s", i, digest([]byte(one.text())))
				})
			}
			all.Wait()
			c.add("%s", strings.Join(lines, "\n"))
		},
	}
}
