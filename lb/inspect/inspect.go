// Package inspect owns what the bodies of request messages are held against: the descriptors of their method, the rules that
// those carry, and OWASP's core rule set; it must not read from connections, count bytes of calls, or answer a call itself.
//
// A message that is to be judged is walked once over its bytes, guided by the descriptor (walk.go). The walk says whether it
// parses, which fields are unknown, which texts it holds, and what decoding it would cost; only protovalidate needs a decoded
// message (validate.go). Texts become the arguments of a transaction of the web application firewall (waf.go).
//
// Judging is slow (a message of ten short texts: one to two milliseconds for the firewall), so it is done by as many workers as
// there are processors, in turn for each client's address, with a bounded queue (pool.go).
//
// What cannot be inspected is refused wherever something would be refused: an unknown compression, a message that does not
// parse, a full queue. Where a rule only watches (shadow, mode: detect) it passes, and a note says so.
package inspect

import (
	"context"
	"fmt"
	"log/slog"
	"runtime"
	"strings"

	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/trunkline/trunkline/codec/grpc"
	"github.com/trunkline/trunkline/lb/gate"
	"github.com/trunkline/trunkline/policy/authn"
	"github.com/trunkline/trunkline/policy/methods"
	configv1 "github.com/trunkline/trunkline/proto/trunkline/config/v1"
)

// Inspector holds the payload rules of one configuration. It is safe for concurrent use.
type Inspector struct {
	rules []rule // set once in New
	walls walls  // the same
	pool  *pool  // nil: nothing is judged
	plans plans
	teller
}

// rule is one entry of payload. Immutable.
type rule struct {
	methods  methods.Set
	limits   Rules // without what is the method's
	validate *configv1.PayloadValidation
	wall     *wall // nil: no waf
}

// New compiles the payload rules of cfg, which must have its defaults: nil and no error when it has none. It starts goroutines
// that Close ends. Each distinct waf takes some tens of milliseconds to build, and some megabytes.
func New(cfg *configv1.Config, log *slog.Logger) (*Inspector, error) {
	if len(cfg.GetPayload()) == 0 {
		return nil, nil //nolint:nilnil // no rules, no inspector: so the contract says
	}
	i := &Inspector{teller: newTeller(log)}
	judges := false
	for n, p := range cfg.GetPayload() {
		why := fmt.Sprintf("payload[%d]", n)
		set, err := methods.Compile(p.GetMethods())
		if err != nil {
			i.walls.close()
			return nil, fmt.Errorf("%s.methods: %w", why, err)
		}
		r := rule{methods: set, validate: p.GetValidate(), limits: Rules{
			MaxRequestMessage: limit(p.MaxRequestMessageBytes), MaxResponseMessage: limit(p.MaxResponseMessageBytes),
			MaxRequest: limit(p.MaxRequestBytes), MaxResponse: limit(p.MaxResponseBytes),
			Judges: p.GetValidate() != nil || p.GetWaf() != nil, MaxInspected: int64(p.GetMaxInspectedBytes()), Why: why,
		}}
		if p.GetWaf() != nil {
			if r.wall, err = i.walls.get(p.GetWaf(), why+".waf"); err != nil {
				i.walls.close()
				return nil, err
			}
		}
		judges = judges || r.limits.Judges
		i.rules = append(i.rules, r)
	}
	if judges {
		i.pool = newPool(runtime.GOMAXPROCS(0), maxQueued, maxQueuedBytes)
	}
	return i, nil
}

// Check builds the firewalls of cfg that have directives of their own, as New does, and nothing more: what is wrong with those. cfg has its
// defaults.
func Check(cfg *configv1.Config) (wrong []error) {
	var w walls
	defer w.close()
	for n, p := range cfg.GetPayload() {
		if p.GetWaf().GetDirectivesFile() == "" {
			continue
		}
		if _, err := w.get(p.GetWaf(), fmt.Sprintf("payload[%d].waf", n)); err != nil {
			wrong = append(wrong, err)
		}
	}
	return wrong
}

// limit is the contract's form of a limit: -1 for none.
func limit(v *uint64) int64 {
	if v == nil {
		return -1
	}
	return int64(min(*v, 1<<62))
}

// Changed is a file of directives, or one that those name, that holds something else now than New read, or cannot be read; "" if all
// are as they were. Whoever reloads makes an Inspector anew then.
func (i *Inspector) Changed() string { return i.walls.changed() }

// Close ends the workers, after what waits has been judged. Who asks later is refused.
func (i *Inspector) Close() {
	if i == nil {
		return
	}
	if i.pool != nil {
		i.pool.close()
	}
	i.walls.close()
}

