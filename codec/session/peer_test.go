package session

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/net/http2"
	xhpack "golang.org/x/net/http2/hpack"

	"github.com/trunkline/trunkline/codec/h2"
)

// peer is the other side: it writes the frames that a story names and reads ours, both with golang.org/x/net.
type peer struct {
	t       testing.TB
	enc     *xhpack.Encoder
	encBuf  bytes.Buffer
	dec     *xhpack.Decoder
	in      bytes.Buffer // our output, as the peer reads it
	framer  *http2.Framer
	preface bool   // our preface is still to come
	block   []byte // of ours, so far
	cut     []byte // what is left of a block of the peer's that was cut
}

func newPeer(t testing.TB, preface bool) *peer {
	p := &peer{t: t, preface: preface}
	p.enc = xhpack.NewEncoder(&p.encBuf)
	p.dec = xhpack.NewDecoder(4096, nil)
	p.framer = http2.NewFramer(nil, &p.in)
	return p
}

var settingNames = map[string]h2.SettingID{
	"HEADER_TABLE_SIZE": h2.SettingHeaderTableSize, "ENABLE_PUSH": h2.SettingEnablePush, "MAX_CONCURRENT_STREAMS": h2.SettingMaxConcurrentStreams,
	"INITIAL_WINDOW_SIZE": h2.SettingInitialWindowSize, "MAX_FRAME_SIZE": h2.SettingMaxFrameSize, "MAX_HEADER_LIST_SIZE": h2.SettingMaxHeaderListSize,
}

// shorthands of header lists.
var shorthands = map[string]string{
	"@get": ":method=POST :scheme=http :path=/a.S/Get :authority=x",
	"@ok":  ":status=200 content-type=application/grpc",
	"@end": "grpc-status=0",
}

// words are the arguments of one line.
type words struct {
	t    testing.TB
	line string
	list []string
}

func newWords(t testing.TB, line string) *words {
	for s, long := range shorthands {
		line = strings.ReplaceAll(line, s, long)
	}
	return &words{t: t, line: line, list: strings.Fields(line)}
}

// next takes the first word.
func (w *words) next() string {
	if len(w.list) == 0 {
		w.t.Fatalf("%q: a word is missing", w.line)
	}
	s := w.list[0]
	w.list = w.list[1:]
	return s
}

// has takes a word that is one of the line's, if it is.
func (w *words) has(s string) bool {
	for i, x := range w.list {
		if x == s {
			w.list = append(w.list[:i:i], w.list[i+1:]...)
			return true
		}
	}
	return false
}

// num takes name=N, or the default.
func (w *words) num(name string, def int) int {
	for i, x := range w.list {
		if v, ok := strings.CutPrefix(x, name+"="); ok {
			w.list = append(w.list[:i:i], w.list[i+1:]...)
			return w.atoi(v)
		}
	}
	return def
}

func (w *words) atoi(s string) int {
	n, err := strconv.ParseInt(s, 0, 64)
	if err != nil {
		w.t.Fatalf("%q: %v", w.line, err)
	}
	return int(n)
}

func (w *words) code() h2.Code {
	s := w.next()
	for c := h2.NoError; c <= h2.HTTP11Required; c++ {
		if c.String() == s {
			return c
		}
	}
	return h2.Code(w.atoi(s))
}

// fields are the rest: name=value each, with Go's escapes; x*N is N times x.
func (w *words) fields() (list [][2]string) {
	for _, x := range w.list {
		name, value, _ := strings.Cut(x, "=")
		if s, n, ok := strings.Cut(value, "*"); ok {
			value = strings.Repeat(s, w.atoi(n))
		}
		list = append(list, [2]string{w.unescape(name), w.unescape(value)})
	}
	return list
}

func (w *words) unescape(s string) string {
	u, err := strconv.Unquote(`"` + s + `"`)
	if err != nil {
		w.t.Fatalf("%q: %v", w.line, err)
	}
	return u
}

