package connect

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

const (
	layer7  = "Matched L7 intention: default/web => default/trunkline (Precedence: 9, Permissions: 2)"
	read    = `{"Action":"allow","HTTP":{"PathExact":"/pkg.Shop/Get"}}`
	noAdmin = `{"Action":"deny","HTTP":{"PathExact":"/pkg.Shop/Delete"}}`
)

// source is one of an entry's, with permissions.
func permitted(name string, precedence int, permissions ...string) string {
	return fmt.Sprintf(`{"Name":%q,"Type":"consul","Precedence":%d,"Permissions":[%s]}`, name, precedence, strings.Join(permissions, ","))
}

// intends sets the intentions of trunkline.
func (f *fakeAgent) intends(sources ...string) {
	f.says(entryPath, `{"Kind":"service-intentions","Name":"trunkline","Sources":[`+strings.Join(sources, ",")+`]}`)
}

func (f *fakeAgent) says(path, text string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.texts[path] = text
}

// fails sets what becomes of questions.
func (f *fakeAgent) fails(path string, trouble int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.trouble[path] = trouble
}

// byDefault sets what the agent does where nothing is said.
func (f *fakeAgent) byDefault(intentions, acl string) {
	f.says(selfPath, fmt.Sprintf(`{"Config":{},"DebugConfig":{"DefaultIntentionPolicy":%q,"ACLResolverSettings":{"ACLDefaultPolicy":%q,"ACLPolicyTTL":"30s"}}}`, intentions, acl))
}

// call asks about a call of web to trunkline, and waits for what is told.
func (s *story) call(path string, kv ...string) *reply {
	s.sent = sends(path, kv...)
	r := s.asks("trunkline", spiffe("web"))
	if !r.known {
		after(3 * time.Second)
	}
	return r
}

// must checks one call's verdict.
func (s *story) must(allowed bool, says, path string, kv ...string) {
	s.Helper()
	if r := s.call(path, kv...); r.allowed != allowed || !strings.Contains(r.why, says) {
		s.Errorf("%s %q: %+v", path, kv, *r)
	}
}

func TestPermissionsOfAnIntentionAreObeyed(t *testing.T) {
	tell(t, func(s *story) {
		s.agent.allows("trunkline", "web", layer7)
		s.agent.intends(permitted("*", 8, `{"Action":"allow","HTTP":{"PathPrefix":"/"}}`), permitted("web", 9, noAdmin, read, `{"Action":"allow","HTTP":{"Header":[{"Name":"x-role","Exact":"admin"}]}}`))
		s.agent.byDefault("", "deny")
		s.start()
		after(time.Second)
		s.must(true, "permission 2 of the intention default/web => default/trunkline (Precedence: 9, Permissions: 2) allows it", "/pkg.Shop/Get")
		s.must(false, "permission 1 denies it", "/pkg.Shop/Delete", "x-role", "admin")
		s.must(true, "permission 3", "/pkg.Shop/Put", "x-role", "admin")
		s.must(false, "no permission matches, and Consul's default is to deny", "/pkg.Shop/Put")
		if a, e := s.agent.count(authorizePath), s.agent.count(entryPath); a != 1 || e != 1 {
			t.Errorf("%d questions about the pair, %d about the destination", a, e)
		}
		s.sent = nil
		if r := s.asks("trunkline", spiffe("web")); !r.allowed {
			t.Errorf("it may make some calls: %+v", *r)
		}
	})
}

// Calls that go on obey what was changed within ten seconds, from an action to permissions and back, too.
func TestChangedPermissionsAreObeyedWithinTenSeconds(t *testing.T) {
	tell(t, func(s *story) {
		s.agent.byDefault("", "deny")
		s.start()
		after(time.Second)
		for round, list := range [][]string{{read}, {noAdmin}, {`{"Action":"deny","HTTP":{"PathExact":"/pkg.Shop/Get"}}`, `{"Action":"allow","HTTP":{"PathPrefix":"/"}}`}, nil, {read}} {
			if list == nil {
				s.agent.allows("trunkline", "web", yes)
				s.agent.intends(`{"Name":"web","Precedence":9,"Action":"allow"}`)
			} else {
				s.agent.allows("trunkline", "web", layer7)
				s.agent.intends(permitted("web", 9, list...))
			}
			want := list == nil || list[0] == read
			for began := time.Now(); time.Since(began) < 20*time.Second; after(100 * time.Millisecond) {
				r := s.call("/pkg.Shop/Get")
				if round > 0 && !r.known {
					t.Fatal("a call had to wait")
				}
				if time.Since(began) > 10*time.Second && r.allowed != want {
					t.Fatalf("%v after change %d: %+v", time.Since(began), round, *r)
				}
			}
		}
		if st := s.identity.Status(); st.IntentionsFailing != 0 {
			t.Errorf("status: %+v\n%s", st, s.log.String())
		}
	})
}

