package inspect

import configv1 "github.com/trunkline/trunkline/proto/trunkline/config/v1"

// wall is one web application firewall.
type wall struct{ block bool }

type walls struct{}

func (w *walls) get(c *configv1.Waf, at string) (*wall, error) {
	return &wall{block: c.GetMode() == "block"}, nil
}

func (c *court) search(by charge, w *walk) {}