// body is the rest: size=N bytes, or one word.
func (w *words) body() []byte {
	if n := w.num("size", -1); n >= 0 {
		return bytes.Repeat([]byte("x"), n)
	}
	if len(w.list) == 0 {
		return nil
	}
	return []byte(w.unescape(w.next()))
}

// frames are the bytes of the frames that the lines name.
func (p *peer) frames(lines string) []byte {
	var out bytes.Buffer
	fr := http2.NewFramer(&out, nil)
	fr.AllowIllegalWrites = true
	for line := range strings.Lines(lines) {
		if line = strings.TrimSpace(line); line == "" || line[0] == '#' {
			continue
		}
		p.frame(&out, fr, newWords(p.t, line))
	}
	return out.Bytes()
}

func (p *peer) frame(out *bytes.Buffer, fr *http2.Framer, w *words) {
	name := w.next()
	times := w.num("times", 1)
	id := func() uint32 { return uint32(w.atoi(w.next())) }
	switch name {
	case "PREFACE":
		out.WriteString(h2.Preface)
	case "SETTINGS":
		if w.has("ack") {
			_ = fr.WriteSettingsAck()
			return
		}
		var ss []http2.Setting
		for _, f := range w.fields() {
			sid, ok := settingNames[f[0]]
			if !ok {
				sid = h2.SettingID(w.atoi(f[0]))
			}
			ss = append(ss, http2.Setting{ID: http2.SettingID(sid), Val: uint32(w.atoi(f[1]))})
		}
		_ = fr.WriteSettings(ss...)
	case "HEADERS":
		prm := http2.HeadersFrameParam{StreamID: id(), EndStream: w.has("end"), PadLength: uint8(w.num("pad", 0))}
		if w.has("priority") {
			prm.Priority = http2.PriorityParam{StreamDep: prm.StreamID + 2, Weight: 7}
		}
		cut := w.num("cut", -1)
		p.encBuf.Reset()
		for _, f := range w.fields() {
			_ = p.enc.WriteField(xhpack.HeaderField{Name: f[0], Value: f[1]})
		}
		prm.BlockFragment, prm.EndHeaders = bytes.Clone(p.encBuf.Bytes()), cut < 0
		if cut >= 0 {
			cut = min(cut, len(prm.BlockFragment))
			prm.BlockFragment, p.cut = prm.BlockFragment[:cut], prm.BlockFragment[cut:]
		}
		_ = fr.WriteHeaders(prm)
	case "CONTINUATION":
		sid, cut, more := id(), w.num("cut", -1), w.has("more")
		for range times {
			b := p.cut
			if cut >= 0 {
				cut = min(cut, len(b))
				b, p.cut = b[:cut], b[cut:]
			}
			_ = fr.WriteContinuation(sid, cut < 0 && !more, b)
		}
	case "DATA":
		sid, end, pad := id(), w.has("end"), w.num("pad", -1)
		body := w.body()
		for range times {
			if pad >= 0 {
				_ = fr.WriteDataPadded(sid, end, body, make([]byte, pad))
			} else {
				_ = fr.WriteData(sid, end, body)
			}
		}
	case "RST_STREAM":
		_ = fr.WriteRSTStream(id(), http2.ErrCode(w.code()))
	case "PING":
		ack := w.has("ack")
		var data [8]byte
		copy(data[:], w.body())
		for range times {
			_ = fr.WritePing(ack, data)
		}
	case "GOAWAY":
		last := id()
		_ = fr.WriteGoAway(last, http2.ErrCode(w.code()), w.body())
	case "WINDOW_UPDATE":
		sid := id()
		_ = fr.WriteWindowUpdate(sid, uint32(w.atoi(w.next())))
	case "PRIORITY":
		_ = fr.WritePriority(id(), http2.PriorityParam{StreamDep: 1, Weight: 3})
	case "PUSH_PROMISE":
		_ = fr.WritePushPromise(http2.PushPromiseParam{StreamID: id(), PromiseID: 2, EndHeaders: true})
	case "FRAME": // type flags stream payload-in-hex
		typ, flags, sid := w.atoi(w.next()), w.atoi(w.next()), id()
		payload := make([]byte, w.num("size", 0))
		if len(w.list) > 0 {
			var err error
			if payload, err = hex.DecodeString(w.next()); err != nil {
				p.t.Fatalf("%q: %v", w.line, err)
			}
		}
		_ = fr.WriteRawFrame(http2.FrameType(typ), http2.Flags(flags), sid, payload)
	case "BYTES":
		out.WriteString(w.unescape(w.next()))
	default:
		p.t.Fatalf("%q: no such frame", w.line)
	}
}

