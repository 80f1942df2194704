package decision

import (
	"bytes"
	"flag"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/trunkline/trunkline/codec/grpc"
	"github.com/trunkline/trunkline/lb/telemetry"
	"github.com/trunkline/trunkline/policy/balance"
	"github.com/trunkline/trunkline/policy/hedge"
	"github.com/trunkline/trunkline/policy/retry"
	"github.com/trunkline/trunkline/policy/serviceconfig"
)

var update = flag.Bool("update", false, "write the golden files anew")

const ms = time.Millisecond

const (
	one   = "10.0.0.1:7001"
	two   = "10.0.0.2:7001"
	three = "10.0.0.3:7001"
)

// call is a call to the shop that took so long; the rest is for the story to say.
func call(status grpc.Status, took time.Duration) *Decision {
	return &Decision{Facts: Facts{
		Arrived: time.Date(2026, 11, 23, 7, 9, 8, 123e6, time.UTC).UnixNano(), Took: took, Own: 300 * time.Microsecond,
		TraceID:  [16]byte{0x4b, 0xf9, 0x2f, 0x35, 0x77, 0xb3, 0x4d, 0xa6, 0xa3, 0xce, 0x92, 0x9d, 0x0e, 0x0e, 0x47, 0x36},
		HasTrace: true, Method: "shop.Catalog/GetItem", Authority: "shop.example.com", Peer: "10.9.0.7:51544",
		Route: "shop.Catalog", Match: "service shop.Catalog", Cluster: "shop", Balancer: "least_request", Generation: 7,
		Policy: "shop.Catalog", PolicyFrom: "trunkline.yaml", Pool: &Pool{Names: []string{one, two, three}, Weights: []uint32{1, 1, 2}},
		Status: status, Received: 2 * time.Second, HasReceived: true, Limit: 2 * time.Second, MessagesIn: 1,
	}}
}

// own makes the reply Trunkline's.
func (d *Decision) own(o telemetry.Outcome, reason, message string) *Decision {
	d.Local, d.Outcome, d.Reason, d.Message = true, o, reason, message
	return d
}

func (d *Decision) try(a Attempt, cs ...Candidate) *Decision {
	a.Of = uint16(len(d.Pool.Names))
	for _, c := range cs {
		a.Consider(c)
	}
	*d.AddAttempt() = a
	return d
}

func (d *Decision) note(n Note) *Decision {
	*d.AddNote() = n
	return d
}

// all three endpoints, with these loads.
func loads(l1, l2, l3 int32) []Candidate {
	return []Candidate{{Member: 0, Load: l1}, {Member: 1, Load: l2}, {Member: 2, Load: l3}}
}

