package inspect

import (
	"fmt"
	"io"
	"maps"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/corazawaf/coraza/v3"
	"github.com/corazawaf/coraza/v3/experimental/plugins/plugintypes"
	waftypes "github.com/corazawaf/coraza/v3/types"
	"google.golang.org/protobuf/proto"

	"github.com/trunkline/trunkline/codec/grpc"
	"github.com/trunkline/trunkline/lb/files"
	"github.com/trunkline/trunkline/policy/authn"
	configv1 "github.com/trunkline/trunkline/proto/trunkline/config/v1"
)

// wall is one web application firewall: the core rule set under one set of settings. It is safe for concurrent use.
type wall struct {
	waf       coraza.WAF
	block     bool
	threshold int
	files     map[string]files.Seen // by path: what was read of the operator's
}

// walls shares walls between rules with the same settings. It is written while New runs.
type walls struct {
	settings []*configv1.Waf
	walls    []*wall
}

func (w *walls) get(c *configv1.Waf, at string) (*wall, error) {
	for i, known := range w.settings {
		if proto.Equal(known, c) {
			return w.walls[i], nil
		}
	}
	made, err := newWall(c, at)
	if err != nil {
		return nil, err
	}
	w.settings, w.walls = append(w.settings, c), append(w.walls, made)
	return made, nil
}

// changed is an operator's file that holds something else now than when it was read, or cannot be read; "" if all are as they were.
func (w *walls) changed() string {
	for _, wall := range w.walls {
		for _, path := range slices.Sorted(maps.Keys(wall.files)) {
			seen := wall.files[path]
			if text, err := os.ReadFile(path); seen.News(text, err) {
				return path
			}
		}
	}
	return ""
}

// close frees the regular expressions that Coraza shares between firewalls.
func (w *walls) close() {
	for _, wall := range w.walls {
		if c, ok := wall.waf.(io.Closer); ok {
			_ = c.Close() // it has no error to give
		}
	}
}

// hit is what the firewall says of a message.
type hit struct {
	attack bool
	score  int
	rules  []int  // those that found something, the worst first
	reason string // of the first: what the rule set calls it; "" where that could hold a value
	field  string // where the first found it
}

// judge runs the texts through the rules as the arguments of one request. Its method is the request's path, for directives that
// look at it. The engine is always on: whether a hit blocks is the caller's to say, so detecting sees what blocking would.
func (w *wall) judge(method string, texts []text) (hit, error) {
	tx := w.waf.NewTransaction()
	defer func() { _ = tx.Close() }() // it closes buffers that hold nothing
	tx.ProcessURI("/"+method, "POST", "HTTP/2.0")
	for i := range texts {
		// Each name its own memory: Coraza's cache of transformed values tells arguments apart by the address of their names.
		tx.AddPostRequestArgument(strings.Clone(texts[i].path), fold(texts[i].value))
	}
	stop := tx.ProcessRequestHeaders()
	if stop == nil {
		var err error
		if stop, err = tx.ProcessRequestBody(); err != nil {
			return hit{}, err
		}
	}
	h := hit{attack: stop != nil}
	if state, ok := tx.(plugintypes.TransactionState); ok {
		if v := state.Variables().TX().Get("blocking_inbound_anomaly_score"); len(v) > 0 {
			h.score, _ = strconv.Atoi(v[0])
		}
	}
	if h.attack || h.score > 0 {
		h.explain(tx.MatchedRules(), stop)
	}
	return h, nil
}

// fold writes full-width forms (U+FF01 to U+FF5E) as the ASCII that they stand for, as databases may when they convert.
func fold(s string) string {
	if !strings.Contains(s, "\xef\xbc") && !strings.Contains(s, "\xef\xbd") {
		return s
	}
	return strings.Map(func(r rune) rune {
		if r >= 0xff01 && r <= 0xff5e {
			return r - 0xfee0
		}
		return r
	}, s)
}

// explain finds the rules that counted: those with a severity, or the one that stopped the message by itself.
func (h *hit) explain(matched []waftypes.MatchedRule, stop *waftypes.Interruption) {
	counted := slices.DeleteFunc(slices.Clone(matched), func(m waftypes.MatchedRule) bool {
		id := m.Rule().ID()
		return id/1000 == 949 || m.Rule().Severity() < 0 && (stop == nil || stop.RuleID != id)
	})
	slices.SortStableFunc(counted, func(a, b waftypes.MatchedRule) int { return int(a.Rule().Severity()) - int(b.Rule().Severity()) })
	for i, m := range counted {
		h.rules = append(h.rules, m.Rule().ID())
		if i > 0 {
			continue
		}
		h.reason = ruleMessage(m.Rule().Raw())
		for _, d := range m.MatchedDatas() {
			if d.Variable().Name() == "ARGS_POST" || d.Variable().Name() == "ARGS" {
				h.field = d.Key()
				break
			}
		}
	}
}

// ruleMessage finds a rule's msg, which is a literal unless it holds macros: those could expand to what was matched.
func ruleMessage(raw string) string {
	m := regexp.MustCompile(`msg:'((?:[^'\\]|\\.)*)'`).FindStringSubmatch(raw)
	if m == nil || strings.Contains(m[1], "%{") {
		return ""
	}
	return brief(m[1], 120)
}

// search runs the message's texts through the firewall.
func (c *court) search(by charge, w *walk) {
	if w.overflow && c.find(by, tooMuchText(by)) || len(w.found) == 0 {
		return
	}
	wall := c.rules.rule.wall
	h, err := wall.judge(c.message.Method, w.found)
	if err != nil {
		c.find(by, authn.Refusal{Status: grpc.Internal, Reason: "INSPECTION_FAILED", Message: "cannot be searched for attacks: the rules failed"})
		return
	}
	if !h.attack {
		return
	}
	c.find(by, authn.Refusal{Status: grpc.PermissionDenied, Reason: "WAF_BLOCKED", Message: h.text(wall, by)})
	c.rules.inspector.tell(c, by, &h)
}

func (h *hit) text(w *wall, by charge) string {
	var b strings.Builder
	b.WriteString("looks like an attack: ")
	if h.field != "" {
		fmt.Fprintf(&b, "field %s, ", brief(h.field, 200))
	}
	if len(h.rules) > 0 {
		fmt.Fprintf(&b, "rule %d", h.rules[0])
		if h.reason != "" {
			fmt.Fprintf(&b, " (%s)", h.reason)
		}
		if more := len(h.rules) - 1; more > 0 {
			fmt.Fprintf(&b, " and %d more", more)
		}
		b.WriteString(", ")
	}
	fmt.Fprintf(&b, "anomaly score %d of %d (%s); if it is none, write it otherwise, or ask whoever runs this balancer for an exception", h.score, w.threshold, by.name)
	return b.String()
}
