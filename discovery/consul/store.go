package consul

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"time"

	"github.com/trunkline/trunkline/discovery"
)

const (
	storeFormat  = "trunkline.discovery.consul"
	storeVersion = 1
	storeMax     = 64 << 20               // bytes; a larger file is not ours
	storeDelay   = 500 * time.Millisecond // between a change and its being saved, so that a burst is saved once
)

// store keeps the last good clusters of one source in one file, for a start without Consul.
type store struct {
	path   string                    // set once
	origin storeOrigin               // set once
	mesh   func(service string) bool // whether it is reached through Consul's mesh. set once
	log    *slog.Logger              // set once
}

// envelope is the file: the payload and what proves that it is whole.
type envelope struct {
	Format  string          `json:"format"`
	Version int             `json:"version"`
	SHA256  string          `json:"sha256"` // of payload's bytes
	Payload json.RawMessage `json:"payload"`
}

// storeOrigin says whose clusters they are; the file of another source is foreign.
type storeOrigin struct {
	Source     string `json:"source"`
	Datacenter string `json:"datacenter,omitempty"`
	Namespace  string `json:"namespace,omitempty"`
	Partition  string `json:"partition,omitempty"`
}

type storePayload struct {
	Origin   storeOrigin    `json:"origin"`
	SavedAt  time.Time      `json:"savedAt"`
	Clusters []storeCluster `json:"clusters"`
}

type storeCluster struct {
	Name      string          `json:"name"`
	Tagged    bool            `json:"tagged,omitempty"`
	Mesh      bool            `json:"mesh,omitempty"` // they speak mutual TLS
	Endpoints []storeEndpoint `json:"endpoints"`
}

type storeEndpoint struct {
	Address  string            `json:"address"`
	Instance string            `json:"instance,omitempty"`
	Weight   uint32            `json:"weight"`
	Warning  bool              `json:"warning,omitempty"`
	Tags     []string          `json:"tags,omitempty"`
	Meta     map[string]string `json:"meta,omitempty"`
}

func newStore(o Options) *store {
	return &store{
		path:   filepath.Join(o.Dir, url.PathEscape(o.Name)+".json"),
		origin: storeOrigin{o.Name, o.Datacenter, o.Namespace, o.Partition},
		mesh:   o.throughMesh,
		log:    o.Logger,
	}
}

// run saves what comes, a moment later and at the latest when ctx ends.
func (st *store) run(ctx context.Context, pending <-chan []*discovery.Cluster) {
	write := func(clusters []*discovery.Cluster) {
		if err := st.save(clusters, time.Now()); err != nil {
			st.log.Error("the discovery state cannot be saved", "file", st.path, "err", err)
		}
	}
	for {
		select {
		case <-ctx.Done():
			select {
			case clusters := <-pending:
				write(clusters)
			default:
			}
			return
		case clusters := <-pending:
			if sleep(ctx, storeDelay) {
				select { // the newest of a burst
				case clusters = <-pending:
				default:
				}
				write(clusters)
				continue
			}
			select {
			case clusters = <-pending:
			default:
			}
			write(clusters)
			return
		}
	}
}

// save writes the clusters by way of a temporary file, so that the old state or the new one is there at every moment.
func (st *store) save(clusters []*discovery.Cluster, now time.Time) error {
	data, err := st.encode(clusters, now)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(st.path), 0o700); err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(st.path), "."+filepath.Base(st.path)+".*") // mode 0600
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	err = errors.Join(err, f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), st.path)
	}
	if err != nil {
		_ = os.Remove(f.Name()) // what failed is told; a remnant is harmless
	}
	return err
}

func (st *store) encode(clusters []*discovery.Cluster, now time.Time) ([]byte, error) {
	p := storePayload{Origin: st.origin, SavedAt: now.UTC().Truncate(time.Second), Clusters: []storeCluster{}}
	for _, c := range clusters {
		sc := storeCluster{Name: c.Name, Tagged: c.WantReflection, Mesh: st.mesh(c.Name), Endpoints: []storeEndpoint{}}
		for _, e := range c.Endpoints {
			sc.Endpoints = append(sc.Endpoints, storeEndpoint{e.Address, e.InstanceID, e.Weight, e.Warning, e.Tags, e.Meta})
		}
		p.Clusters = append(p.Clusters, sc)
	}
	payload, err := json.Marshal(p)
	if err != nil {
		return nil, err
	}
	return envelop(payload), nil
}

