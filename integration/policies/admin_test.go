package policies

import (
	"testing"

	"connectrpc.com/connect"

	"github.com/trunkline/trunkline/integration/harness"
	adminv1 "github.com/trunkline/trunkline/proto/trunkline/admin/v1"
)

// liveStreams is how many calls Trunkline carries now.
func liveStreams(t *testing.T, tr *harness.Trunkline) int {
	t.Helper()
	r, err := tr.API().ListStreams(harness.Context(t, stepLimit), connect.NewRequest(&adminv1.ListStreamsRequest{}))
	if err != nil {
		t.Fatalf("admin: ListStreams: %v", err)
	}
	return int(r.Msg.GetTotal())
}

// stateOf is what the admin API says of a cluster's policies; nil while it knows none.
func stateOf(t *testing.T, tr *harness.Trunkline, cluster string) *adminv1.ClusterPolicies {
	t.Helper()
	r, err := tr.API().GetPolicies(harness.Context(t, stepLimit), connect.NewRequest(&adminv1.GetPoliciesRequest{}))
	if err != nil {
		t.Fatalf("admin: GetPolicies: %v", err)
	}
	for _, c := range r.Msg.GetClusters() {
		if c.GetCluster() == cluster {
			return c
		}
	}
	return nil
}
