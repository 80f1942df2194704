package limit

import (
	"encoding/binary"
	"fmt"
	"math/bits"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// Each key has a bucket of its own.
func TestKeyedStory(t *testing.T) {
	k := NewKeyed(Rate{PerSecond: 1, Burst: 2}, 100, 42)
	now := 7 * second
	for _, key := range []string{"alice", "bob", ""} {
		for i := range 2 {
			if ok, _ := k.Take(now, key); !ok {
				t.Fatalf("token %d of %q was refused", i+1, key)
			}
		}
		ok, after := k.Take(now, key)
		if ok || after < 999*time.Millisecond || after > 1001*time.Millisecond {
			t.Fatalf("third token of %q: %v, after %v; want a refusal for a second", key, ok, after)
		}
		if ok, _ := k.Take(now+int64(after), key); !ok {
			t.Fatalf("%q is refused at the time that it was told", key)
		}
	}
}

// A shard whose clock is behind does not take a drained bucket for one of long ago.
func TestKeyedLateClock(t *testing.T) {
	k := NewKeyed(Rate{PerSecond: 100_000, Burst: 1}, 100, 42)
	now := 7 * second
	k.Take(now, "alice")
	for _, late := range []time.Duration{time.Microsecond, time.Millisecond, 100 * time.Millisecond} {
		if ok, _ := k.Take(now-int64(late), "alice"); ok {
			t.Errorf("a shard %v behind gets a token that is not there", late)
		}
	}
}

// Made-up keys do not take a drained key's debt away as long as some key owes less.
func TestKeyedForgetsWhoOwesLeast(t *testing.T) {
	k := NewKeyed(Rate{PerSecond: 1, Burst: 10}, 1, 42) // one set of 8
	now := int64(0)
	for range 10 {
		k.Take(now, "greedy")
	}
	for i := range 10_000 {
		now += int64(time.Microsecond)
		k.Take(now, fmt.Sprint("made up ", i))
		if ok, _ := k.Take(now, "greedy"); ok {
			t.Fatalf("after %d made-up keys the greedy one got a token that it had not earned", i+1)
		}
	}
	keys, tokens := k.Forgotten()
	if keys != 10_000-7 || tokens < keys {
		t.Fatalf("forgotten: %d keys, %d tokens; want %d keys and one token each", keys, tokens, 10_000-7)
	}
}

// Hardly any debt is forgotten when as many keys come as it was made for.
func TestKeyedHoldsWhatItIsMadeFor(t *testing.T) {
	const keys = 10_000
	k := NewKeyed(Rate{PerSecond: 1, Burst: 1}, keys, 42)
	again := 0
	for i := range keys {
		k.Take(0, fmt.Sprint("client-", i))
	}
	for i := range keys {
		if ok, _ := k.Take(1, fmt.Sprint("client-", i)); ok {
			again++
		}
	}
	if again > keys/50 {
		t.Fatalf("%d of %d drained keys got a token again, want under 2 %%", again, keys)
	}
}

// Law: a key is granted at most burst + rate*t and what the table says that it forgot; in a table with room for all that is nothing.
func TestKeyedLaw(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r := drawRate(t)
		room := rapid.SampledFrom([]int{1, 4, 64}).Draw(t, "room")
		keys := rapid.IntRange(1, 40).Draw(t, "keys")
		k := NewKeyed(r, room, rapid.Uint64().Draw(t, "seed"))
		size := len(k.sets)
		now := rapid.Int64Range(-1e15, 1e15).Draw(t, "begin")
		granted := map[string][]int64{}
		for range rapid.IntRange(1, 200).Draw(t, "calls") {
			now += drawStep(t, r) / int64(keys)
			key := fmt.Sprint(rapid.IntRange(1, keys).Draw(t, "key"))
			ok, after := k.Take(now, key)
			if ok {
				granted[key] = append(granted[key], now)
			} else if after <= 0 {
				t.Fatalf("refused, and told to wait %v", after)
			}
		}
		_, extra := k.Forgotten()
		for _, g := range granted {
			withinLaw(t, r, g, float64(extra)+1.0/4096)
		}
		if len(k.sets) != size || size*ways > 2*room+ways {
			t.Fatalf("%d slots for %d keys", len(k.sets)*ways, room)
		}
	})
}

// Law: a key that is alone waits no longer than it is told, whatever the rate.
func TestKeyedWaitIsTrue(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r := drawRate(t)
		k := NewKeyed(r, 8, rapid.Uint64().Draw(t, "seed"))
		now := rapid.Int64Range(-1e15, 1e15).Draw(t, "begin")
		for range 100 {
			ok, after := k.Take(now, "key")
			if ok {
				now += drawStep(t, r)
				continue
			}
			now += int64(after)
			if ok, again := k.Take(now, "key"); !ok {
				t.Fatalf("waited %v as told, and is told to wait %v", after, again)
			}
		}
	})
}

