package grpc

import "testing"

func TestTheLongestMessageIsKnownAsSoonAsItsPrefixIs(t *testing.T) {
	var c MessageCounter
	for i, step := range []struct {
		p       string
		longest uint32
	}{
		{"", 0},
		{"\x00\x00\x00\x00\x02hi", 2},
		{"\x00\x00\x00\x00\x00", 2},
		{"\x01\x00\x50\x00", 2},                    // not yet
		{"\x00", 0x500000},                         // now, before any of its body
		{string(make([]byte, 0x500000)), 0x500000}, // its body says nothing
		{"\x00\x00\x00\x00\x03abc\x00\x00\x60\x00\x00...", 0x600000}, // several in one frame
	} {
		c.Add([]byte(step.p))
		if got := c.Longest(); got != step.longest {
			t.Fatalf("step %d: longest %d, want %d", i, got, step.longest)
		}
	}
}
