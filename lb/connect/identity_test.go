package connect

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"
)

// serial is that of the certificate in place.
func (s *story) serial() string {
	s.Helper()
	c, err := s.identity.GetCertificate(&tls.ClientHelloInfo{})
	if err != nil {
		s.Fatal(err)
	}
	return c.Leaf.SerialNumber.String()
}

// trusts says whether certificates of a are good by the authorities in place.
func (s *story) trusts(a *authority) bool {
	made := a.leaf(s, 77, spiffe("web"), time.Hour)
	pair, err := tls.X509KeyPair([]byte(made.CertPEM), []byte(made.PrivateKeyPEM))
	if err != nil {
		s.Fatal(err)
	}
	_, err = pair.Leaf.Verify(x509.VerifyOptions{Roots: s.identity.ClientCAs(), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}})
	return err == nil
}

func isReady(i *Identity) bool {
	select {
	case <-i.Ready():
		return true
	default:
		return false
	}
}

func TestTheCertificateAndTheAuthoritiesComeFromTheAgent(t *testing.T) {
	tell(t, func(s *story) {
		i := s.start()
		after(time.Second)
		if !isReady(i) || s.serial() != "1" || !s.trusts(s.authority) || i.TrustDomain() != domain {
			t.Fatalf("status: %+v", i.Status())
		}
		if c, err := i.Certificate(); err != nil || c.Leaf.SerialNumber.Int64() != 1 {
			t.Errorf("%v %v", c, err)
		}
		st := i.Status()
		if st.Service != "trunkline" || st.SPIFFE != spiffe("trunkline") || st.Serial != "01" || st.TrustDomain != domain || st.ActiveRoot != "one" ||
			!slices.Equal(st.Roots, []string{"one"}) || st.Err != "" || !st.StaleSince.IsZero() || time.Until(st.NotAfter) < 71*time.Hour || st.NotBefore.IsZero() ||
			st.Leaf.SerialNumber.Int64() != 1 || st.LeafErr != "" || time.Since(st.LeafAt) > time.Second || time.Since(st.RootsAt) > time.Second {
			t.Errorf("status: %+v", st)
		}
		if strings.Contains(s.log.String(), "PRIVATE") {
			t.Error("the log shows a key")
		}
	})
}

func TestWhatTheAgentRotatesIsInPlaceWithinASecond(t *testing.T) {
	tell(t, func(s *story) {
		s.start()
		after(10 * time.Minute) // of waiting
		two := newAuthority(t, "two")
		if s.trusts(two) {
			t.Fatal("it trusts just anybody")
		}
		s.agent.change(func() { s.agent.roots = rootList(two, s.authority) })
		after(time.Second)
		if !s.trusts(two) || !s.trusts(s.authority) {
			t.Fatalf("during a rotation both are to be trusted: %+v", s.identity.Status())
		}
		pool := s.identity.ClientCAs()
		s.agent.change(func() { s.agent.leaf = two.leaf(t, 2, spiffe("trunkline"), time.Hour) })
		after(time.Second)
		if s.serial() != "2" {
			t.Fatal("the old certificate is in place")
		}
		if s.identity.ClientCAs() != pool {
			t.Error("the same authorities are another pool")
		}
		s.agent.change(func() { s.agent.roots = rootList(two) })
		after(time.Second)
		if !s.trusts(two) || s.trusts(s.authority) {
			t.Fatal("the old authority is trusted still")
		}
	})
}

