package consul

import (
	"net/http"

	"github.com/hashicorp/consul/api"
)

// NewClient makes a client for other questions to the same agent (lb/connect's): it bears the token of the options, read again when
// its file changes and after each 403. Of the options it uses how to reach Consul. It does not talk to Consul yet, but it reads
// TLS files, the token file and the environment. closeIdle closes the connections that are not in use.
func NewClient(options Options) (client *api.Client, closeIdle func(), err error) {
	options.Tag, options.NoTag, options.Services = "", false, nil
	o, err := options.withDefaults()
	if err != nil {
		return nil, nil, err
	}
	a, err := newAgent(o)
	if err != nil {
		return nil, nil, err
	}
	if o.TokenFile != "" {
		a.http.Transport = bearer{a.http.Transport, a.token}
	}
	return a.client, a.http.CloseIdleConnections, nil
}

// bearer puts the token that is current into each request.
type bearer struct {
	http.RoundTripper
	token *token
}

// RoundTrip implements http.RoundTripper.
func (b bearer) RoundTrip(r *http.Request) (*http.Response, error) {
	if t := b.token.current(false); t != "" {
		r = r.Clone(r.Context())
		r.Header.Set("X-Consul-Token", t)
	}
	response, err := b.RoundTripper.RoundTrip(r)
	if err == nil && response.StatusCode == http.StatusForbidden {
		b.token.current(true)
	}
	return response, err
}

// CloseIdleConnections is what http.Client looks for.
func (b bearer) CloseIdleConnections() {
	if c, ok := b.RoundTripper.(interface{ CloseIdleConnections() }); ok {
		c.CloseIdleConnections()
	}
}
