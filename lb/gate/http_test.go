package gate

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	auth "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"

	"github.com/trunkline/trunkline/lb/extauthz"
)

// They are copied in several goes, and a map yields them in another order in each.
func TestTheExternalServiceIsToldTheFieldsOfAnHTTPRequestAsTheyAre(t *testing.T) {
	var asked atomic.Pointer[auth.CheckRequest]
	at, stop := serve(t, func(_ context.Context, r *auth.CheckRequest) (*auth.CheckResponse, error) {
		asked.Store(r)
		return &auth.CheckResponse{HttpResponse: &auth.CheckResponse_OkResponse{OkResponse: &auth.OkHttpResponse{}}}, nil
	})
	defer stop()
	g := open(t, "externalAuthorization: { address: \""+at+"\", timeout: 5s }\n")
	h := http.Header{}
	for i := range 20 {
		h.Add(fmt.Sprintf("X-%d", i), strings.Repeat("v", i+1))
	}
	if v := g.CheckHTTP("trunkline.admin.v1.AdminService/Drain", h, nil, "127.0.0.1", time.Now()); v.Refused {
		t.Fatalf("%+v", v)
	}
	told := asked.Load().GetAttributes().GetRequest().GetHttp().GetHeaders()
	for i := range 20 {
		if got := told[fmt.Sprintf("x-%d", i)]; got != strings.Repeat("v", i+1) {
			t.Errorf("of field %d it is told %q", i, got)
		}
	}
}

func TestAServerOfHTTPTellsItsCallersWhatTheGateHasForThem(t *testing.T) {
	reply := http.Header{"X-Frame-Options": {"DENY"}}
	v := Verdict{Told: []Told{
		{Name: "www-authenticate", Value: "Bearer"}, {Name: "www-authenticate", Value: "Basic"},
		{Name: "x-quota", Value: "8"}, {Name: "x-quota", Value: "7", How: extauthz.Instead},
		{Name: "x-plan", Value: "none", How: extauthz.IfPresent}, {Name: "x-quota", Value: "9", How: extauthz.IfAbsent}, {Name: "x-proof-bin", Value: "AAE=", How: extauthz.IfAbsent},
		{Name: "x-frame-options", Value: "ALLOWALL", How: extauthz.Instead}, {Name: "x-frame-options", Value: "ALLOWALL"}, {Name: "content-encoding", Value: "gzip"},
	}}
	v.Tell(reply)
	want := http.Header{"X-Frame-Options": {"DENY"}, "Www-Authenticate": {"Bearer", "Basic"}, "X-Quota": {"7"}, "X-Proof-Bin": {"AAE="}}
	if fmt.Sprint(reply) != fmt.Sprint(want) {
		t.Errorf("%v, want %v", reply, want)
	}
	(&Verdict{}).Tell(reply)
	if fmt.Sprint(reply) != fmt.Sprint(want) {
		t.Errorf("who is told nothing reads %v", reply)
	}

	long := strings.Repeat("l", ReplyRoom/2)
	reply = http.Header{}
	v = Verdict{Told: []Told{{Name: "x-a", Value: long}, {Name: "x-b", Value: long}, {Name: "x-c", Value: "short"}}}
	v.Tell(reply)
	if len(reply) != 2 || reply.Get("X-C") != "short" || reply.Get("X-A") != long {
		t.Errorf("%d fields for which there is no room are told", len(reply))
	}
}
