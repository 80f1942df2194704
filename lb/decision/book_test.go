package decision

import (
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"
	"unsafe"

	"pgregory.net/rapid"

	"github.com/trunkline/trunkline/codec/grpc"
	"github.com/trunkline/trunkline/lb/telemetry"
	"github.com/trunkline/trunkline/policy/balance"
	"github.com/trunkline/trunkline/policy/retry"
)

// file files a call of that status; n tells calls apart.
func file(b *Book, n int, status grpc.Status, local bool) {
	d := b.Next()
	d.Arrived, d.Status, d.Local, d.Method = int64(n), status, local, "pkg.S/M"
	d.TraceID, d.HasTrace = [16]byte{1, byte(n), byte(n >> 8)}, true
	*d.AddAttempt() = Attempt{Endpoint: "10.0.0.1:7001"}
	b.Done(d)
}

func arrivals(ds []Decision) (out []int) {
	for i := range ds {
		out = append(out, int(ds[i].Arrived))
	}
	return out
}

func TestTheLastCallsAreKeptAndFailuresForLonger(t *testing.T) {
	b := NewBook(4, 8, 0, new(sync.Mutex)) // 2 of the 8 for answers
	file(b, 1, grpc.Unavailable, false)
	file(b, 2, grpc.NotFound, false)
	for n := 3; n <= 20; n++ {
		file(b, n, grpc.OK, false)
	}
	if got := arrivals(b.Last(100)); !slices.Equal(got, []int{20, 19, 18, 17, 2, 1}) {
		t.Errorf("kept %v", got)
	}
	if got := arrivals(b.LastErrors(100)); !slices.Equal(got, []int{2, 1}) {
		t.Errorf("errors %v", got)
	}
	if got := arrivals(b.LastErrors(1)); !slices.Equal(got, []int{2}) {
		t.Errorf("the last error is %v", got)
	}
}

func TestAnswersThatAreTheCallersFaultDoNotPushFailuresOut(t *testing.T) {
	b := NewBook(4, 8, 0, new(sync.Mutex))
	file(b, 1, grpc.Unavailable, true)
	file(b, 2, grpc.NotFound, true) // Trunkline's own: no answer
	for n := 3; n <= 1000; n++ {
		file(b, n, grpc.NotFound, false)
	}
	if got := arrivals(b.LastErrors(100)); !slices.Equal(got, []int{1000, 999, 2, 1}) {
		t.Errorf("errors %v", got)
	}
}

func TestACallThatNeededASecondAttemptIsKeptForLongerButIsNoError(t *testing.T) {
	b := NewBook(2, 8, 0, new(sync.Mutex))
	d := b.Next()
	d.Arrived = 1
	*d.AddAttempt(), *d.AddAttempt() = Attempt{}, Attempt{Kind: Retry}
	b.Done(d)
	for n := 2; n <= 10; n++ {
		file(b, n, grpc.OK, false)
	}
	if got := arrivals(b.Last(100)); !slices.Equal(got, []int{10, 9, 1}) {
		t.Errorf("kept %v", got)
	}
	if got := b.LastErrors(100); len(got) != 0 {
		t.Errorf("errors %v", arrivals(got))
	}
}

func TestASlowCallIsKeptAsAnErrorButAStreamIsNotSlow(t *testing.T) {
	b := NewBook(2, 8, time.Second, new(sync.Mutex))
	for n, took := range []time.Duration{time.Second, time.Hour} {
		d := b.Next()
		d.Arrived, d.Took, d.MessagesOut = int64(n+1), took, uint32(1+n)
		b.Done(d)
	}
	if got := arrivals(b.LastErrors(100)); !slices.Equal(got, []int{1}) {
		t.Errorf("slow %v", got)
	}
}

func TestACallIsFoundByItsTrace(t *testing.T) {
	b := NewBook(1000, 100, 0, new(sync.Mutex))
	for n := range 1500 {
		file(b, n, grpc.OK, false)
	}
	if got := b.Find([16]byte{1, 1234 & 255, 1234 >> 8}); len(got) != 1 || got[0].Arrived != 1234 || got[0].Attempts()[0].Endpoint != "10.0.0.1:7001" {
		t.Errorf("found %v", arrivals(got))
	}
	if got := b.Find([16]byte{1, 7}); len(got) != 0 {
		t.Errorf("found %v, which is forgotten", arrivals(got))
	}
}

