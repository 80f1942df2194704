package session

import (
	"errors"
	"fmt"
	"testing"

	"github.com/trunkline/trunkline/codec/h2"
)

// client is a downstream connection of a stage, with a budget.
func (g *stage) client(b *Budget) *side {
	x := g.connect(Server, 0)
	x.SetBudget(b)
	return x
}

// pile has a client begin a call and not read the n bytes that are its answer; false: they may not be held.
func (g *stage) pile(x *side, id uint32, b *Budget, n int) bool {
	g.recv(x, fmt.Sprintf("HEADERS %d end @get", id))
	s := x.streams.get(id)
	s.SetBudget(b)
	g.respond(x, s, false, ":status", "200")
	if _, ok := x.SendData(s, make([]byte, n), true); !ok {
		x.Reset(s, h2.EnhanceYourCalm)
		return false
	}
	return true
}

func TestWhoHoldsMostGetsNoMoreWhenAllHoldTooMuch(t *testing.T) {
	g := newStage(t)
	total := &Total{Max: 1 << 20}
	hog, small := &Budget{Max: 1 << 30, Total: total}, &Budget{Max: 1 << 30, Total: total}
	a, b := g.client(hog), g.client(small)
	if !g.pile(a, 1, hog, 600<<10) || !g.pile(a, 3, hog, 400<<10) {
		t.Error("refused below the total")
	}
	if g.pile(a, 5, hog, 100<<10) {
		t.Error("the hog may hold more than all")
	}
	if !g.pile(b, 1, small, 100<<10) {
		t.Error("who holds little pays for who holds much")
	}
	if total.Held != 1100<<10 || total.Holders != 2 {
		t.Errorf("%+v", *total)
	}
	// Within a second the hog gives back what is above its share, the largest stream first.
	if e := a.Expired(0); e != nil {
		t.Error(e)
	}
	if e := b.Expired(0); e != nil {
		t.Error(e)
	}
	g.check()
	if hog.Held != 400<<10 || small.Held != 100<<10 || a.streams.get(1) != nil {
		t.Errorf("hog %d, small %d", hog.Held, small.Held)
	}
	same(t, "the hog heard", a.log[len(a.log)-2:], "reset 1 ENHANCE_YOUR_CALM because "+ErrShare.Error(), "closed 1")
	if !g.pile(a, 7, hog, 100<<10) {
		t.Error("refused although there is room")
	}
	g.end()
	if *total != (Total{Max: 1 << 20}) {
		t.Errorf("left at %+v", *total)
	}
}

func TestEveryClientMayHoldALittleHoweverManyThereAre(t *testing.T) {
	g := newStage(t)
	total := &Total{Max: 1 << 20}
	for range 40 {
		b := &Budget{Max: 1 << 30, Total: total}
		x := g.client(b)
		if !g.pile(x, 1, b, minShare) {
			t.Fatalf("refused with %+v", *total)
		}
		if g.pile(x, 3, b, 1) && total.Held > total.Max {
			t.Fatalf("more than its share, with %+v", *total)
		}
		if e := x.Expired(0); e != nil || b.Held < minShare {
			t.Fatal(e, b.Held)
		}
	}
	g.end()
}

// The share is counted with who asks for it.
func TestAClientThatHoldsNothingYetIsCountedForItsShare(t *testing.T) {
	total := &Total{Max: 1 << 20}
	first, second := &Budget{Max: 1 << 30, Total: total}, &Budget{Max: 1 << 30, Total: total}
	first.Hold(1 << 20)
	if second.Hold(600 << 10) {
		t.Error("it got more than half")
	}
	if !second.Hold(512 << 10) {
		t.Error("it did not get half")
	}
}

// What endpoints do not read counts for the client that sent it; Expired of its connection cannot reset what waits elsewhere, but
// lets the connection live.
func TestUploadsThatEndpointsDoNotReadAreRefusedAboveTheShare(t *testing.T) {
	g := newStage(t)
	total := &Total{Max: 200 << 10}
	b := &Budget{Max: 1 << 30, Total: total}
	down, up := g.client(b), g.connect(Client, 0)
	other := &Budget{Max: 1 << 30, Total: total}
	third := g.client(other)
	list := g.open(up, false)
	list.SetBudget(b)
	if _, ok := up.SendData(list, make([]byte, 150<<10), false); !ok {
		t.Error("refused below the total")
	}
	g.pile(third, 1, other, 60<<10)
	if _, ok := up.SendData(list, []byte("more"), false); ok {
		t.Error("more than its share")
	}
	if e := down.Expired(0); e != nil || b.Held != 150<<10 {
		t.Error(e, b.Held)
	}
	g.end()
}

func TestWindowsGrowNoMoreWhenHalfOfTheTotalIsInUse(t *testing.T) {
	total := &Total{Max: 1000}
	b := &Budget{Max: 4000, Total: total}
	if !b.grant(1000) || b.grant(1) {
		t.Error("a quarter of the budget is for windows")
	}
	b.Granted = 0
	b.Hold(501)
	if b.grant(1) {
		t.Error("granted")
	}
	total.Max = 0
	if !b.grant(1) || !b.Hold(3000) {
		t.Error("0 is no limit")
	}
}

// The handler's own holdings go through Hold and Release, so that the total knows them.
func TestWhatAHandlerHoldsCounts(t *testing.T) {
	total := &Total{Max: 100_000}
	b := &Budget{Max: 80_000, Total: total}
	if !b.Hold(0) || total.Holders != 0 || !b.Hold(80_000) || b.Hold(1) {
		t.Errorf("%+v, %+v", *b, *total)
	}
	b.Release(80_000)
	if b.Held != 0 || *total != (Total{Max: 100_000}) {
		t.Errorf("%+v, %+v", *b, *total)
	}
}

func TestAConnectionThatIsClosedGivesBackWhatItHeldItself(t *testing.T) {
	for _, what := range []string{"HEADERS 1 cut=3 @get", "BYTES \\x00\\x00\\x08", "FRAME 2 0 1 00"} {
		g := newStage(t)
		total := &Total{Max: 1 << 20}
		b := &Budget{Max: 1 << 20, Total: total}
		x := g.client(b)
		g.recv(x, what)
		x.Close(h2.Cancel, errors.New("gone"))
		if b.Held != 0 || total.Held != 0 || total.Holders != 0 {
			t.Errorf("%s: %+v, %+v", what, *b, *total)
		}
		g.end()
	}
}
