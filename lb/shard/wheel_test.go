package shard

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// late is how much later than asked a timer may fire: a slot and what is left of one.
const late = 3 * time.Millisecond

// inShard runs f within the lock domain.
func inShard(s *Shard, f func()) {
	s.Enter()
	defer s.Leave()
	f()
}

func newShard() *Shard { return New(0, time.Now(), 1) }

// story is a wheel beside a naive list of what is set.
type story struct {
	t     *testing.T
	s     *Shard
	due   map[int]int64 // by number of the timer
	timer map[int]*Timer
	fired int
}

func newStory(t *testing.T) *story {
	st := &story{t: t, s: newShard(), due: map[int]int64{}, timer: map[int]*Timer{}}
	t.Cleanup(func() { inShard(st.s, st.s.Timer.Stop) })
	return st
}

// set arms timer number n to fire in d; within the shard.
func (st *story) set(n int, d time.Duration) {
	tm := st.timer[n]
	if tm == nil {
		tm = &Timer{}
		st.timer[n] = tm
		tm.Do = func() {
			at, ok := st.due[n]
			now := st.s.Clock()
			switch {
			case !ok:
				st.t.Errorf("timer %d fired at %v, which was not set", n, time.Duration(now))
			case now < at:
				st.t.Errorf("timer %d for %v fired at %v, early", n, time.Duration(at), time.Duration(now))
			case now > at+int64(late):
				st.t.Errorf("timer %d for %v fired at %v: %v late", n, time.Duration(at), time.Duration(now), time.Duration(now-at))
			}
			delete(st.due, n)
			st.fired++
		}
	}
	at := st.s.Now() + int64(d)
	st.s.Timer.Set(tm, at)
	st.due[n] = max(at, st.s.Now())
}

func (st *story) clear(n int) {
	if tm := st.timer[n]; tm != nil {
		st.s.Timer.Clear(tm)
		delete(st.due, n)
	}
}

// check says which timers should have fired by now.
func (st *story) check() {
	now := st.s.Clock()
	for n, at := range st.due {
		if now > at+int64(late) {
			st.t.Errorf("timer %d for %v has not fired at %v", n, time.Duration(at), time.Duration(now))
			delete(st.due, n)
		}
	}
	if p := st.s.Timer.n; p < len(st.due) {
		st.t.Errorf("the wheel counts %d timers, at least %d are set", p, len(st.due))
	}
}

func TestATimerSetSecondsAheadFiresInItsMillisecondWhereverTheWheelStands(t *testing.T) {
	for _, ahead := range []time.Duration{time.Millisecond, 4200 * time.Millisecond, 4294 * time.Millisecond, 4295 * time.Millisecond, 4296 * time.Millisecond,
		5 * time.Second, 6 * time.Second, 8589 * time.Millisecond, 8591 * time.Millisecond, 10 * time.Second, 37 * time.Minute, 2 * time.Hour} {
		t.Run(ahead.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				st := newStory(t)
				for range 50 {
					time.Sleep(87 * time.Millisecond) // the wheel turns in 4.3 s
					inShard(st.s, func() { st.set(0, time.Hour*9); st.set(1, ahead) })
					time.Sleep(ahead + late)
					inShard(st.s, st.check)
				}
				st.s.Lock() // timer 0 is set still
				defer st.s.Unlock()
				if st.fired != 50 {
					t.Errorf("%d of 50 fired", st.fired)
				}
			})
		})
	}
}

func TestATimerThatSetsItselfAgainAWholeTurnAheadIsNotServedInTheSameTurn(t *testing.T) {
	for slotsAhead := int64(slots - 3); slotsAhead <= slots+3; slotsAhead++ {
		synctest.Test(t, func(t *testing.T) {
			s := newShard()
			var tm Timer
			var times []int64
			tm.Do = func() {
				times = append(times, s.Clock())
				if len(times) < 5 {
					s.Timer.Set(&tm, s.Now()+slotsAhead*slotNanos)
				}
			}
			inShard(s, func() { s.Timer.Set(&tm, 0); s.Timer.timer.Stop() })
			time.Sleep(5 * time.Millisecond) // the shard was busy: the timer is served late, from an older slot
			s.Timer.fire()
			time.Sleep(time.Minute)
			s.Lock()
			defer s.Unlock()
			for i := 1; i < len(times); i++ {
				if d := times[i] - times[i-1]; d < slotsAhead*slotNanos {
					t.Errorf("%d slots ahead: fired after %v, early", slotsAhead, time.Duration(d))
				}
			}
			if len(times) != 5 {
				t.Errorf("fired %d times", len(times))
			}
		})
	}
}

