package forward

import (
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/trunkline/trunkline/codec/grpc"
	"github.com/trunkline/trunkline/lb/gate"
	"github.com/trunkline/trunkline/lb/shard"
	"github.com/trunkline/trunkline/policy/authn"
)

// meshPeer is a client of a service mesh.
var meshPeer = &authn.Peer{Mesh: true, Verified: true, SPIFFE: "spiffe://mesh/web"}

func text(id uint32) string { return strconv.Itoa(int(id)) }

// forget drops what came so far.
func (p *peer) forget() {
	synctest.Wait()
	p.mu.Lock()
	p.log = nil
	p.mu.Unlock()
}

// held is what the first client's budget holds.
func (r *rig) held() (n int64) {
	synctest.Wait()
	r.in(func() { r.f.EachDown(func(d *Down) { n += d.Budget.Held }) })
	return n
}

func TestACallOfUsualMetadataTakesNothingFromItsClientsBudget(t *testing.T) {
	guarded(t, &porter{}, func(t *testing.T, r *rig) {
		c := r.client()
		c.call(1, true, "x-long", strings.Repeat("l", freeMetadata-1000))
		if n := r.held(); n != 0 {
			t.Errorf("%d bytes are counted", n)
		}
		c.nc.Close()
	})
}

func TestACallOfMoreMetadataThanItsClientMayHaveUsHoldIsRefusedInWords(t *testing.T) {
	p := &porter{}
	guarded(t, p, func(t *testing.T, r *rig) {
		r.budget = 10 << 10
		const each = 4 << 10 // above what is free
		c, other := r.client(), r.client()
		begin := func(p *peer, id uint32) { p.call(id, true, "x-long", strings.Repeat(text(id%10), freeMetadata+each)) }
		begin(c, 1)
		begin(c, 3)
		if n := r.held(); n < 2*each || n > 2*each+1000 {
			t.Errorf("%d bytes are counted", n)
		}
		begin(c, 5)
		c.expect("HEADERS 5 :status=200 grpc-status=8 grpc-message=there is no room for the 12* bytes of the request's metadata*limits.bufferBytesPerConnection*END")
		r.told(grpc.ResourceExhausted, 1)
		begin(other, 1) // others have their own
		synctest.Wait()
		if len(p.thens) != 3 {
			t.Fatalf("the gate was asked %d times", len(p.thens))
		}
		for _, then := range p.thens {
			then(&gate.Verdict{})
		}
		one := r.end("one", 0)
		for id := uint32(1); id < 6; id += 2 {
			one.head(id)
		}
		if n := r.held(); n != 0 { // the responses have begun: nobody will be sent the requests again
			t.Errorf("%d bytes are counted for requests that are let go", n)
		}
		begin(c, 7)
		begin(c, 9)
		if n := r.held(); n < 2*each {
			t.Errorf("%d bytes are counted", n)
		}
		c.forget()
		for id := uint32(1); id < 6; id += 2 {
			one.trail(id)
		}
		c.expect("HEADERS 1 grpc-status=0 END", "HEADERS 3 grpc-status=0 END")
		_ = c.nc.Close() // with two calls that wait
		r.quiet()
	})
}

func TestTheFieldsThatACallsRecordNamesAreCountedUntilItIsWritten(t *testing.T) {
	tell(t, 1, func(t *testing.T, r *rig) {
		c := r.client()
		c.call(1, true, "user-agent", strings.Repeat("u", freeMetadata+1000), "x-long", strings.Repeat("l", 2000))
		one := r.end("one", 0)
		if n := r.held(); n < 3000 || n > 3500 {
			t.Errorf("%d bytes are counted at first", n)
		}
		one.head(1)
		if n := r.held(); n < 1000 || n > 1200 {
			t.Errorf("%d bytes are counted once the response began", n)
		}
		one.trail(1)
		c.expect(head, tail)
	})
}

func TestRequestTrailersThatWaitAreCountedToo(t *testing.T) {
	p := &porter{}
	guarded(t, p, func(t *testing.T, r *rig) {
		r.budget = 5 << 10
		c := r.client()
		for id := uint32(1); id < 5; id += 2 {
			c.call(id, false)
			c.block(id, true, "x-long", strings.Repeat(text(id), freeMetadata+3<<10))
		}
		c.expect("HEADERS 3 :status=200 grpc-status=8 *the request trailers' metadata*END")
		p.thens[0](&gate.Verdict{})
		one := r.end("one", 0)
		one.expect("HEADERS 1 :path=/s.S/M", "HEADERS 1 x-long=*END")
		one.ok(1)
		c.expect(head, "DATA 1 yes", tail)
	})
}

// The header table lets a client say a long field five hundred times in as many bytes.
func TestFieldsOfOneNameAreJoinedForWhatTheyAreLong(t *testing.T) {
	s := shard.New(0, time.Now(), 1)
	c := &Call{}
	long := s.Env.Interner.Intern("token", strings.Repeat("t", 470))
	for range 500 {
		c.req = append(c.req, long)
	}
	want := strings.TrimSuffix(strings.Repeat(long.Value+",", 500), ",")
	made := testing.AllocsPerRun(3, func() {
		if value, there := c.whole("token"); !there || value != want {
			t.Fatalf("%d bytes", len(value))
		}
	})
	if made > 2 {
		t.Errorf("it is put together in %v pieces", made)
	}
}
