package connect

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/consul/api"
)

const (
	askEvery    = 5 * time.Second // an answer that is used is asked for again after this, less a jitter of up to a fifth
	askLimit    = 2 * time.Second // for one question
	keepFor     = 120             // rounds of askEvery that an answer may go unused: ten minutes
	maxAnswers  = 4096
	maxInFlight = 16 // questions
)

// intentions are the agent's answers, by pair of services. Each answer has a goroutine that asks for it while it is used.
type intentions struct {
	mu      sync.RWMutex         // held only for moments
	answers map[question]*answer // guarded by mu
	closed  bool                 // guarded by mu

	destinations map[string]*destination  // guarded by mu; by name
	fallback     atomic.Pointer[fallback] // atomic; nil: never asked

	failing atomic.Int64 // answers whose last question failed. atomic
}

type question struct{ target, spiffe string }

// answer is what is known of one question.
type answer struct {
	question                         // set once
	caller   id                      // set once
	verdict  atomic.Pointer[verdict] // atomic; nil: none yet
	layer7   atomic.Bool             // the agent said last that permissions decide. atomic
	used     atomic.Bool             // since the goroutine looked last. atomic
	serial   string                  // set once; of the first who asked
	waiting  []func(Answer)          // guarded by intentions.mu; while there is no verdict
	evict    context.CancelFunc      // set once
}

// Answer says whether intentions let a caller make the call that has such metadata; a nil field asks whether it may make any. why is a
// sentence, for the caller where it is refused. It does not block, serves any number of calls, and may be asked from any goroutine.
type Answer = func(field Field) (allowed bool, why string)

// verdict is what may be said. Immutable.
type verdict struct {
	answer      Answer
	asked       bool              // the agent said so; else it could not be asked, and never could
	permissions *permissions      // that the answer is by; nil: it is the same for all calls
	raw         []json.RawMessage // what these were made of
}

// newVerdict is the same for all calls.
func newVerdict(allowed, asked bool, why string) *verdict {
	return &verdict{answer: func(Field) (bool, string) { return allowed, why }, asked: asked}
}

func refused(format string, of ...any) Answer {
	return newVerdict(false, false, fmt.Sprintf(format, of...)).answer
}

// Authorize tells what intentions say of the caller with that SPIFFE id, which its certificate proved, and the service target. nil: that
// is not known yet, and then is called once from another goroutine, perhaps before this has returned, and within little more than two seconds.
// It never blocks. Of several certificates of one service the serial of any is told to the agent, which does not look at it.
func (i *Identity) Authorize(target, spiffe, serial string, then func(Answer)) Answer {
	n := &i.intentions
	q := question{target, spiffe}
	n.mu.RLock()
	a := n.answers[q]
	n.mu.RUnlock()
	if a != nil {
		if v := a.verdict.Load(); v != nil {
			a.use()
			return v.answer
		}
	}
	caller, err := i.source(spiffe)
	if err != nil {
		return refused("%v", err)
	}

	n.mu.Lock()
	defer n.mu.Unlock()
	if a = n.answers[q]; a == nil {
		switch {
		case n.closed:
			return refused("whether the mesh lets %q call %q cannot be asked any more: Trunkline is closing; try again", caller.service, target)
		case len(n.answers) >= maxAnswers && !n.makeRoom():
			return refused("whether the mesh lets %q call %q cannot be asked now: too much is asked already; try again later", caller.service, target)
		}
		a = &answer{question: question{strings.Clone(target), strings.Clone(spiffe)}, caller: caller.clone(), serial: strings.Clone(serial)}
		ctx, cancel := context.WithCancel(i.ctx)
		a.evict = cancel
		n.answers[a.question] = a
		i.running.Go(func() {
			defer cancel()
			i.keep(ctx, a)
		})
	}
	a.use()
	if v := a.verdict.Load(); v != nil { // it came meanwhile
		return v.answer
	}
	a.waiting = append(a.waiting, then)
	return nil
}

// use notes that a is wanted. It writes only where that is news: all shards read it.
func (a *answer) use() {
	if !a.used.Load() {
		a.used.Store(true)
	}
}

// makeRoom drops an answer of some that is not used, else any of these. mu is held. false: all are being waited for.
func (n *intentions) makeRoom() bool {
	var victim *answer
	looked := 0
	for _, a := range n.answers {
		if a.verdict.Load() == nil {
			continue
		}
		if victim == nil || !a.used.Load() {
			victim = a
		}
		if looked++; looked == 16 || !a.used.Load() {
			break
		}
	}
	if victim == nil {
		return false
	}
	delete(n.answers, victim.question)
	victim.evict()
	return true
}