// stories are calls of every ending. The golden files are what somebody reads who never saw the code.
func stories() map[string]*Decision {
	ok := Attempt{Endpoint: two, Start: ms / 20, Sent: ms / 10, End: 34 * ms, Given: 2 * time.Second, Pick: balance.ReasonP2CLessLoaded}
	unavailable := Attempt{Endpoint: three, Start: ms / 20, Sent: ms / 10, End: 12 * ms, Status: grpc.Unavailable, Evidence: retry.ByStatus, Given: 2 * time.Second, Pick: balance.ReasonP2CLessLoaded}
	lost := Attempt{Endpoint: three, Start: ms / 20, Sent: ms / 10, End: 12 * ms, Status: grpc.Unavailable, Evidence: retry.Ambiguous, Outcome: telemetry.OutcomeUpstreamConnectionEnd,
		Given: 2 * time.Second, Pick: balance.ReasonP2CLessLoaded}
	after := func(a Attempt, w retry.Why) Attempt { a.Why = w; return a }
	late := func(a Attempt, k Kind, from, to, wait time.Duration) Attempt {
		a.Kind, a.Start, a.Sent, a.End, a.Wait, a.Given = k, from, from+ms/20, to, wait, 2*time.Second-from
		return a
	}

	all := map[string]*Decision{}
	all["ok"] = call(grpc.OK, 34200*time.Microsecond).try(ok, loads(4, 2, 9)...)

	d := call(grpc.OK, 60*ms)
	d.Own, d.Retries, d.Timeout = 20500*time.Microsecond, true, 5*time.Second
	d.try(after(unavailable, retry.RetryStatus), Candidate{Member: 0, Load: 4, State: uint8(balance.Ejected)}, Candidate{Member: 1, Load: 2, Warm: 300}, Candidate{Member: 2})
	d.try(late(ok, Retry, 32*ms, 60*ms, 20*ms), Candidate{Member: 0, Load: 4, State: uint8(balance.Ejected)}, Candidate{Member: 1, Load: 2, Warm: 300}, Candidate{Member: 2, Failed: true})
	d.attempts[1].Pick = balance.ReasonP2COtherAvoided
	all["retried"] = d

	d = call(grpc.Unavailable, 95*ms)
	d.Retries, d.Own, d.Message = true, 60*ms, "catalog is being reindexed"
	d.try(after(unavailable, retry.RetryStatus), loads(1, 1, 0)...)
	d.try(after(late(unavailable, Retry, 32*ms, 44*ms, 20*ms), retry.RetryStatus))
	d.try(after(late(unavailable, Retry, 84*ms, 95*ms, 40*ms), retry.NoAttempts))
	d.attempts[1].Endpoint = one
	all["retried_in_vain"] = d

	d = call(grpc.Unavailable, 12*ms).try(after(unavailable, retry.NoStatus), loads(1, 1, 0)...)
	d.Retries = true
	all["status_not_listed"] = d

	all["no_policy"] = call(grpc.Unavailable, 12*ms).try(after(unavailable, retry.NoPolicy), loads(1, 1, 0)...)
	all["no_policy"].Policy, all["no_policy"].PolicyFrom = "", ""

	all["not_idempotent"] = call(grpc.Unavailable, 12*ms).own(telemetry.OutcomeUpstreamConnectionEnd, "UPSTREAM_CONNECTION_LOST",
		"the connection to endpoint 10.0.0.3:7001 was lost while waiting for the response of 10.0.0.3:7001: EOF").try(after(lost, retry.NoIdempotency), loads(1, 1, 0)...)
	all["not_idempotent"].Retries = true

	all["not_idempotent"].IdempotentWhy = "the endpoints' descriptors do not declare it (idempotency_level), nor does a policy (trunkline.methodPolicy[].idempotent)"

	// What the engine leaves out is told all the same.
	d = call(grpc.OK, 60*ms).try(after(unavailable, retry.RetryStatus)).try(late(ok, Retry, 32*ms, 60*ms, 0))
	d.Retries = true
	all["retried_without_waits"] = d
	plain := unavailable
	plain.Evidence = retry.EvidenceNone
	all["status_without_evidence"] = call(grpc.Unavailable, 12*ms).try(plain)
	all["status_without_evidence"].PolicyFrom, all["status_without_evidence"].Policy = "", "default"
	all["committed"] = call(grpc.Unavailable, 12*ms).try(plain)
	all["committed"].Retries, all["committed"].Committed = true, true
	all["queue_timeout_noted_on_leaving"] = call(grpc.Unavailable, time.Second).own(telemetry.OutcomeUpstreamOverflow, "QUEUE_TIMEOUT", "no place became free in cluster shop: the call waited 1s in the queue").
		note(Note{Kind: NoteConcurrency, Name: "cluster shop", A: 100, B: 100, Attempt: -1}).note(Note{Kind: NoteQueue, Name: "shop", A: 3, B: 50, Wait: time.Second, At: time.Second})
	fatal := unavailable
	fatal.Status = grpc.Internal
	all["hedging_fatal"] = call(grpc.Internal, 12*ms).try(after(fatal, retry.NoStatus))
	all["hedging_fatal"].Hedges, all["hedging_fatal"].Idempotent = true, true
	cut := late(lost, First, ms/20, 250*ms+ms/20, 0)
	cut.PerTry, cut.Given, cut.TimedOut, cut.Outcome = 250*ms, 250*ms, true, telemetry.OutcomeUpstreamTimeout
	all["per_try_timeout"] = call(grpc.Unavailable, 250*ms).own(telemetry.OutcomeUpstreamTimeout, "PER_TRY_TIMEOUT", "endpoint 10.0.0.3:7001 did not answer within 250ms").try(after(cut, retry.NoIdempotency))
	all["per_try_timeout"].Retries = true
	expired := late(unavailable, First, ms/20, 1999*ms, 0)
	expired.Status, expired.Evidence = grpc.DeadlineExceeded, retry.ByStatus
	all["deadline_told_by_the_endpoint"] = call(grpc.DeadlineExceeded, 1999*ms).try(after(expired, retry.NoPolicy))

	expiring := call(grpc.DeadlineExceeded, 101*ms).own(telemetry.OutcomeUpstreamTimeout, "DEADLINE_EXCEEDED", "the caller's deadline of 100ms passed while waiting for the response of 10.0.0.3:7001")
	expiring.Limit, expiring.Received = 100*ms, 100*ms
	held := late(unavailable, First, ms/20, 100*ms, 0)
	held.Status, held.Evidence, held.Outcome, held.Given = grpc.DeadlineExceeded, retry.EvidenceNone, telemetry.OutcomeUpstreamTimeout, 100*ms
	all["deadline_flushed_later"] = expiring.try(held)
	backingOff := call(grpc.DeadlineExceeded, 100*ms).own(telemetry.OutcomeUpstreamTimeout, "DEADLINE_EXCEEDED", "the caller's deadline of 100ms passed before it was sent to any endpoint")
	backingOff.Limit, backingOff.Received, backingOff.Retries = 100*ms, 100*ms, true
	all["deadline_in_backoff"] = backingOff.try(after(unavailable, retry.RetryPushback)).note(Note{Kind: NotePushback, Wait: time.Second, At: 12 * ms})

	all["retry_budget_empty"] = call(grpc.Unavailable, 12*ms).try(after(unavailable, retry.NoBudget), loads(1, 1, 0)...).
		note(Note{Kind: NoteBudget, Name: "shop", A: 400, At: 12 * ms, Refused: true, Attempt: 0})
	all["retry_throttled"] = call(grpc.Unavailable, 12*ms).try(after(unavailable, retry.NoThrottle)).
		note(Note{Kind: NoteThrottle, Name: "shop", A: 4900, B: 10000, At: 12 * ms, Refused: true})
	all["pushback_forbids"] = call(grpc.Unavailable, 12*ms).try(after(unavailable, retry.NoPushback)).note(Note{Kind: NotePushback, At: 12 * ms, Refused: true})
	all["no_time_for_a_retry"] = call(grpc.Unavailable, 1990*ms).try(after(late(unavailable, First, ms/20, 1990*ms, 0), retry.NoTime))
	all["replay_overflow"] = call(grpc.Unavailable, 80*ms).try(after(late(unavailable, First, ms/20, 80*ms, 0), retry.NoReplay)).
		note(Note{Kind: NoteReplay, A: 98304, B: 65536, At: 3 * ms})
	all["replay_overflow"].Retries = true

	all["redispatched"] = call(grpc.OK, 34*ms).
		try(after(Attempt{Endpoint: three, Start: ms / 20, Sent: ms / 10, End: ms, Status: grpc.Unavailable, Evidence: retry.Refused, Outcome: telemetry.OutcomeUpstreamReset, Pick: balance.ReasonP2CTie}, retry.RetryRefused)).
		try(late(ok, Redispatch, ms, 34*ms, 0))

	d = call(grpc.OK, 80*ms)
	d.Hedges, d.Idempotent = true, true
	slow := late(ok, First, ms/20, 80*ms, 0)
	slow.Endpoint, slow.Lost = three, true
	d.try(slow, loads(1, 1, 0)...).try(late(ok, Hedge, 50*ms, 80*ms, 50*ms), loads(1, 1, 1)...)
	all["hedged"] = d

	d = call(grpc.OK, 80*ms)
	d.Hedges = true
	all["not_hedged"] = d.try(late(ok, First, ms/20, 80*ms, 0)).note(Note{Kind: NoteHedge, At: 50 * ms, Wait: 50 * ms, A: int64(hedge.NoIdempotency), Refused: true})

	waiting := Attempt{Endpoint: three, Start: ms / 20, Sent: ms / 10, End: 2 * time.Second, Given: 2 * time.Second, Status: grpc.DeadlineExceeded, Outcome: telemetry.OutcomeUpstreamTimeout, Evidence: retry.Ambiguous, Pick: balance.ReasonP2CLessLoaded}
	all["deadline_of_the_caller"] = call(grpc.DeadlineExceeded, 2*time.Second).
		own(telemetry.OutcomeUpstreamTimeout, "DEADLINE_EXCEEDED", "the caller's deadline of 2s passed while waiting for the response of 10.0.0.3:7001").try(waiting, loads(1, 1, 0)...)

	d = call(grpc.DeadlineExceeded, time.Second).own(telemetry.OutcomeUpstreamTimeout, "DEADLINE_EXCEEDED", "the policy's timeout of 1s passed while waiting for the response of 10.0.0.2:7001")
	d.Timeout, d.Limit, d.Retries, d.Idempotent, d.Own = time.Second, time.Second, true, true, 52*ms
	perTry := late(waiting, First, ms/20, 500*ms, 0)
	perTry.PerTry, perTry.Given, perTry.TimedOut, perTry.Why = 500*ms, 500*ms, true, retry.RetryAmbiguousIdempotent
	rest := late(waiting, Retry, 550*ms, time.Second, 50*ms)
	rest.Endpoint, rest.PerTry, rest.Given = two, 500*ms, 450*ms
	all["deadline_of_the_policy"] = d.try(perTry, loads(1, 1, 0)...).try(rest, loads(1, 1, 1)...)

	d = call(grpc.DeadlineExceeded, 2*time.Second).own(telemetry.OutcomeUpstreamTimeout, "DEADLINE_EXCEEDED", "the caller's deadline of 2s passed while waiting for a connection to 10.0.0.3:7001")
	d.Own = 2 * time.Second
	noConn := waiting
	noConn.Sent, noConn.Evidence, noConn.Given = 0, retry.NeverSent, 0
	all["deadline_without_a_connection"] = d.try(noConn)

	d = call(grpc.DeadlineExceeded, ms/10).own(telemetry.OutcomeUpstreamTimeout, "HOPELESS", "the call came with 2ms left; half of the recent calls took longer than 31ms")
	d.Received, d.Limit = 2*ms, 2*ms
	all["hopeless"] = d.note(Note{Kind: NoteHopeless, Refused: true, A: int64(31 * ms), B: 240, Attempt: -1})

	all["breaker_open"] = call(grpc.Unavailable, ms/10).own(telemetry.OutcomeUpstreamOverflow, "BREAKER_OPEN", "circuit breaker of 10.0.0.3:7001 x shop.Catalog/GetItem is open").
		note(Note{Kind: NoteBreaker, Name: three + " x shop.Catalog/GetItem", Text: "12 of 20 calls failed in 10s (limit 50%)", Wait: 3200 * ms, A: 2, Refused: true, Attempt: -1})
	all["breaker_open"].Pool = &Pool{Names: []string{three}}

	d = call(grpc.Unavailable, ms/10).own(telemetry.OutcomeUpstreamOverflow, "BREAKER_OPEN", "the circuit breakers of all 3 endpoints are open")
	for i, at := range []string{one, two, three} {
		d.note(Note{Kind: NoteBreaker, Name: at, Text: "5 calls in a row failed (limit 5)", Wait: time.Duration(3-i) * time.Second, A: 1, Refused: true, Attempt: -1})
	}
	all["breakers_open"] = d

	all["rate_limited"] = call(grpc.ResourceExhausted, ms/20).own(telemetry.OutcomeRateLimited, "RATE_LIMITED", "over the rate limit of x-tenant \"acme\"").
		note(Note{Kind: NoteRateLimit, Name: "x-tenant \"acme\" on shop.Catalog", A: 100_000, B: 20, Wait: 9 * ms, Refused: true, Attempt: -1})
	all["rate_limited_by_service"] = call(grpc.ResourceExhausted, 3*ms).own(telemetry.OutcomeRateLimited, "RATE_LIMITED", "over a limit").
		note(Note{Kind: NoteGlobalLimit, Name: "trunkline", Text: "over limit", Wait: 40 * time.Second, Refused: true, At: 3 * ms, Attempt: -1})
	all["overloaded"] = call(grpc.ResourceExhausted, ms/20).own(telemetry.OutcomeOverloaded, "OVERLOADED", "Trunkline is short of memory").
		note(Note{Kind: NoteOverload, Text: "it uses 470 MiB of 512 MiB, the limit is 90 %", Wait: time.Second, Refused: true, Attempt: -1})
	all["no_place"] = call(grpc.Unavailable, ms/20).own(telemetry.OutcomeUpstreamOverflow, "CONCURRENCY", "100 calls at once on cluster shop").
		note(Note{Kind: NoteConcurrency, Name: "cluster shop", A: 100, B: 100, Refused: true, Attempt: -1})
	all["queue_full"] = call(grpc.Unavailable, ms/20).own(telemetry.OutcomeUpstreamOverflow, "QUEUE_FULL", "50 calls wait for cluster shop").
		note(Note{Kind: NoteConcurrency, Name: "cluster shop", A: 100, B: 100, Attempt: -1}).note(Note{Kind: NoteQueue, Name: "shop", A: 50, B: 50, Refused: true, Attempt: -1})
	all["queue_timeout"] = call(grpc.Unavailable, time.Second).own(telemetry.OutcomeUpstreamOverflow, "QUEUE_TIMEOUT", "no place on cluster shop within 1s").
		note(Note{Kind: NoteQueue, Name: "shop", A: 12, B: 50, Wait: time.Second, At: time.Second, Refused: true, Attempt: -1})
	all["message_too_large"] = call(grpc.ResourceExhausted, 2*ms).own(telemetry.OutcomeOverloaded, "MESSAGE_TOO_LARGE", "a request message of 5242880 bytes; the limit is 4194304").
		note(Note{Kind: NoteMessageSize, Name: "request", A: 5 << 20, B: 4 << 20, Refused: true, At: 2 * ms, Attempt: -1})

	d = call(grpc.Unavailable, 2*ms).own(telemetry.OutcomeUpstreamConnectFailure, "NO_HEALTHY_ENDPOINT", "no healthy endpoint: cluster shop has 3, none is up; last error: dial tcp 10.0.0.3:7001: connect: connection refused")
	for _, at := range []string{three, one, two} {
		d.try(after(Attempt{Endpoint: at, Start: ms / 2, End: ms, Status: grpc.Unavailable, Evidence: retry.NeverSent, Outcome: telemetry.OutcomeUpstreamConnectFailure, Pick: balance.ReasonP2COtherDown, Kind: Redispatch}, retry.RetryUnsent))
	}
	d.attempts[0].Kind = First
	all["no_endpoint_reached"] = d

	// As the engine records them.
	aborted := late(unavailable, First, ms/20, 2*ms, 0)
	aborted.Status, aborted.Evidence, aborted.Outcome = grpc.ResourceExhausted, retry.EvidenceNone, telemetry.OutcomeOverloaded
	all["message_too_large_amid_an_attempt"] = call(grpc.ResourceExhausted, 2*ms).own(telemetry.OutcomeOverloaded, "MESSAGE_TOO_LARGE", "a request message of 22 bytes exceeds the method's limit of 10").
		try(aborted).note(Note{Kind: NoteMessageSize, Name: "request", A: 22, B: 10, Refused: true, At: 2 * ms, Attempt: -1})
	third := late(unavailable, Retry, 236*ms, 301*ms, 0)
	third.Status, third.PerTry, third.Given, third.Why = grpc.DeadlineExceeded, 100*ms, 64*ms, retry.NoStatus
	second := late(cut, Retry, 110*ms, 210*ms, 10*ms)
	second.PerTry, second.Given, second.Why, second.Endpoint = 100*ms, 100*ms, retry.RetryAmbiguousIdempotent, two
	d = call(grpc.DeadlineExceeded, 301*ms).try(second).try(third)
	d.Timeout, d.Limit, d.Retries, d.Idempotent = 300*ms, 300*ms, true, true
	d.attempts[0].Kind = First
	all["deadline_after_per_try_timeouts"] = d

	all["no_endpoint"] = call(grpc.Unavailable, ms/20).own(telemetry.OutcomeNoHealthyUpstream, "NO_HEALTHY_ENDPOINT", "no healthy endpoint: cluster shop has none")
	all["no_endpoint"].Pool = &Pool{}

	d = call(grpc.Unimplemented, ms/20).own(telemetry.OutcomeNoRoute, "NO_ROUTE", "no route for method shop.Katalog/GetItem; the nearest known one is shop.Catalog")
	d.Method, d.Route, d.Match, d.Cluster, d.Policy, d.Pool = "shop.Katalog/GetItem", "", "", "", "", nil
	all["no_route"] = d

	gone := late(waiting, First, ms/20, 700*ms, 0)
	gone.Status, gone.Outcome, gone.Evidence = grpc.Canceled, telemetry.OutcomeDownstreamEnd, retry.EvidenceNone
	all["cancelled"] = call(grpc.Canceled, 700*ms).try(gone, loads(1, 1, 0)...)
	all["cancelled"].Outcome = telemetry.OutcomeDownstreamEnd
	all["cancelled_at_the_deadline"] = call(grpc.Canceled, 1999*ms).try(gone)
	all["cancelled_at_the_deadline"].attempts[0].End = 1999 * ms
	all["cancelled_at_the_deadline"].Outcome = telemetry.OutcomeDownstreamEnd

	d = call(grpc.NotFound, 5*ms)
	answered := unavailable
	answered.Status, answered.End = grpc.NotFound, 5*ms
	d.Message = "no tea of that name"
	all["callers_fault"] = d.try(after(answered, retry.NoStatus))

	d = call(grpc.Unavailable, 90*time.Second)
	d.Limit, d.HasReceived, d.Received, d.Committed = 0, false, 0, true
	all["idle"] = d.own(telemetry.OutcomeUpstreamTimeout, "IDLE", "no frame for 1m0s").try(late(ok, First, ms/20, 90*time.Second, 0)).
		note(Note{Kind: NoteIdle, Wait: time.Minute, At: 90 * time.Second, Refused: true, Attempt: -1})
	all["idle"].attempts[0].Given = 0
	return all
}

