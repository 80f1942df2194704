// Package latency owns the memory of how long calls took lately, so that policies can ask for a percentile; it must not decide
// anything by it, or read a clock.
package latency