// keep asks for an answer until nobody uses it.
func (i *Identity) keep(ctx context.Context, a *answer) {
	n := &i.intentions
	failures, unused := 0, 0
	defer func() {
		if failures > 0 {
			n.failing.Add(-1)
		}
		n.mu.Lock()
		defer n.mu.Unlock()
		if n.answers[a.question] == a && !n.closed { // what is known stays known after Close
			delete(n.answers, a.question)
		}
	}()
	for {
		v, err := i.ask(ctx, a)
		pause := askEvery - rand.N(askEvery/5)
		switch {
		case ctx.Err() != nil:
			if last := a.verdict.Load(); last == nil {
				n.say(a, newVerdict(false, false, fmt.Sprintf("whether the mesh lets %q call %q could not be asked: Trunkline is closing; try again", a.caller.service, a.target)))
			}
			return
		case err != nil:
			if failures++; failures == 1 && n.failing.Add(1) == 1 {
				i.log.Warn("Consul's agent does not answer about intentions; what it said last holds on, and what it never was asked is refused",
					"source", a.caller.service, "destination", a.target, "err", tidy(err))
			}
			// An intention that has permissions now may have allowed all before.
			if last := a.verdict.Load(); last == nil || !last.asked || a.layer7.Load() && last.permissions == nil {
				pause = min(backoff(failures), 2*time.Second) // its calls are all refused meanwhile
				n.say(a, a.unknown(err))
			}
		default:
			if failures > 0 && n.failing.Add(-1) == 0 {
				i.log.Info("Consul's agent answers about intentions", "source", a.caller.service, "destination", a.target)
			}
			failures = 0
			n.say(a, v)
		}
		if !sleep(ctx, pause) {
			return
		}
		last := a.verdict.Load()
		if unused++; a.used.Swap(false) || failures > 0 && last.asked { // what is known must outlast the agent's absence
			unused = 0
		}
		if unused >= keepFor {
			return
		}
	}
}

// say makes v known to those who wait and to those who come.
func (n *intentions) say(a *answer, v *verdict) {
	n.mu.Lock()
	a.verdict.Store(v)
	waiting := a.waiting
	a.waiting = nil
	n.mu.Unlock()
	for _, then := range waiting {
		then(v.answer)
	}
}

var errNoAnswer = errors.New("no answer within 2s")

// ask puts the question. The API client knows no way to give one up, so one that hangs is left behind, with its slot.
func (i *Identity) ask(ctx context.Context, a *answer) (*verdict, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, askLimit, errNoAnswer)
	defer cancel()
	select {
	case i.slots <- struct{}{}:
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	type reply struct {
		v   *verdict
		err error
	}
	replies := make(chan reply, 1)
	go func() {
		said, err := i.client.Agent().ConnectAuthorize(&api.AgentAuthorizeParams{Target: a.target, ClientCertURI: a.spiffe, ClientCertSerial: a.serial})
		var v *verdict
		if err == nil {
			v, err = i.look(ctx, a, said)
		}
		<-i.slots
		replies <- reply{v, err}
	}()
	select {
	case r := <-replies:
		return r.v, r.err
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// unknown is what is said while the agent has never answered. Its error is for the log: callers need not know where the agent is.
func (a *answer) unknown(err error) *verdict {
	why := "Consul's agent cannot be asked; try again later"
	if errors.Is(err, errChanged) {
		why = "Consul's answers do not fit together, as while its intentions change; try again"
	}
	var code api.StatusError
	if errors.As(err, &code) && code.Code == http.StatusForbidden {
		why = fmt.Sprintf("Consul's agent does not tell Trunkline; its ACL token needs service:write for %q", a.target)
		if errors.Is(err, errEntry) || strings.Contains(code.Body, "'intention:read'") { // the agent reads them for its answer, too
			why = fmt.Sprintf("Consul does not show Trunkline the intentions; its ACL token needs intentions:read for %q, "+
				"which service:read is unless its policy says otherwise", a.target)
		}
	}
	return newVerdict(false, false, fmt.Sprintf("whether the mesh lets %q call %q is not known: %s", a.caller.service, a.target, why))
}

// judge puts the agent's word into a sentence.
func (a *answer) judge(said *api.AgentAuthorize) *verdict {
	if said.Authorized {
		return newVerdict(true, true, fmt.Sprintf("Consul lets %q call %q: %s", a.caller.service, a.target, said.Reason))
	}
	return newVerdict(false, true, fmt.Sprintf("Consul's intentions do not let %q call %q: %s; ask for an intention that allows it", a.caller.service, a.target, said.Reason))
}

// close answers no new questions.
func (i *Identity) close() {
	i.intentions.mu.Lock()
	defer i.intentions.mu.Unlock()
	i.intentions.closed = true
}

// count is how many answers are kept, and how many of them fail.
func (n *intentions) count() (all, failing int) {
	n.mu.RLock()
	defer n.mu.RUnlock()
	return len(n.answers), int(n.failing.Load())
}
