// Package acme owns the stories of certificates that a real authority, Pebble, issues to lb/acme, and of what a TLS client of the
// listener sees meanwhile; it must not know how lb/acme gets them.
package acme
