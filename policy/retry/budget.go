package retry

import "sync/atomic"

// The unit of both token counts: thousandths, so that counting is exact and one atomic word is enough.
const milli = 1000

// The defaults of [BudgetSettings].
const (
	DefaultRatio = 0.1
	DefaultBurst = 50
)

// Budget bounds retries in proportion to calls: each call pays in a part of a token, each retry takes one. However many
// calls fail, and however long, no more than ratio times the calls plus what was saved up is retried. Safe for use by all
// shards at once; a nil Budget never refuses.
type Budget struct {
	tokens      atomic.Int64 // milli-tokens, 0 to most
	share, most int64        // set once in NewBudget: milli-tokens per call, and the most that is kept
	_           [40]byte     // its own cache line: written for every call by every shard
}

// NewBudget returns a budget that holds a fifth of its burst. What is zero or less in s has its default.
func NewBudget(s BudgetSettings) *Budget {
	if !(s.Ratio > 0) {
		s.Ratio = DefaultRatio
	}
	if s.Burst <= 0 {
		s.Burst = DefaultBurst
	}
	most := int64(s.Burst) * milli
	b := &Budget{share: max(thousandths(s.Ratio), 1), most: most}
	b.tokens.Store(most / 5)
	return b
}

// Deposit pays in for one call: once per call, not per attempt.
func (b *Budget) Deposit() {
	if b != nil {
		credit(&b.tokens, b.share, b.most)
	}
}

// Withdraw takes a token for one retry, or says that there is none.
func (b *Budget) Withdraw() bool {
	if b == nil {
		return true
	}
	for {
		have := b.tokens.Load()
		if have < milli {
			return false
		}
		if b.tokens.CompareAndSwap(have, have-milli) {
			return true
		}
	}
}

// Tokens is how many retries are saved up, for display.
func (b *Budget) Tokens() float64 {
	if b == nil {
		return 0
	}
	return float64(b.tokens.Load()) / milli
}

// Throttle is the token count of gRFC A6's "Throttling Retry Attempts and Hedged RPCs": it begins full, a failure takes one, a
// success gives TokenRatio, and unless more than half is there nothing is retried or hedged. Safe for use by all shards at
// once; a nil Throttle always allows.
type Throttle struct {
	tokens      atomic.Int64 // milli-tokens, 0 to most
	share, most int64        // set once in NewThrottle
	_           [40]byte     // its own cache line: written for every call by every shard
}

// NewThrottle returns a throttle that is full. Of TokenRatio three decimals count, the rest is cut off, as A6 says.
func NewThrottle(s ThrottleSettings) *Throttle {
	t := &Throttle{share: thousandths(s.TokenRatio), most: int64(max(s.MaxTokens, 0)) * milli}
	t.tokens.Store(t.most)
	return t
}

// Succeeded counts a call that ended with OK.
func (t *Throttle) Succeeded() {
	if t != nil {
		credit(&t.tokens, t.share, t.most)
	}
}

// Failed counts a failure of the kinds that A6 counts: a retryable (retries) or non-fatal (hedging) status, or a pushback that
// forbids. [Decide] calls it itself.
func (t *Throttle) Failed() {
	if t == nil {
		return
	}
	for {
		have := t.tokens.Load()
		if have == 0 || t.tokens.CompareAndSwap(have, max(have-milli, 0)) {
			return
		}
	}
}

// Allows says whether calls may be retried and hedged now.
func (t *Throttle) Allows() bool { return t == nil || t.tokens.Load() > t.most/2 }

// Tokens is A6's token_count, for display.
func (t *Throttle) Tokens() float64 {
	if t == nil {
		return 0
	}
	return float64(t.tokens.Load()) / milli
}

// credit adds share up to most. The usual case, a full count, only reads.
func credit(tokens *atomic.Int64, share, most int64) {
	for {
		have := tokens.Load()
		if have >= most || tokens.CompareAndSwap(have, min(have+share, most)) {
			return
		}
	}
}

// thousandths cuts off what is below a thousandth; the millionth makes up for decimals that a float64 holds a little short.
func thousandths(ratio float64) int64 { return int64(min(ratio, 1e6)*milli + 1e-6) }
