package certs

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"slices"
	"strings"
	"time"
)

// revocations are the revocation lists of a file. Immutable.
type revocations struct {
	lists map[string][]*revocationList // by the issuer's subject, DER
	raw   []byte
}

type revocationList struct {
	issuer  *x509.Certificate
	revoked map[string]time.Time // by serial number, as big.Int's bytes
	next    time.Time            // when the issuer's next one was due; zero: not said
}

func newRevocations(crl, ca source) (*kept[*revocations], error) {
	return newKept(func(contents [][]byte) (*revocations, error) {
		a, err := parseAuthorities(ca, contents[1])
		if err != nil {
			return nil, err
		}
		return parseRevocations(crl, contents[0], ca.path, a.certs)
	}, crl, ca)
}

// parseRevocations reads lists in PEM, or one in DER. Each must be signed by one of the issuers, which stand in the file `where`.
// Several lists of one issuer count together.
func parseRevocations(s source, data []byte, where string, issuers []*x509.Certificate) (*revocations, error) {
	var ders [][]byte
	for block, rest := pem.Decode(data); block != nil; block, rest = pem.Decode(rest) {
		if block.Type == "X509 CRL" {
			ders = append(ders, block.Bytes)
		}
	}
	switch {
	case len(ders) > 0:
	case len(data) > 0 && data[0] == 0x30: // an ASN.1 SEQUENCE
		ders = append(ders, data)
	default:
		return nil, s.errorf("holds no certificate revocation list, neither in PEM (-----BEGIN X509 CRL-----) nor in DER")
	}
	r := &revocations{lists: map[string][]*revocationList{}, raw: data}
	for i, der := range ders {
		list, err := parseList(der, where, issuers)
		if err != nil {
			return nil, s.errorf("revocation list %d %w", i+1, err)
		}
		key := string(list.issuer.RawSubject)
		r.lists[key] = append(r.lists[key], list)
	}
	return r, nil
}

func parseList(der []byte, where string, issuers []*x509.Certificate) (*revocationList, error) {
	crl, err := x509.ParseRevocationList(der)
	if err != nil {
		return nil, fmt.Errorf("does not parse: %w", err)
	}
	at := slices.IndexFunc(issuers, func(c *x509.Certificate) bool {
		return bytes.Equal(c.RawSubject, crl.RawIssuer) && crl.CheckSignatureFrom(c) == nil
	})
	if at < 0 {
		return nil, fmt.Errorf("is of %s, by whose key none of the certificates in %s signs it: add the certificate of the authority that does", crl.Issuer, where)
	}
	for _, e := range crl.Extensions {
		if e.Critical && e.Id.String() != "2.5.29.28" { // issuingDistributionPoint: what it limits the list to does not matter here
			return nil, fmt.Errorf("of %s has the critical extension %s (a delta list?), which is not understood: use a complete list", crl.Issuer, e.Id)
		}
	}
	list := &revocationList{issuer: issuers[at], revoked: make(map[string]time.Time, len(crl.RevokedCertificateEntries)), next: crl.NextUpdate}
	for _, entry := range crl.RevokedCertificateEntries {
		for _, e := range entry.Extensions {
			if e.Critical {
				return nil, fmt.Errorf("of %s has an entry with the critical extension %s (an indirect list?), which is not understood", crl.Issuer, e.Id)
			}
		}
		list.revoked[string(entry.SerialNumber.Bytes())] = entry.RevocationTime
	}
	return list, nil
}

// find is the first certificate of chain that is revoked, and since when; nil if none is. The chain's end is looked up, too: an
// intermediate authority may be one of those that are trusted, and still be revoked by its own.
func (r *revocations) find(chain []*x509.Certificate) (*x509.Certificate, time.Time) {
	if r == nil {
		return nil, time.Time{}
	}
	for _, c := range chain {
		for _, list := range r.lists[string(c.RawIssuer)] {
			since, ok := list.revoked[string(c.SerialNumber.Bytes())]
			if ok && c.CheckSignatureFrom(list.issuer) == nil { // authorities may share a name
				return c, since
			}
		}
	}
	return nil, time.Time{}
}

// stale tells of lists whose next ones were due before now; "" if there are none.
func (r *revocations) stale(now time.Time) string {
	if r == nil {
		return ""
	}
	var late []string
	for _, lists := range r.lists {
		for _, l := range lists {
			if !l.next.IsZero() && now.After(l.next) {
				late = append(late, fmt.Sprintf("%s (next due %s)", l.issuer.Subject, l.next.UTC().Format(time.RFC3339)))
			}
		}
	}
	slices.Sort(late)
	return strings.Join(late, ", ")
}
