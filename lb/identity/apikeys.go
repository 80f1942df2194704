package identity

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync/atomic"

	"github.com/trunkline/trunkline/lb/files"
	"github.com/trunkline/trunkline/policy/authn"
	configv1 "github.com/trunkline/trunkline/proto/trunkline/config/v1"
)

const (
	maxKeyFile = 128 << 20
	maxAPIKey  = 4 << 10
)

// apiKeys proves callers by the file of keys.
type apiKeys struct {
	field         string
	file          string
	remove        []string // the field, if endpoints are not to see it
	identityField string
	unknown       *Proof
	log           *slog.Logger

	keys atomic.Pointer[proofs]
}

// proofs are made when the file is read, so that a call only finds its own. Immutable.
type proofs struct {
	keys *authn.APIKeys
	by   map[*authn.Principal]*Proof
}

func newAPIKeys(c *configv1.ApiKeys, identityField string, log *slog.Logger) (*apiKeys, error) {
	k := &apiKeys{field: strings.ToLower(c.GetMetadata()), file: c.GetFile(), identityField: identityField, log: log}
	if !c.GetForward() {
		k.remove = []string{k.field}
	}
	k.unknown = &Proof{Refused: authn.UnknownAPIKey(k.field)}
	text, err := files.Read(k.file, maxKeyFile)
	if err == nil {
		err = k.take(text)
	}
	if err != nil {
		return nil, fmt.Errorf("authentication.apiKeys.file: %w", err)
	}
	return k, nil
}

func (k *apiKeys) take(text []byte) error {
	keys, err := authn.ParseAPIKeys(text)
	if err != nil {
		return fmt.Errorf("%s: %w", k.file, err)
	}
	p := &proofs{keys: keys, by: map[*authn.Principal]*Proof{}}
	for who := range keys.Each {
		proof := &Proof{Principal: who, Remove: k.remove}
		if k.identityField != "" {
			proof.Set = [][2]string{{k.identityField, who.Name}}
		}
		p.by[who] = proof
	}
	k.keys.Store(p)
	return nil
}

func (k *apiKeys) run(ctx context.Context) {
	follow(ctx, k.file, maxKeyFile, k.log, func(text []byte, err error) {
		if err == nil {
			err = k.take(text)
		}
		if err != nil {
			k.log.Error("the changed file of API keys cannot be used; the keys before it stay in force", "err", err)
			return
		}
		k.log.Info("API keys in force", "keys", k.keys.Load().keys.Len(), "file", k.file)
	})
}

// prove is nil for no key.
func (k *apiKeys) prove(value string) *Proof {
	if value == "" {
		return nil
	}
	if len(value) > maxAPIKey {
		return k.unknown
	}
	hash := digest(value)
	p := k.keys.Load()
	who := p.keys.Find(&hash)
	if who == nil {
		return k.unknown
	}
	return p.by[who]
}
