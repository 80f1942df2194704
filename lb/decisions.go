package lb

import (
	"github.com/trunkline/trunkline/lb/decision"
	adminv1 "github.com/trunkline/trunkline/proto/trunkline/admin/v1"
)

// Decisions implements admin.Source.
func (s *Server) Decisions() decision.Books { return nil }

// Policies implements admin.Source.
func (s *Server) Policies() *adminv1.GetPoliciesResponse { return &adminv1.GetPoliciesResponse{} }
