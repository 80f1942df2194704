package consul

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"strings"
	"sync"

	"github.com/hashicorp/consul/api"

	"github.com/trunkline/trunkline/discovery"
)

// DocumentsPrefix is where the policies of clusters are kept in Consul's KV store.
const DocumentsPrefix = "trunkline/clusters/"

// The documents of a cluster, by the last part of their key.
const (
	LiveDocument   = "service-config"
	ShadowDocument = "service-config-shadow"
)

// Document is one value of Consul's KV store.
type Document struct {
	Key   string // whole: "trunkline/clusters/echo/service-config"
	Value []byte // as it is stored; not to be changed
	Index uint64 // of its last modification
}

// Documents watches the values under one prefix of Consul's KV store.
type Documents struct {
	*agent // set once in NewDocuments
	prefix string

	mu     sync.Mutex
	report discovery.SourceReport // guarded by mu

	// What follows is owned by Run.
	known   map[string]Document
	emitted bool
}

// NewDocuments checks the options, of which it uses how to reach Consul; tags, services, the guard and the directory do not
// matter. It does not talk to Consul yet, but it reads TLS files, the token file and the environment. prefix ends with a
// slash, such as DocumentsPrefix.
func NewDocuments(options Options, prefix string) (*Documents, error) {
	if prefix == "" || strings.HasPrefix(prefix, "/") || !strings.HasSuffix(prefix, "/") {
		return nil, fmt.Errorf("consul: %q is no prefix of keys: it must end with a slash and not begin with one", prefix)
	}
	options.Tag, options.NoTag, options.Services = "", false, nil
	options.HoldShare, options.HoldFor, options.Dir = 0, 0, ""
	o, err := options.withDefaults()
	if err != nil {
		return nil, err
	}
	o.Name += "/kv"
	a, err := newAgent(o)
	if err != nil {
		return nil, err
	}
	return &Documents{agent: a, prefix: prefix, report: discovery.SourceReport{Name: o.Name}}, nil
}

// SplitKey takes the cluster and the document (LiveDocument, ShadowDocument or what else stands there) out of a key under
// prefix; ok is false where there is none of either.
func SplitKey(prefix, key string) (cluster, document string, ok bool) {
	rest, ok := strings.CutPrefix(key, prefix)
	i := strings.LastIndexByte(rest, '/') // a service's name may have slashes
	if !ok || i < 1 || i == len(rest)-1 {
		return "", "", false
	}
	return rest[:i], rest[i+1:], true
}

// Name is the options' with "/kv".
func (d *Documents) Name() string { return d.options.Name }

// Report implements discovery.Reporter; Clusters counts documents. It may be called from any goroutine.
func (d *Documents) Report() discovery.SourceReport {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.report
}

// Run watches until ctx ends, then returns nil. emit is called from Run's goroutine with all documents by key, first when
// Consul has answered (also if there are none), then whenever one came, changed or went; the map is the receiver's. While
// Consul does not answer nothing is emitted: what was, holds on, and Report says since when and why. It may be called once.
func (d *Documents) Run(ctx context.Context, emit func(map[string]Document)) error {
	defer d.http.CloseIdleConnections()
	watch(ctx, d.agent, retryScout, d.ask, func(a answer[map[string]Document]) { d.take(a, emit) })
	return nil
}

// ask lists all there is under the prefix. None is an answer: Consul's 404 without an error.
func (d *Documents) ask(_ context.Context, q *api.QueryOptions) (map[string]Document, *api.QueryMeta, error) {
	pairs, meta, err := d.client.KV().List(d.prefix, q)
	if err != nil {
		return nil, nil, err
	}
	if meta.ResultsFilteredByACLs && len(pairs) == 0 { // Consul answers a missing right with an empty list
		d.token.current(true)
		return nil, nil, fmt.Errorf("the ACL token may not read the keys under %s", d.prefix)
	}
	if len(pairs) == 0 && meta.LastIndex == 0 { // somebody's 404 page
		return nil, nil, fmt.Errorf("HTTP 404 without an index: it is not Consul who answers")
	}
	found := make(map[string]Document, len(pairs))
	for _, p := range pairs {
		if !strings.HasSuffix(p.Key, "/") { // the UI's folders
			found[p.Key] = Document{p.Key, p.Value, p.ModifyIndex}
		}
	}
	return found, meta, nil
}

func (d *Documents) take(a answer[map[string]Document], emit func(map[string]Document)) {
	if a.err != nil {
		d.note(func(r *discovery.SourceReport) {
			if r.Err == "" {
				d.options.Logger.Warn("Consul's KV store does not answer; the documents known so far hold on",
					"source", d.options.Name, "documents", len(d.known), "err", a.err)
			}
			r.Err, r.LastFailure = a.err.Error(), a.at
		})
		return
	}
	d.note(func(r *discovery.SourceReport) {
		if r.Err != "" {
			d.options.Logger.Info("Consul's KV store answers", "source", d.options.Name, "documents", len(a.value))
		}
		r.Err, r.LastSuccess, r.Index, r.Clusters = "", a.at, a.index, len(a.value)
	})
	same := maps.EqualFunc(d.known, a.value, func(a, b Document) bool { return a.Index == b.Index && bytes.Equal(a.Value, b.Value) })
	if d.emitted && same {
		return
	}
	d.known, d.emitted = a.value, true
	emit(maps.Clone(a.value))
}

func (d *Documents) note(edit func(*discovery.SourceReport)) {
	d.mu.Lock()
	defer d.mu.Unlock()
	edit(&d.report)
}
