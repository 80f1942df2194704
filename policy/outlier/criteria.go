package outlier

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strconv"
	"time"
)

// fact is what one endpoint's calls told over an interval.
type fact struct {
	key         string
	host        *Host
	all, faults int
	mean        time.Duration // of the measured ones
	measured    int
}

func (f *fact) rate() float64 { return 1 - float64(f.faults)/float64(f.all) }

// outlier is an endpoint that fails a criterion.
type outlier struct {
	fact *fact
	by   float64 // the worse, the more; comparable within a criterion
	why  string
}

// outliers judges the endpoints that are in, of n in the cluster: by criterion, the worst first within each. An endpoint can
// be named by several.
func (s *Settings) outliers(facts []fact, n int) (all []outlier) {
	for _, judge := range [...]func(*Settings, []fact, int) []outlier{
		(*Settings).byRow, (*Settings).bySuccessRate, (*Settings).byFailures, (*Settings).byLatency,
	} {
		found := judge(s, facts, n)
		slices.SortFunc(found, func(a, b outlier) int {
			return cmp.Or(cmp.Compare(b.by, a.by), cmp.Compare(a.fact.key, b.fact.key))
		})
		all = append(all, found...)
	}
	return all
}

// byRow finds those whose trip was lost, or came when too many were out.
func (s *Settings) byRow(facts []fact, _ int) (found []outlier) {
	if s.Consecutive <= 0 {
		return nil
	}
	for i := range facts {
		if row := int(facts[i].host.row.Load()); row >= s.Consecutive {
			found = append(found, outlier{&facts[i], float64(row), s.whyConsecutive(row)})
		}
	}
	return found
}

func (s *Settings) whyConsecutive(row int) string {
	row = max(row, s.Consecutive)
	if row == 1 {
		return "1 call failed (limit 1)"
	}
	return fmt.Sprintf("%d calls in a row failed (limit %d)", row, s.Consecutive)
}

// rounding is the smallest difference of rates that counts: those of equals differ from their mean by rounding alone.
const rounding = 1e-9

// bySuccessRate is the success rate algorithm of A50.
func (s *Settings) bySuccessRate(facts []fact, _ int) (found []outlier) {
	c := s.SuccessRate
	if c == nil {
		return nil
	}
	judged := withVolume(facts, c.MinVolume, func(f *fact) int { return f.all })
	n := float64(len(judged))
	if len(judged) == 0 || len(judged) < c.MinHosts {
		return nil
	}
	var mean, variance float64
	for _, f := range judged {
		mean += f.rate() / n
	}
	for _, f := range judged {
		variance += (f.rate() - mean) * (f.rate() - mean) / n
	}
	stdev := math.Sqrt(variance)
	limit := mean - c.StdevFactor*stdev
	for _, f := range judged {
		if f.rate() < limit-rounding {
			found = append(found, outlier{f, limit - f.rate(), fmt.Sprintf(
				"success rate %s of %d calls in %v, below %s (mean %s of %d endpoints less %v x standard deviation %s)",
				percent(f.rate()), f.all, s.Interval, percent(limit), percent(mean), len(judged), c.StdevFactor, percent(stdev))})
		}
	}
	return found
}

// byFailures is the failure percentage algorithm of A50: MinHosts counts all endpoints of the cluster. A share that equals the
// threshold is enough, as in Envoy and in A50's text of the field.
func (s *Settings) byFailures(facts []fact, n int) (found []outlier) {
	c := s.Failures
	if c == nil || n < c.MinHosts {
		return nil
	}
	for _, f := range withVolume(facts, c.MinVolume, func(f *fact) int { return f.all }) {
		if share := float64(f.faults) / float64(f.all); share >= c.Threshold {
			found = append(found, outlier{f, share, fmt.Sprintf("%d of %d calls failed in %v (%s, limit %s)",
				f.faults, f.all, s.Interval, percent(share), percent(c.Threshold))})
		}
	}
	return found
}

// byLatency compares means with the median of means: the lower one of two middle ones, so that of two endpoints the slow one
// can be found.
func (s *Settings) byLatency(facts []fact, _ int) (found []outlier) {
	c := s.Latency
	if c == nil {
		return nil
	}
	judged := withVolume(facts, c.MinVolume, func(f *fact) int { return f.measured })
	if len(judged) == 0 || len(judged) < c.MinHosts {
		return nil
	}
	slices.SortFunc(judged, func(a, b *fact) int { return cmp.Compare(a.mean, b.mean) })
	median := judged[(len(judged)-1)/2].mean
	for _, f := range judged {
		if f.mean >= c.Min && float64(f.mean) > c.Factor*float64(median) {
			found = append(found, outlier{f, float64(f.mean), fmt.Sprintf(
				"mean latency %v of %d calls in %v, over %v x the median %v of %d endpoints",
				round(f.mean), f.measured, s.Interval, c.Factor, round(median), len(judged))})
		}
	}
	return found
}

func withVolume(facts []fact, atLeast int, volume func(*fact) int) (judged []*fact) {
	for i := range facts {
		if volume(&facts[i]) >= max(1, atLeast) {
			judged = append(judged, &facts[i])
		}
	}
	return judged
}

// percent is a share (0 to 1) for people.
func percent(share float64) string {
	return strconv.FormatFloat(math.Round(share*1000)/10, 'f', -1, 64) + "%"
}

// round leaves about three digits.
func round(d time.Duration) time.Duration {
	unit := time.Duration(1)
	for d/unit >= 1000 {
		unit *= 10
	}
	return d.Round(unit)
}

// filled returns a copy with defaults where a 0 would make no sense.
func (s *Settings) filled() Settings {
	f := *s
	f.Interval = positive(f.Interval, time.Second)
	f.BaseEjection = positive(f.BaseEjection, 30*time.Second)
	f.MaxEjection = max(positive(f.MaxEjection, 300*time.Second), f.BaseEjection)
	if c := s.SuccessRate; c != nil {
		f.SuccessRate = &SuccessRate{positive(c.StdevFactor, 1.9), positive(c.MinHosts, 5), positive(c.MinVolume, 100)}
	}
	if c := s.Failures; c != nil {
		f.Failures = &FailureShare{positive(c.Threshold, 0.85), positive(c.MinHosts, 5), positive(c.MinVolume, 50)}
	}
	if c := s.Latency; c != nil {
		f.Latency = &Latency{positive(c.Factor, 3), positive(c.Min, 50*time.Millisecond), positive(c.MinHosts, 3), positive(c.MinVolume, 50)}
	}
	return f
}

func positive[T ~int | ~int64 | ~float64](v, otherwise T) T {
	if v > 0 {
		return v
	}
	return otherwise
}
