package h2_test

import (
	"bytes"
	"errors"
	"fmt"
	"testing"

	"golang.org/x/net/http2"

	"github.com/trunkline/trunkline/codec/h2"
)

// framer returns x/net's reader of what is appended.
func framer(b []byte) *http2.Framer {
	fr := http2.NewFramer(nil, bytes.NewReader(b))
	fr.SetMaxReadFrameSize(h2.MaxMaxFrameSize)
	return fr
}

func TestAHeaderIsParsedAsItWasWritten(t *testing.T) {
	for _, h := range []h2.Header{
		{},
		{Length: 1, Type: h2.Data, Flags: 1, StreamID: 1},
		{Length: h2.MaxMaxFrameSize, Type: 0xff, Flags: 0xff, StreamID: h2.MaxStreamID},
		{Length: 0x010203, Type: h2.Continuation, Flags: 4, StreamID: 0x04050607},
	} {
		b := h2.AppendHeader([]byte("before"), int(h.Length), h.Type, h.Flags, h.StreamID)
		if string(b[:6]) != "before" || len(b) != 6+h2.HeaderLen {
			t.Errorf("%v: appended %x", h, b)
		}
		if got := h2.ParseHeader(b[6:]); got != h {
			t.Errorf("%v came back as %v", h, got)
		}
		put := make([]byte, h2.HeaderLen)
		h2.PutHeader(put, int(h.Length), h.Type, h.Flags, h.StreamID)
		if !bytes.Equal(put, b[6:]) {
			t.Errorf("%v: put %x, appended %x", h, put, b[6:])
		}
		theirs, err := http2.ReadFrameHeader(bytes.NewReader(put))
		if err != nil || theirs.Length != h.Length || uint8(theirs.Type) != uint8(h.Type) || uint8(theirs.Flags) != h.Flags || theirs.StreamID != h.StreamID {
			t.Errorf("%v: x/net reads %v (%v)", h, theirs, err)
		}
	}
}

func TestTheReservedBitOfAStreamIDIsIgnored(t *testing.T) {
	if h := h2.ParseHeader([]byte{0, 0, 0, 0, 0, 0x80, 0, 0, 5}); h.StreamID != 5 {
		t.Errorf("stream %d", h.StreamID)
	}
}

func TestXNetReadsTheFramesThatAreAppended(t *testing.T) {
	var b []byte
	b = h2.AppendSettings(b)
	b = h2.AppendSettings(b, h2.Setting{ID: h2.SettingInitialWindowSize, Value: 70000}, h2.Setting{ID: h2.SettingMaxHeaderListSize, Value: 1<<32 - 1})
	b = h2.AppendSettingsAck(b)
	b = h2.AppendPing(b, false, [8]byte{1, 2, 3})
	b = h2.AppendPing(b, true, [8]byte{4})
	b = h2.AppendRSTStream(b, 7, h2.EnhanceYourCalm)
	b = h2.AppendWindowUpdate(b, 0, 1)
	b = h2.AppendWindowUpdate(b, h2.MaxStreamID, h2.MaxWindow)
	b = h2.AppendGoAway(b, 9, h2.InternalError, "why")
	b = h2.AppendGoAway(b, h2.MaxStreamID, h2.NoError, "")
	fr := framer(b)
	for _, want := range []string{
		"SETTINGS len=0",
		"SETTINGS len=12: INITIAL_WINDOW_SIZE=70000 MAX_HEADER_LIST_SIZE=4294967295",
		"SETTINGS flags=ACK len=0",
		"PING len=8: ping=\"\\x01\\x02\\x03\\x00\\x00\\x00\\x00\\x00\"",
		"PING flags=ACK len=8: ping=\"\\x04\\x00\\x00\\x00\\x00\\x00\\x00\\x00\"",
		"RST_STREAM stream=7 len=4: ENHANCE_YOUR_CALM",
		"WINDOW_UPDATE len=4: 0 1",
		"WINDOW_UPDATE stream=2147483647 len=4: 2147483647 2147483647",
		"GOAWAY len=11: 9 INTERNAL_ERROR why",
		"GOAWAY len=8: 2147483647 NO_ERROR ",
	} {
		f, err := fr.ReadFrame()
		if err != nil {
			t.Fatalf("instead of %s: %v", want, err)
		}
		if got := describe(f); got != want {
			t.Errorf("x/net reads %s, want %s", got, want)
		}
	}
}

