//go:build !race

package harness

// Race says whether the tests, and therefore the Trunkline that they build, run under the race detector.
const Race = false
