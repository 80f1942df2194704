package telemetry

import (
	"testing"
	"testing/synctest"
	"time"
)

// handled is a lane of which it is known when it handled each record, and how often it was idle or rested.
type handled struct {
	*lane
	at    []time.Duration // of handling, since began
	idles int
}

func newHandled(atLeisure bool, size int) *handled {
	h := &handled{}
	began := time.Now()
	h.lane = newLane(size, atLeisure, func(*CallRecord) { h.at = append(h.at, time.Since(began)) }, func() { h.idles++ })
	return h
}

func TestABurstOfRecordsIsHandledAtLeisureUnlessTooManyWait(t *testing.T) {
	for _, c := range []struct {
		name      string
		atLeisure bool
		size, n   int
		least     time.Duration // that the last one waits
		most      time.Duration
	}{
		{"a few", true, 1000, leisure, 0, 0},
		{"a burst", true, 1000, 250, 250 / leisure * rest, 250 / leisure * rest},
		{"a burst that nearly fills the queue", true, 1000, 1000, (250/leisure - 1) * rest, (250/leisure + 2) * rest},
		{"a burst for a lane that is never at leisure", false, 1000, 1000, 0, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := newHandled(c.atLeisure, c.size)
				for range c.n {
					if !h.offer(&CallRecord{}) {
						t.Fatal("the queue is full")
					}
				}
				time.Sleep(time.Second)
				synctest.Wait()
				if len(h.at) != c.n {
					t.Fatalf("%d of %d were handled", len(h.at), c.n)
				}
				if last := h.at[c.n-1]; last < c.least || last > c.most {
					t.Errorf("the last was handled after %v, want %v to %v", last, c.least, c.most)
				}
				if rests := int(h.at[c.n-1] / rest); h.idles < rests+1 {
					t.Errorf("it wrote out what it had %d times, and rested %d times", h.idles, rests)
				}
				h.stop()
				<-h.done
			})
		})
	}
}

func TestWhatIsQueuedWhenALaneAtLeisureIsStoppedIsHandledAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHandled(true, 1000)
		for range 200 {
			h.offer(&CallRecord{})
		}
		synctest.Wait() // it rests
		h.stop()
		<-h.done
		if n := len(h.at); n != 200 || h.at[n-1] > 4*rest { // a rest or two may come first
			t.Errorf("%d were handled, the last after %v", n, h.at[n-1])
		}
	})
}
