package cli

import (
	"context"

	"github.com/trunkline/trunkline/lb"
	adminv1 "github.com/trunkline/trunkline/proto/trunkline/admin/v1"
	configv1 "github.com/trunkline/trunkline/proto/trunkline/config/v1"
)

// ExplainOffline is Env.Explain of the real process.
func ExplainOffline(cfg *configv1.Config, method, authority string) (*adminv1.ExplainResponse, error) {
	return lb.Explain(cfg, method, authority)
}

// StartEngine is Env.Start of the real process.
func StartEngine(ctx context.Context, o EngineOptions) (Engine, error) {
	s, err := lb.New(ctx, lb.Options{Config: o.Config, ConfigName: o.Name, Logger: o.Logger, ExtraSources: o.Sources, Version: o.Version})
	if err != nil {
		return nil, err // and not a nil *lb.Server in an Engine
	}
	return s, nil
}
