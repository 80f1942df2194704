package lb

import (
	"context"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/trunkline/trunkline/discovery"
	"github.com/trunkline/trunkline/discovery/consul"
	"github.com/trunkline/trunkline/lb/config"
	"github.com/trunkline/trunkline/policy/serviceconfig"
	configv1 "github.com/trunkline/trunkline/proto/trunkline/config/v1"
)

// documents are the service configs in force: the file's, and those of single clusters in Consul's KV store, which replace it.
// Guarded by Server.mu.
type documents struct {
	live, shadow *serviceconfig.Config // the file's; shadow may be nil
	stored       map[string]*document  // by KV key
}

// document is one document of the KV store.
type document struct {
	index   uint64
	config  *serviceconfig.Config // the last good one; nil if there was none
	at      time.Time             // when it came
	err     string                // why the newest is not in force; "" if it is
	errAt   time.Time
	warning string
}

// readPolicies takes the service configs of a configuration. s.mu is held, or the Server is new.
func (s *Server) readPolicies(cfg *configv1.Config) error {
	live, shadow, err := config.ServiceConfig(cfg)
	if err != nil {
		return err
	}
	name := s.cfgName
	if name == "" {
		name = "the configuration"
	}
	live.Source = name
	if shadow != nil {
		shadow.Source = name + ", shadowServiceConfig"
	}
	s.documents.live, s.documents.shadow = live, shadow
	return nil
}

// of is what holds for a cluster, and what is only looked at beside it (nil: nothing).
func (d *documents) of(cluster string) (live, shadow *serviceconfig.Config) {
	live, shadow = d.live, d.shadow
	if own := d.stored[consul.DocumentsPrefix+cluster+"/"+consul.LiveDocument]; own != nil && own.config != nil {
		live = own.config
	}
	if own := d.stored[consul.DocumentsPrefix+cluster+"/"+consul.ShadowDocument]; own != nil && own.config != nil {
		shadow = own.config
	}
	return live, shadow
}

// takeDocuments puts what the KV store holds in force. A bad document changes nothing: the last good one stays, and the
// mistake is shown.
func (s *Server) takeDocuments(found map[string]consul.Document) {
	s.mu.Lock()
	defer s.mu.Unlock()
	changed := false
	for key := range s.documents.stored {
		if _, there := found[key]; !there {
			delete(s.documents.stored, key)
			changed = true
			s.log.Info("the policies of a cluster are gone from the KV store; the configuration's hold", "key", key)
		}
	}
	for _, key := range slices.Sorted(maps.Keys(found)) {
		_, which, ok := consul.SplitKey(consul.DocumentsPrefix, key)
		if !ok || which != consul.LiveDocument && which != consul.ShadowDocument {
			continue
		}
		old := s.documents.stored[key]
		if old == nil {
			old = &document{}
		} else if old.index == found[key].Index {
			continue
		}
		s.documents.stored[key] = s.readDocument(key, found[key], old)
		changed = true
	}
	if !changed {
		return
	}
	if err := s.compile(); err != nil {
		// Policies never fail a compilation: routes do, and they compiled before.
		s.log.Error("the table was not built", "error", err)
	}
}

// readDocument is a new value of a KV key; s.mu is held.
func (s *Server) readDocument(key string, found consul.Document, old *document) *document {
	next := &document{index: found.Index, config: old.config, at: old.at}
	cfg, problems := serviceconfig.Parse("consul kv "+key, found.Value, 1)
	var wrong, odd []string
	for _, p := range problems {
		if p.Warning {
			odd = append(odd, p.String())
		} else {
			wrong = append(wrong, p.String())
		}
	}
	next.warning = strings.Join(odd, "\n")
	if cfg == nil {
		next.err, next.errAt = strings.Join(wrong, "\n"), time.Now()
		s.log.Error("bad policies in the KV store; the last good ones stay in force", "key", key, "error", next.err)
		return next
	}
	next.config, next.at = cfg, time.Now()
	s.log.Info("policies taken from the KV store", "key", key, "index", found.Index)
	if next.warning != "" {
		s.log.Warn("policies in the KV store say something odd", "key", key, "warning", next.warning)
	}
	return next
}

// documentSource watches the KV store as a discovery source without clusters, so that it lives and reports as the others do.
type documentSource struct {
	*consul.Documents
	take func(map[string]consul.Document)
}

// documentsWait is how long readiness waits for the KV store: policies should be in force before the first call, but a cold start
// without Consul must come to an end.
const documentsWait = 2 * time.Second

// Run implements discovery.Source.
func (d *documentSource) Run(ctx context.Context, emit func([]*discovery.Cluster)) error {
	first := sync.OnceFunc(func() { emit(nil) })
	late := time.AfterFunc(documentsWait, first)
	defer late.Stop()
	return d.Documents.Run(ctx, func(found map[string]consul.Document) {
		d.take(found)
		first()
	})
}