func describe(f http2.Frame) string {
	s := f.Header().String()
	s = s[len("[FrameHeader ") : len(s)-1]
	switch f := f.(type) {
	case *http2.SettingsFrame:
		sep := ":"
		_ = f.ForeachSetting(func(x http2.Setting) error {
			s += fmt.Sprintf("%s %s=%d", sep, x.ID, x.Val)
			sep = ""
			return nil
		})
	case *http2.PingFrame:
		s += fmt.Sprintf(": ping=%q", f.Data[:])
	case *http2.RSTStreamFrame:
		s += ": " + f.ErrCode.String()
	case *http2.WindowUpdateFrame:
		s += fmt.Sprintf(": %d %d", f.StreamID, f.Increment)
	case *http2.GoAwayFrame:
		s += fmt.Sprintf(": %d %s %s", f.LastStreamID, f.ErrCode, f.DebugData())
	}
	return s
}

func TestNamesAreThoseOfTheRFC(t *testing.T) {
	for i := range 14 {
		if got, want := h2.Code(i).String(), http2.ErrCode(i).String(); got != want {
			t.Errorf("code %d is %s, want %s", i, got, want)
		}
	}
	for i := range 10 {
		if got, want := h2.Type(i).String(), http2.FrameType(i).String(); got != want {
			t.Errorf("type %d is %s, want %s", i, got, want)
		}
	}
	for got, want := range map[string]string{
		h2.Code(14).String():   "code 0xe",
		h2.Type(0xfa).String(): "frame type 0xfa",
		h2.Header{Length: 3, Type: h2.Ping, Flags: 1, StreamID: 5}.String():       "PING stream=5 flags=0x1 length=3",
		(&h2.ConnError{Code: h2.ProtocolError, Reason: "what was wrong"}).Error(): "PROTOCOL_ERROR: what was wrong",
	} {
		if got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}

func TestSettingsAreCheckedAndTheUnknownPassedOver(t *testing.T) {
	for _, tt := range []struct {
		name    string
		payload []byte
		want    string // what is seen, or the code
	}{
		{"nothing", nil, ""},
		{"two in order", []byte{0, 3, 0, 0, 0, 9, 0, 1, 0, 0, 0, 0}, "3=9 1=0 "},
		{"twice the same", []byte{0, 4, 0, 0, 0, 9, 0, 4, 0, 0, 0, 8}, "4=9 4=8 "},
		{"unknown", []byte{0, 0, 0, 0, 0, 9, 0xff, 0, 0, 0, 0, 9, 0, 6, 0xff, 0xff, 0xff, 0xff}, "6=4294967295 "},
		{"cut off", []byte{0, 3, 0, 0, 0}, "FRAME_SIZE_ERROR"},
		{"seven bytes", []byte{0, 3, 0, 0, 0, 1, 0}, "FRAME_SIZE_ERROR"},
		{"push", []byte{0, 2, 0, 0, 0, 1}, "2=1 "},
		{"push of two", []byte{0, 2, 0, 0, 0, 2}, "PROTOCOL_ERROR"},
		{"largest window", []byte{0, 4, 0x7f, 0xff, 0xff, 0xff}, "4=2147483647 "},
		{"window too large", []byte{0, 4, 0x80, 0, 0, 0}, "FLOW_CONTROL_ERROR"},
		{"smallest frame", []byte{0, 5, 0, 0, 0x40, 0}, "5=16384 "},
		{"frame too small", []byte{0, 5, 0, 0, 0x3f, 0xff}, "PROTOCOL_ERROR"},
		{"largest frame", []byte{0, 5, 0, 0xff, 0xff, 0xff}, "5=16777215 "},
		{"frame too large", []byte{0, 5, 1, 0, 0, 0}, "PROTOCOL_ERROR"},
		{"good before bad", []byte{0, 3, 0, 0, 0, 9, 0, 2, 0, 0, 0, 9}, "PROTOCOL_ERROR"},
	} {
		got := ""
		err := h2.ParseSettings(tt.payload, func(s h2.Setting) error {
			got += fmt.Sprintf("%d=%d ", s.ID, s.Value)
			return nil
		})
		var ce *h2.ConnError
		if errors.As(err, &ce) {
			got = ce.Code.String()
		} else if err != nil {
			t.Errorf("%s: %v is no ConnError", tt.name, err)
		}
		if got != tt.want {
			t.Errorf("%s: %q, want %q (%v)", tt.name, got, tt.want, err)
		}
	}
}

func TestParsingStopsAtTheCallersError(t *testing.T) {
	n, stop := 0, &h2.ConnError{Code: h2.FlowControlError}
	err := h2.ParseSettings(make([]byte, 0, 12)[:12:12], func(h2.Setting) error { n++; return stop })
	if n != 0 || err != nil {
		t.Errorf("unknown settings: %d calls, %v", n, err)
	}
	err = h2.ParseSettings([]byte{0, 3, 0, 0, 0, 1, 0, 3, 0, 0, 0, 2}, func(h2.Setting) error { n++; return stop })
	if n != 1 || err != error(stop) {
		t.Errorf("%d calls, %v", n, err)
	}
}
