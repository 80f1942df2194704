package shadow

import (
	"fmt"
	"strconv"
	"time"

	"github.com/trunkline/trunkline/policy/serviceconfig"
)

// lived is what happened to a call, in words.
func lived(c *Call) string {
	if c.Local && len(c.Attempts) == 0 {
		return fmt.Sprintf("refused with %s%s", c.Status, reason(c))
	}
	s := fmt.Sprintf("ended with %s%s after %s", c.Status, reason(c), brief(c.Took))
	if n := len(c.Attempts); n > 1 {
		s += ", " + strconv.Itoa(n) + " attempts"
	}
	return s
}

func reason(c *Call) string {
	if c.LocalReason == "" {
		return ""
	}
	return " (" + c.LocalReason + ")"
}

// brief is a duration with three digits or so: people compare it, and nobody reads nanoseconds.
func brief(d time.Duration) string {
	unit := time.Nanosecond
	for unit < time.Second && d >= 1000*unit {
		unit *= 10
	}
	return d.Round(unit).String()
}

// bytes is a size as people write it.
func bytes(n int64) string {
	switch {
	case n >= 1<<30:
		return trimmed(float64(n)/(1<<30)) + " GiB"
	case n >= 1<<20:
		return trimmed(float64(n)/(1<<20)) + " MiB"
	case n >= 1<<10:
		return trimmed(float64(n)/(1<<10)) + " KiB"
	}
	return strconv.FormatInt(n, 10) + " bytes"
}

func trimmed(f float64) string {
	return strconv.FormatFloat(float64(int64(f*100+0.5))/100, 'f', -1, 64)
}

func atMost(n int) string {
	if n == 0 {
		return "any number of calls"
	}
	return strconv.Itoa(n) + " calls"
}

func rateWords(r serviceconfig.RateLimit) string {
	s := strconv.FormatFloat(r.Rate.PerSecond, 'f', -1, 64) + " per second, " + strconv.Itoa(r.Rate.Burst) + " at once"
	if per := r.Per(); per != "" {
		s += "," + per
	}
	return s
}
