package lb

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"maps"
	"os"
	"runtime"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/trunkline/trunkline/discovery"
	"github.com/trunkline/trunkline/lb/admin"
	"github.com/trunkline/trunkline/lb/forward"
	"github.com/trunkline/trunkline/lb/transport"
	"github.com/trunkline/trunkline/lb/upstream"
	"github.com/trunkline/trunkline/policy/balance"
	adminv1 "github.com/trunkline/trunkline/proto/trunkline/admin/v1"
	configv1 "github.com/trunkline/trunkline/proto/trunkline/config/v1"
)

var _ admin.Source = (*Server)(nil)

// notes is what a Server keeps only to be able to say it.
type notes struct {
	refused    string    // why the last configuration was refused; guarded by Server.mu
	refusedAt  time.Time // guarded by Server.mu
	drainUntil time.Time // zero: no bound; guarded by Server.mu
	drainAsked bool      // StartDrain was called; guarded by Server.mu
}

// Rejected notes that a new configuration was refused before it came to Apply; it is shown until one is applied.
func (s *Server) Rejected(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.refuse(err)
}

// refuse notes that a configuration was refused. s.mu is held.
func (s *Server) refuse(err error) {
	s.rejected.Add(1)
	s.notes.refused, s.notes.refusedAt = err.Error(), time.Now()
	s.notify()
}

// Status implements admin.Source.
func (s *Server) Status() *adminv1.Status {
	st := &adminv1.Status{
		Version: s.opts.Version, GoVersion: runtime.Version(), Pid: uint32(os.Getpid()),
		StartTime: timestamppb.New(s.started), Uptime: durationpb.New(time.Since(s.started)), Shards: s.shardStatus(),
	}
	for _, l := range s.listeners {
		st.Listeners = append(st.Listeners, &adminv1.Listener{Address: l.Addr().String(), Connections: uint32(l.Open())})
	}
	if a := s.AdminAddr(); a != nil {
		st.AdminAddress = a.String()
	}
	for i, sh := range s.shards {
		sh.Lock()
		st.StreamsTotal += s.forwarders[i].Started()
		sh.Unlock()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	st.Config = &adminv1.ConfigStatus{
		Generation: s.cfgNum, Hash: hashOf(s.cfg), File: cmp.Or(s.cfgName, "(built in)"), AppliedAt: stamp(s.cfgAt),
		LastError: s.notes.refused, LastErrorAt: stamp(s.notes.refusedAt),
	}
	st.Draining = s.drained != nil
	st.Ready = s.ready && !st.Draining
	switch {
	case st.Draining:
		st.DrainDeadline, st.NotReadyReason = stamp(s.notes.drainUntil), "draining"
	case !s.ready:
		st.NotReadyReason = s.waitingFor()
	}
	if s.snapshot != nil {
		st.SnapshotVersion = s.snapshot.Version
	}
	return st
}

// waitingFor says for people what the first full table lacks. s.mu is held.
func (s *Server) waitingFor() string {
	var silent []string
	for _, r := range s.hub.Reports() {
		if !r.LastSuccess.IsZero() {
			continue
		}
		if r.Err != "" {
			r.Name += " (" + r.Err + ")"
		}
		silent = append(silent, r.Name)
	}
	switch {
	case len(silent) > 0:
		return "waiting for the first answer of " + strings.Join(silent, ", ")
	case s.snapshot == nil:
		return "waiting for the first discovery snapshot"
	}
	return "waiting for endpoints to say by reflection what they serve"
}

// hashOf tells configurations apart.
func hashOf(cfg *configv1.Config) string {
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(cfg)
	if err != nil {
		return "" // only text that is not UTF-8 can do this, and the config was validated
	}
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:6])
}

func (s *Server) shardStatus() []*adminv1.Shard {
	all := s.endpoints()
	out := make([]*adminv1.Shard, len(s.shards))
	for i, sh := range s.shards {
		out[i] = &adminv1.Shard{Index: uint32(i)}
		sh.Lock()
		s.forwarders[i].EachDown(func(*forward.Down) { out[i].DownstreamConnections++ })
		for _, ep := range all {
			ep.Pool(i).Each(func(*upstream.Conn) { out[i].UpstreamConnections++ })
		}
		out[i].Streams = uint32(s.forwarders[i].Live())
		sh.Unlock()
	}
	return out
}

// endpoints are those of the generation in force, and those that only live calls still have.
func (s *Server) endpoints() []*upstream.Endpoint {
	var all []*upstream.Endpoint
	seen := map[*upstream.Endpoint]bool{}
	add := func(e *upstream.Endpoint) {
		if !seen[e] {
			seen[e] = true
			all = append(all, e)
		}
	}
	s.registry.Each(add)
	for i, sh := range s.shards {
		sh.Lock()
		s.forwarders[i].EachEndpoint(add)
		sh.Unlock()
	}
	slices.SortFunc(all, func(a, b *upstream.Endpoint) int {
		return cmp.Or(strings.Compare(a.Cluster, b.Cluster), strings.Compare(a.Address, b.Address))
	})
	return all
}