// envelop wraps a payload, which is JSON, byte for byte: json.Marshal might change its bytes and so its checksum.
func envelop(payload []byte) []byte {
	return fmt.Appendf(nil, "{\"format\":%q,\"version\":%d,\"sha256\":\"%x\",\"payload\":%s}\n",
		storeFormat, storeVersion, sha256.Sum256(payload), payload)
}

// load reads the file. No file is no error and a zero time.
func (st *store) load() ([]*discovery.Cluster, time.Time, error) {
	f, err := os.Open(st.path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, time.Time{}, nil
	}
	if err != nil {
		return nil, time.Time{}, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, storeMax+1))
	if err != nil {
		return nil, time.Time{}, err
	}
	if len(data) > storeMax {
		return nil, time.Time{}, fmt.Errorf("it is larger than %d bytes", storeMax)
	}
	return st.decode(data)
}

func (st *store) decode(data []byte) ([]*discovery.Cluster, time.Time, error) {
	fail := func(format string, args ...any) ([]*discovery.Cluster, time.Time, error) {
		return nil, time.Time{}, fmt.Errorf(format, args...)
	}
	var env envelope
	if err := json.Unmarshal(data, &env); err != nil {
		return fail("it is no saved discovery state: %w", err)
	}
	if env.Format != storeFormat {
		return fail("it is no saved discovery state: its format is %.40q", env.Format)
	}
	if env.Version != storeVersion {
		return fail("its version is %d, this program reads %d", env.Version, storeVersion)
	}
	if sum := sha256.Sum256(bytes.TrimSpace(env.Payload)); hex.EncodeToString(sum[:]) != env.SHA256 {
		return fail("it is corrupted: the checksum does not match")
	}
	var p storePayload
	if err := json.Unmarshal(env.Payload, &p); err != nil {
		return fail("its content cannot be read: %w", err)
	}
	if p.Origin != st.origin {
		return fail("it belongs to another source: %+v, this one is %+v", p.Origin, st.origin)
	}
	if p.SavedAt.IsZero() {
		return fail("it does not say when it was saved")
	}
	seen := map[string]bool{}
	clusters := make([]*discovery.Cluster, 0, len(p.Clusters))
	for _, sc := range p.Clusters {
		if sc.Name == "" || seen[sc.Name] {
			return fail("cluster %.80q has no name of its own", sc.Name)
		}
		seen[sc.Name] = true
		if sc.Mesh != st.mesh(sc.Name) { // the configuration changed: these would be spoken to in the wrong way
			continue
		}
		c := &discovery.Cluster{Name: sc.Name, WantReflection: sc.Tagged}
		for _, se := range sc.Endpoints {
			host, _, err := net.SplitHostPort(se.Address)
			if err != nil || host == "" || se.Weight == 0 {
				return fail("cluster %.80q: endpoint %.80q with weight %d cannot be dialled", sc.Name, se.Address, se.Weight)
			}
			e := discovery.Endpoint{
				Address: se.Address, InstanceID: se.Instance, Weight: se.Weight, Warning: se.Warning, Tags: se.Tags, Meta: se.Meta,
			}
			e.Services = offered(se.Meta)
			c.Endpoints = append(c.Endpoints, e)
		}
		discovery.SortEndpoints(c.Endpoints)
		for i := 1; i < len(c.Endpoints); i++ {
			if c.Endpoints[i].Address == c.Endpoints[i-1].Address {
				return fail("cluster %.80q: endpoint %.80q is there twice", sc.Name, c.Endpoints[i].Address)
			}
		}
		clusters = append(clusters, c)
	}
	return clusters, p.SavedAt, nil
}
