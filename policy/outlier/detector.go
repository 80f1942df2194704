package outlier

import (
	"cmp"
	"fmt"
	"slices"
	"time"
)

// Subject is an endpoint to be judged: its name, and what its calls told.
type Subject struct {
	Key  string
	Host *Host
}

// Change is an endpoint that is to be taken out (Eject) or to come back.
type Change struct {
	Key   string
	Eject bool
	Until int64  // of an ejection: the first sweep from then on ends it; ns of the caller's clock
	Why   string // in words, with the figures
}

// Ejection is an endpoint that is out now.
type Ejection struct {
	Key          string
	Since, Until int64 // ns of the caller's clock
	Why          string
	Times        int // the multiplier of BaseEjection: how often it was ejected lately, less what good conduct took off
}

// Detector judges the endpoints of one cluster. It belongs to one goroutine, which calls Sweep each Settings.Interval and
// Trip whenever a Record tripped.
//
// It follows gRFC A50 (https://github.com/grpc/proposal/blob/master/A50-xds-outlier-detection.md) and Envoy
// (https://www.envoyproxy.io/docs/envoy/latest/intro/arch_overview/upstream/outlier), and where they differ or are known to
// disappoint:
//   - who is out is neither judged nor compared with (Envoy; A50 is silent);
//   - the share is kept strictly, but one of several may always be ejected (Envoy's always_eject_one_host, A50's default), and
//     somebody is always in: the last one is not ejected, and if it leaves the cluster another comes back;
//   - of several outliers the worst is ejected first (they: in any order);
//   - the multiplier goes down by one per 10 s (their default interval) or per interval, whichever is longer, and only if
//     calls succeeded meanwhile. They take one off at each sweep, which with short intervals or little traffic forgets all
//     before the endpoint could fail again (envoyproxy/envoy#26758);
//   - it stops growing where MaxEjection is reached (envoyproxy/envoy#37602).
type Detector struct {
	s       Settings           // defaults filled in
	records map[string]*record // of those that are out, or whose multiplier is not 0 yet
}

type record struct {
	out          bool
	since, until int64
	why          string
	times        int
	stepped      int64 // when it came back or the multiplier went down last
	succeeded    bool  // since then
}

// NewDetector returns a detector that has ejected nobody. s is copied.
func NewDetector(s *Settings) *Detector {
	d := &Detector{records: map[string]*record{}}
	d.Configure(s)
	return d
}

// Configure replaces the settings and keeps who is ejected and until when.
func (d *Detector) Configure(s *Settings) { d.s = s.filled() }

// Sweep ends the ejections whose time is over (and one more if all are out, for others left the cluster), judges who is in by what was recorded since the last sweep, and forgets all
// about those that hosts does not name any more. The changes are the caller's.
func (d *Detector) Sweep(now int64, hosts []Subject) (changes []Change) {
	d.forget(hosts)
	facts := make([]fact, 0, len(hosts))
	for _, h := range hosts {
		f := fact{key: h.Key, host: h.Host}
		f.all, f.faults, f.mean, f.measured = h.Host.take()
		r := d.records[h.Key]
		switch {
		case r == nil || !r.out:
			facts = append(facts, f)
		case now >= r.until:
			changes = r.back(changes, now, h, fmt.Sprintf("its %v are over", time.Duration(r.until-r.since)))
		}
	}
	if len(facts) == 0 && len(changes) == 0 && len(hosts) > 0 { // all others left the cluster
		first := slices.MinFunc(hosts, func(a, b Subject) int {
			return cmp.Or(cmp.Compare(d.records[a.Key].until, d.records[b.Key].until), cmp.Compare(a.Key, b.Key))
		})
		changes = d.records[first.Key].back(changes, now, first, "nobody else is left, and its ejection was the first to end")
	}
	for _, o := range d.s.outliers(facts, len(hosts)) {
		changes = d.eject(changes, now, o.fact.key, o.why, hosts)
	}
	d.forgive(now, facts)
	return changes
}

// Trip judges one endpoint of whom Record said that it tripped, between sweeps. It returns nothing if the endpoint is not
// among hosts, is out already, or may not be ejected because too many are.
func (d *Detector) Trip(now int64, key string, hosts []Subject) []Change {
	if d.s.Consecutive <= 0 {
		return nil
	}
	for _, h := range hosts {
		if h.Key == key {
			return d.eject(nil, now, key, d.s.whyConsecutive(int(h.Host.row.Load())), hosts)
		}
	}
	return nil
}

// Ejected returns who is out, by key.
func (d *Detector) Ejected() []Ejection {
	var out []Ejection
	for key, r := range d.records {
		if r.out {
			out = append(out, Ejection{Key: key, Since: r.since, Until: r.until, Why: r.why, Times: r.times})
		}
	}
	slices.SortFunc(out, func(a, b Ejection) int { return cmp.Compare(a.Key, b.Key) })
	return out
}

// back ends an ejection.
func (r *record) back(changes []Change, now int64, h Subject, why string) []Change {
	h.Host.row.Store(0) // what was recorded meanwhile are stragglers; a few of them must not eject it again
	r.out, r.stepped, r.succeeded = false, now, false
	return append(changes, Change{Key: h.Key, Why: why})
}

// eject takes an endpoint out unless it is out or too many are.
func (d *Detector) eject(changes []Change, now int64, key, why string, hosts []Subject) []Change {
	r := d.records[key]
	if r != nil && r.out || !d.mayEject(hosts) {
		return changes
	}
	if r == nil {
		r = &record{}
		d.records[key] = r
	}
	if time.Duration(r.times)*d.s.BaseEjection < d.s.MaxEjection {
		r.times++
	}
	r.out, r.why, r.since = true, why, now
	r.until = now + int64(min(time.Duration(r.times)*d.s.BaseEjection, d.s.MaxEjection))
	return append(changes, Change{Key: key, Eject: true, Until: r.until, Why: why})
}

func (d *Detector) mayEject(hosts []Subject) bool {
	out := 0
	for _, h := range hosts {
		if r := d.records[h.Key]; r != nil && r.out {
			out++
		}
	}
	if len(hosts)-out <= 1 {
		return false
	}
	return out == 0 || float64(out+1) <= d.s.MaxEjectedShare*float64(len(hosts))
}

// forgiveAfter is how long an endpoint behaves before one is taken off its multiplier: the default interval of A50 and Envoy.
const forgiveAfter = int64(10 * time.Second)

func (d *Detector) forgive(now int64, in []fact) {
	for _, f := range in {
		r := d.records[f.key]
		if r == nil || r.out {
			continue
		}
		r.succeeded = r.succeeded || f.all > f.faults
		if r.succeeded && now-r.stepped >= max(forgiveAfter, int64(d.s.Interval)) {
			r.times--
			r.stepped, r.succeeded = now, false
		}
		if r.times <= 0 {
			delete(d.records, f.key)
		}
	}
}

func (d *Detector) forget(hosts []Subject) {
	if len(d.records) == 0 {
		return
	}
	named := make(map[string]bool, len(hosts))
	for _, h := range hosts {
		named[h.Key] = true
	}
	for key := range d.records {
		if !named[key] {
			delete(d.records, key)
		}
	}
}
