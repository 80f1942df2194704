package certs

import (
	"bytes"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"slices"
	"sync"
	"time"

	"golang.org/x/crypto/ocsp"
)

const (
	askTimeout  = 10 * time.Second
	maxResponse = 1 << 20
	// A responder that fails is asked again after firstRetry, then after twice as long each time, up to lastRetry. Between two of its
	// answers there is firstRetry at least.
	firstRetry, lastRetry = time.Minute, time.Hour
	// undated is how long an answer is used that does not say when the next one comes.
	undated = time.Hour
)

// responder sends an OCSP request to url and returns the answer.
type responder func(ctx context.Context, url string, request []byte) ([]byte, error)

// stapler keeps OCSP responses for certificates that name a responder (RFC 6960), each in a goroutine of its own. No handshake waits
// for it: a certificate whose response has not come is shown without.
type stapler struct {
	ask responder
	now func() time.Time
	log *slog.Logger

	stop  context.CancelFunc
	ctx   context.Context // ends with close
	tasks sync.WaitGroup
	mu    sync.Mutex
	live  map[*shown]context.CancelFunc // guarded by mu
}

func newStapler(ask responder, now func() time.Time, log *slog.Logger) *stapler {
	s := &stapler{ask: ask, now: now, log: log, live: map[*shown]context.CancelFunc{}}
	s.ctx, s.stop = context.WithCancel(context.Background())
	return s
}

func (s *stapler) close() {
	s.stop()
	s.tasks.Wait()
}

// follow begins with certificates that are new in list, and ends with those that are not in it any more.
func (s *stapler) follow(list []*shown) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for c, end := range s.live {
		if !slices.Contains(list, c) {
			end()
			delete(s.live, c)
		}
	}
	for _, c := range list {
		if s.live[c] != nil || len(c.leaf.OCSPServer) == 0 {
			continue
		}
		if len(c.pair.Certificate) < 2 {
			s.log.Warn("a certificate names an OCSP responder, but its issuer is not in its file: nothing is stapled; append the issuer's certificate", "file", c.file)
			continue
		}
		issuer, err := x509.ParseCertificate(c.pair.Certificate[1])
		if err != nil {
			continue // newPair has parsed it
		}
		ctx, end := context.WithCancel(s.ctx)
		s.live[c] = end
		s.tasks.Go(func() { s.keep(ctx, c, issuer) })
	}
}

// keep fetches and refreshes the response for c until ctx ends.
func (s *stapler) keep(ctx context.Context, c *shown, issuer *x509.Certificate) {
	retry, failed := firstRetry, ""
	next := s.now()
	for {
		now := s.now()
		if until := c.stapledUntil(); !until.IsZero() && !now.Before(until) {
			c.staple(nil)
			s.log.Warn("an OCSP response has expired and no newer one could be had: the certificate is shown without", "file", c.file, "expired", until)
		}
		if !now.Before(next) {
			answer, raw, err := s.fetch(ctx, c.leaf, issuer)
			switch {
			case ctx.Err() != nil:
				return
			case err != nil:
				if failed != err.Error() {
					s.log.Warn("no OCSP response to staple; asked again from time to time", "file", c.file, "error", err)
				}
				failed, next = err.Error(), s.now().Add(retry)
				retry = min(2*retry, lastRetry)
			case answer.Status != ocsp.Good:
				c.staple(nil)
				if failed != "bad" {
					s.log.Error("the OCSP responder does not call the certificate good: clients may refuse it; replace it", "file", c.file,
						"revoked", answer.Status == ocsp.Revoked, "since", answer.RevokedAt)
				}
				failed, next = "bad", s.now().Add(lastRetry)
			default:
				now, until := s.now(), answer.NextUpdate
				if until.IsZero() {
					until = now.Add(undated)
				}
				cert := *c.pair
				cert.OCSPStaple = raw
				c.staple(&stapled{cert: &cert, until: until})
				retry, failed, next = firstRetry, "", answer.ThisUpdate.Add(until.Sub(answer.ThisUpdate)/2)
				if least := now.Add(max(until.Sub(now)/2, firstRetry)); !next.After(now) {
					next = least
				}
			}
		}
		wake := next
		if until := c.stapledUntil(); !until.IsZero() && until.Before(wake) {
			wake = until
		}
		timer := time.NewTimer(wake.Sub(s.now()))
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return
		}
	}
}

// staple shows c as given by st, or without a staple if that is nil.
func (c *shown) staple(st *stapled) {
	switch {
	case st == nil || st.until.IsZero():
		st = &stapled{cert: c.pair}
	default:
		cert := *c.pair
		cert.OCSPStaple = st.cert.OCSPStaple
		st = &stapled{cert: &cert, until: st.until}
	}
	c.now.Store(st)
}

// fetch asks the responders of leaf until one answers.
func (s *stapler) fetch(ctx context.Context, leaf, issuer *x509.Certificate) (*ocsp.Response, []byte, error) {
	request, err := ocsp.CreateRequest(leaf, issuer, nil)
	if err != nil {
		return nil, nil, err
	}
	var errs []error
	for _, url := range leaf.OCSPServer {
		raw, err := s.ask(ctx, url, request)
		if err == nil {
			var answer *ocsp.Response
			if answer, err = ocsp.ParseResponseForCert(raw, leaf, issuer); err == nil {
				if err = s.usable(answer, issuer); err == nil {
					return answer, raw, nil
				}
			}
		}
		errs = append(errs, fmt.Errorf("%s: %w", url, err))
	}
	return nil, nil, errors.Join(errs...)
}

// usable says why clients would not take an answer whose signature is good.
func (s *stapler) usable(answer *ocsp.Response, issuer *x509.Certificate) error {
	now := s.now()
	switch by := answer.Certificate; {
	case by != nil && !by.Equal(issuer) && !slices.Contains(by.ExtKeyUsage, x509.ExtKeyUsageOCSPSigning):
		return fmt.Errorf("is signed by %s, which may not sign OCSP responses", by.Subject)
	case answer.ThisUpdate.After(now.Add(firstRetry)):
		return fmt.Errorf("is of %s, but here it is %s: correct the clocks", date(answer.ThisUpdate), date(now))
	case !answer.NextUpdate.IsZero() && !now.Before(answer.NextUpdate):
		return fmt.Errorf("has expired on %s", date(answer.NextUpdate))
	}
	return nil
}

// post is the responder that NewServer uses: OCSP over HTTP (RFC 6960 appendix A).
func post(ctx context.Context, url string, request []byte) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewReader(request))
	if err != nil {
		return nil, err
	}
	r.Header.Set("Content-Type", "application/ocsp-request")
	r.Header.Set("Accept", "application/ocsp-response")
	client := http.Client{Transport: &http.Transport{Proxy: http.ProxyFromEnvironment, DisableKeepAlives: true}} // asked once in days
	answer, err := client.Do(r)
	if err != nil {
		return nil, err
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("answers %s", answer.Status)
	}
	return io.ReadAll(io.LimitReader(answer.Body, maxResponse))
}
