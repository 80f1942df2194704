package shard

import (
	"math/bits"
	"time"
)

// Wheel holds timers by the millisecond: setting and clearing one is O(1). Two levels: about 4 seconds of millisecond
// slots, and about 36 minutes of coarse ones that are dealt out to the fine ones in their turn.
type Wheel struct {
	shard *Shard
	near  [slots]Timer // list heads
	far   [farSlots]Timer
	used  [slots / 64]uint64
	pos   int64 // the last near slot (absolute number) that has been served
	armed int64 // when the runtime timer will fire; 0 if it is not set
	timer *time.Timer
	n     int
	// firing: timers are being served, slot pos is; what they set is filed after it.
	firing bool
}

const (
	slotBits  = 20 // 1.05 ms
	slots     = 4096
	farSlots  = 512
	slotNanos = 1 << slotBits
)

// Timer is one timer; embed it in what it is for. The zero value is not set. Guarded by the shard.
type Timer struct {
	prev, next *Timer
	at         int64
	slot       int16 // of near; -1 in far
	Do         func()
}

// Pending says whether the timer is set.
func (t *Timer) Pending() bool { return t.next != nil }

func (w *Wheel) init(s *Shard) {
	w.shard = s
	for i := range w.near {
		w.near[i].prev, w.near[i].next = &w.near[i], &w.near[i]
	}
	for i := range w.far {
		w.far[i].prev, w.far[i].next = &w.far[i], &w.far[i]
	}
}

// Set arms t to call t.Do, inside the shard, at time at (nanoseconds, as Now) or up to 2 ms later.
func (w *Wheel) Set(t *Timer, at int64) {
	w.Clear(t)
	if w.n == 0 && !w.firing {
		w.pos = w.shard.now >> slotBits // nothing was waiting: the slots in between are empty
	}
	w.n++
	t.at = at
	w.file(t, w.pos+1)
	w.arm(at)
}

// file puts t into the slot of its time, the slot numbered first at the earliest.
func (w *Wheel) file(t *Timer, first int64) {
	slot := max(t.at>>slotBits+1, first)
	var head *Timer
	if slot < w.pos+slots {
		i := slot % slots
		head, t.slot = &w.near[i], int16(i)
		w.used[i/64] |= 1 << (i % 64)
	} else {
		// Into the coarse slot that its fine one belongs to, never the present one, which has been dealt out. What is too
		// far for the coarse level, too, will be dealt out again.
		block := min(slot/slots, w.pos/slots+farSlots-1)
		head, t.slot = &w.far[block%farSlots], -1
	}
	t.prev, t.next = head.prev, head
	t.prev.next, head.prev = t, t
}

// Clear unsets t, if it is set.
func (w *Wheel) Clear(t *Timer) {
	if t.next == nil {
		return
	}
	w.n--
	w.unlink(t)
}

func (w *Wheel) unlink(t *Timer) {
	t.prev.next, t.next.prev = t.next, t.prev
	if t.slot >= 0 && t.prev == t.next && t.prev == &w.near[t.slot] {
		w.used[t.slot/64] &^= 1 << (t.slot % 64)
	}
	t.prev, t.next = nil, nil
}

// arm sees to it that the runtime timer fires at or before at.
func (w *Wheel) arm(at int64) {
	at += slotNanos // the slot is served when it has passed
	if w.armed != 0 && w.armed <= at {
		return
	}
	w.armed = at
	d := time.Duration(max(0, at-w.shard.now))
	if w.timer == nil {
		w.timer = time.AfterFunc(d, w.fire)
		return
	}
	w.timer.Reset(d)
}

// Stop ends the wheel's runtime timer; timers that are set never fire.
func (w *Wheel) Stop() {
	if w.timer != nil {
		w.timer.Stop()
	}
	w.armed = 1 // never armed again
}

func (w *Wheel) fire() {
	s := w.shard
	s.Enter()
	defer s.Leave()
	if w.armed == 1 {
		return
	}
	w.armed = 0
	target := s.now >> slotBits
	w.firing = true
	for w.n > 0 {
		next := w.next()
		if next > target {
			break
		}
		w.pos = next
		if w.pos%slots == 0 {
			w.deal()
		}
		w.serve(&w.near[w.pos%slots])
	}
	w.firing = false
	if w.n == 0 {
		return
	}
	w.arm(w.next() << slotBits)
}

// deal moves the coarse slot that begins now to the fine level.
func (w *Wheel) deal() {
	head := &w.far[(w.pos/slots)%farSlots]
	t := head.next
	head.prev, head.next = head, head
	for t != head {
		next := t.next
		t.prev, t.next = nil, nil
		w.file(t, w.pos) // the present slot is served after this
		t = next
	}
}

func (w *Wheel) serve(head *Timer) {
	for head.next != head {
		t := head.next
		w.n--
		w.unlink(t)
		t.Do()
	}
}

// next is the number of the next slot with something in it, or of the next one to deal.
func (w *Wheel) next() int64 {
	end := (w.pos/slots + 1) * slots // the coarse slot after this one must be dealt out then
	for p := w.pos + 1; p < w.pos+slots; {
		i := p % slots
		word := w.used[i/64] >> (i % 64)
		if word == 0 {
			p += 64 - i%64
			continue
		}
		if p += int64(bits.TrailingZeros64(word)); p < w.pos+slots {
			return min(p, end)
		}
	}
	return end
}
