package hub

import (
	"fmt"
	"log/slog"
	"maps"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/trunkline/trunkline/discovery"
	"github.com/trunkline/trunkline/discovery/reflection"
)

// sourceSet is what one source said last.
type sourceSet struct {
	clusters []*discovery.Cluster
	spoke    bool
}

// merger makes snapshots and remembers what it needs to tell news from repetition. It is owned by Run.
type merger struct {
	withhold time.Duration      // set once
	prober   *reflection.Prober // set once; nil: nobody is asked
	log      *slog.Logger       // set once

	last     *discovery.Snapshot
	raw      map[string]*discovery.Cluster // what the sources said, of the last snapshot
	learned  map[string][]string           // by cluster: the services of its endpoints when it last had some that were asked
	probedAt map[reflection.Target]time.Time
}

// merge returns a new snapshot, or nil when there is nothing new, and when to merge again without being told (zero: never).
func (m *merger) merge(sets []sourceSet, now time.Time) (snapshot *discovery.Snapshot, again time.Time) {
	anyone, everyone := false, true
	for _, s := range sets {
		anyone = anyone || s.spoke
		everyone = everyone && s.spoke
	}
	if !anyone && len(sets) > 0 {
		return nil, time.Time{}
	}
	raw, shadowed := unite(sets)
	m.ask(raw)

	var news []time.Time // when what is new in this snapshot was answered
	probedAt := map[reflection.Target]time.Time{}
	clusters := make([]*discovery.Cluster, 0, len(raw))
	for _, name := range slices.Sorted(maps.Keys(raw)) {
		c := *raw[name]
		for _, source := range shadowed[name] {
			addErr(&c, fmt.Sprintf("%s defines a cluster of this name too; it is ignored", source))
		}
		if m.wants(&c) {
			if t := m.enrich(&c, now, probedAt, &news); !t.IsZero() && (again.IsZero() || t.Before(again)) {
				again = t
			}
		}
		if m.raw[name] != raw[name] && !c.ChangedAt.IsZero() {
			news = append(news, c.ChangedAt)
		}
		clusters = append(clusters, &c)
	}
	maps.DeleteFunc(m.learned, func(name string, _ []string) bool { return raw[name] == nil })
	conflicts := settleClaims(clusters)

	next := &discovery.Snapshot{
		Clusters: make(map[string]*discovery.Cluster, len(clusters)), Conflicts: conflicts,
		// Ready means: the routes that can be learned are learned, or it is not worth waiting for.
		Complete: everyone && again.IsZero() || m.last != nil && m.last.Complete,
	}
	changed := m.last == nil || next.Complete != m.last.Complete || len(clusters) != len(m.last.Clusters) ||
		!reflect.DeepEqual(conflicts, m.last.Conflicts)
	for _, c := range clusters {
		if m.last != nil {
			if was := m.last.Clusters[c.Name]; was != nil && same(was, c) {
				next.Clusters[c.Name] = was // the same content keeps the same pointer
				continue
			}
		}
		changed = true
		next.Clusters[c.Name] = c
	}
	m.raw, m.probedAt = raw, probedAt
	if !changed {
		return nil, again
	}
	next.Version = 1
	if m.last != nil {
		next.Version = m.last.Version + 1
	}
	for _, t := range news {
		next.Lag = max(next.Lag, now.Sub(t))
	}
	m.tell(next)
	m.last = next
	return next, again
}

// unite picks one cluster per name: static before everything else, then the earlier source. shadowed names the sources of
// those passed over.
func unite(sets []sourceSet) (raw map[string]*discovery.Cluster, shadowed map[string][]string) {
	raw, shadowed = map[string]*discovery.Cluster{}, map[string][]string{}
	for _, static := range []bool{true, false} {
		for _, set := range sets {
			for _, c := range set.clusters {
				if (c.Source == "static") != static {
					continue
				}
				if raw[c.Name] != nil {
					shadowed[c.Name] = append(shadowed[c.Name], c.Source)
					continue
				}
				raw[c.Name] = c
			}
		}
	}
	return raw, shadowed
}