func TestWhatCallsMayDoByDefaultIsTheAgentsWord(t *testing.T) {
	for _, c := range []struct {
		intentions, acl string
		trouble         int
		allowed         bool
		says            string
	}{
		{"", "allow", 0, true, "Consul's default is to allow"},
		{"deny", "allow", 0, false, "no permission matches, and Consul's default is to deny"},
		{"allow", "deny", 0, true, "Consul's default is to allow"},
		{"", "deny", 0, false, "no permission matches, and Consul's default is to deny"},
		{"", "", 0, false, "whether Consul allows or denies by default is not known: its agent does not say"},
		{"", "allow", http.StatusForbidden, false, "whether Consul allows or denies by default is not known: Trunkline's ACL token needs agent:read"},
		{"", "allow", http.StatusInternalServerError, false, "whether Consul allows or denies by default is not known: its agent cannot be asked"},
		{"", "allow", hang, false, "whether Consul allows or denies by default is not known: its agent cannot be asked"},
	} {
		tell(t, func(s *story) {
			s.agent.allows("trunkline", "web", layer7)
			s.agent.intends(permitted("web", 9, noAdmin, read))
			s.agent.byDefault(c.intentions, c.acl)
			s.agent.fails(selfPath, c.trouble)
			s.start()
			after(time.Second)
			s.must(c.allowed, c.says, "/pkg.Shop/List")
			s.must(true, "permission 2", "/pkg.Shop/Get") // which need not know
			s.must(false, "permission 1", "/pkg.Shop/Delete")
			// It is not asked for each pair of services and each round.
			for range 50 {
				s.call("/pkg.Shop/Get")
				after(time.Second)
			}
			if n := s.agent.count(selfPath); n > 1 && c.trouble == 0 {
				t.Errorf("%+v: asked %d times", c, n)
			}
			s.agent.fails(selfPath, 0)
			s.agent.byDefault("", "allow")
			for range 75 {
				s.call("/pkg.Shop/Get")
				after(time.Second)
			}
			s.must(true, "Consul's default is to allow", "/pkg.Shop/List")
		})
	}
}

// A token that may ask about the pair and not read the intentions is told which right it lacks.
func TestWithoutTheRightToReadThemPermissionsRefuse(t *testing.T) {
	tell(t, func(s *story) {
		s.agent.allows("trunkline", "web", layer7)
		s.agent.intends(permitted("web", 9, read))
		s.agent.fails(entryPath, http.StatusForbidden)
		s.start()
		after(time.Second)
		s.must(false, `its ACL token needs intentions:read for "trunkline", which service:read is`, "/pkg.Shop/Get")
		s.agent.fails(entryPath, 0)
		after(5 * time.Second)
		s.must(true, "permission 1", "/pkg.Shop/Get")
	})
	// An agent that needs the right for its own answer.
	tell(t, func(s *story) {
		s.agent.denial = `Permission denied: token with AccessorID '1' lacks permission 'intention:read' on "trunkline"`
		s.agent.fails(authorizePath, http.StatusForbidden)
		s.start()
		after(time.Second)
		s.must(false, `its ACL token needs intentions:read for "trunkline", which service:read is`, "/pkg.Shop/Get")
	})
}

// While the agent, or only Consul's servers behind it, are away, permissions are what they were; an action that has become
// permissions meanwhile does not allow any more what it allowed.
func TestWhileConsulIsAwayPermissionsAreWhatTheyWere(t *testing.T) {
	for name, trouble := range map[string]int{"away": 0, "hang": hang, "500": http.StatusInternalServerError, "403": http.StatusForbidden} {
		t.Run(name, func(t *testing.T) {
			tell(t, func(s *story) {
				s.agent.allows("trunkline", "web", layer7)
				s.agent.allows("trunkline", "shop", yes)
				s.agent.intends(permitted("web", 9, read), `{"Name":"shop","Precedence":9,"Action":"allow"}`)
				s.agent.byDefault("", "deny")
				s.start()
				after(time.Second)
				s.must(true, "permission 1", "/pkg.Shop/Get")
				if s.asks("trunkline", spiffe("shop")); trouble == 0 {
					s.agent.kill()
				}
				s.agent.fails(entryPath, trouble)
				s.agent.fails(selfPath, trouble)
				s.agent.allows("trunkline", "shop", strings.ReplaceAll(layer7, "web", "shop"))
				for n := range 300 {
					s.must(true, "permission 1", "/pkg.Shop/Get")
					s.must(false, "no permission matches", "/pkg.Shop/Put")
					if r := s.asks("trunkline", spiffe("shop")); trouble != 0 && n > 10 && r.allowed {
						t.Fatalf("%+v", *r)
					}
					after(time.Second)
				}
				if st := s.identity.Status(); st.Intentions != 2 || st.IntentionsFailing != 2 {
					t.Errorf("status: %+v", st)
				}
			})
		})
	}
}

