package listener

import (
	"context"
	"net/netip"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

var (
	idler  = party(netip.MustParseAddr("192.0.2.1"))
	worker = party(netip.MustParseAddr("2001:db8::1"))
)

// queue is connections of an address that wait in line.
type queue struct {
	n    newcomers
	all  sync.WaitGroup
	mu   sync.Mutex
	came []int // in this order; guarded by mu
}

// join has connection number i come; false: it is turned away.
func (q *queue) join(ctx context.Context, p netip.Prefix, i int, rate float64) bool {
	t, _, ok := q.n.come(p, rate, time.Now())
	if !ok {
		return false
	}
	q.all.Go(func() {
		if t == nil || q.n.wait(ctx, t) {
			q.mu.Lock()
			defer q.mu.Unlock()
			q.came = append(q.came, i)
		}
	})
	synctest.Wait() // the next is behind it
	return true
}

func (q *queue) in() int {
	synctest.Wait()
	q.mu.Lock()
	defer q.mu.Unlock()
	return len(q.came)
}

func TestConnectionsThatAreNotUsedWaitInLineAndTheLineHasAnEnd(t *testing.T) {
	const rate = 20
	synctest.Test(t, func(t *testing.T) {
		var q queue
		for i := range (unusedFree + unusedLine) * rate {
			if !q.join(t.Context(), idler, i, rate) {
				t.Fatalf("connection %d is turned away", i)
			}
		}
		if q.join(t.Context(), idler, -1, rate) {
			t.Error("any number may wait")
		}
		if n := q.in(); n != unusedFree*rate {
			t.Errorf("%d came in at once", n)
		}
		if q.join(t.Context(), worker, 1000, rate); q.in() != unusedFree*rate+1 {
			t.Error("another address waits for it")
		}
		time.Sleep(time.Second)
		if n := q.in(); n < 3*rate || n > 3*rate+1 {
			t.Errorf("after a second %d are in", n)
		}
		q.all.Wait()
		for i := 1; i < len(q.came); i++ {
			if q.came[i] != 1000 && q.came[i-1] != 1000 && q.came[i] != q.came[i-1]+1 {
				t.Errorf("%d came after %d", q.came[i], q.came[i-1])
			}
		}
	})
}

func TestAnAnsweredCallLetsInTheNextOfTheLine(t *testing.T) {
	const rate = 1
	synctest.Test(t, func(t *testing.T) {
		var q queue
		for i := range unusedFree + unusedLine {
			q.join(t.Context(), worker, i, rate)
		}
		began := time.Now()
		q.n.by[worker].used.Add(3)
		time.Sleep(2 * lineLook)
		if n := q.in(); n != min(unusedFree+3, 2*unusedFree) { // a purse holds no more than is free
			t.Errorf("%d are in", n)
		}
		q.n.by[worker].used.Add(unusedFree)
		time.Sleep(2 * lineLook)
		q.n.by[worker].used.Add(unusedFree)
		q.all.Wait()
		if d := time.Since(began); d > time.Second {
			t.Errorf("the last came in after %v", d)
		}
	})
}

func TestWhoUsesItsConnectionsNeverWaits(t *testing.T) {
	var n newcomers
	now := time.Now()
	for i := range 10_000 { // all at one moment
		wait, used, ok := n.come(worker, 10, now)
		if wait != nil || !ok {
			t.Fatalf("connection %d waits: %v, allowed %v", i, wait != nil, ok)
		}
		used.Add(1)
	}
	if k := n.by[worker]; k.left > unusedFree*10 {
		t.Errorf("it saved up %g connections", k.left)
	}
}

func TestWhoGivesUpWaitingMakesRoomAndKeepsNobodyWaiting(t *testing.T) {
	const rate = 1
	synctest.Test(t, func(t *testing.T) {
		var q queue
		ctx, cancel := context.WithCancel(t.Context())
		for i := range unusedFree + unusedLine {
			if i == unusedFree+unusedLine-1 {
				ctx = t.Context() // the last stays
			}
			q.join(ctx, idler, i, rate)
		}
		cancel()
		if n := q.in(); n != unusedFree {
			t.Errorf("%d came in", n)
		}
		q.n.mu.Lock()
		if n := len(q.n.by[idler].line); n != 1 {
			t.Errorf("%d wait", n)
		}
		q.n.mu.Unlock()
		began := time.Now()
		q.all.Wait()
		if d := time.Since(began); q.in() != unusedFree+1 || d > time.Second+2*lineLook {
			t.Errorf("%d are in, after %v", q.in(), d)
		}
	})
}

func TestALowerLimitNeitherKeepsALineForEverNorLocksItsAddressOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var q queue
		for i := range (unusedFree + unusedLine) * 20 {
			q.join(t.Context(), idler, i, 20)
		}
		if q.join(t.Context(), idler, -1, 1) {
			t.Error("it joins a line that is too long by the new limit")
		}
		began := time.Now()
		q.all.Wait()
		if d := time.Since(began); d > maxInLine {
			t.Errorf("the last waited %v", d)
		}
		if !q.join(t.Context(), idler, -1, 1) {
			t.Error("the address is still locked out when nobody waits")
		}
		q.all.Wait()
	})
}

func TestWithoutALimitNothingIsKeptInMindOfAnAddress(t *testing.T) {
	var n newcomers
	if wait, used, ok := n.come(idler, 0, time.Now()); wait != nil || used != nil || !ok || len(n.by) != 0 {
		t.Errorf("waits %v, counted %v, allowed %v, %d kept", wait != nil, used != nil, ok, len(n.by))
	}
}

func TestAFloodOfAddressesIsNotCountedWithoutBound(t *testing.T) {
	var n newcomers
	now := time.Now()
	for i := range maxNewcomers + 100 {
		if wait, _, ok := n.come(party(netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)})), 1, now); wait != nil || !ok {
			t.Fatal("the first connection of an address has to wait")
		}
	}
	if len(n.by) != maxNewcomers {
		t.Errorf("%d are kept", len(n.by))
	}
	n.come(idler, 1, now.Add(2*time.Second))
	if len(n.by) != 1 {
		t.Errorf("%d are kept when they owe nothing", len(n.by))
	}
}
