package forward

import (
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/net/http2"

	"github.com/trunkline/trunkline/codec/grpc"
)

func TestADeadConnectionIsFoundByPingAlsoWhenItDiedBetweenDataAndItsAnswer(t *testing.T) {
	tell(t, 1, func(t *testing.T, r *rig) {
		c := r.client()
		c.call(1, false)
		up := r.end("one", 0)
		up.head(1)
		synctest.Wait()
		up.mute.Store(true)
		for range 70 {
			time.Sleep(time.Second)
			up.mu.Lock()
			n := up.pings
			up.mu.Unlock()
			if n > 0 {
				break
			}
		}
		up.data(1, "last words", false) // on the way when the line was cut
		time.Sleep(3 * time.Minute)
		c.expect(head, "DATA 1 last words", "HEADERS 1 grpc-status=14 *no answer to PING* END", "RST 1 NO_ERROR")
	})
}

func TestASilentConnectionThatAnswersPingLives(t *testing.T) {
	tell(t, 1, func(t *testing.T, r *rig) {
		c := r.client()
		c.call(1, false)
		up := r.end("one", 0)
		time.Sleep(time.Hour)
		up.mu.Lock()
		if up.pings < 2 || up.pings > 15 {
			t.Errorf("%d pings in an hour of silence: servers take more than two strikes for abuse", up.pings)
		}
		up.mu.Unlock()
		up.ok(1)
		c.data(1, "", true)
		c.expect(head, "DATA 1 yes", tail)
	})
}

func TestAnIdleConnectionIsClosedAndABusyOneIsNot(t *testing.T) {
	tell(t, 1, func(t *testing.T, r *rig) {
		c := r.client()
		c.call(1, true)
		up := r.end("one", 0)
		time.Sleep(20 * time.Minute)
		up.expect("HEADERS 1 *")
		up.ok(1)
		time.Sleep(4 * time.Minute)
		up.expect()
		time.Sleep(2 * time.Minute)
		up.expect("GOAWAY 0 NO_ERROR idle", "EOF")
		c.call(3, true)
		r.end("one", 1).ok(1)
	})
}

func TestADrainIsToldInTwoStepsAndWaitsForTheLastStream(t *testing.T) {
	tell(t, 1, func(t *testing.T, r *rig) {
		idle, c, deaf := r.client(), r.client(), r.client()
		deaf.mute.Store(true)
		c.mute.Store(true) // until its call has crossed
		c.call(1, true)
		up := r.end("one", 0)
		r.in(func() { r.f.EachDown(func(d *Down) { d.Drain() }) })
		c.call(3, true) // crosses the first GOAWAY
		up.open()
		c.mute.Store(false)
		c.do(func() error { return c.fr.WritePing(true, [8]byte{'d', 'r', 'a', 'i', 'n'}) })
		idle.expect("GOAWAY 2147483647 NO_ERROR Trunkline drains", "GOAWAY 0 NO_ERROR ", "EOF")
		deaf.expect("GOAWAY 2147483647 *")
		c.expect("GOAWAY 2147483647 *", "GOAWAY * NO_ERROR ")
		time.Sleep(3 * time.Second)
		deaf.expect("GOAWAY 0 NO_ERROR ", "EOF")
		c.call(5, true)
		c.expect("RST 5 REFUSED_STREAM")
		up.ok(1)
		synctest.Wait()
		up.ok(3)
		c.expect(head, "DATA 1 yes", tail, "HEADERS 3 *", "DATA 3 yes", "HEADERS 3 *", "EOF")
	})
}

func TestARetiredEndpointsStreamsRunToTheirEndAndThenItsConnectionCloses(t *testing.T) {
	tell(t, 1, func(t *testing.T, r *rig) {
		c := r.client()
		c.call(1, true)
		one := r.end("one", 0)
		r.use("two")
		c.call(3, true)
		two := r.end("two", 0)
		two.ok(1)
		time.Sleep(time.Minute)
		one.expect("HEADERS 1 *")
		one.ok(1)
		one.expect("GOAWAY 0 *", "EOF")
		c.expect("HEADERS 3 *", "DATA 3 yes", "HEADERS 3 *", head, "DATA 1 yes", tail)
	})
}

func TestAnEndpointThatIsRetiredWhileItIsDialledKeepsNoConnection(t *testing.T) {
	tell(t, 1, func(t *testing.T, r *rig) {
		c := r.client()
		r.hold = make(chan struct{})
		c.call(1, true)
		synctest.Wait()
		r.use("two")
		c.rst(1, http2.ErrCodeCancel)
		synctest.Wait()
		close(r.hold)
		synctest.Wait()
		if n := r.eps[0].Connections.Load(); n != 0 {
			t.Errorf("%d connections to an endpoint that is gone", n)
		}
	})
}

func TestAnEndpointThatIsRetiredBeforeItGreetsKeepsNoConnection(t *testing.T) {
	tell(t, 1, func(t *testing.T, r *rig) {
		r.opts.IdleTimeout = 1000 * time.Hour
		c := r.client()
		synctest.Wait()
		r.silent = true
		c.call(1, true)
		one := r.end("one", 0)
		c.rst(1, http2.ErrCodeCancel)
		synctest.Wait()
		r.use("two")
		one.do(func() error { return one.fr.WriteSettings() })
		time.Sleep(time.Minute)
		if n := r.eps[0].Connections.Load(); n != 0 {
			t.Errorf("%d connections to an endpoint that is gone", n)
		}
	})
}

func TestAPeerThatAllowsOneStreamGetsSiblingsAndOneThatAllowsNoneGetsNot(t *testing.T) {
	tell(t, 1, func(t *testing.T, r *rig) {
		r.settings["one"] = []http2.Setting{{ID: http2.SettingMaxConcurrentStreams, Val: 1}}
		c := r.client()
		for i := range 4 {
			c.call(uint32(2*i+1), true)
		}
		synctest.Wait()
		if n := r.dialled("one"); n != 4 {
			t.Errorf("dialled %d times", n)
		}
		for i := range 4 {
			r.end("one", i).ok(1)
		}
		synctest.Wait()
		r.settings["zero"] = []http2.Setting{{ID: http2.SettingMaxConcurrentStreams, Val: 0}}
		r.use("zero")
		c.call(11, true)
		synctest.Wait()
		if n := r.dialled("zero"); n > 2 {
			t.Errorf("an endpoint that takes no streams was dialled %d times for one call", n)
		}
		z := r.end("zero", 0)
		z.do(func() error { return z.fr.WriteSettings(http2.Setting{ID: http2.SettingMaxConcurrentStreams, Val: 5}) })
		z.expect("HEADERS 1 *")
		z.ok(1)
	})
}

func TestAShutdownCutsWhatIsUnderWayAndLetsAWholeReplyStand(t *testing.T) {
	tell(t, 1, func(t *testing.T, r *rig) {
		c := r.client()
		c.call(1, false)
		c.call(3, true)
		synctest.Wait()
		up := r.end("one", 0)
		up.ok(1)
		c.expect(head, "DATA 1 yes", tail)
		r.in(func() { r.f.CutAll("shut down") })
		c.expect("RST 1 NO_ERROR", "HEADERS 3 *grpc-status=14 grpc-message=shut down END", "EOF")
		r.told(grpc.OK, 1)
		r.told(grpc.Unavailable, 1)
	})
}
