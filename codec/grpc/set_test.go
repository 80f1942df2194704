package grpc

import "testing"

// A set holds exactly the known statuses that it was given, and names them in the order of their numbers.
func TestASetHoldsWhatItWasGiven(t *testing.T) {
	set := SetOf(Unavailable, NotFound, Status(99))
	for s := range Status(40) {
		if want := s == Unavailable || s == NotFound; set.Has(s) != want {
			t.Errorf("Has(%s) = %t", s, !want)
		}
	}
	if got, want := set.String(), "NOT_FOUND, UNAVAILABLE"; got != want {
		t.Errorf("String: %q, want %q", got, want)
	}
	if got, want := ServerFaults.String(), "UNKNOWN, DEADLINE_EXCEEDED, INTERNAL, UNAVAILABLE, DATA_LOSS"; got != want {
		t.Errorf("ServerFaults: %q, want %q", got, want)
	}
}