// Law of conservation: while no time passes, every token that was granted is owed in the table or was counted as forgotten, also when
// shards fight for a set that is far too small.
func TestKeyedLosesNoToken(t *testing.T) {
	r := Rate{PerSecond: 1, Burst: 3}
	for _, keys := range []int{4, 8, 24} {
		k := NewKeyed(r, 1, 42) // one set of 8
		var granted atomic.Uint64
		var wg sync.WaitGroup
		for shard := range 8 {
			rnd := rand.New(rand.NewPCG(1, uint64(shard)))
			wg.Go(func() {
				for range 10_000 {
					if ok, _ := k.Take(0, string(rune('a'+rnd.IntN(keys)))); ok {
						granted.Add(1)
					}
				}
			})
		}
		wg.Wait()
		_, forgotten := k.Forgotten()
		owed := uint64(0)
		for i := range k.sets[0] {
			tokens := k.owed(k.sets[0][i].Load(), 0) / k.interval
			if tokens > uint64(r.Burst) {
				t.Errorf("%d keys: a bucket owes %d tokens, its burst is %d", keys, tokens, r.Burst)
			}
			owed += tokens
		}
		if granted.Load() != owed+forgotten {
			t.Errorf("%d keys: %d granted, %d owed, %d forgotten", keys, granted.Load(), owed, forgotten)
		}
		if keys <= ways && granted.Load() > uint64(keys*r.Burst+7*keys) { // one more each for each other shard, at the worst
			t.Errorf("%d keys have room, and %d were granted with a burst of %d", keys, granted.Load(), r.Burst)
		}
	}
}

// Taking allocates nothing.
func TestNothingIsAllocated(t *testing.T) {
	b, k, c := NewBucket(Rate{1, 1}), NewKeyed(Rate{1, 1}, 10, 1), NewConcurrency(1)
	keys := []string{"alice", "a-rather-long-key-as-api-keys-are-0123456789", "bob"}
	i := 0
	if n := testing.AllocsPerRun(1000, func() {
		i++
		b.Take(int64(i))
		k.Take(int64(i), keys[i%3])
		c.Acquire()
		c.Release()
	}); n != 0 {
		t.Fatalf("%v allocations", n)
	}
}

// The keyed hash is SipHash: the same code with 2-4 rounds gives the authors' test vector (appendix A of the paper), and
// with 1-3 rounds what the fast one gives.
func TestHashIsSipHash(t *testing.T) {
	message := make([]byte, 15)
	for i := range message {
		message[i] = byte(i)
	}
	paper := hashKey{0x0706050403020100, 0x0f0e0d0c0b0a0908}
	if got := slowSIP(paper, message, 2, 4); got != 0xa129ca6149be45e5 {
		t.Fatalf("the oracle is wrong: %#x", got)
	}
	rapid.Check(t, func(t *rapid.T) {
		key := newHashKey(rapid.Uint64().Draw(t, "seed"))
		s := rapid.String().Draw(t, "s")
		if got, want := key.sum(s), slowSIP(key, []byte(s), 1, 3); got != want {
			t.Fatalf("%#x, want %#x", got, want)
		}
	})
}

// slowSIP is section 2 of the paper, word for word.
func slowSIP(k hashKey, m []byte, c, d int) uint64 {
	v := [4]uint64{k.k0 ^ 0x736f6d6570736575, k.k1 ^ 0x646f72616e646f6d, k.k0 ^ 0x6c7967656e657261, k.k1 ^ 0x7465646279746573}
	sipRound := func() {
		v[0] += v[1]
		v[2] += v[3]
		v[1] = bits.RotateLeft64(v[1], 13)
		v[3] = bits.RotateLeft64(v[3], 16)
		v[1] ^= v[0]
		v[3] ^= v[2]
		v[0] = bits.RotateLeft64(v[0], 32)
		v[2] += v[1]
		v[0] += v[3]
		v[1] = bits.RotateLeft64(v[1], 17)
		v[3] = bits.RotateLeft64(v[3], 21)
		v[1] ^= v[2]
		v[3] ^= v[0]
		v[2] = bits.RotateLeft64(v[2], 32)
	}
	padded := append([]byte{}, m...)
	for len(padded)%8 != 7 {
		padded = append(padded, 0)
	}
	padded = append(padded, byte(len(m)))
	for i := 0; i < len(padded); i += 8 {
		word := binary.LittleEndian.Uint64(padded[i:])
		v[3] ^= word
		for range c {
			sipRound()
		}
		v[0] ^= word
	}
	v[2] ^= 0xff
	for range d {
		sipRound()
	}
	return v[0] ^ v[1] ^ v[2] ^ v[3]
}

func BenchmarkKeyed(b *testing.B) {
	for _, c := range []struct {
		name string
		r    Rate
		keys int
	}{{"granted", Rate{1e6, 10}, 1000}, {"refused", Rate{0.001, 1}, 1000}, {"too many keys", Rate{1, 1}, 1_000_000}} {
		b.Run(c.name, func(b *testing.B) {
			k := NewKeyed(c.r, 10_000, 42)
			names := make([]string, min(c.keys, 100_000))
			for i := range names {
				names[i] = fmt.Sprintf("client-%08d", i)
			}
			b.ReportAllocs()
			i := 0
			for b.Loop() {
				i++
				k.Take(int64(i), names[i%len(names)])
			}
		})
	}
}
