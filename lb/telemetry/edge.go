package telemetry

import (
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
)

// listeners are the counters of what comes before HTTP/2, and of its abuse.
func (m *page) listeners(all []ListenerGauges) {
	var accepted, refused, cut, handshakes []metricdata.DataPoint[int64]
	for i := range all {
		l := &all[i]
		add := func(to *[]metricdata.DataPoint[int64], n uint64, label ...attribute.KeyValue) {
			*to = append(*to, m.point(attribute.NewSet(append(label, attribute.String("listener", valid(l.Listener)))...), int64(n)))
		}
		add(&accepted, l.Accepted)
		for _, r := range [...]struct {
			reason string
			n      uint64
		}{{"max_connections", l.Crowded}, {"max_connections_per_address", l.CrowdedAddress}, {"proxy_header", l.BadProxyHeader}, {"cut_off_before", l.Offenders}, {"unused_connections", l.Unused}} {
			add(&refused, r.n, attribute.String("reason", r.reason))
		}
		for _, r := range l.Cut {
			add(&cut, r.N, attribute.String("reason", r.Reason))
		}
		for _, r := range [...]struct {
			result string
			n      uint64
		}{{"full", l.Handshakes - l.Resumed}, {"resumed", l.Resumed}, {"failed", l.BadHandshakes}} {
			add(&handshakes, r.n, attribute.String("result", r.result))
		}
	}
	m.sum("listener.accepted", "{connection}", "Connections accepted.", accepted)
	m.sum("listener.refused", "{connection}", "Connections closed before HTTP/2, by reason.", refused)
	m.sum("listener.cut_off", "{connection}", "Connections cut off for abuse of HTTP/2, by reason.", cut)
	m.sum("tls.handshakes", "{handshake}", "TLS handshakes with clients, by result.", handshakes)
}

func (m *page) certificates(all []CertificateGauges) {
	var left []metricdata.DataPoint[float64]
	seen := map[attribute.Distinct]bool{}
	for _, c := range all {
		set := attribute.NewSet(attribute.String("name", valid(c.Name)), attribute.String("where", c.Where))
		if !seen[set.Equivalent()] {
			seen[set.Equivalent()] = true
			left = append(left, m.seconds(set, c.Left))
		}
	}
	m.gaugeSeconds("tls.certificate.left", "Time until a certificate that is shown expires; negative afterwards.", left)
}