// Routes implements admin.Source.
func (s *Server) Routes() []*adminv1.Route {
	now := s.outlook()
	var out []*adminv1.Route
	for _, r := range now.gen.Table.Rules() {
		out = append(out, now.route(r))
	}
	return out
}

// Clusters implements admin.Source.
func (s *Server) Clusters() *adminv1.ListClustersResponse {
	r := &adminv1.ListClustersResponse{}
	for _, rep := range s.hub.Reports() {
		r.Sources = append(r.Sources, &adminv1.DiscoverySource{Name: rep.Name, LastSuccess: stamp(rep.LastSuccess),
			LastFailure: stamp(rep.LastFailure), Error: rep.Err, Index: rep.Index, Clusters: uint32(rep.Clusters)})
	}
	slices.SortFunc(r.Sources, func(a, b *adminv1.DiscoverySource) int { return strings.Compare(a.Name, b.Name) })
	s.mu.Lock()
	states := s.targets
	if s.snapshot != nil {
		for _, c := range s.snapshot.Conflicts {
			r.Conflicts = append(r.Conflicts, &adminv1.Conflict{Service: c.Service, Clusters: slices.Clone(c.Clusters)})
		}
	}
	s.mu.Unlock()
	named := map[*upstream.Endpoint]bool{}
	byName := map[string]*adminv1.Cluster{}
	for name, st := range states {
		byName[name] = describe(st)
		for _, ep := range st.endpoints {
			named[ep] = true
		}
	}
	for _, ep := range s.endpoints() {
		if named[ep] || ep.Cluster == builtinName && ep.Address == builtinName || ep.InFlight.Load() == 0 {
			continue
		}
		c := byName[ep.Cluster]
		if c == nil {
			c = &adminv1.Cluster{Name: ep.Cluster, Error: "no source names it any more; its live streams run to their end"}
			byName[ep.Cluster] = c
		}
		c.Endpoints = append(c.Endpoints, &adminv1.Endpoint{Address: ep.Address, State: adminv1.EndpointState_ENDPOINT_STATE_REMOVED,
			Load: load(ep), Picks: ep.Picks.Load(), Connections: uint32(ep.Connections.Load())})
	}
	for _, name := range slices.Sorted(maps.Keys(byName)) {
		c := byName[name]
		slices.SortStableFunc(c.Endpoints, func(a, b *adminv1.Endpoint) int { return strings.Compare(a.Address, b.Address) })
		r.Clusters = append(r.Clusters, c)
	}
	return r
}

// describe is a cluster of the generation in force.
func describe(st *clusterState) *adminv1.Cluster {
	c := st.cluster
	out := &adminv1.Cluster{Name: c.Name, Source: c.Source, Claim: claimOf(c.Claim), Services: slices.Clone(c.Services), Balancer: st.policy,
		StaleSince: stamp(c.StaleSince), HeldBack: uint32(c.HeldBack), Error: c.Err}
	for i, e := range c.Endpoints {
		ep := st.endpoints[i]
		d := &adminv1.Endpoint{Address: e.Address, InstanceId: e.InstanceID, Weight: e.Weight, State: stateOf(e, ep), Load: load(ep),
			Picks: ep.Picks.Load(), Connections: uint32(ep.Connections.Load()), Tags: slices.Clone(e.Tags), Meta: map[string]string{}}
		if ep.Down() {
			d.Error = ep.LastError()
		}
		for k, v := range e.Meta {
			d.Meta[k] = v
		}
		for _, name := range slices.Sorted(maps.Keys(e.Services)) {
			d.Services = append(d.Services, &adminv1.Service{Name: name, Methods: slices.Clone(e.Services[name])})
		}
		out.Endpoints = append(out.Endpoints, d)
	}
	return out
}

func stateOf(e discovery.Endpoint, ep *upstream.Endpoint) adminv1.EndpointState {
	switch {
	case ep.Down():
		return adminv1.EndpointState_ENDPOINT_STATE_DOWN
	case ep.State()&balance.Unhealthy != 0:
		return adminv1.EndpointState_ENDPOINT_STATE_UNHEALTHY
	case ep.State()&balance.Ejected != 0:
		return adminv1.EndpointState_ENDPOINT_STATE_EJECTED
	case ep.Warm() < 1000:
		return adminv1.EndpointState_ENDPOINT_STATE_WARMING
	case e.Warning:
		return adminv1.EndpointState_ENDPOINT_STATE_WARNING
	}
	return adminv1.EndpointState_ENDPOINT_STATE_UP
}