func TestOfAMethodOrAServiceOnly(t *testing.T) {
	b := NewBook(10, 0, 0, new(sync.Mutex))
	for n, m := range []string{"a.S/M", "a.S/N", "a.Server/M"} {
		d := b.Next()
		d.Arrived, d.Method, d.Status = int64(n), m, grpc.Internal
		b.Done(d)
	}
	for m, want := range map[string]int{"a.S": 2, "a.S/M": 1, "a.Server/M": 1, "a": 0, "a.S/": 0, "": 3} {
		if got := b.Ask(Query{Method: m, Errors: true, Limit: 10}); len(got) != want {
			t.Errorf("%q: %d records, want %d", m, len(got), want)
		}
	}
}

func TestASlotThatIsUsedAnewHasNothingOfItsFormerCall(t *testing.T) {
	b := NewBook(1, 0, 0, new(sync.Mutex))
	d := b.Next()
	d.Cluster = "shop"
	for range 9 {
		*d.AddAttempt() = Attempt{Endpoint: "e"}
		*d.AddNote() = Note{Kind: NoteBreaker}
	}
	if d.Tried() != 9 || len(d.Attempts()) != MaxAttempts || len(d.Notes()) != MaxNotes {
		t.Errorf("%d tried, %d kept, %d notes", d.Tried(), len(d.Attempts()), len(d.Notes()))
	}
	b.Done(d)
	if d = b.Next(); d.Cluster != "" || d.Tried() != 0 || len(d.Attempts()) != 0 || len(d.Notes()) != 0 {
		t.Errorf("left over: %+v", d.Facts)
	}
	a := d.AddAttempt()
	*a = Attempt{}
	for i := range 20 {
		a.Consider(Candidate{Member: uint16(i)})
	}
	if c := a.Candidates(); len(c) != MaxCandidates || c[MaxCandidates-1].Member != 19 {
		t.Errorf("candidates %v: the last must be there", c)
	}
}

func TestARecordIsBounded(t *testing.T) {
	if n := unsafe.Sizeof(Decision{}); n > 2048 {
		t.Errorf("a record has %d bytes", n)
	}
	t.Logf("a record has %d bytes: facts %d, attempt %d, note %d", unsafe.Sizeof(Decision{}), unsafe.Sizeof(Facts{}), unsafe.Sizeof(Attempt{}), unsafe.Sizeof(Note{}))
}

func TestOwnedStringsAreCopiesAndBounded(t *testing.T) {
	b := NewBook(1, 0, 0, new(sync.Mutex))
	arena := []byte("api.example.com")
	s := b.Own(unsafe.String(&arena[0], len(arena)))
	copy(arena, "xxxxxxxxxxxxxxx")
	if s != "api.example.com" {
		t.Errorf("the string became %q when the arena was used again", s)
	}
	for i := range 10_000 {
		b.Own(fmt.Sprint(i))
	}
	if len(b.owned) > maxOwned {
		t.Errorf("%d strings are kept", len(b.owned))
	}
	if s := b.Own(string(make([]byte, 10_000))); len(s) != maxOwn {
		t.Errorf("a string of %d bytes is kept", len(s))
	}
}

func TestTheBooksOfAllShardsAreReadTogether(t *testing.T) {
	x, y := NewBook(4, 4, 0, new(sync.Mutex)), NewBook(4, 4, 0, new(sync.Mutex))
	for n := 1; n <= 6; n += 2 {
		file(x, n, grpc.Unavailable, false)
		file(y, n+1, grpc.Unavailable, false)
	}
	if got := arrivals(Books{x, y}.Ask(Query{Errors: true, Limit: 4})); !slices.Equal(got, []int{6, 5, 4, 3}) {
		t.Errorf("got %v", got)
	}
	if well, failed := (Books{x, y}).Kept(); well != 8 || failed != 8 {
		t.Errorf("%d and %d are kept", well, failed)
	}
}

// The race detector is the judge, and no record may be half of one call and half of another.
func TestReadersSeeWholeRecordsWhileAShardFiles(t *testing.T) {
	var mu sync.Mutex
	b := NewBook(64, 64, 0, &mu)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for n := range 20_000 {
			mu.Lock()
			file(b, n, []grpc.Status{grpc.OK, grpc.NotFound, grpc.Unavailable}[n%3], false)
			mu.Unlock()
		}
	}()
	for ended := false; !ended; {
		select {
		case <-done:
			ended = true
		default:
		}
		last := b.Last(1000)
		for i := range last {
			if d := &last[i]; d.TraceID[1] != byte(d.Arrived) || i > 0 && d.Seq >= last[i-1].Seq {
				t.Fatalf("record %d of %d: call %d, trace %x, sequence %d", i, len(last), d.Arrived, d.TraceID, d.Seq)
			}
		}
	}
}

