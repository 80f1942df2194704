package harness

import (
	"net/http"
	"testing"
	"time"

	"connectrpc.com/connect"

	adminv1 "github.com/trunkline/trunkline/proto/trunkline/admin/v1"
	"github.com/trunkline/trunkline/proto/trunkline/admin/v1/adminv1connect"
)

// API is a client of the admin API.
func (tr *Trunkline) API(opts ...connect.ClientOption) adminv1connect.AdminServiceClient {
	client := &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	return adminv1connect.NewAdminServiceClient(client, "http://"+tr.Admin, opts...)
}

// Status is what the admin API says of the process and its config.
func (tr *Trunkline) Status(t testing.TB) *adminv1.Status {
	t.Helper()
	r, err := tr.API().GetStatus(Context(t, 5*time.Second), connect.NewRequest(&adminv1.GetStatusRequest{}))
	if err != nil {
		t.Fatalf("admin: GetStatus: %v", err)
	}
	return r.Msg.GetStatus()
}
