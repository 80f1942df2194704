package forward

import (
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/net/http2"

	"github.com/trunkline/trunkline/codec/grpc"
	"github.com/trunkline/trunkline/policy/breaker"
)

func TestCallsThatWaitWithTheirClientGoWithItAndAreNotBegun(t *testing.T) {
	t.Run("in the queue", func(t *testing.T) {
		under(t, 1, method("", "", `"concurrency": {"maxStreams": 1, "maxPending": 10}`), func(t *testing.T, r *rig) {
			c, other := r.client(), r.client()
			c.call(1, true)
			one := r.end("one", 0)
			c.call(3, true)
			c.call(5, true)
			synctest.Wait()
			other.call(1, true)
			synctest.Wait()
			_ = c.nc.Close()
			synctest.Wait()
			one.expect("HEADERS 1 *", "RST 1 CANCEL", "HEADERS 3 *")
			one.ok(3)
			other.expect(head, "DATA 1 yes", tail)
		})
	})
	t.Run("for a connection", func(t *testing.T) {
		under(t, 1, method("", "", ""), func(t *testing.T, r *rig) {
			r.settings["one"] = []http2.Setting{{ID: http2.SettingMaxConcurrentStreams, Val: 1}}
			c, other := r.client(), r.client()
			c.call(1, true)
			one := r.end("one", 0)
			free := r.blocks()
			defer free()
			c.call(3, true)
			c.call(5, true)
			synctest.Wait()
			other.call(1, true)
			synctest.Wait()
			_ = c.nc.Close()
			synctest.Wait()
			one.expect("HEADERS 1 *", "RST 1 CANCEL", "HEADERS 3 *")
			one.ok(3)
			other.expect(head, "DATA 1 yes", tail)
		})
	})
}

func TestWhenAllIsCutNothingThatWaitedIsBegun(t *testing.T) {
	under(t, 1, method("", "", `"concurrency": {"maxStreams": 1, "maxPending": 10}`), func(t *testing.T, r *rig) {
		c := r.client()
		c.call(1, true)
		one := r.end("one", 0)
		c.call(3, true)
		synctest.Wait()
		r.in(func() { r.f.CutAll("the end") })
		one.expect("HEADERS 1 *", "RST 1 CANCEL")
		c.expect("HEADERS 1 :status=200 grpc-status=14 *", "HEADERS 3 :status=200 grpc-status=14 *", "EOF")
	})
}

func TestAClientThatNeverEndsItsRequestsOpensNoBreaker(t *testing.T) {
	for name, policy := range map[string][2]string{
		"timeout":       {`, "timeout": "0.1s"`, ``},
		"perTryTimeout": {``, `, "perTryTimeout": "0.1s"`},
	} {
		t.Run(name, func(t *testing.T) {
			under(t, 1, method(policy[0], policy[1]+`, "breaker": {"consecutive": 2}`, ""), func(t *testing.T, r *rig) {
				c := r.client()
				for id := uint32(1); id < 9; id += 2 {
					c.call(id, false)
					time.Sleep(105 * time.Millisecond)
					c.expect("HEADERS *", "RST *")
				}
				c.call(9, true)
				r.end("one", 0).ok(9)
				c.expect("HEADERS 9 *", "DATA 9 yes", "HEADERS 9 *")
				for id := uint32(11); id < 15; id += 2 { // an endpoint that has all of it and says nothing is another matter
					c.call(id, true)
					time.Sleep(105 * time.Millisecond)
					c.expect("HEADERS *")
				}
				c.call(15, true)
				c.expect("HEADERS 15 :status=200 grpc-status=14 grpc-message=the circuit breakers*")
			})
		})
	}
}

func TestAnAttemptThatCameLateIsNotBlamedForTheMethodsTimeout(t *testing.T) {
	under(t, 2, method(`, "timeout": "0.5s"`+hedgingPolicy, `, "idempotent": true, "breaker": {"consecutive": 1, "openFor": "9s"}`, hedgeBudget), func(t *testing.T, r *rig) {
		r.policy.For("s.S", "M").Hedge.Delay = 400 * time.Millisecond
		c := r.client()
		c.call(1, true)
		time.Sleep(505 * time.Millisecond)
		c.expect("HEADERS 1 :status=200 grpc-status=4 *")
		r.store.Cluster("c").EachBreaker(func(endpoint, _ string, b *breaker.Breaker) {
			if b.Closed() != (endpoint == "two") {
				t.Errorf("the breaker of %s is closed: %v", endpoint, b.Closed())
			}
		})
	})
}

func TestACallWhoseEndpointsAreShutOffDoesNotKeepOthersInTheQueue(t *testing.T) {
	under(t, 1, `{"methodConfig": [{"name": [{"service": "s.S", "method": "Shut"}], "waitForReady": true}],
		"trunkline": {"methodPolicy": [{"name": [{"service": "s.S", "method": "Shut"}], "breaker": {"consecutive": 1, "openFor": "60s"}}],
		"cluster": {"concurrency": {"maxStreamsPerEndpoint": 1, "maxPending": 9, "pendingTimeout": "5s"}}}}`, func(t *testing.T, r *rig) {
		c := r.client()
		shut := func(id uint32) {
			c.block(id, true, ":method", "POST", ":scheme", "http", ":path", "/s.S/Shut", ":authority", "a", "te", "trailers", "content-type", "application/grpc")
		}
		shut(1)
		one := r.end("one", 0)
		one.block(1, true, ":status", "200", "grpc-status", "14")
		c.expect("HEADERS 1 *")
		c.call(3, true) // it has the only place
		shut(5)         // waits for the breaker
		c.call(7, true) // waits for the place
		synctest.Wait()
		one.ok(3)
		one.expect("HEADERS 1 *", "HEADERS 3 *", "HEADERS 5 :path=/s.S/M END")
		c.expect("HEADERS 3 *", "DATA 3 yes", "HEADERS 3 *")
		one.ok(5)
		c.expect("HEADERS 7 *", "DATA 7 yes", "HEADERS 7 *")
		c.rst(5, http2.ErrCodeCancel)
	})
}

func TestAPlaceThatAnotherShardGaveBackIsForWhoWaitedLongest(t *testing.T) {
	under(t, 1, method("", "", `"concurrency": {"maxStreams": 1, "maxPending": 9}`), func(t *testing.T, r *rig) {
		elsewhere := r.store.Cluster("c").Streams
		elsewhere.Acquire()
		c := r.client()
		c.call(1, true, "who", "first")
		synctest.Wait()
		elsewhere.Release()
		c.call(3, true, "who", "second")
		one := r.end("one", 0)
		one.expect("HEADERS 1 :path=/s.S/M who=first END")
		one.ok(1)
		one.ok(3)
		c.expect(head, "DATA 1 yes", tail, "HEADERS 3 *", "DATA 3 yes", "HEADERS 3 *")
	})
}

func TestAnEndpointThatAnsweredEarlyMayReadOnBeyondItsTime(t *testing.T) {
	under(t, 1, method("", `, "perTryTimeout": "0.1s"`, ""), func(t *testing.T, r *rig) {
		c := r.client()
		c.call(1, false)
		one := r.end("one", 0)
		one.ok(1)
		time.Sleep(200 * time.Millisecond)
		c.expect(head, "DATA 1 yes", tail)
		c.data(1, "the rest", true)
		one.expect("HEADERS 1 *", "DATA 1 the rest END")
		r.told(grpc.OK, 1)
	})
}
