package session

import (
	"math/rand/v2"
	"testing"
)

func TestTheStreamTableAgreesWithAMapWhateverIsPutAndDeleted(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	for range 200 {
		var tb table
		want := map[uint32]*Stream{}
		var ids []uint32
		next := uint32(1)
		for range 500 {
			if rnd.IntN(3) > 0 || len(ids) == 0 {
				next += 2 * (1 + uint32(rnd.IntN(1+rnd.IntN(40))))
				s := &Stream{ID: next}
				tb.put(s)
				want[next] = s
				ids = append(ids, next)
			} else {
				i := rnd.IntN(len(ids))
				tb.del(ids[i])
				delete(want, ids[i])
				ids[i] = ids[len(ids)-1]
				ids = ids[:len(ids)-1]
			}
			if tb.n != len(want) {
				t.Fatalf("%d streams, want %d", tb.n, len(want))
			}
			for id := next - min(next-1, 200); id <= next; id += 2 {
				if tb.get(id|1) != want[id|1] {
					t.Fatalf("stream %d: got %v, want %v", id|1, tb.get(id|1), want[id|1])
				}
			}
		}
		for id, s := range want {
			if tb.get(id) != s {
				t.Fatalf("stream %d is lost", id)
			}
		}
	}
}
