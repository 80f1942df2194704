package cli

import (
	"context"

	"github.com/trunkline/trunkline/lb"
)

// StartEngine is Env.Start of the real process.
func StartEngine(ctx context.Context, o EngineOptions) (Engine, error) {
	s, err := lb.New(ctx, lb.Options{Config: o.Config, ConfigName: o.Name, Logger: o.Logger, ExtraSources: o.Sources, Version: o.Version})
	if err != nil {
		return nil, err // and not a nil *lb.Server in an Engine
	}
	return s, nil
}
