package limit

import (
	"math/bits"
	"sync/atomic"
	"time"
)

// Keyed is a token bucket for each key, in memory that never grows: 16 bytes for each of the keys that it is made for,
// whatever keys come. It is shared by shards, lock-free, and keeps no strings.
//
// A bucket is one word: a tag of the key's hash, and the bucket's theoretical arrival time (see Bucket). A full bucket needs
// no word at all, so a key costs memory only while it owes tokens. The words stand in sets of eight, a cache line each; a key
// lives in the set that its hash names. When all eight owe tokens and a ninth key comes, the one that owes least is
// forgotten: it is full again, and so is given too much, by at most what it owed, which is at most what each other in
// its set owed, and never more than Burst. Forgotten counts it.
//
// Three more inexact things, all small: a token may come 1/4096 of an interval early; keys with the same tag in the same
// set share a bucket (a chance of 1 in 2 million for a key; nobody without the seed can bring it about); and if several
// shards bring the same unknown key at one moment while a third key changes the set, each may grant one token where only
// one was due.
type Keyed struct {
	sets  []set   // set once in NewKeyed
	hash  hashKey // set once in NewKeyed
	shift uint    // a unit of time is 1<<shift nanoseconds. set once in NewKeyed
	// In units. set once in NewKeyed
	interval, tolerance, reach uint64

	forgottenKeys   atomic.Uint64 // atomic
	forgottenTokens atomic.Uint64 // atomic
}

const (
	ways     = 8
	timeBits = 40
	timeMask = 1<<timeBits - 1
)

// set is one cache line. A word is tag<<timeBits | time; the time is in units, modulo 1<<timeBits, and a word whose
// time is not within the reach of a bucket after now is free: its bucket is full. Zero is a free word: no tag is zero.
//
// The modulus is at least 2^27 intervals and 9 minutes (at 100 per second it is 26 days). A word that nobody has touched
// for that long may seem to owe something, for as long as a bucket takes to fill and a second; the chance of it is that
// time's share of the modulus, and such a bucket grants less, never more.
type set [ways]atomic.Uint64

// NewKeyed makes room for maxKeys keys that owe tokens at once; with exactly so many, about one in a hundred does not
// fit in its set. The seed is the hash's secret: a random number that callers cannot know.
func NewKeyed(r Rate, maxKeys int, seed uint64) *Keyed {
	p := newPace(r)
	k := &Keyed{
		// Twice the keys, so that uneven sets seldom overflow.
		sets: make([]set, max(1, (2*maxKeys+ways-1)/ways)),
		hash: newHashKey(seed),
	}
	// The unit: 4096 to an interval is fine enough (a bucket is at most 0.05 % slower than asked), unless then a bucket's
	// tolerance comes near the modulus: bursts over 4 million are counted more coarsely.
	k.shift = uint(max(0, bits.Len64(uint64(p.interval))-13, bits.Len64(uint64(p.tolerance))-(timeBits-4)))
	k.interval = uint64(p.interval+1<<k.shift-1) >> k.shift
	hi, lo := bits.Mul64(k.interval, uint64(max(r.Burst, 1)-1))
	k.tolerance = timeMask / 4
	if hi == 0 {
		k.tolerance = min(lo, timeMask/4)
	}
	// A second more, for shards whose clocks are behind others'.
	k.reach = k.tolerance + k.interval + uint64(time.Second)>>k.shift
	return k
}

// Take takes a token of the key's bucket at now, as Bucket.Take does. It keeps nothing of key.
func (k *Keyed) Take(now int64, key string) (ok bool, after time.Duration) {
	h := k.hash.sum(key)
	// The set comes of the upper half, the tag of the lower: they are independent.
	upper, _ := bits.Mul64(h, uint64(len(k.sets)))
	s := &k.sets[upper]
	tag := h & (1<<(64-timeBits) - 1)
	if tag == 0 {
		tag = 1
	}
	at := uint64(now >> k.shift)
	for {
		slot, word := s.find(tag)
		if slot < 0 {
			slot, word, owed := k.victim(s, at)
			if k.claim(s, slot, word, tag, at) {
				if owed > 0 {
					k.forgottenKeys.Add(1)
					k.forgottenTokens.Add((owed + k.interval - 1) / k.interval)
				}
				return true, 0
			}
			continue
		}
		owed := k.owed(word, at)
		if owed > k.tolerance {
			return false, time.Duration((owed - k.tolerance) << k.shift)
		}
		if k.claim(s, slot, word, tag, at+owed) {
			return true, 0
		}
	}
}

// claim writes the bucket of a key that was to be full at full, with one token less. It fails if another was faster.
func (k *Keyed) claim(s *set, slot int, word, tag, full uint64) bool {
	return s[slot].CompareAndSwap(word, tag<<timeBits|(full+k.interval)&timeMask)
}

// owed is how far ahead of now a word's time is; 0 if it is not, or so far that it must be a leftover of long ago.
func (k *Keyed) owed(word, now uint64) uint64 {
	ahead := (word - now) & timeMask
	if word == 0 || ahead > k.reach {
		return 0
	}
	return ahead
}

// find finds the tag's word; slot is -1 if there is none.
func (s *set) find(tag uint64) (slot int, word uint64) {
	for i := range s {
		if w := s[i].Load(); w>>timeBits == tag {
			return i, w
		}
	}
	return -1, 0
}

// victim is the word of the bucket that owes least.
func (k *Keyed) victim(s *set, now uint64) (slot int, word, owed uint64) {
	owed = ^uint64(0)
	for i := range s {
		w := s[i].Load()
		o := k.owed(w, now)
		if o < owed {
			slot, word, owed = i, w, o
		}
		if o == 0 {
			break
		}
	}
	return slot, word, owed
}

// Forgotten counts the keys that were forgotten for lack of room while they owed tokens, and the tokens (rounded up)
// that they were thereby given beyond their rate at most. If it grows, maxKeys is too small, or somebody makes up keys.
func (k *Keyed) Forgotten() (keys, tokens uint64) {
	return k.forgottenKeys.Load(), k.forgottenTokens.Load()
}
