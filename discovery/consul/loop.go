package consul

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/trunkline/trunkline/discovery"
)

// What Run's loop does with what the watches tell: take events, settle what was held, render clusters.

// restore takes the last good state from disk, as clusters that are stale until Consul answers.
func (s *Source) restore() {
	clusters, savedAt, err := s.store.load()
	if err != nil {
		s.options.Logger.Error("the discovery state on disk cannot be used; it is ignored", "source", s.options.Name, "file", s.store.path, "err", err)
		return
	}
	if savedAt.IsZero() {
		return
	}
	s.fromDisk = true
	for _, c := range clusters {
		sv := s.service(c.Name)
		sv.tagged = c.WantReflection && s.options.Tag != ""
		named := slices.ContainsFunc(s.options.Services, func(o Service) bool { return o.Name == c.Name })
		if !sv.tagged && !named { // no longer configured
			delete(s.services, c.Name)
			continue
		}
		if tag := s.options.tagFor(c.Name); tag != "" { // which may be another than when it was saved
			c.Endpoints = slices.DeleteFunc(c.Endpoints, func(e discovery.Endpoint) bool { return !slices.Contains(e.Tags, tag) })
		}
		sv.live = c.Endpoints
		sv.guard.live = c.Endpoints
		sv.staleAt = savedAt
		sv.trouble = fmt.Sprintf("from disk, saved at %s", savedAt.Format(time.RFC3339))
		sv.touch(time.Now())
	}
}

// take brings one event into the state.
func (s *Source) take(ctx context.Context, wg *sync.WaitGroup, e event) {
	if e.service == "" {
		s.note("", e.catalog.err, e.catalog.index, e.catalog.at)
		if e.catalog.err != nil {
			s.refused = !s.cataloged
			return
		}
		s.cataloged = true
		s.takeCatalog(ctx, wg, e.catalog)
		return
	}
	sv := s.services[e.service]
	if sv == nil || sv.cancel == nil { // its watch was stopped a moment ago
		return
	}
	a := e.endpoints
	s.note(e.service, a.err, a.index, a.at)
	if a.err != nil {
		sv.failed = true
		if sv.staleAt.IsZero() || !sv.answered && sv.trouble == "" {
			sv.staleAt = a.at
			sv.trouble = fmt.Sprintf("Consul does not answer: %v", a.err)
			sv.touch(a.at)
			s.options.Logger.Warn("Consul does not answer for a service; its last good endpoints are kept",
				"source", s.options.Name, "cluster", sv.name, "endpoints", len(sv.guard.live), "err", a.err)
		}
		return
	}
	if !sv.staleAt.IsZero() {
		sv.staleAt, sv.trouble = time.Time{}, ""
		sv.touch(a.at)
		s.options.Logger.Info("Consul answers for the service", "source", s.options.Name, "cluster", sv.name)
	}
	first := !sv.answered
	sv.answered = true
	sv.live, sv.faults = a.value.endpoints, a.value.faults
	if first && !s.emitted { // what is on disk was never shown, so there is nothing to hold
		sv.guard.live = nil
	}
	heldBefore := len(sv.guard.held)
	sv.believe(a.at)
	s.tellOfHold(sv, heldBefore)
}

// takeCatalog starts to watch what is new. What is gone is left to the guard, and its watch goes on until it is believed.
func (s *Source) takeCatalog(ctx context.Context, wg *sync.WaitGroup, a answer[map[string]bool]) {
	for name := range a.value {
		sv := s.service(name)
		if !sv.tagged {
			sv.tagged = true
			if sv.answered || len(sv.guard.held) > 0 {
				sv.believe(a.at)
			}
			sv.touch(a.at)
		}
		s.follow(ctx, wg, sv)
	}
	if len(s.services) > manyWatches && !s.warned {
		s.warned = true
		s.options.Logger.Warn("so many services may exceed the agent's limits.http_max_conns_per_client (200 by default): each is watched on its own connection",
			"source", s.options.Name, "services", len(s.services))
	}
	for name, sv := range s.services {
		if !sv.tagged || a.value[name] {
			continue
		}
		sv.tagged = false
		if !s.emitted { // only on disk, and never shown
			sv.guard.live = nil
		}
		heldBefore := len(sv.guard.held)
		sv.believe(a.at)
		s.tellOfHold(sv, heldBefore)
	}
}

