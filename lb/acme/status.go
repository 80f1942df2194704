package acme

import (
	"crypto/x509"
	"time"
)

// State is how it stands with a domain.
type State string

// The states.
const (
	Pending State = "pending" // no certificate yet, and nothing has failed
	Failing State = "failing" // no certificate yet, and the last attempt failed
	Valid   State = "valid"
	Overdue State = "overdue" // valid, but the last attempt to renew it failed
	Expired State = "expired"
)

// Status is what is known of a domain.
type Status struct {
	Domain   string
	State    State
	Issuer   string            // of the certificate, its common name
	Serial   string            // hexadecimal
	NotAfter time.Time         // zero without a certificate
	Leaf     *x509.Certificate // nil: none yet
	Error    string            // of the last attempt, "" if it succeeded
	FailedAt time.Time
}

// Authority is the directory that issues the certificates, a URL.
func (m *Manager) Authority() string { return m.issuer.directory }

// Status returns how it stands, by domain, in the order of the configuration.
func (m *Manager) Status() []Status {
	all := make([]Status, len(m.names))
	for i, name := range m.names {
		s := Status{Domain: name, State: Pending}
		m.mu.Lock()
		f, failed := m.failed[name]
		m.mu.Unlock()
		if failed {
			s.State, s.Error, s.FailedAt = Failing, f.err.Error(), f.at
		}
		if cert := m.current(name); cert != nil {
			s.Issuer, s.Serial, s.NotAfter = cert.Leaf.Issuer.CommonName, cert.Leaf.SerialNumber.Text(16), cert.Leaf.NotAfter
			s.Leaf = cert.Leaf
			switch {
			case cert.Expired():
				s.State = Expired
			case failed:
				s.State = Overdue
			default:
				s.State = Valid
			}
		}
		all[i] = s
	}
	return all
}