// Whatever the agent's trouble, the last good stays in place, it is logged once, and what comes afterwards is taken.
func TestWhileTheAgentFailsTheLastGoodHoldsOn(t *testing.T) {
	status := func(code int) func(*story) {
		return func(s *story) {
			s.agent.trouble[leafPath], s.agent.trouble[rootsPath] = code, code
		}
	}
	leafOf := func(make func(*story) *api.LeafCert) func(*story) {
		return func(s *story) {
			s.agent.leaf, s.agent.roots = make(s), &api.CARootList{TrustDomain: domain}
		}
	}
	for name, trouble := range map[string]func(*story){
		"500": status(500), "403": status(403), "404": status(404), "429": status(429), "hang": status(hang),
		"no certificate": leafOf(func(*story) *api.LeafCert { return &api.LeafCert{} }),
		"another key": leafOf(func(s *story) *api.LeafCert {
			c := s.authority.leaf(s, 3, spiffe("trunkline"), time.Hour)
			c.PrivateKeyPEM = s.authority.leaf(s, 4, spiffe("trunkline"), time.Hour).PrivateKeyPEM
			return c
		}),
		"another service": leafOf(func(s *story) *api.LeafCert { return s.authority.leaf(s, 3, spiffe("other"), time.Hour) }),
		"no id":           leafOf(func(s *story) *api.LeafCert { return s.authority.leaf(s, 3, "", time.Hour) }),
		"a strange id":    leafOf(func(s *story) *api.LeafCert { return s.authority.leaf(s, 3, "spiffe://"+domain+"/me", time.Hour) }),
	} {
		t.Run(name, func(t *testing.T) {
			tell(t, func(s *story) {
				i := s.start()
				after(time.Second)
				s.agent.change(func() { trouble(s) })
				began := time.Now()
				after(10 * time.Minute)
				if s.serial() != "1" || !s.trusts(s.authority) {
					t.Fatal("the last good is gone")
				}
				if st := i.Status(); st.Err == "" || st.StaleSince.Before(began) || time.Since(st.StaleSince) < 8*time.Minute ||
					st.LeafErr == "" || st.LeafErrSince.Before(began) || time.Since(st.LeafAt) < 8*time.Minute || time.Since(st.RootsAt) < 8*time.Minute {
					t.Errorf("status: %+v", st)
				}
				if n := s.logged("does not answer for the mesh"); n != 2 { // one about each
					t.Errorf("logged %d times:\n%s", n, s.log.String())
				}
				if n := s.agent.count(leafPath); n > 600/5+20 || name != "hang" && n < 600/10 {
					t.Errorf("%d questions in ten minutes", n)
				}
				s.agent.change(func() {
					clear(s.agent.trouble)
					s.agent.leaf, s.agent.roots = s.authority.leaf(t, 5, spiffe("trunkline"), time.Hour), rootList(s.authority)
				})
				after(20 * time.Second)
				if st := i.Status(); s.serial() != "5" || st.Err != "" || !st.StaleSince.IsZero() || s.logged("answers again") != 2 {
					t.Errorf("status: %+v\n%s", st, s.log.String())
				}
			})
		})
	}
}

// An authority that cannot be read does not take the others away.
func TestAnAuthorityThatCannotBeReadIsLeftOut(t *testing.T) {
	tell(t, func(s *story) {
		list := rootList(s.authority)
		list.Roots = append(list.Roots, &api.CARoot{ID: "broken", RootCertPEM: "-----BEGIN"}, nil)
		s.agent.roots = list
		i := s.start()
		after(time.Second)
		if st := i.Status(); !s.trusts(s.authority) || !slices.Equal(st.Roots, []string{"one"}) || s.logged("broken") != 1 {
			t.Errorf("status: %+v\n%s", st, s.log.String())
		}
	})
}

// Before the agent has told anything nobody is known, and the error says what is missing.
func TestWithoutTheAgentAtTheStartNothingIsKnown(t *testing.T) {
	tell(t, func(s *story) {
		s.agent.kill()
		i := s.start()
		after(time.Minute)
		_, err := i.GetCertificate(nil)
		_, err2 := i.Certificate()
		for _, err := range []error{err, err2, i.Match("echo")(spiffe("echo"))} {
			if err == nil || !strings.Contains(err.Error(), `no certificate for the service "trunkline" yet`) || !strings.Contains(err.Error(), "refused") {
				t.Errorf("error: %v", err)
			}
		}
		if i.ClientCAs() != nil || i.TrustDomain() != "" || isReady(i) {
			t.Errorf("status: %+v", i.Status())
		}
		s.agent.revive()
		after(11 * time.Second)
		if !isReady(i) || s.serial() != "1" {
			t.Errorf("status: %+v", i.Status())
		}
	})
}

