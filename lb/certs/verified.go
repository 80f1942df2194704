package certs

import (
	"crypto/sha256"
	"crypto/x509"
	"slices"
	"sync"
	"time"
)

// maxVerified bounds the chains that are remembered, in certificates that clients showed.
const maxVerified = 1024

// verified remembers chains that were found good: signatures cost more than the rest of a resumed handshake, and clients come back.
// The zero value is ready.
type verified struct {
	mu     sync.Mutex                           // held for a look into the map
	chains map[shownChain][][]*x509.Certificate // guarded by mu
}

// shownChain is what a client showed, by SHA-256, and by whom it was judged.
type shownChain struct {
	sum  [sha256.Size]byte
	pool *x509.CertPool
}

// verify is x509's, for clients: the chains from the first of certs to pool that are good now.
func (v *verified) verify(certs []*x509.Certificate, pool *x509.CertPool, now time.Time) ([][]*x509.Certificate, error) {
	h := sha256.New()
	for _, c := range certs {
		h.Write(c.Raw) // DER says itself where it ends
	}
	key := shownChain{pool: pool}
	h.Sum(key.sum[:0])
	v.mu.Lock()
	known := v.chains[key]
	v.mu.Unlock()
	if slices.ContainsFunc(known, func(chain []*x509.Certificate) bool { return !current(chain, now) }) {
		known = nil // time is all that can have changed; x509 knows how to say so
	}
	if known != nil {
		return known, nil
	}
	o := x509.VerifyOptions{Roots: pool, CurrentTime: now, Intermediates: x509.NewCertPool(), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}
	for _, c := range certs[1:] {
		o.Intermediates.AddCert(c)
	}
	chains, err := certs[0].Verify(o)
	if err != nil {
		return nil, err
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.chains == nil || len(v.chains) >= maxVerified {
		v.chains = map[shownChain][][]*x509.Certificate{}
	}
	v.chains[key] = chains
	return chains, nil
}

func current(chain []*x509.Certificate, now time.Time) bool {
	for _, c := range chain {
		if now.Before(c.NotBefore) || now.After(c.NotAfter) {
			return false
		}
	}
	return true
}