func claimOf(c discovery.Claim) adminv1.Claim {
	switch c {
	case discovery.ClaimConfig:
		return adminv1.Claim_CLAIM_CONFIG
	case discovery.ClaimMeta:
		return adminv1.Claim_CLAIM_META
	case discovery.ClaimReflection:
		return adminv1.Claim_CLAIM_REFLECTION
	}
	return adminv1.Claim_CLAIM_UNSPECIFIED
}

func load(ep *upstream.Endpoint) uint32 { return uint32(max(0, ep.InFlight.Load())) }

// Streams implements admin.Source.
func (s *Server) Streams(limit int) ([]*adminv1.Stream, uint64) {
	var all []forward.Seen
	var total uint64
	for i, sh := range s.shards {
		sh.Lock()
		all = append(all, s.forwarders[i].Oldest(limit)...)
		total += uint64(s.forwarders[i].Live())
		sh.Unlock()
	}
	slices.SortStableFunc(all, func(a, b forward.Seen) int { return cmp.Compare(a.Arrived, b.Arrived) })
	all = all[:min(limit, len(all))]
	out := make([]*adminv1.Stream, len(all))
	for i := range all {
		v := &all[i]
		out[i] = &adminv1.Stream{
			Id: v.Conn.ID<<32 | uint64(v.Stream), Method: v.Method, Authority: v.Authority, Route: v.Route, Cluster: v.Cluster,
			Endpoint: v.Endpoint, Peer: v.Peer, Age: durationpb.New(v.Age), RequestMessages: uint64(v.MessagesIn), RequestBytes: v.BytesIn,
			ResponseMessages: uint64(v.MessagesOut), ResponseBytes: v.BytesOut, HeldBytes: uint64(max(0, v.Held)), Attempts: uint32(v.Attempts),
			TraceId: v.TraceID,
		}
		if v.DeadlineLeft > 0 {
			out[i].DeadlineLeft = durationpb.New(v.DeadlineLeft)
		}
	}
	return out, total
}

// Connections implements admin.Source.
func (s *Server) Connections() []*adminv1.Connection {
	var out []*adminv1.Connection
	add := func(c *transport.Conn, shard int, role adminv1.ConnectionRole, cluster string) {
		d := &adminv1.Connection{Id: c.ID, Role: role, Shard: uint32(shard), Cluster: cluster, Streams: uint32(c.Sess.Streams()),
			StreamsTotal: c.Sess.Opened(), BytesIn: c.BytesIn, BytesOut: uint64(c.Sess.Written()), GoingAway: c.Sess.Closing(),
			Age: durationpb.New(time.Duration(c.Shard.Clock() - c.Since))}
		if a := c.Net.LocalAddr(); a != nil {
			d.LocalAddress = a.String()
		}
		if a := c.Net.RemoteAddr(); a != nil {
			d.PeerAddress = a.String()
		}
		if n := c.Sess.PeerMaxStreams(); n != 1<<32-1 {
			d.MaxConcurrentStreams = &n
		}
		out = append(out, d)
	}
	all := s.endpoints()
	for i, sh := range s.shards {
		sh.Lock()
		s.forwarders[i].EachDown(func(d *forward.Down) {
			add(d.Conn, i, adminv1.ConnectionRole_CONNECTION_ROLE_DOWNSTREAM, "")
		})
		for _, ep := range all {
			ep.Pool(i).Each(func(c *upstream.Conn) {
				add(c.Conn, i, adminv1.ConnectionRole_CONNECTION_ROLE_UPSTREAM, ep.Cluster)
			})
		}
		sh.Unlock()
	}
	slices.SortFunc(out, func(a, b *adminv1.Connection) int {
		return cmp.Or(cmp.Compare(a.Role, b.Role), cmp.Compare(a.Id, b.Id))
	})
	return out
}

// StartDrain implements admin.Source: it begins what SIGTERM begins, within the configuration's drain.timeout, and returns.
func (s *Server) StartDrain() (already bool, streams uint64) {
	s.mu.Lock()
	already = s.drained != nil || s.notes.drainAsked
	s.notes.drainAsked = true
	began, d := s.changed, s.cfg.GetDrain()
	s.mu.Unlock()
	if !already {
		go func() {
			ctx, cancel := context.WithTimeout(s.ctx, d.GetDelay().AsDuration()+d.GetTimeout().AsDuration())
			defer cancel()
			_ = s.Drain(ctx) // it logs what it had to cut
		}()
		select {
		case <-began: // so that whoever asks next sees it
		case <-s.ctx.Done():
		}
	}
	return already, uint64(s.liveStreams())
}

// stamp is a time for a message; absent if it is zero.
func stamp(t time.Time) *timestamppb.Timestamp {
	if t.IsZero() {
		return nil
	}
	return timestamppb.New(t)
}