// read takes bytes of our output and returns a line for each whole frame in it, as x/net understands it.
func (p *peer) read(b []byte) (lines []string) {
	p.in.Write(b)
	if p.preface {
		if got := string(p.in.Next(len(h2.Preface))); got != h2.Preface {
			p.t.Fatalf("preface %q", got)
		}
		p.preface = false
		lines = append(lines, "-> PREFACE")
	}
	for {
		all := p.in.Bytes()
		if len(all) < h2.HeaderLen {
			return lines
		}
		h := h2.ParseHeader(all)
		if len(all) < h2.HeaderLen+int(h.Length) {
			return lines
		}
		p.framer.SetMaxReadFrameSize(1 << 20)
		f, err := p.framer.ReadFrame()
		if err != nil {
			p.t.Fatalf("x/net does not understand our %v: %v", h, err)
		}
		lines = append(lines, "-> "+p.describe(f))
	}
}

func (p *peer) describe(f http2.Frame) string {
	h := f.Header()
	end := flag(h.Flags&http2.FlagDataEndStream != 0, " end")
	switch f := f.(type) {
	case *http2.DataFrame:
		return fmt.Sprintf("DATA %d %s%s", h.StreamID, text(f.Data()), end)
	case *http2.HeadersFrame:
		p.block = append(p.block[:0], f.HeaderBlockFragment()...)
		return fmt.Sprintf("HEADERS %d%s%s", h.StreamID, end, p.fields(f.HeadersEnded(), h.Length))
	case *http2.ContinuationFrame:
		p.block = append(p.block, f.HeaderBlockFragment()...)
		return fmt.Sprintf("CONTINUATION %d%s", h.StreamID, p.fields(f.HeadersEnded(), h.Length))
	case *http2.RSTStreamFrame:
		return fmt.Sprintf("RST_STREAM %d %s", h.StreamID, h2.Code(f.ErrCode))
	case *http2.SettingsFrame:
		if f.IsAck() {
			return "SETTINGS ack"
		}
		s := "SETTINGS"
		_ = f.ForeachSetting(func(x http2.Setting) error {
			s += fmt.Sprintf(" %s=%d", x.ID, x.Val)
			return nil
		})
		return s
	case *http2.PingFrame:
		return fmt.Sprintf("PING %q%s", f.Data[:], flag(f.IsAck(), " ack"))
	case *http2.GoAwayFrame:
		return fmt.Sprintf("GOAWAY %d %s %q", f.LastStreamID, h2.Code(f.ErrCode), f.DebugData())
	case *http2.WindowUpdateFrame:
		return fmt.Sprintf("WINDOW_UPDATE %d %d", h.StreamID, f.Increment)
	}
	p.t.Fatalf("we sent %v", h)
	return ""
}

func (p *peer) fields(ended bool, n uint32) string {
	if !ended {
		return fmt.Sprintf(" more (%d bytes)", n)
	}
	var b strings.Builder
	list, err := p.dec.DecodeFull(p.block)
	if err != nil {
		p.t.Fatalf("x/net does not understand our block: %v", err)
	}
	for _, f := range list {
		pair(&b, f.Name, f.Value)
	}
	return b.String()
}
