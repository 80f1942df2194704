package config

import configv1 "github.com/trunkline/trunkline/proto/trunkline/config/v1"

func (r *report) checkPayload(*configv1.Config) {}