// An expired certificate is shown to clients, whose libraries say so, but not to endpoints, as then nobody would tell.
func TestAnExpiredCertificateIsToldOf(t *testing.T) {
	tell(t, func(s *story) {
		s.agent.leaf = s.authority.leaf(t, 1, spiffe("trunkline"), time.Hour)
		i := s.start()
		after(time.Second)
		s.agent.kill()
		after(time.Hour)
		if s.serial() != "1" {
			t.Error("clients are shown another")
		}
		if _, err := i.Certificate(); err == nil || !strings.Contains(err.Error(), "expired at ") || !strings.Contains(err.Error(), "refused") {
			t.Errorf("error: %v", err)
		}
	})
}

// When the agent's index goes backwards, as after a restart, the watch starts anew and sees changes at once again.
func TestAnIndexThatGoesBackwardsStartsTheWatchAnew(t *testing.T) {
	tell(t, func(s *story) {
		s.start()
		after(time.Second)
		s.agent.mu.Lock()
		s.agent.index = 3 // nobody is woken
		s.agent.mu.Unlock()
		s.agent.change(func() { s.agent.leaf = s.authority.leaf(t, 2, spiffe("trunkline"), time.Hour) })
		after(70 * time.Second)
		if got := s.agent.indexes[leafPath]; s.serial() != "2" || !slices.Equal(got, []string{"", "10", "", "4"}) {
			t.Errorf("serial %s, it asked with the indexes %q", s.serial(), got)
		}
		s.agent.change(func() { s.agent.leaf = s.authority.leaf(t, 3, spiffe("trunkline"), time.Hour) })
		after(time.Second)
		if s.serial() != "3" {
			t.Error("a change was not seen at once")
		}
	})
}

// An index of 0 cannot be waited for: it makes a slow poll and not a busy one. Nor does an agent that changes all the time.
func TestQuestionsAreFew(t *testing.T) {
	tell(t, func(s *story) {
		s.agent.index = 0
		s.start()
		after(time.Minute)
		if n := s.agent.count(leafPath); n > 8 {
			t.Errorf("%d questions in a minute", n)
		}
	})
	tell(t, func(s *story) {
		s.start()
		for range 1000 {
			s.agent.change(func() {})
			time.Sleep(10 * time.Millisecond)
		}
		if n := s.agent.count(leafPath); n > 25 {
			t.Errorf("%d questions in ten seconds", n)
		}
	})
}

func TestASerialIsWrittenAsConsulWritesIt(t *testing.T) {
	a := newAuthority(t, "one")
	for serial, want := range map[int64]string{0x12ab: "12:ab", 9: "09", 0x100: "01:00"} {
		made := a.leaf(t, serial, "", time.Hour)
		pair, err := tls.X509KeyPair([]byte(made.CertPEM), []byte(made.PrivateKeyPEM))
		if err != nil {
			t.Fatal(err)
		}
		if got := hexadecimal(pair.Leaf.SerialNumber); got != want {
			t.Errorf("%d: %s, want %s", serial, got, want)
		}
	}
}

func Example_match() {
	i := &Identity{}
	i.roots.Store(&roots{domain: "one.consul"})
	i.leaf.Store(&leaf{id: id{namespace: "default", partition: "default"}})
	match := i.Match("cart")
	fmt.Println(match("spiffe://ONE.consul/ns/default/dc/dc2/svc/cart"))
	fmt.Println(match("spiffe://one.consul/ns/default/dc/dc1/svc/shop"))
	// Output:
	// <nil>
	// the endpoint is not the service "cart" of the namespace "default": its certificate says spiffe://one.consul/ns/default/dc/dc1/svc/shop
}
