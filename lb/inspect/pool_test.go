package inspect

import (
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// One address fills its share of the queue with work; another's single job is the next but one.
func TestAddressesAreServedInTurn(t *testing.T) {
	p := newPool(1, 40, 1<<20)
	defer p.close()
	gate, began := make(chan struct{}), make(chan struct{})
	var mu sync.Mutex
	var order []string
	job := func(name string) func() {
		return func() { mu.Lock(); order = append(order, name); mu.Unlock() }
	}
	if no := p.put("a", 1, func() { close(began); <-gate }); no != nil {
		t.Fatal(no)
	}
	<-began
	for range 10 {
		if no := p.put("a", 1, job("a")); no != nil {
			t.Fatal(no)
		}
	}
	if no := p.put("a", 1, job("a")); no == nil || no.Reason != "INSPECTION_OVERLOADED" {
		t.Fatalf("an address had more than a quarter: %+v", no)
	}
	if no := p.put("b", 1, job("b")); no != nil {
		t.Fatal(no)
	}
	close(gate)
	p.close()
	if at := slices.Index(order, "b"); at != 1 || len(order) != 11 {
		t.Errorf("order: %v", order)
	}
}

func TestAFullQueueRefusesWhereSomethingIsBlockedAndElseNotes(t *testing.T) {
	for mode, refused := range map[string]bool{"block": true, "detect": false} {
		i := inspector(t, "payload: [ { waf: { mode: "+mode+" } } ]", nil)
		i.pool.close()
		i.pool = newPool(1, 1, 1<<20)
		gate, began := make(chan struct{}), make(chan struct{})
		if no := i.pool.put("x", 1, func() { close(began); <-gate }); no != nil {
			t.Fatal(no)
		}
		<-began
		if no := i.pool.put("x", 1, func() {}); no != nil {
			t.Fatal(no)
		}
		v := judge(i.For(place, nil), &Message{Address: "y"})
		if v.Refused != refused || len(v.Notes) != 1 || !strings.Contains(v.Notes[0].Text, "too many messages wait") {
			t.Errorf("%s: %+v", mode, v)
		}
		if refused {
			mustSay(t, v, "RESOURCE_EXHAUSTED", "INSPECTION_OVERLOADED", "message 1 of shop.Orders/Place", "call again later")
		}
		close(gate)
	}
}

func TestBytesThatWaitAreBoundedToo(t *testing.T) {
	p := newPool(1, 100, 1000)
	defer p.close()
	gate, began := make(chan struct{}), make(chan struct{})
	if no := p.put("a", 5000, func() { close(began); <-gate }); no != nil {
		t.Fatal("one large message must always have room:", no)
	}
	<-began
	first, second := p.put("b", 900, func() {}), p.put("c", 200, func() {})
	if first != nil || second == nil {
		t.Error(first, second)
	}
	close(gate)
}

func TestWhoAsksAfterTheEndIsRefused(t *testing.T) {
	i := inspector(t, "payload: [ { waf: {} } ]", nil)
	r := i.For(place, nil)
	i.pool.close()
	mustSay(t, judge(r, &Message{}), "UNAVAILABLE", "SHUTDOWN", "call again")
}

// A worker outlives what panics under it, and says what it may.
func TestAPanicRefusesOneMessage(t *testing.T) {
	var log lines
	i := inspector(t, "payload: [ { waf: {} } ]", &log)
	r := i.For(place, nil)
	r.describe = nil
	broken := *r
	broken.rule = &rule{wall: &wall{block: true}} // without Coraza
	mustSay(t, judge(&broken, &Message{Body: []byte("\x0a\x04hush")}), "INTERNAL", "INSPECTION_FAILED", "because of a defect of Trunkline")
	if !strings.Contains(log.String(), "waf.go") || strings.Contains(log.String(), "hush") {
		t.Error(log.String())
	}
	mustPass(t, judge(r, &Message{Body: []byte("\x0a\x04hush")}))
}

func TestTheLogTellsAFewAttacksASecond(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPace(10, 20, time.Now)
		told := 0
		for range 500 {
			if _, ok := p.take(); ok {
				told++
			}
		}
		time.Sleep(time.Second) // virtual
		missed, ok := p.take()
		if told != 20 || missed != 480 || !ok {
			t.Error(told, missed, ok)
		}
	})
}
