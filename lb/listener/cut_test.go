package listener

import (
	"testing"
	"time"
)

func TestWhatAClientWasToldSaysForWhatItWasCutOff(t *testing.T) {
	for told, want := range map[string]string{
		"more than 100 resets per second beyond the calls that end (limits.abuse.resetsPerSecond)":                             "resets",
		"more than 500 frames per second that carry nothing, beyond what data brings along (limits.abuse.idleFramesPerSecond)": "idle_frames",
		"more than 1000 refused calls per second beyond those that are not (limits.abuse.refusedPerSecond)":                    "refused_calls",
		"a frame did not come to its end within 30s (limits.frameTimeout)":                                                     "slow",
		"a header block in pieces (limits.bufferBytesPerConnection, limits.bufferBytesTotal)":                                  "held",
		"header block of more than 9 bytes": "other",
	} {
		if got := cutReason(told).String(); got != want {
			t.Errorf("%q: %s, want %s", told, got, want)
		}
	}
}

func TestOfManyThatAreCutOffOneASecondIsLoggedWithTheNumberOfTheOthers(t *testing.T) {
	var c cuts
	now := time.Now()
	for i, want := range []struct {
		after  time.Duration
		say    bool
		unsaid int
	}{{0, true, 0}, {0, false, 0}, {cutEvery / 2, false, 0}, {cutEvery / 2, true, 2}, {3 * cutEvery, true, 0}} {
		now = now.Add(want.after)
		if say, unsaid := c.say(now); say != want.say || unsaid != want.unsaid {
			t.Errorf("%d: %v, %d not logged before, want %v, %d", i, say, unsaid, want.say, want.unsaid)
		}
	}
}