func TestTheWheelDoesWhatANaiveListOfTimersDoes(t *testing.T) {
	for seed := range uint64(12) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				rnd := rand.New(rand.NewPCG(seed, 1))
				st := newStory(t)
				draw := func() time.Duration {
					switch rnd.IntN(8) {
					case 0:
						return -time.Duration(rnd.Int64N(int64(time.Second))) // in the past
					case 1:
						return time.Duration(rnd.Int64N(int64(5 * time.Millisecond)))
					case 2:
						return time.Duration(slots*slotNanos + rnd.Int64N(20*slotNanos) - 10*slotNanos)
					case 3:
						return time.Duration(rnd.Int64N(int64(2 * time.Hour)))
					case 4:
						return time.Duration(farSlots*slots*slotNanos + rnd.Int64N(8*slots*slotNanos) - 4*slots*slotNanos)
					}
					return time.Duration(rnd.Int64N(int64(20 * time.Second)))
				}
				for range 3000 {
					inShard(st.s, func() {
						for range rnd.IntN(4) {
							n := rnd.IntN(60)
							if rnd.IntN(4) == 0 {
								st.clear(n)
							} else {
								st.set(n, draw())
							}
						}
						st.check()
					})
					switch rnd.IntN(50) {
					case 0:
						time.Sleep(time.Duration(rnd.Int64N(int64(time.Hour))))
					case 1, 2, 3:
						time.Sleep(time.Duration(rnd.Int64N(int64(10 * time.Second))))
					default:
						time.Sleep(time.Duration(rnd.Int64N(int64(20 * time.Millisecond))))
					}
				}
				time.Sleep(4 * time.Hour)
				inShard(st.s, func() {
					st.check()
					if len(st.due) != 0 || st.s.Timer.n != 0 {
						t.Errorf("%d timers left, the wheel counts %d", len(st.due), st.s.Timer.n)
					}
					if st.s.Timer.used != [slots / 64]uint64{} {
						t.Error("an empty wheel has marks")
					}
				})
				if st.fired < 1000 {
					t.Errorf("only %d fired: the test says little", st.fired)
				}
			})
		})
	}
}

func TestAStoppedWheelFiresNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newShard()
		var a, b Timer
		a.Do = func() { t.Error("fired") }
		b.Do = a.Do
		inShard(s, func() { s.Timer.Set(&a, int64(time.Second)) })
		inShard(s, s.Timer.Stop)
		inShard(s, func() { s.Timer.Set(&b, int64(time.Millisecond)) })
		time.Sleep(time.Minute)
	})
}

func TestTimersThatClearAndSetEachOtherInOneSlotAreServedOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newShard()
		defer inShard(s, s.Timer.Stop)
		var got []string
		var a, b, c, d Timer
		a.Do = func() {
			got = append(got, "a")
			s.Timer.Clear(&b)
			s.Timer.Set(&d, s.Now()) // in the past: the next slot, never this one again
		}
		b.Do = func() { got = append(got, "b") }
		c.Do = func() { got = append(got, "c"); s.Timer.Clear(&c) }
		d.Do = func() { got = append(got, "d") }
		inShard(s, func() {
			for _, tm := range []*Timer{&a, &b, &c} {
				s.Timer.Set(tm, int64(10*time.Millisecond))
			}
		})
		time.Sleep(20 * time.Millisecond)
		inShard(s, func() {
			if fmt.Sprint(got) != "[a c d]" {
				t.Errorf("served %v", got)
			}
			if a.Pending() || b.Pending() || c.Pending() || d.Pending() || s.Timer.n != 0 {
				t.Error("something is still set")
			}
		})
	})
}
