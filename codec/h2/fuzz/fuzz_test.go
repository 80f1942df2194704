package fuzz

import (
	"bytes"
	"encoding/binary"
	"errors"
	"testing"

	"golang.org/x/net/http2"

	"github.com/trunkline/trunkline/codec/h2"
)

// FuzzParseSettings: for any payload we and x/net see the same settings, or both find fault with it, with the same code.
func FuzzParseSettings(f *testing.F) {
	f.Add([]byte{0, 3, 0, 0, 0, 9, 0, 1, 0, 0, 0, 0})
	f.Add([]byte{0, 4, 0x80, 0, 0, 0})
	f.Add([]byte{0, 5, 0, 0, 0x3f, 0xff, 1})
	f.Add([]byte{0, 2, 0, 0, 0, 1, 0xff, 0xff, 1, 2, 3, 4})
	f.Fuzz(func(t *testing.T, p []byte) {
		if len(p) > h2.MinMaxFrameSize {
			return
		}
		var ours []h2.Setting
		err := h2.ParseSettings(p, func(s h2.Setting) error {
			ours = append(ours, s)
			return nil
		})
		var broke *h2.ConnError
		if err != nil && !errors.As(err, &broke) {
			t.Fatalf("%v is no ConnError", err)
		}

		frame := append(h2.AppendHeader(nil, len(p), h2.Settings, 0, 0), p...)
		fr, theirErr := http2.NewFramer(nil, bytes.NewReader(frame)).ReadFrame()
		var theirs []h2.Setting
		if theirErr == nil {
			theirErr = fr.(*http2.SettingsFrame).ForeachSetting(func(s http2.Setting) error {
				if s.ID < http2.SettingHeaderTableSize || s.ID > http2.SettingMaxHeaderListSize {
					return nil // x/net also judges extended CONNECT's, of which we know nothing
				}
				theirs = append(theirs, h2.Setting{ID: h2.SettingID(s.ID), Value: s.Val})
				return s.Valid()
			})
		}
		if (err == nil) != (theirErr == nil) {
			t.Fatalf("%x: we say %v, x/net %v", p, err, theirErr)
		}
		if ce := http2.ConnectionError(0); errors.As(theirErr, &ce) && h2.Code(ce) != broke.Code && len(p) == 6 { // of two faults each may name another
			t.Fatalf("%x: we say %v, x/net %v", p, err, theirErr)
		}
		if err != nil {
			return
		}
		if len(ours) != len(theirs) {
			t.Fatalf("%x: we see %v, x/net %v", p, ours, theirs)
		}
		for i := range ours {
			if ours[i] != theirs[i] {
				t.Fatalf("%x: we see %v, x/net %v", p, ours, theirs)
			}
		}
		again := h2.AppendSettings(nil, ours...)
		if h := h2.ParseHeader(again); int(h.Length) != len(again)-h2.HeaderLen || h.Type != h2.Settings || h.StreamID != 0 || h.Flags != 0 {
			t.Fatalf("appended %v", h)
		}
	})
}

// FuzzHeader: any frame header is read as x/net reads it, and written back as it came but for the reserved bit.
func FuzzHeader(f *testing.F) {
	f.Add([]byte{0, 0, 0, 0, 0, 0, 0, 0, 0})
	f.Add([]byte{1, 2, 3, 4, 5, 0x86, 7, 8, 9})
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) < h2.HeaderLen {
			return
		}
		h := h2.ParseHeader(b)
		x, err := http2.ReadFrameHeader(bytes.NewReader(b))
		if err != nil || x.Length != h.Length || uint8(x.Type) != uint8(h.Type) || uint8(x.Flags) != h.Flags || x.StreamID != h.StreamID {
			t.Fatalf("we read %v, x/net %v (%v)", h, x, err)
		}
		want := bytes.Clone(b[:h2.HeaderLen])
		binary.BigEndian.PutUint32(want[5:], h.StreamID)
		if got := h2.AppendHeader(nil, int(h.Length), h.Type, h.Flags, h.StreamID); !bytes.Equal(got, want) {
			t.Fatalf("%x came back as %x", want, got)
		}
	})
}