func (s *Source) tellOfHold(sv *service, before int) {
	if n := len(sv.guard.held); n > before {
		s.options.Logger.Warn("a service lost many endpoints at once; the missing are kept for a while",
			"source", s.options.Name, "cluster", sv.name, "missing", n, "left", len(sv.guard.live), "listed", sv.listed(), "for", s.options.HoldFor)
	}
}

// settle lets the guards believe what stayed so, drops the services that nothing is left of, and says when to come again.
func (s *Source) settle(now time.Time) (next time.Time) {
	for name, sv := range s.services {
		before := len(sv.guard.held)
		sv.guard.expire(now)
		if n := len(sv.guard.held); n < before {
			s.options.Logger.Warn("endpoints that Consul no longer names are given up", "source", s.options.Name, "cluster", name, "endpoints", before-n)
			sv.touch(now)
		}
		if !sv.listed() && len(sv.guard.held) == 0 && s.cataloged {
			if sv.cancel != nil {
				sv.cancel()
			}
			delete(s.services, name)
			delete(s.failing, name)
			s.removed = true
			continue
		}
		if t := sv.guard.next(); !t.IsZero() && (next.IsZero() || t.Before(next)) {
			next = t
		}
	}
	return next
}

// ready says whether the first emit may happen: when Consul answered everything; when it refuses and there is a file; when
// it is late and there is anything to show.
func (s *Source) ready(late bool) bool {
	if s.fromDisk && (s.refused || late) {
		return true
	}
	if !s.cataloged {
		return false
	}
	complete, any := true, len(s.services) == 0
	for _, sv := range s.services {
		complete = complete && (sv.answered || sv.failed)
		any = any || sv.answered
	}
	if s.options.Tag != "" { // the catalog is an answer too
		any = true
	}
	if complete && !any && s.fromDisk {
		return true
	}
	return any && (complete || late)
}

// render returns the clusters, sorted by name, and whether anything is new.
func (s *Source) render() ([]*discovery.Cluster, bool) {
	changed := s.removed
	s.removed = false
	clusters := make([]*discovery.Cluster, 0, len(s.services))
	for _, name := range slices.Sorted(maps.Keys(s.services)) {
		sv := s.services[name]
		if sv.render(s.options.Name) {
			changed = true
		}
		clusters = append(clusters, sv.cluster)
	}
	return clusters, changed
}

// worthSaving: what came from disk and was not confirmed by Consul is there already.
func (s *Source) worthSaving() bool {
	if s.options.Tag != "" {
		return s.cataloged
	}
	for _, sv := range s.services {
		if sv.answered {
			return true
		}
	}
	return false
}

// note keeps the report of the source.
func (s *Source) note(service string, err error, index uint64, at time.Time) {
	if err == nil {
		delete(s.failing, service)
	} else {
		if service == "" && s.failing[service] == "" {
			s.options.Logger.Warn("Consul does not list its services", "source", s.options.Name, "err", err)
		}
		s.failing[service] = err.Error()
	}
	trouble := ""
	if len(s.failing) > 0 {
		name := slices.Min(slices.Collect(maps.Keys(s.failing))) // the catalog before the services
		trouble = s.failing[name]
		if name != "" {
			trouble = name + ": " + trouble
		}
		if n := len(s.failing) - 1; n > 0 {
			trouble += fmt.Sprintf(" (and %d more)", n)
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.report.Err = trouble
	if err != nil {
		s.report.LastFailure = at
		return
	}
	s.report.LastSuccess = at
	if service == "" || s.options.Tag == "" {
		s.report.Index = index
	}
}
