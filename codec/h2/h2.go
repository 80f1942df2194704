// Package h2 owns the bytes of HTTP/2 frames (RFC 9113 sections 4 to 7): headers, payload layouts, codes and settings. It
// must not know streams' states or do I/O.
package h2

import (
	"encoding/binary"
	"fmt"
)

// Preface is what a client sends first (RFC 9113 section 3.4).
const Preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

// Sizes in bytes.
const (
	HeaderLen       = 9         // a frame header (section 4.1)
	MinMaxFrameSize = 1 << 14   // the least, and the initial, SETTINGS_MAX_FRAME_SIZE
	MaxMaxFrameSize = 1<<24 - 1 // the most
	InitialWindow   = 65535     // both windows before SETTINGS (section 6.9.2)
	MaxWindow       = 1<<31 - 1
	MaxStreamID     = 1<<31 - 1
)

// Type is a frame type (section 6).
type Type uint8

// The frame types.
const (
	Data Type = iota
	Headers
	Priority
	RSTStream
	Settings
	PushPromise
	Ping
	GoAway
	WindowUpdate
	Continuation
)

// String returns the name that RFC 9113 uses.
func (t Type) String() string {
	names := [...]string{"DATA", "HEADERS", "PRIORITY", "RST_STREAM", "SETTINGS", "PUSH_PROMISE", "PING", "GOAWAY", "WINDOW_UPDATE", "CONTINUATION"}
	if int(t) < len(names) {
		return names[t]
	}
	return fmt.Sprintf("frame type %#x", uint8(t))
}

// The flags (their meaning hangs on the type).
const (
	FlagEndStream  = 0x1
	FlagAck        = 0x1
	FlagEndHeaders = 0x4
	FlagPadded     = 0x8
	FlagPriority   = 0x20
)

// Code is an HTTP/2 error code (section 7).
type Code uint32

// The error codes.
const (
	NoError Code = iota
	ProtocolError
	InternalError
	FlowControlError
	SettingsTimeout
	StreamClosed
	FrameSizeError
	RefusedStream
	Cancel
	CompressionError
	ConnectError
	EnhanceYourCalm
	InadequateSecurity
	HTTP11Required
)

// String returns the name that RFC 9113 uses.
func (c Code) String() string {
	names := [...]string{"NO_ERROR", "PROTOCOL_ERROR", "INTERNAL_ERROR", "FLOW_CONTROL_ERROR", "SETTINGS_TIMEOUT", "STREAM_CLOSED",
		"FRAME_SIZE_ERROR", "REFUSED_STREAM", "CANCEL", "COMPRESSION_ERROR", "CONNECT_ERROR", "ENHANCE_YOUR_CALM", "INADEQUATE_SECURITY", "HTTP_1_1_REQUIRED"}
	if int(c) < len(names) {
		return names[c]
	}
	return fmt.Sprintf("code %#x", uint32(c))
}

// ConnError ends a connection (section 5.4.1).
type ConnError struct {
	Code   Code
	Reason string
}

func (e *ConnError) Error() string { return e.Code.String() + ": " + e.Reason }

// Header is a frame header (section 4.1).
type Header struct {
	Length   uint32 // of the payload, in bytes
	Type     Type
	Flags    uint8
	StreamID uint32
}

// Has says whether all the flags in f are set.
func (h Header) Has(f uint8) bool { return h.Flags&f == f }

// String is the header as one line of text, for logs and tests.
func (h Header) String() string {
	return fmt.Sprintf("%s stream=%d flags=%#x length=%d", h.Type, h.StreamID, h.Flags, h.Length)
}

// ParseHeader reads a frame header from the first 9 bytes of b, which must be there. The reserved bit is ignored.
func ParseHeader(b []byte) Header {
	_ = b[8]
	return Header{
		Length:   uint32(b[0])<<16 | uint32(b[1])<<8 | uint32(b[2]),
		Type:     Type(b[3]),
		Flags:    b[4],
		StreamID: binary.BigEndian.Uint32(b[5:]) & MaxStreamID,
	}
}

// PutHeader writes a frame header into the first 9 bytes of b, which must be there.
func PutHeader(b []byte, length int, t Type, flags uint8, id uint32) {
	_ = b[8]
	b[0], b[1], b[2], b[3], b[4] = byte(length>>16), byte(length>>8), byte(length), byte(t), flags
	binary.BigEndian.PutUint32(b[5:], id)
}

// AppendHeader appends a frame header.
func AppendHeader(dst []byte, length int, t Type, flags uint8, id uint32) []byte {
	return append(dst, byte(length>>16), byte(length>>8), byte(length), byte(t), flags, byte(id>>24), byte(id>>16), byte(id>>8), byte(id))
}

// AppendRSTStream appends a RST_STREAM frame (section 6.4).
func AppendRSTStream(dst []byte, id uint32, code Code) []byte {
	return binary.BigEndian.AppendUint32(AppendHeader(dst, 4, RSTStream, 0, id), uint32(code))
}

// AppendWindowUpdate appends a WINDOW_UPDATE frame (section 6.9); id 0 is the connection, n is in bytes.
func AppendWindowUpdate(dst []byte, id uint32, n uint32) []byte {
	return binary.BigEndian.AppendUint32(AppendHeader(dst, 4, WindowUpdate, 0, id), n)
}

// AppendPing appends a PING frame (section 6.7).
func AppendPing(dst []byte, ack bool, data [8]byte) []byte {
	var f uint8
	if ack {
		f = FlagAck
	}
	return append(AppendHeader(dst, 8, Ping, f, 0), data[:]...)
}

// AppendGoAway appends a GOAWAY frame (section 6.8); debug is for people.
func AppendGoAway(dst []byte, lastID uint32, code Code, debug string) []byte {
	dst = AppendHeader(dst, 8+len(debug), GoAway, 0, 0)
	dst = binary.BigEndian.AppendUint32(dst, lastID)
	dst = binary.BigEndian.AppendUint32(dst, uint32(code))
	return append(dst, debug...)
}
