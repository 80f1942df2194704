package config

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/trunkline/trunkline/policy/authz"
	"github.com/trunkline/trunkline/policy/methods"
	configv1 "github.com/trunkline/trunkline/proto/trunkline/config/v1"
	"golang.org/x/net/http/httpguts"
)

// checkAuthorization reports what is wrong with rules over calls: their conditions are compiled here, so that a reload with a
// wrong one changes nothing.
func (r *report) checkAuthorization(cfg *configv1.Config) {
	z := cfg.GetAuthorization()
	if z != nil && len(z.GetRules()) == 0 {
		if z.GetDefault() == "deny" {
			r.warnf("authorization.default", "denies every call, for there are no rules: add one with action: allow to authorization.rules")
		} else {
			r.warnf("authorization", "has no rules: nothing is asked of any call")
		}
	}
	seen := map[string]string{}
	var compiler *authz.Compiler
	for i, rule := range z.GetRules() {
		at := fmt.Sprintf("authorization.rules[%d]", i)
		r.once(seen, rule.GetName(), at+".name", "rule")
		r.checkMethods(at+".methods", rule.GetMethods())
		if strings.TrimSpace(rule.GetWhen()) == "" {
			continue
		}
		if compiler == nil {
			var err error
			if compiler, err = authz.NewCompiler(); err != nil {
				r.errorf(at+".when", "%v", err)
				return
			}
		}
		r.checkCondition(at+".when", rule, compiler, cfg)
	}
	r.checkExternal(cfg.GetExternalAuthorization())
}

func (r *report) checkCondition(path string, rule *configv1.AuthorizationRule, compiler *authz.Compiler, cfg *configv1.Config) {
	condition, err := compiler.Compile(rule.GetWhen())
	if err != nil {
		r.errorf(path, "is no condition: %v", err)
		return
	}
	uses := condition.Variables()
	if slices.Contains(uses, "claims") && len(cfg.GetAuthentication().GetJwt()) == 0 {
		r.warnf(path, "looks at claims, but there are none without authentication.jwt: %s", consequence(rule))
	}
}

// consequence is what becomes of calls when a rule looks at claims and there are none.
func consequence(rule *configv1.AuthorizationRule) string {
	if rule.GetAction() == "deny" {
		return "unless it asks has(claims....) first, it denies every call"
	}
	return "unless it asks has(claims....) first, it allows no call"
}

// checkMethods reports patterns that do not name methods.
func (r *report) checkMethods(path string, patterns []string) {
	for i, p := range patterns {
		var wrong *methods.PatternError
		if _, err := methods.Compile([]string{p}); errors.As(err, &wrong) {
			r.errorf(fmt.Sprintf("%s[%d]", path, i), "%v", err)
		}
	}
}

func (r *report) checkExternal(x *configv1.ExternalAuthorization) {
	const at = "externalAuthorization"
	if x == nil {
		return
	}
	if x.GetAddress() != "" {
		if msg := dialAddress(x.GetAddress()); msg != "" {
			r.errorf(at+".address", "%s", msg)
		}
	}
	r.checkMethods(at+".methods", x.GetMethods())
	r.checkMethods(at+".except", x.GetExcept())
	for i, name := range x.GetMetadata() {
		path := fmt.Sprintf("%s.metadata[%d]", at, i)
		switch {
		case !httpguts.ValidHeaderFieldName(name):
			r.errorf(path, "%q is not the name of request metadata: write it in lower case, such as x-tenant", name)
		case strings.HasSuffix(strings.ToLower(name), "-bin"):
			r.errorf(path, "%q is binary metadata, which the service's protocol has no place for: remove it", name)
		}
	}
}
