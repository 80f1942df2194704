// Package health owns what is known of the health of each cluster's endpoints beside single calls: active checks, ejection of
// outliers, slow start and panic; it must not choose endpoints, see calls, or cut a stream.
//
// It acts by nothing but the state of balance.Endpoint (Unhealthy, Ejected, warm) and the mask of balance.Group, so a change
// reaches every picker of every generation at once. There is one [Keeper] for the process and in it one state and at most one
// prober per cluster and address, whatever generations, routes and shards use the endpoint. Each cluster that has anything
// configured has one goroutine ("loop") for sweeps, ramps and panic, which sleeps until something is due, and each checked
// endpoint one for its prober.
package health

import (
	"context"
	"log/slog"
	"maps"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/trunkline/trunkline/policy/balance"
	"github.com/trunkline/trunkline/policy/outlier"
	"github.com/trunkline/trunkline/policy/serviceconfig"
)

// Member is one endpoint of a cluster.
type Member struct {
	Address  string            // host:port
	Endpoint *balance.Endpoint // whose bits and warmth are set
	Host     *outlier.Host     // what its calls tell; nil: it is no subject of outlier detection
}

// Keeper keeps watch over the endpoints of all clusters. Its methods are safe for concurrent use.
type Keeper struct {
	log   *slog.Logger
	dial  func(ctx context.Context, cluster, address string) (net.Conn, error)
	start time.Time     // of the clock that outlier detection reads
	slots chan struct{} // one for each connection that is being made

	ctx     context.Context // ends with Close
	cancel  context.CancelFunc
	running sync.WaitGroup

	mu       sync.Mutex                          // of changes to clusters
	clusters atomic.Pointer[map[string]*cluster] // atomic: copied on change, so that Tripped needs no lock
}

// maxDials bounds how many connections to probe are being made at once. Who waits for a place is not failing meanwhile.
const maxDials = 32

// New returns a keeper that watches nobody yet. dial opens a connection to an endpoint of a cluster, host:port, as for calls; it must respect its context.
func New(log *slog.Logger, dial func(ctx context.Context, cluster, address string) (net.Conn, error)) *Keeper {
	k := &Keeper{log: log, dial: dial, start: time.Now(), slots: make(chan struct{}, maxDials)}
	k.ctx, k.cancel = context.WithCancel(context.Background())
	k.clusters.Store(&map[string]*cluster{})
	return k
}

// now is the time that outlier detection reads, in ns.
func (k *Keeper) now() int64 { return int64(time.Since(k.start)) }

// wall is a time of now as people read it.
func (k *Keeper) wall(at int64) time.Time { return k.start.Add(time.Duration(at)) }

// Set says who is in a cluster from now on, the group of its pickers, and what is to be watched; call it before the
// generation that has them is in force, so that endpoints that come later than others start slowly from their first call.
// What is known of endpoints that stay is kept, also over a change of settings; what cfg does not name any more (nil: nothing
// at all) is switched off, and its bits are cleared. What cfg points to must not change afterwards.
func (k *Keeper) Set(name string, members []Member, group *balance.Group, cfg *serviceconfig.Cluster) {
	if cfg == nil {
		cfg = &serviceconfig.Cluster{}
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.ctx.Err() != nil {
		return
	}
	c := (*k.clusters.Load())[name]
	if c == nil {
		c = newCluster(k, name)
		k.replace(func(all map[string]*cluster) { all[name] = c })
	}
	c.set(members, group, cfg)
}

// Retire forgets the clusters that keep does not name, and stops watching their endpoints.
func (k *Keeper) Retire(keep func(cluster string) bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for name, c := range *k.clusters.Load() {
		if !keep(name) {
			c.set(nil, nil, &serviceconfig.Cluster{})
			k.replace(func(all map[string]*cluster) { delete(all, name) })
		}
	}
}

// replace changes the table of clusters. Under mu.
func (k *Keeper) replace(change func(map[string]*cluster)) {
	all := maps.Clone(*k.clusters.Load())
	change(all)
	k.clusters.Store(&all)
}

// Tripped says that outlier.Host.Record of that endpoint returned true. It never blocks and takes no lock.
func (k *Keeper) Tripped(name, address string) {
	if c := (*k.clusters.Load())[name]; c != nil {
		if m := (*c.byAddress.Load())[address]; m != nil {
			m.tripped.Store(true)
			c.wakeUp()
		}
	}
}

// Moved says that an endpoint of the cluster went down or came up, so that slow start and panic follow at once. Without it
// they notice within a second. It never blocks and takes no lock.
func (k *Keeper) Moved(name string) {
	if c := (*k.clusters.Load())[name]; c != nil {
		c.wakeUp()
	}
}

// Snapshot is what is known of the members of a cluster, in the order of Set; nil if there is no such cluster.
func (k *Keeper) Snapshot(name string) []State {
	c := (*k.clusters.Load())[name]
	if c == nil {
		return nil
	}
	return c.states()
}

// Close stops all watching and waits until it has ended. What is set on endpoints stays.
func (k *Keeper) Close() {
	k.mu.Lock()
	k.cancel()
	k.mu.Unlock()
	k.running.Wait()
}
