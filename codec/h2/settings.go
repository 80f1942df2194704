package h2

import (
	"encoding/binary"
	"fmt"
)

// SettingID names a setting (RFC 9113 section 6.5.2).
type SettingID uint16

// The settings.
const (
	SettingHeaderTableSize      SettingID = 0x1
	SettingEnablePush           SettingID = 0x2
	SettingMaxConcurrentStreams SettingID = 0x3
	SettingInitialWindowSize    SettingID = 0x4
	SettingMaxFrameSize         SettingID = 0x5
	SettingMaxHeaderListSize    SettingID = 0x6
)

// Setting is one entry of a SETTINGS frame.
type Setting struct {
	ID    SettingID
	Value uint32
}

// AppendSettings appends a SETTINGS frame (section 6.5).
func AppendSettings(dst []byte, settings ...Setting) []byte {
	dst = AppendHeader(dst, 6*len(settings), Settings, 0, 0)
	for _, s := range settings {
		dst = binary.BigEndian.AppendUint16(dst, uint16(s.ID))
		dst = binary.BigEndian.AppendUint32(dst, s.Value)
	}
	return dst
}

// AppendSettingsAck appends the acknowledgement of a SETTINGS frame.
func AppendSettingsAck(dst []byte) []byte { return AppendHeader(dst, 0, Settings, FlagAck, 0) }

// ParseSettings calls each for every entry of a SETTINGS payload, in order, after checking its value (section 6.5.2).
// Unknown settings are passed over. The error is a *ConnError.
func ParseSettings(p []byte, each func(Setting) error) error {
	if len(p)%6 != 0 {
		return &ConnError{FrameSizeError, fmt.Sprintf("SETTINGS of %d bytes is no multiple of 6", len(p))}
	}
	for ; len(p) > 0; p = p[6:] {
		s := Setting{SettingID(binary.BigEndian.Uint16(p)), binary.BigEndian.Uint32(p[2:])}
		switch s.ID {
		case SettingEnablePush:
			if s.Value > 1 {
				return &ConnError{ProtocolError, fmt.Sprintf("SETTINGS_ENABLE_PUSH is %d, not 0 or 1", s.Value)}
			}
		case SettingInitialWindowSize:
			if s.Value > MaxWindow {
				return &ConnError{FlowControlError, fmt.Sprintf("SETTINGS_INITIAL_WINDOW_SIZE is %d, above 2^31-1", s.Value)}
			}
		case SettingMaxFrameSize:
			if s.Value < MinMaxFrameSize || s.Value > MaxMaxFrameSize {
				return &ConnError{ProtocolError, fmt.Sprintf("SETTINGS_MAX_FRAME_SIZE is %d, outside 16384..16777215", s.Value)}
			}
		case SettingHeaderTableSize, SettingMaxConcurrentStreams, SettingMaxHeaderListSize:
		default:
			continue
		}
		if err := each(s); err != nil {
			return err
		}
	}
	return nil
}