// For is what the first rule that names method ("pkg.Service/Method") asks of its messages; nil if none does. It is cheap.
//
// describe says what the method is like by the descriptors that hold now; it may be nil and may return nil (none are known). It is
// called by workers, once for each message, from several at once: so it must be safe for that, and give the same descriptor
// as long as nothing changed, for what is compiled for one is found by it (Library does).
func (i *Inspector) For(method string, describe func() protoreflect.MethodDescriptor) *Rules {
	if i == nil {
		return nil
	}
	for n := range i.rules {
		if r := &i.rules[n]; r.methods.Match(method) {
			out := r.limits
			out.rule, out.inspector, out.describe = r, i, describe
			return &out
		}
	}
	return nil
}

// Rules is what holds for the messages of one method. Immutable.
type Rules struct {
	// In bytes; -1: no limit. Inspect does not enforce them. They hold for what is on the wire, compressed or not.
	MaxRequestMessage, MaxResponseMessage int64 // of one message
	MaxRequest, MaxResponse               int64 // of all messages of one call
	// Judges: request messages must be shown to Judge before they go on.
	Judges bool
	// MaxInspected is how large a message, decompressed, can be judged. Do not gather larger ones; TooLarge refuses them.
	MaxInspected int64
	Why          string // the rule's place in the configuration: "payload[0]"

	rule      *rule
	inspector *Inspector
	describe  func() protoreflect.MethodDescriptor
}

// Message is one request message.
type Message struct {
	Method             string // "pkg.Service/Method"
	Encoding           string // grpc-encoding
	Compressed         bool   // by the message's own flag
	Body               []byte // without the 5-byte prefix
	Index              int    // 1 for the first of its call
	Address, Principal string // of the client, for logs and for fairness between addresses
}

// Verdict is what is said of a message.
type Verdict struct {
	Refused bool
	authn.Refusal
	Notes []gate.Note
}

// Judge has a worker hold m against the rules, and gives the verdict to then, always on another goroutine. m and its Body are the
// inspector's until then is called. Messages of one call are not judged in the order of asking. It does not block; then
// should not either, for a worker runs it.
func (r *Rules) Judge(m *Message, then func(*Verdict)) {
	p := r.inspector.pool
	answer := p.put(m.Address, len(m.Body), func() { then(r.judged(m)) })
	if answer == nil {
		return
	}
	c := &court{rules: r, message: m}
	c.unable(*answer)
	p.later(func() { then(&c.verdict) })
}

// judged is judge, but a panic of what reads the outside's bytes (Coraza, protovalidate, descriptors that an endpoint sent)
// refuses one message instead of ending the process. Nothing is left half done: all state of a judgement is its own, and
// the caches are written when what they hold is complete.
func (r *Rules) judged(m *Message) (v *Verdict) {
	c := &court{rules: r, message: m}
	defer func() {
		if p := recover(); p != nil {
			// The panic's value may hold the message: its type and the place say enough.
			stack := make([]byte, 4096)
			stack = stack[:runtime.Stack(stack, false)]
			r.inspector.log.LogAttrs(context.Background(), slog.LevelError, "inspecting a message failed: this is a defect, please report it",
				slog.String("method", brief(m.Method, 256)), slog.String("rule", r.Why), slog.String("panic", fmt.Sprintf("%T", p)),
				slog.String("stack", places(stack)))
			c.verdict = Verdict{}
			c.unable(authn.Refusal{Status: grpc.Internal, Reason: "INSPECTION_FAILED", Message: "cannot be inspected, because of a defect of Trunkline; its log has the place"})
			v = &c.verdict
		}
	}()
	c.judge()
	return &c.verdict
}

// places keeps of a stack the lines with files: the others have arguments.
func places(stack []byte) string {
	var out []string
	for line := range strings.Lines(string(stack)) {
		if strings.HasPrefix(line, "\t") {
			out = append(out, strings.TrimSpace(line))
		}
	}
	return strings.Join(out, "; ")
}

// TooLarge is the refusal of message number index of method, for who gathers messages and will not gather this one.
func (r *Rules) TooLarge(method string, index int) *Verdict {
	c := &court{rules: r, message: &Message{Method: method, Index: index}}
	c.unable(tooLarge(r))
	return &c.verdict
}

func tooLarge(r *Rules) authn.Refusal {
	return authn.Refusal{Status: grpc.ResourceExhausted, Reason: "MESSAGE_TOO_LARGE_TO_INSPECT",
		Message: fmt.Sprintf("is larger than %d bytes, the most that is inspected (%s.maxInspectedBytes): send smaller messages", r.MaxInspected, r.Why)}
}
