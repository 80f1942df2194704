package buf

import (
	"bytes"
	"math/rand/v2"
	"testing"
)

func TestABufferHasAtLeastTheAskedCapacityAndIsEmpty(t *testing.T) {
	var p Pool
	for _, n := range []int{0, 1, 511, 512, 513, 1024, 1025, 1<<maxBits - 1, 1 << maxBits, 1<<maxBits + 1} {
		b := p.Get(n)
		if len(b) != 0 || cap(b) < n || cap(b) == 0 {
			t.Errorf("Get(%d): length %d, capacity %d", n, len(b), cap(b))
		}
		if n <= 1<<maxBits && cap(b) >= 2*max(n, 512) {
			t.Errorf("Get(%d): capacity %d is wasteful", n, cap(b))
		}
		p.Put(b)
	}
	if p.Outstanding() != 0 {
		t.Errorf("%d outstanding", p.Outstanding())
	}
}

func TestAReturnedBufferIsHandedOutAgain(t *testing.T) {
	var p Pool
	b := append(p.Get(600), "left over"...)
	p.Put(b)
	again := p.Get(1000)
	if &again[:1][0] != &b[0] || len(again) != 0 {
		t.Error("the buffer was not recycled, or not emptied")
	}
	if other := p.Get(1000); &other[:1][0] == &b[0] {
		t.Error("one buffer was handed out twice")
	}
}

func TestABufferThatIsNotOfAClassIsLeftToTheCollector(t *testing.T) {
	var p Pool
	p.Put(p.Get(1 << 23))
	b := p.Get(4096)
	p.Put(b[:200][100:]) // what is left of a buffer whose head was cut off
	p.Put(nil)
	for _, class := range p.free {
		if len(class) != 0 {
			t.Error("it was kept")
		}
	}
	if p.Outstanding() != 0 {
		t.Errorf("%d outstanding", p.Outstanding())
	}
}

func TestAnIdlePoolKeepsLittle(t *testing.T) {
	var p Pool
	var all [][]byte
	for range 8000 {
		all = append(all, p.Get(1<<minBits))
	}
	for range 30 {
		all = append(all, p.Get(1<<maxBits))
	}
	for _, b := range all {
		p.Put(b)
	}
	for c, l := range p.free {
		if n := len(l) << (c + minBits); n > max(keepPerClass, 2<<(c+minBits)) {
			t.Errorf("class of %d: %d bytes kept", 1<<(c+minBits), n)
		}
	}
	if len(p.free[0]) != keepPerClass>>minBits || len(p.free[classes-1]) != 2 {
		t.Errorf("%d small and %d large are kept", len(p.free[0]), len(p.free[classes-1]))
	}
}

func TestGrowKeepsTheContentsAndGivesTheOldBufferBack(t *testing.T) {
	var p Pool
	if b := p.Grow(nil, 0); b != nil {
		t.Errorf("nothing grew to %v", b)
	}
	b := append(p.Grow(nil, 5), "hello"...)
	if same := p.Grow(b, cap(b)-len(b)); &same[0] != &b[0] {
		t.Error("a buffer with room was moved")
	}
	b = p.Grow(b, 10_000)
	if string(b) != "hello" || cap(b) < 10_005 || p.Outstanding() != 1 || len(p.free[0]) != 1 {
		t.Errorf("%q of %d, %d outstanding, %d free", b, cap(b), p.Outstanding(), len(p.free[0]))
	}
}

func TestNoTwoOwnersEverShareABuffer(t *testing.T) {
	rnd := rand.New(rand.NewPCG(3, 4))
	var p Pool
	type owned struct {
		b    []byte
		want byte
	}
	var all []owned
	for i := range 20_000 {
		switch k := rnd.IntN(max(1, len(all))); {
		case rnd.IntN(2) == 0 || len(all) == 0:
			o := owned{p.Get(rnd.IntN(3000)), byte(i)}
			o.b = append(o.b, bytes.Repeat([]byte{o.want}, cap(o.b))...)
			all = append(all, o)
		case rnd.IntN(3) == 0:
			o := &all[k]
			o.b = p.Grow(o.b, 1+rnd.IntN(2000))
			o.b = append(o.b, bytes.Repeat([]byte{o.want}, cap(o.b)-len(o.b))...)
		default:
			o := all[k]
			if bytes.Count(o.b, []byte{o.want}) != len(o.b) {
				t.Fatal("somebody else wrote into the buffer")
			}
			p.Put(o.b)
			all[k] = all[len(all)-1]
			all = all[:len(all)-1]
		}
		if p.Outstanding() != len(all) {
			t.Fatalf("%d outstanding, %d owned", p.Outstanding(), len(all))
		}
	}
}

func TestGettingAndPuttingAllocatesNothing(t *testing.T) {
	var p Pool
	p.Put(p.Get(4000))
	if n := testing.AllocsPerRun(100, func() { p.Put(p.Get(4000)) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