func TestEveryEndingIsToldInWords(t *testing.T) {
	around := Around{Now: time.Date(2026, 11, 23, 7, 9, 20, 0, time.UTC), Rules: []Rule{
		{Match: "method shop.Catalog/Reindex", Name: "routes[0]", Cluster: "batch", Why: "another method"},
		{Match: "service shop.Catalog", Name: "shop.Catalog", Cluster: "shop", Chosen: true, Why: "the service"},
	}}
	names := map[string]bool{}
	for name, d := range stories() {
		names[name+".txt"] = true
		t.Run(name, func(t *testing.T) {
			var got bytes.Buffer
			o := around
			if name == "no_route" {
				o.Rules = o.Rules[:1]
			}
			Print(&got, d.Tell(o))
			golden := filepath.Join("testdata", name+".txt")
			if *update {
				if err := os.WriteFile(golden, got.Bytes(), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if got.String() != string(want) {
				t.Errorf("got\n%s\nwant\n%s", &got, want)
			}
		})
	}
	files, err := os.ReadDir("testdata")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		if !names[f.Name()] && !f.IsDir() {
			t.Errorf("testdata/%s belongs to no story", f.Name())
		}
	}
}

func TestNoStoryIsWithoutCauseAndAdvice(t *testing.T) {
	for name, d := range stories() {
		lines := d.Tell(Around{})
		has := map[Section]int{}
		for _, l := range lines {
			has[l.Section]++
			if strings.Contains(l.Text, "%!") || strings.Contains(l.Text, "  ") && l.Section != SectionStory || strings.TrimSpace(l.Text) == "" {
				t.Errorf("%s: %q", name, l.Text)
			}
		}
		for s := SectionCall; s <= SectionAdvice; s++ {
			if has[s] == 0 {
				t.Errorf("%s has no section %d", name, s)
			}
		}
		story := lines[slices.IndexFunc(lines, func(l Line) bool { return l.Section == SectionStory }):]
		for i := 1; i < len(story) && story[i].Section == SectionStory; i++ {
			if story[i].At < story[i-1].At {
				t.Errorf("%s: the story goes back in time at %q", name, story[i].Text)
			}
		}
	}
}

// A story about anything: records come from an engine that may be wrong, and telling must not be.
func TestAnyRecordCanBeTold(t *testing.T) {
	for i := range 18 {
		o := telemetry.Outcome(i)
		for k := range noteKinds + 2 {
			for _, local := range []bool{false, true} {
				for _, status := range []grpc.Status{grpc.OK, grpc.DeadlineExceeded, grpc.Unavailable, grpc.Status(i), 99} {
					d := &Decision{Facts: Facts{Status: status, Outcome: o, Local: local}}
					d.Tell(Around{})
					d.note(Note{Kind: k, Refused: local, A: -1, B: -1, Attempt: 100})
					for e := range retry.Evidence(6) {
						a := Attempt{Evidence: e, Why: retry.Why(uint8(k) + uint8(e)), Kind: Kind(e), Outcome: o, Status: status, Pick: balance.Reason(k), End: -5}
						a.Consider(Candidate{Member: 999, Load: -1, Warm: 60000, State: 255})
						a.Consider(Candidate{})
						*d.AddAttempt() = a
						d.AddAttempt()
					}
					var b bytes.Buffer
					Print(&b, d.Tell(Around{Rules: []Rule{{}}}))
					if strings.Contains(b.String(), "%!") {
						t.Fatal(b.String())
					}
				}
			}
		}
	}
}

func TestAdviceNamesOnlyKeysThatExist(t *testing.T) {
	known := strings.Fields(`methodConfig timeout retryPolicy maxAttempts retryableStatusCodes initialBackoff hedgingPolicy hedgingDelay nonFatalStatusCodes
		maxRequestMessageBytes maxResponseMessageBytes retryThrottling maxTokens tokenRatio trunkline methodPolicy idempotent perTryTimeout idleTimeout
		refuseHopeless replayBytes maxStreams breaker hedging delayPercentile rateLimits requestsPerSecond burst cluster retryBudget
		hedgeBudget ratio concurrency maxPending pendingTimeout maxStreamsPerEndpoint outlierDetection latency panicShare adaptiveConcurrency min tolerance
		rateLimitService overload memoryShare cpuShare queueDelay drain upstream connectTimeout maxPendingPerEndpoint limits bufferBytesPerConnection
		discovery static clusters`)
	key := regexp.MustCompile(`\b(?:trunkline|methodConfig|retryThrottling|retryPolicy|overload|upstream|limits|drain|discovery)(?:\[\])?(?:\.[a-zA-Z]+(?:\[\])?)+`)
	seen := 0
	for name, d := range stories() {
		for _, l := range d.Tell(Around{}) {
			for _, k := range key.FindAllString(l.Text, -1) {
				seen++
				if k == "trunkline.yaml" {
					continue
				}
				for _, word := range strings.Split(strings.ReplaceAll(k, "[]", ""), ".") {
					if !slices.Contains(known, word) {
						t.Errorf("%s: %s has the unknown key %s", name, k, word)
					}
				}
			}
		}
	}
	if seen < 30 {
		t.Errorf("only %d keys are named in all stories", seen)
	}
}

func TestAPolicyIsToldInItsOwnWords(t *testing.T) {
	d := call(grpc.OK, ms)
	d.Settings = &serviceconfig.Method{Name: "shop.Catalog", MaxStreams: 7}
	want := `policy: "shop.Catalog" of trunkline.yaml: ` + strings.Join(d.Settings.Words(), "; ")
	if !slices.ContainsFunc(d.Tell(Around{}), func(l Line) bool { return l.Text == want }) || !strings.Contains(want, "7") {
		t.Errorf("no line %q", want)
	}
}

func TestTimesAreWrittenAsPeopleReadThem(t *testing.T) {
	for d, want := range map[time.Duration]string{
		0: "0 ms", 4 * time.Microsecond: "0 ms", 120 * time.Microsecond: "0.12 ms", 34249 * time.Microsecond: "34.2 ms", 340 * ms: "340 ms",
		999 * ms: "999 ms", 999600 * time.Microsecond: "1 s", 1250 * ms: "1.25 s", 90 * time.Second: "90 s", 125 * time.Second: "2m5s", -2 * time.Second: "-2 s",
	} {
		if got := span(d); got != want {
			t.Errorf("%v is %q, want %q", d, got, want)
		}
	}
	for d, want := range map[time.Duration]string{time.Second: "1 s", 5 * time.Minute: "5 min", 3 * time.Hour: "3 h", 100 * time.Hour: "4 days"} {
		if got := ago(d); got != want {
			t.Errorf("%v is %q, want %q", d, got, want)
		}
	}
}
