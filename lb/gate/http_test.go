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
