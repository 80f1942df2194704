package retry

import "testing"

func TestABudgetLetsATenthThrough(t *testing.T) {
	b := NewBudget(BudgetSettings{})
	if b.Tokens() != 10 {
		t.Fatalf("it begins with %v, want a fifth of 50", b.Tokens())
	}
	retries := 0
	for range 1000 {
		b.Deposit()
		for b.Withdraw() { // everything fails always
			retries++
		}
	}
	if retries != 110 {
		t.Fatalf("%d retries of 1000 calls, want 100 and the 10 saved up", retries)
	}
	for range 10000 {
		b.Deposit()
	}
	if b.Tokens() != 50 {
		t.Fatalf("it keeps %v, want 50", b.Tokens())
	}
}

func TestWithoutBudgetAndThrottleNothingIsHeldBack(t *testing.T) {
	var b *Budget
	var throttle *Throttle
	b.Deposit()
	throttle.Failed()
	throttle.Succeeded()
	if !b.Withdraw() || !throttle.Allows() || b.Tokens() != 0 || throttle.Tokens() != 0 {
		t.Fatal("nil refuses")
	}
}

func TestTheThrottleIsA6sTokenCount(t *testing.T) {
	throttle := NewThrottle(ThrottleSettings{MaxTokens: 10, TokenRatio: 0.5466})
	for i := range 4 {
		if throttle.Failed(); !throttle.Allows() {
			t.Fatalf("held back after %d failures", i+1)
		}
	}
	if throttle.Failed(); throttle.Allows() { // 5 is not over 10/2
		t.Fatal("not held back at the threshold")
	}
	if throttle.Succeeded(); !throttle.Allows() || throttle.Tokens() != 5.546 {
		t.Fatalf("%v tokens after a success, want 5.546: three decimals count", throttle.Tokens())
	}
	for range 100 {
		throttle.Failed()
	}
	if throttle.Tokens() != 0 {
		t.Fatalf("%v tokens, want none and not less", throttle.Tokens())
	}
	for range 100 {
		throttle.Succeeded()
	}
	if throttle.Tokens() != 10 {
		t.Fatalf("%v tokens, want 10 and not more", throttle.Tokens())
	}
	if got := thousandths(0.546); got != 546 {
		t.Fatalf("0.546 is %d thousandths", got)
	}
}
