package grpc

import "strings"

// StatusSet is a set of known statuses. The zero value is empty. It is a value: copies are independent.
type StatusSet uint32

// SetOf returns the set of the given statuses; unknown ones are left out, for a set cannot hold them.
func SetOf(statuses ...Status) (set StatusSet) {
	for _, s := range statuses {
		if s.Known() {
			set |= 1 << s
		}
	}
	return set
}

// Has says whether s is in the set; an unknown status is in none.
func (set StatusSet) Has(s Status) bool { return s.Known() && set&(1<<s) != 0 }

// String is the canonical names in the order of their numbers, joined by ", ".
func (set StatusSet) String() string {
	var names []string
	for s := range Status(NumStatuses) {
		if set.Has(s) {
			names = append(names, s.String())
		}
	}
	return strings.Join(names, ", ")
}

// ServerFaults are the statuses that say something about the server rather than about the caller or the call: what breakers
// and outlier detection count unless a policy says otherwise. NOT_FOUND, INVALID_ARGUMENT, PERMISSION_DENIED and their like
// are the caller's, CANCELLED is the caller's wish, RESOURCE_EXHAUSTED and ABORTED are about the call.
const ServerFaults StatusSet = 1<<Unknown | 1<<DeadlineExceeded | 1<<Internal | 1<<Unavailable | 1<<DataLoss