// What is not of Consul's community edition, and tokens that permissions cannot replace, refuse in words.
func TestIntentionsThatCannotBeJudgedHereRefuse(t *testing.T) {
	all := permitted("web", 9, `{"Action":"allow","HTTP":{"PathPrefix":"/"}}`)
	in := func(key, value, source string) string {
		return strings.Replace(source, `{`, fmt.Sprintf(`{%q:%q,`, key, value), 1)
	}
	for _, c := range []struct {
		name, reason string
		sources      []string
		jwt          string
		allowed      bool
		says         string
	}{
		{"the community's", layer7, []string{all}, "", true, "permission 1"},
		{"a token for all calls", layer7, []string{all}, `{"Providers":[{"Name":"okta"}]}`, false, "it asks for a JWT, which cannot be judged here"},
		{"a token beside an action", yes, []string{`{"Name":"web","Precedence":9,"Action":"allow"}`}, `{"Providers":[{"Name":"okta"}]}`, false, "it asks for a JWT, which cannot be judged here"},
		{"nobody's token", layer7, []string{all}, `{"Providers":[]}`, true, "permission 1"},
		{"an action", yes, []string{`{"Name":"web","Precedence":9,"Action":"allow"}`}, "", true, "ALLOW"},
		{"all destinations' action", yes, []string{`{"Name":"shop","Precedence":9,"Action":"allow"}`}, `{"Providers":[{"Name":"okta"}]}`, true, "ALLOW"},
		{"the namespace's", layer7, []string{in("Namespace", "default", in("Partition", "default", all))}, "", true, "permission 1"},
		{"all namespaces'", layer7, []string{in("Namespace", "*", all)}, "", true, "permission 1"},
		{"another namespace's", layer7, []string{in("Namespace", "team", all)}, "", false, "do not fit together"},
		{"another partition's", layer7, []string{in("Partition", "team", all)}, "", false, "do not fit together"},
		{"a peer's", layer7, []string{in("Peer", "east", permitted("web", 9, noAdmin)), all}, "", true, "permission 1"},
		{"a sameness group's", layer7, []string{in("SamenessGroup", "east", permitted("web", 9, noAdmin)), all}, "", false, `the sameness group "east" may come before all others`},
		{"a sameness group's of others", layer7, []string{in("SamenessGroup", "east", permitted("shop", 9, noAdmin)), all}, "", true, "permission 1"},
		{"another kind's", layer7, []string{strings.Replace(all, `"consul"`, `"vm"`, 1)}, "", false, `of the type "vm"`},
		{"none", layer7, nil, "", false, "do not fit together"},
		{"an action by now", layer7, []string{`{"Name":"web","Precedence":9,"Action":"allow"}`}, "", false, "do not fit together"},
		{"permissions by now", yes, []string{all}, "", false, "do not fit together"},
		{"a denial by now", yes, []string{`{"Name":"web","Precedence":9,"Action":"deny"}`}, "", false, "do not fit together"},
		{"everybody's, as the other is of lower precedence", layer7, []string{permitted("*", 8, noAdmin), all}, "", true, "permission 1"},
		{"everybody's", layer7, []string{permitted("shop", 9, noAdmin), permitted("*", 8, read)}, "", true, "permission 1"},
	} {
		tell(t, func(s *story) {
			s.T = t
			s.agent.allows("trunkline", "web", c.reason)
			text := `{"Sources":[` + strings.Join(c.sources, ",") + `]}`
			if c.jwt != "" {
				text = strings.Replace(text, "{", `{"JWT":`+c.jwt+",", 1)
			}
			s.agent.says(entryPath, text)
			s.agent.byDefault("", "allow")
			s.start()
			after(time.Second)
			if r := s.call("/pkg.Shop/Get"); r.allowed != c.allowed || !strings.Contains(r.why, c.says) {
				t.Errorf("%s: %+v", c.name, *r)
			}
			synctest.Wait()
		})
	}
}

// Many callers of one destination are one question about it.
func TestADestinationIsAskedForOnceForAllCallers(t *testing.T) {
	tell(t, func(s *story) {
		s.agent.intends(permitted("*", 8, read))
		s.agent.byDefault("", "deny")
		for n := range 50 {
			s.agent.allows("trunkline", fmt.Sprint("s", n), layer7)
		}
		s.start()
		after(time.Second)
		s.sent = sends("/pkg.Shop/Get")
		for range 60 {
			for n := range 50 {
				s.asks("trunkline", spiffe(fmt.Sprint("s", n)))
			}
			after(time.Second)
		}
		for n := range 50 {
			if r := s.asks("trunkline", spiffe(fmt.Sprint("s", n))); !r.known || !r.allowed {
				t.Fatalf("%+v", *r)
			}
		}
		if n := s.agent.count(entryPath); n > 31 {
			t.Errorf("asked %d times in a minute", n)
		}
	})
}
