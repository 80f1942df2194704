package lb

import (
	"time"

	"github.com/trunkline/trunkline/lb/config"
	"github.com/trunkline/trunkline/lb/decision"
	"github.com/trunkline/trunkline/lb/forward"
	"github.com/trunkline/trunkline/lb/shard"
	configv1 "github.com/trunkline/trunkline/proto/trunkline/config/v1"
)

// newBook makes the book of one of n shards: what the configuration has kept is shared out between them.
func (s *Server) newBook(n int, sh *shard.Shard) *decision.Book {
	d := s.opts.Config.GetDecisions()
	share := func(all uint32) int { return (int(all) + n - 1) / n }
	return decision.NewBook(share(d.GetKeep()), share(d.GetKeepFailed()), s.opts.Config.GetAccessLog().GetSlowThreshold().AsDuration(), forward.Lock(sh))
}

// setOverload puts the configuration's idea of overload in force.
func (s *Server) setOverload(cfg *configv1.Config) {
	o := config.OverloadSettings(cfg)
	s.shedAt.Store(&o)
}

// shedding says why no new calls are taken at the moment; "": they are.
func (s *Server) shedding() (why string, pushback time.Duration) {
	if r := s.overload.Shedding(); r != nil {
		return r.Why, r.Pushback
	}
	return "", 0
}

// Decisions implements admin.Source.
func (s *Server) Decisions() decision.Books { return s.books }
