package hpack

import (
	"encoding/binary"
	"strings"
)

// Flags are the facts about a field that are established once, when it is interned.
type Flags uint8

const (
	BadName            Flags = 1 << iota // empty, or has a byte that RFC 9113 8.2.1 forbids in a name (upper case too)
	BadValue                             // has NUL, CR or LF (RFC 9113 8.2.1)
	Pseudo                               // the name starts with ':'
	UnknownPseudo                        // Pseudo, and none of the names with an ID
	ConnectionSpecific                   // RFC 9113 8.2.2: connection, proxy-connection, keep-alive, transfer-encoding, upgrade
	Sensitive                            // was sent never-indexed and must be passed on so (RFC 7541 6.2.3)
	Protected                            // clients may not set it: x-forwarded-client-cert, x-trunkline-*
)

// Field is an interned header field: within one Interner there is one for each (name, value, sensitivity).
// Name and Value are borrowed: valid until the reference is released. All of it is read-only outside of this
// package, except for the memo. Guarded by the shard.
type Field struct {
	Name, Value string
	ID          ID
	Flags       Flags

	static  uint8 // index in the static table, or 0
	sighted bool  // an encoder has sent it as a literal before, or its content lived here not long ago
	refs    int32 // unused for static fields
	name    *name
	hash    uint64
	next    *Field // in a bucket of the Interner, or in its free list

	// Memo and MemoGen are a slot for the owner of the Interner, e.g. for the route that a :path matches in
	// some generation. Cleared when the field is recycled. Never write it on a field that is Static.
	Memo    any
	MemoGen uint64

	backing []byte // the memory of Value

	_ [16]byte // 128 bytes: what the hot path reads, up to next, is one cache line
}

// Size returns the size of the field in bytes as RFC 7541 4.1 counts it.
func (f *Field) Size() int { return len(f.Name) + len(f.Value) + 32 }

// Static reports whether the field is one of the read-only globals of the static table.
func (f *Field) Static() bool { return f.static != 0 }

func nameFlags(s string) Flags {
	if s == "" {
		return BadName
	}
	var flags Flags
	rest := s
	if s[0] == ':' {
		flags, rest = Pseudo, s[1:]
	}
	for i := 0; i < len(rest); i++ {
		if c := rest[i]; c <= ' ' || c >= 0x7f || (c >= 'A' && c <= 'Z') || c == ':' {
			flags |= BadName
			break
		}
	}
	switch s {
	case "connection", "proxy-connection", "keep-alive", "transfer-encoding", "upgrade":
		flags |= ConnectionSpecific
	}
	if s == "x-forwarded-client-cert" || strings.HasPrefix(s, "x-trunkline-") {
		flags |= Protected
	}
	return flags
}

func valueFlags(v []byte) Flags {
	// RFC 9113 8.2.1 forbids white space at the ends, too; but grpc-go sends it (a grpc-message that ends in a blank), every
	// gRPC library takes it, and it can harm nobody: it is relayed as it came.
	if len(v) >= 8 {
		// Eight bytes a step, the last ones twice where need be: is any below 0x10? If so, look closer.
		low := uint64(0)
		for i := 0; i+8 <= len(v); i += 8 {
			low |= lowBytes(binary.LittleEndian.Uint64(v[i:]))
		}
		if low|lowBytes(binary.LittleEndian.Uint64(v[len(v)-8:])) == 0 {
			return 0
		}
	}
	if forbidden(v) {
		return BadValue
	}
	return 0
}

// lowBytes is not 0 if any byte of x is below 0x10.
func lowBytes(x uint64) uint64 { return (x - 0x1010101010101010) &^ x & 0x8080808080808080 }

func forbidden(v []byte) bool {
	for _, c := range v {
		if c == 0 || c == '\r' || c == '\n' {
			return true
		}
	}
	return false
}
