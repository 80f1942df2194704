package lb

import (
	adminv1 "github.com/trunkline/trunkline/proto/trunkline/admin/v1"
	configv1 "github.com/trunkline/trunkline/proto/trunkline/config/v1"
)

func (s *Server) Status() *adminv1.Status                       { return &adminv1.Status{Ready: s.ready} }
func (s *Server) Routes() []*adminv1.Route                      { return nil }
func (s *Server) Clusters() *adminv1.ListClustersResponse       { return &adminv1.ListClustersResponse{} }
func (s *Server) Streams(limit int) ([]*adminv1.Stream, uint64) { return nil, 0 }
func (s *Server) Connections() []*adminv1.Connection            { return nil }
func (s *Server) Explain(method, authority string) *adminv1.ExplainResponse {
	return &adminv1.ExplainResponse{}
}
func (s *Server) StartDrain() (bool, uint64) { return false, 0 }

// Rejected notes that a new configuration was refused before it came to Apply; it is shown until one is applied.
func (s *Server) Rejected(err error) { s.rejected.Add(1) }

// Explain says where a call would go under a configuration, without running it.
func Explain(cfg *configv1.Config, method, authority string) (*adminv1.ExplainResponse, error) {
	return &adminv1.ExplainResponse{}, nil
}
