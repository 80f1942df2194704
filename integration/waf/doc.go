// Package waf owns the proof of the security rules on payloads: attack strings and harmless ones against the core rule set as Trunkline
// runs it, and a call through a real Trunkline; it must not be imported.
//
// testdata/attacks and testdata/harmless hold one string a line, by class.
package waf