// usual is what the engine does for a call of one attempt among three endpoints.
func usual(b *Book, p *Pool, status grpc.Status) {
	d := b.Next()
	d.Arrived, d.Took, d.Own = 1, 2, 3
	d.TraceID, d.HasTrace = [16]byte{1}, true
	d.Method, d.Authority, d.Peer = "pkg.S/M", b.Own("api.example.com"), "10.0.0.9:5555"
	d.Route, d.Match, d.Cluster, d.Balancer, d.Generation, d.Policy, d.PolicyFrom, d.Pool = "routes[0]", "service pkg.S", "shop", "least_request", 7, "pkg.S", "config.yaml", p
	d.Status, d.Outcome = status, telemetry.OutcomeOK
	d.Received, d.HasReceived, d.Limit = 5, true, 5
	d.MessagesIn, d.MessagesOut, d.BytesIn, d.BytesOut = 1, 1, 69, 69
	a := d.AddAttempt()
	*a = Attempt{Endpoint: p.Names[0], Start: 1, Sent: 2, End: 3, Given: 5, Evidence: retry.EvidenceNone, Pick: balance.ReasonOnlyOne, Of: 3}
	for i := range 3 {
		a.Consider(Candidate{Member: uint16(i), Load: 3})
	}
	b.Done(d)
}

func threeEndpoints() *Pool {
	return &Pool{Names: []string{"10.0.0.1:7001", "10.0.0.2:7001", "10.0.0.3:7001"}, Weights: []uint32{1, 1, 1}}
}

func TestFilingACallAllocatesNothing(t *testing.T) {
	b, p := NewBook(1000, 1000, time.Second, new(sync.Mutex)), threeEndpoints()
	for _, status := range []grpc.Status{grpc.OK, grpc.Unavailable, grpc.NotFound} {
		if n := testing.AllocsPerRun(1000, func() { usual(b, p, status) }); n != 0 {
			t.Errorf("%v: %v allocations", status, n)
		}
	}
}

func BenchmarkFile(b *testing.B) {
	for _, status := range []grpc.Status{grpc.OK, grpc.Unavailable} {
		b.Run(status.String(), func(b *testing.B) {
			book, p := NewBook(1000, 1000, time.Second, new(sync.Mutex)), threeEndpoints()
			b.ReportAllocs()
			for b.Loop() {
				usual(book, p, status)
			}
		})
	}
}

func BenchmarkFind(b *testing.B) {
	book, p := NewBook(1000, 1000, time.Second, new(sync.Mutex)), threeEndpoints()
	for range 2000 {
		usual(book, p, grpc.OK)
		usual(book, p, grpc.Unavailable)
	}
	for b.Loop() {
		book.Find([16]byte{9})
	}
}

// The model is three lists, of which the newest entries are kept.
func TestLawABookIsThreeListsOfTheLatest(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		keep, keepFailed := rapid.IntRange(0, 9).Draw(t, "keep"), rapid.IntRange(0, 12).Draw(t, "keepFailed")
		b := NewBook(keep, keepFailed, 0, new(sync.Mutex))
		room := [numRings]int{max(1, keep), keepFailed / 4, keepFailed - keepFailed/4}
		var model [numRings][]int
		for n := 1; n <= 60; n++ {
			kind := rapid.IntRange(0, numRings-1).Draw(t, "kind")
			file(b, n, [...]grpc.Status{grpc.OK, grpc.NotFound, grpc.Unavailable}[kind], false)
			if room[kind] == 0 {
				kind = ringWell // no other room
			}
			model[kind] = append(model[kind], n)
			model[kind] = model[kind][max(0, len(model[kind])-room[kind]):]
			var want []int
			for _, l := range model {
				want = append(want, l...)
			}
			slices.Sort(want)
			slices.Reverse(want)
			if got := arrivals(b.Last(100)); !slices.Equal(got, want) {
				t.Fatalf("after call %d: %v are kept, want %v", n, got, want)
			}
			want = slices.DeleteFunc(want, func(n int) bool { return b.statusOf(n) == grpc.OK })
			if got := arrivals(b.LastErrors(100)); !slices.Equal(got, want) {
				t.Fatalf("after call %d: errors %v, want %v", n, got, want)
			}
		}
	})
}

// statusOf is the status of the call that file was given as n.
func (b *Book) statusOf(n int) grpc.Status {
	for i := range b.rings {
		for _, d := range b.rings[i].slots {
			if d.Seq != 0 && d.Arrived == int64(n) {
				return d.Status
			}
		}
	}
	return grpc.OK
}
