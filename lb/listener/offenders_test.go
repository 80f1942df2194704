package listener

import (
	"context"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"
)

func TestConnectionsOfAnAddressThatWasCutOffWaitAndFewAtATime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var o offenders
		bad, good := party(netip.MustParseAddr("192.0.2.1")), party(netip.MustParseAddr("192.0.2.2"))
		if known, room := o.known(bad, time.Now()); known || !room {
			t.Error("an address that did nothing is remembered")
		}
		o.note(bad, time.Now())
		if known, _ := o.known(good, time.Now()); known {
			t.Error("another address pays for it")
		}
		for i := range maxPausing {
			if known, room := o.known(bad, time.Now()); !known || !room {
				t.Errorf("connection %d: known %v, room %v", i, known, room)
			}
		}
		if _, room := o.known(bad, time.Now()); room {
			t.Error("any number of its connections may wait")
		}
		began := time.Now()
		for range maxPausing {
			o.pause(context.Background(), bad)
		}
		if d := time.Since(began); d != maxPausing*pauseFor {
			t.Errorf("they waited %v", d)
		}
		time.Sleep(rememberFor + time.Second)
		if known, room := o.known(bad, time.Now()); known || !room {
			t.Error("it is remembered for ever")
		}
		if len(o.by) != 0 {
			t.Errorf("%d are kept", len(o.by))
		}
	})
}

func TestAFloodOfAddressesIsNotRememberedWithoutBound(t *testing.T) {
	var o offenders
	now := time.Now()
	for i := range maxOffenders + 100 {
		o.note(party(netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)})), now)
	}
	if len(o.by) != maxOffenders {
		t.Errorf("%d are kept", len(o.by))
	}
	o.note(party(netip.MustParseAddr("192.0.2.1")), now.Add(rememberFor+time.Second))
	if len(o.by) != 1 {
		t.Errorf("%d are kept after their time", len(o.by))
	}
}