func (m *merger) wants(c *discovery.Cluster) bool {
	return m.prober != nil && c.WantReflection && c.Claim == discovery.ClaimNone
}

// ask tells the prober whom to ask.
func (m *merger) ask(raw map[string]*discovery.Cluster) {
	if m.prober == nil {
		return
	}
	targets := map[reflection.Target]struct{}{}
	for _, c := range raw {
		if m.wants(c) {
			for _, e := range c.Endpoints {
				e.Cluster = c.Name
				targets[targetOf(e)] = struct{}{}
			}
		}
	}
	m.prober.Set(targets)
}

// enrich fills in what the endpoints of c said by reflection. An endpoint that was not asked yet, while others were, offers
// nothing for a while, so that no call meets a method that it lacks; until is the end of the first such while, also where
// nobody was asked yet; zero if everybody was.
func (m *merger) enrich(c *discovery.Cluster, now time.Time, probedAt map[reflection.Target]time.Time, news *[]time.Time) (until time.Time) {
	c.Endpoints = slices.Clone(c.Endpoints)
	union := map[string]bool{}
	answered, failed := false, 0
	var trouble string
	var unasked []*discovery.Endpoint
	for i := range c.Endpoints {
		e := &c.Endpoints[i]
		e.Cluster = c.Name
		st := m.prober.State(targetOf(*e))
		if st == nil {
			continue
		}
		switch end := st.Since.Add(m.withhold); {
		case st.Result != nil:
			answered = true
			e.Services, e.Described = st.Result.Offers(), st.Result.Hash
			for s := range e.Services {
				union[s] = true
			}
		case !st.Asked && now.Before(end):
			unasked = append(unasked, e)
			if until.IsZero() || end.Before(until) {
				until = end
			}
		}
		if st.Err != nil {
			failed++
			if trouble == "" {
				trouble = fmt.Sprintf("reflection on %s: %v", e.Address, st.Err)
			}
		}
		if st.ChangedAt.IsZero() {
			continue
		}
		probedAt[st.Target] = st.ChangedAt
		if before, known := m.probedAt[st.Target]; !known { // its first answer: the wait counts from its appearance
			*news = append(*news, st.Since)
		} else if !before.Equal(st.ChangedAt) {
			*news = append(*news, st.ChangedAt)
		}
	}
	if failed > 1 {
		trouble += fmt.Sprintf(" (and %d more)", failed-1)
	}
	if trouble != "" {
		addErr(c, trouble)
	}
	if answered {
		c.Services = slices.Sorted(maps.Keys(union))
		m.learned[c.Name] = c.Services
		for _, e := range unasked {
			e.Services = map[string][]string{}
		}
	} else { // nobody is left to say it: what was served here is still what would be
		c.Services = m.learned[c.Name]
	}
	if len(c.Services) > 0 {
		c.Claim = discovery.ClaimReflection
	}
	return until
}

// same compares what a snapshot's reader can see, less ChangedAt.
func same(a, b *discovery.Cluster) bool {
	x := *a
	x.ChangedAt = b.ChangedAt
	return reflect.DeepEqual(&x, b)
}

// tell logs what people should know of a change.
func (m *merger) tell(next *discovery.Snapshot) {
	known := map[string]bool{}
	if m.last != nil {
		for _, c := range m.last.Conflicts {
			known[c.Service+" "+strings.Join(c.Clusters, " ")] = true
		}
	}
	for _, c := range next.Conflicts {
		if !known[c.Service+" "+strings.Join(c.Clusters, " ")] {
			m.log.Error("a protobuf service is claimed by several clusters and routed to none; a route in the config decides",
				"service", c.Service, "clusters", c.Clusters)
		}
	}
	endpoints := 0
	for _, c := range next.Clusters {
		endpoints += len(c.Endpoints)
	}
	m.log.Debug("discovery snapshot", "version", next.Version, "clusters", len(next.Clusters), "endpoints", endpoints,
		"conflicts", len(next.Conflicts), "complete", next.Complete, "lag", next.Lag)
}
