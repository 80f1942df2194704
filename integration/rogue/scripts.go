package rogue

import (
	"strconv"
	"time"

	"golang.org/x/net/http2"
	"google.golang.org/grpc/codes"
)

// Script is what a server does with one attempt. It runs in a goroutine of its own and returns when it is done; it executes
// the call (Stream.Execute) if, for the one who wrote it, the work was done.
type Script func(*Stream)

// graceful is the last stream id of a GOAWAY that says "no new streams".
const graceful = 1<<31 - 1

// executed waits for the request and executes it; false if the other side has given up.
func executed(s *Stream) bool {
	return s.AwaitRequest() && s.Execute()
}

// OK answers as it should.
func OK() Script { return Big(0) }

// Big answers with a body of so many bytes.
func Big(size int) Script {
	return func(s *Stream) {
		if executed(s) {
			s.Headers()
			s.Data(s.Message(size))
			s.Trailers(codes.OK, "")
		}
	}
}

// Trailers sends headers, no message, and a status in trailers.
func Trailers(code codes.Code, pairs ...string) Script {
	return func(s *Stream) {
		if executed(s) {
			s.Headers()
			s.Trailers(code, "rogue: in trailers", pairs...)
		}
	}
}

// MessageThenTrailers sends headers, a whole message, and only then a status that is not OK.
func MessageThenTrailers(code codes.Code) Script {
	return func(s *Stream) {
		if executed(s) {
			s.Headers()
			s.Data(s.Message(0))
			s.Trailers(code, "rogue: after a message")
		}
	}
}

// Only sends a Trailers-Only reply, with more fields in pairs.
func Only(code codes.Code, message string, pairs ...string) Script {
	return func(s *Stream) {
		if executed(s) {
			s.Only(code, message, pairs...)
		}
	}
}

// Pushback sends a Trailers-Only reply with grpc-retry-pushback-ms fields.
func Pushback(code codes.Code, values ...string) Script {
	return Only(code, "rogue: pushback", pushbacks(values)...)
}

func pushbacks(values []string) (pairs []string) {
	for _, v := range values {
		pairs = append(pairs, "grpc-retry-pushback-ms", v)
	}
	return pairs
}

// Reset executes the call and answers with RST_STREAM alone.
func Reset(code http2.ErrCode) Script {
	return func(s *Stream) {
		if executed(s) {
			s.Reset(code)
		}
	}
}

// ResetUnread answers with RST_STREAM before the request was read, and does not execute it. With REFUSED_STREAM that is what
// a server does with what it does not want to process.
func ResetUnread(code http2.ErrCode) Script {
	return func(s *Stream) { s.Reset(code) }
}

// HeadersReset executes, sends headers, then RST_STREAM.
func HeadersReset(code http2.ErrCode) Script {
	return func(s *Stream) {
		if executed(s) {
			s.Headers()
			s.Reset(code)
		}
	}
}

// PartialReset executes, sends headers and half a message, then RST_STREAM.
func PartialReset(code http2.ErrCode) Script {
	return func(s *Stream) {
		if executed(s) {
			m := s.Message(1000)
			s.Headers()
			s.Data(m[:len(m)/2])
			s.Reset(code)
		}
	}
}

// Slow answers as it should, but waits before the headers, before the message and before the trailers.
func Slow(headers, message, trailers time.Duration) Script {
	return func(s *Stream) {
		if !executed(s) || !s.Wait(headers) {
			return
		}
		s.Headers()
		if !s.Wait(message) || !s.Data(s.Message(0)) || !s.Wait(trailers) {
			return
		}
		s.Trailers(codes.OK, "")
	}
}

// Silent executes and never answers.
func Silent() Script {
	return func(s *Stream) {
		if executed(s) {
			<-s.Context().Done()
		}
	}
}

// HeadersSilent executes, sends headers, and then nothing until the other side gives up.
func HeadersSilent() Script {
	return func(s *Stream) {
		if executed(s) {
			s.Headers()
			<-s.Context().Done()
		}
	}
}

// EarlyReply answers OK before the request was read, then resets with NO_ERROR, as RFC 9113 8.1 allows.
func EarlyReply() Script {
	return func(s *Stream) {
		s.Execute()
		s.Headers()
		s.Data(s.Message(0))
		s.Trailers(codes.OK, "")
		s.c.write(func(f *http2.Framer) error { return f.WriteRSTStream(s.ID, http2.ErrCodeNo) })
	}
}

// EarlyOnly answers Trailers-Only before the request was read, then resets with NO_ERROR.
func EarlyOnly(code codes.Code) Script {
	return func(s *Stream) {
		s.Only(code, "rogue: before the request")
		s.c.write(func(f *http2.Framer) error { return f.WriteRSTStream(s.ID, http2.ErrCodeNo) })
	}
}

// CutUnread closes the connection as soon as the headers are here, without executing.
func CutUnread() Script { return func(s *Stream) { s.Cut() } }

// CutExecuted closes the connection after the execution, without an answer.
func CutExecuted() Script {
	return func(s *Stream) {
		if executed(s) {
			s.Cut()
		}
	}
}

// CutMidResponse closes the connection in the middle of a message.
func CutMidResponse() Script {
	return func(s *Stream) {
		if executed(s) {
			m := s.Message(1000)
			s.Headers()
			s.Data(m[:len(m)/2])
			s.Cut()
		}
	}
}

// GoAwayRefuse sends a GOAWAY whose last id is below this stream and those above it, none of which is processed. (If one above
// has been executed already, the id is that one's, and this stream is refused by itself: the server does not lie.) When the
// streams below have had their time the connection is closed by the other side.
func GoAwayRefuse() Script {
	return func(s *Stream) {
		if last := s.c.giveUp(s.ID - 1); last >= s.ID {
			s.Reset(http2.ErrCodeRefusedStream)
		}
	}
}

// GoAwayGraceful says that no new streams are welcome, and answers this one as it should.
func GoAwayGraceful() Script {
	return func(s *Stream) {
		if executed(s) {
			s.GoAway(graceful, http2.ErrCodeNo)
			s.Headers()
			s.Data(s.Message(0))
			s.Trailers(codes.OK, "")
			s.c.giveUp(graceful)
		}
	}
}

// HTTP answers as something that is no gRPC server.
func HTTP(status int) Script {
	return func(s *Stream) {
		if s.AwaitRequest() {
			s.Block(false, fields(":status", strconv.Itoa(status), "content-type", "text/html"))
			s.Data([]byte("<html>"))
			s.send(true, func(f *http2.Framer) error { return f.WriteData(s.ID, true, nil) })
		}
	}
}
