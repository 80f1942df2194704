package forward

import (
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/net/http2"

	"github.com/trunkline/trunkline/policy/serviceconfig"
)

// obeys changes the service config; use puts it in force.
func (r *rig) obeys(document string) {
	cfg, problems := serviceconfig.Parse("story", []byte(document), 1)
	if cfg == nil {
		r.t.Fatal(problems)
	}
	r.policy = cfg
}

func (r *rig) refuses(addr string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.refuse[addr] = errRefused(addr)
}

func TestACallThatWaitedForReadyIsJudgedByTheRulesOfTheGenerationThatPlacesIt(t *testing.T) {
	const wait, endpoints = `, "waitForReady": true`, `"breaker": {"consecutive": 9}`
	under(t, 1, method(wait, "", endpoints), func(t *testing.T, r *rig) {
		r.refuses("one")
		c := r.client()
		c.call(1, true) // nobody is there
		time.Sleep(10 * time.Millisecond)
		r.obeys(method(wait, `, "breaker": {"consecutive": 1}`, endpoints))
		r.use("two")
		c.call(3, true) // of the new generation
		time.Sleep(10 * time.Millisecond)
		two := r.end("two", 0)
		two.expect("HEADERS 1 *", "HEADERS 3 *")
		two.rst(1, http2.ErrCodeInternal)
		c.expect("RST 1 INTERNAL_ERROR")
		two.ok(3)
		c.expect("HEADERS 3 *", "DATA 3 yes", "HEADERS 3 *")
		c.call(5, true, "grpc-timeout", "10m") // the fault of the one that waited counted
		time.Sleep(15 * time.Millisecond)
		c.expect("HEADERS 5 :status=200 grpc-status=4 *")
	})
}

func TestACallThatHoldsAPlaceMeetsTheEndpointThatComes(t *testing.T) {
	under(t, 1, method(`, "waitForReady": true`, `, "maxStreams": 5`, `"concurrency": {"maxStreams": 10}`), func(t *testing.T, r *rig) {
		r.refuses("one")
		c := r.client()
		c.call(1, true, "grpc-timeout", "1S")
		synctest.Wait()
		r.use("two")
		time.Sleep(10 * time.Millisecond)
		r.end("two", 0).ok(1)
		c.expect(head, "DATA 1 yes", tail)
		if n := r.store.Cluster("c").Streams.InUse(); n != 0 {
			t.Errorf("%d places are taken", n)
		}
	})
}

func TestACallWaitsInTheClusterOfItsNameAlsoWhenThatWasGoneMeanwhile(t *testing.T) {
	under(t, 1, method(`, "waitForReady": true`, "", `"concurrency": {"maxStreams": 10}`), func(t *testing.T, r *rig) {
		r.refuses("one")
		c := r.client()
		c.call(1, true)
		synctest.Wait()
		before := r.store.Cluster("c")
		r.store.Retire(func(string) bool { return false })
		r.use("one")
		time.Sleep(10 * time.Millisecond)
		if a, b := before.Pending(), r.store.Cluster("c").Pending(); a != 0 || b != 1 {
			t.Errorf("%d wait in the cluster of old, %d in the new one", a, b)
		}
		r.use("two")
		time.Sleep(10 * time.Millisecond)
		r.end("two", 0).ok(1)
		c.expect(head, "DATA 1 yes", tail)
		if n := r.store.Cluster("c").Pending(); n != 0 {
			t.Errorf("%d wait", n)
		}
	})
}
