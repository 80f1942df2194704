// Package hpack owns header compression (RFC 7541) over interned, reference-counted fields; it must not
// judge what a header means, do I/O, start goroutines or lock.
//
// It is the hottest code of the product. A header field is decoded to a shared *Field: one object per
// distinct (name, value) of an Interner. A field that repeats costs a table index on the way in, a pointer
// look-up on the way out, and neither an allocation nor a hash; a field that varies per call costs one hash
// of its value and one copy into recycled memory.
//
//	block -> Decoder -> []*Field (each +1 reference) -> Encoder -> block
//	             \______ Interner: name+value -> Field ______/
//
// Ownership. Everything of one Interner (its fields, decoders and encoders) is guarded by the shard: one
// lock covers them all and nothing here is atomic. Fields of the static table are read-only globals shared
// by all shards; Retain and Release of them do nothing. Field.Value of any other field lives in recycled
// memory and is valid only while a reference is held: who keeps the string longer must clone it.
//
// What the encoder inserts into its dynamic table (an encoder that inserts everything lets per-call values
// flush the fields that repeat):
//
//   - a field that was encoded or seen before, up to a few values per name;
//   - of a name that varies by nature (grpc-timeout, traceparent, ...) one value, so that the name is indexed;
//   - never credentials (RFC 7541 7.1.3: many clients share one upstream table), never a field larger than a
//     quarter of the table.
//
// Strings are sent raw: Huffman coding costs more CPU on both ends than the bytes it saves are worth between
// machines of one network. Received Huffman strings are decoded, of course.
package hpack
