package session

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/trunkline/trunkline/codec/h2"
	"github.com/trunkline/trunkline/codec/hpack"
)

// recorder is a handler that writes down what it is told, one line each.
type recorder struct {
	log    []string
	conn   *Conn
	answer func(*Stream) // what it does with a whole request; may be nil
	due    bool          // it says Due to every reset
}

func (r *recorder) say(format string, args ...any) {
	r.log = append(r.log, fmt.Sprintf(format, args...))
}

// who names a stream and checks that the handler may look at it.
func (r *recorder) who(s *Stream) uint32 {
	if s.conn != r.conn || s.ID == 0 {
		r.say("!! a stream of another connection, or a recycled one")
	}
	return s.ID
}

func (r *recorder) HandleHeaders(s *Stream, b *Block) {
	kind := "request"
	switch {
	case b.Trailers:
		kind = "trailers"
	case b.Informational:
		kind = "informational"
	case r.conn.role == Client:
		kind = "response"
	}
	if b.TooLarge {
		kind += " too large"
	}
	r.say("%s %d%s%s", kind, r.who(s), flag(b.End, " end"), names(b.Fields))
	if b.End && r.answer != nil {
		r.answer(s)
	}
}

func (r *recorder) HandleData(s *Stream, p []byte, end bool) {
	r.say("data %d %s%s", r.who(s), text(p), flag(end, " end"))
}

func (r *recorder) HandleReset(s *Stream, code h2.Code, why error) {
	if r.due {
		r.conn.Due()
	}
	if why != nil {
		r.say("reset %d %s because %v", r.who(s), code, why)
		return
	}
	r.say("reset %d %s", r.who(s), code)
}

func (r *recorder) HandleHanded(s *Stream, n int) { r.say("handed %d %d bytes", r.who(s), n) }
func (r *recorder) HandleClosed(s *Stream)        { r.say("closed %d", s.ID) }
func (r *recorder) HandleSettings()               { r.say("settings") }
func (r *recorder) HandlePong(data [8]byte)       { r.say("pong %q", data[:]) }
func (r *recorder) HandleGoAway(code h2.Code, debug string) {
	r.say("goaway %s %q", code, debug)
}

func flag(on bool, s string) string {
	if on {
		return s
	}
	return ""
}

// text shows bytes, or how many where they are many.
func text(p []byte) string {
	if len(p) > 24 {
		return fmt.Sprintf("(%d bytes)", len(p))
	}
	return strconv.Quote(string(p))
}

func names(fields []*hpack.Field) string {
	var b strings.Builder
	for _, f := range fields {
		pair(&b, f.Name, f.Value)
	}
	return b.String()
}

func pair(b *strings.Builder, name, value string) {
	if len(value) > 40 {
		value = fmt.Sprintf("(%d bytes)", len(value))
	}
	q := strconv.Quote(name + "=" + value)
	b.WriteString(" " + q[1:len(q)-1])
}

// carrier counts how often it was told of output.
type carrier struct{}

func (*carrier) Flush() {}
