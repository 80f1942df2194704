package forward

import (
	"strings"
	"time"

	"github.com/trunkline/trunkline/codec/grpc"
	"github.com/trunkline/trunkline/lb/gate"
	"github.com/trunkline/trunkline/lb/inspect"
	"github.com/trunkline/trunkline/policy/authn"
)

// foulLetter is what the storm's judge never lets pass. A length may have it, too, but not twice.
const foulLetter = "q"

// warden is a gate that is now quick, now slow, and refuses some.
type warden struct{ st *storm }

func (w warden) Check(q *gate.Request, then func(*gate.Verdict)) *gate.Verdict {
	st, c := w.st, w.st.c
	v := &gate.Verdict{}
	switch c.n(10) {
	case 0:
		v.Refused, v.Refusal = true, authn.Refusal{Status: pick(c, grpc.PermissionDenied, grpc.Unauthenticated), Reason: "RULE", Message: "the warden says no"}
	case 1:
		v.Set, v.Add, v.Remove = [][2]string{{"x-user", "ann"}}, [][2]string{{"x-more", "1"}}, []string{"te"}
	case 2:
		v.Principal = &authn.Principal{Name: "ann"}
	}
	if c.yes(30) {
		v.Told = []gate.Told{{Name: "x-told", Value: "1"}}
	}
	st.mu.Lock()
	defer st.mu.Unlock()
	ta := st.calls[strings.Clone(q.Field("x-call"))]
	if ta.asked++; ta.asked > 1 {
		st.wrong("%s: the gate is asked again", ta.id)
	}
	ta.stopped = v.Refused
	ta.changed = v.Set != nil
	if c.yes(50) {
		return v
	}
	ta.stopped = true
	st.counted["gate later"]++
	answer := func() {
		st.mu.Lock()
		ta.stopped = v.Refused
		st.mu.Unlock()
		then(v)
	}
	if c.yes(30) {
		go answer() // perhaps before we return
	} else {
		time.AfterFunc(time.Duration(c.n(pick(c, 3, 300, 9000)))*time.Millisecond, answer)
	}
	return nil
}

// intentions are a mesh that lets most calls pass.
func (st *storm) intentions(_, _ string, then func(Leave)) Leave {
	c := st.c
	lets := !c.yes(10)
	leave := func(field func(string) (string, bool)) (bool, string) {
		path, there := field(":path")
		return lets && there && path != "", "the mesh says so"
	}
	if c.yes(60) {
		return leave
	}
	time.AfterFunc(time.Duration(c.n(pick(c, 1, 300, 4000)))*time.Millisecond, func() { then(leave) })
	return nil
}

// judge lets messages pass in its own time, but for foul ones and some others.
func (st *storm) judge(m *inspect.Message, then func(*inspect.Verdict)) {
	c := st.c
	v := &inspect.Verdict{}
	if strings.Contains(string(m.Body), foulLetter) || c.yes(2) {
		v.Refused, v.Refusal = true, authn.Refusal{Status: grpc.PermissionDenied, Reason: "WAF_BLOCKED", Message: "foul"}
	}
	st.mu.Lock()
	st.counted["judged"]++
	st.mu.Unlock()
	answer := func() {
		clear(m.Body) // it is ours
		then(v)
	}
	if c.yes(40) {
		go answer()
	} else {
		time.AfterFunc(time.Duration(c.n(pick(c, 3, 100, 3000)))*time.Millisecond, answer)
	}
}

// guards draws who is asked about calls and messages; messages are looked at throughout or never.
func (st *storm) guards() {
	c := st.c
	st.gate, st.payload, st.mesh = nil, nil, nil
	if c.yes(60) {
		st.gate = warden{st}
	}
	if c.yes(50) {
		st.mesh = st.intentions
	}
	switch {
	case st.watched:
		st.payload = &Payload{MaxRequestMessage: -1, MaxResponseMessage: -1, MaxRequest: -1, MaxResponse: -1, MaxInspected: int64(pick(c, 3000, 1<<20)),
			Judge: st.judge, Users: &st.users, Why: "payload[0]"}
	case c.yes(30):
		st.payload = &Payload{MaxRequestMessage: int64(pick(c, -1, 6000)), MaxResponseMessage: int64(pick(c, -1, 9000)), MaxRequest: int64(pick(c, -1, 12000)),
			MaxResponse: int64(pick(c, -1, 20000)), Why: "payload[0]"}
	}
}
