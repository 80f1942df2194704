package attacks

import (
	"bytes"
	"fmt"
	"strings"

	"golang.org/x/net/http2"
)

// headerAttacks are header blocks that cost more than they weigh, or never end.
func headerAttacks() []attack {
	// 3,900 bytes, an entry that fills the dynamic table.
	big := append([]byte{0x40, 6}, "x-bomb"...)
	big = append(append(big, 0x7f, 0xbd, 0x1d), bytes.Repeat([]byte{'a'}, 3900)...) // 127 + 0x3d + 0x1d<<7 = 3900
	long := strings.Repeat("v", 120)
	var large []byte
	for i := range 2600 { // 2,600 fields of 120 bytes: 400 KiB as the limit counts
		large = append(large, literal(fmt.Sprintf("x-%04d", i), long)...)
	}
	endless := func(first []byte, more ...byte) func(*villain) {
		return flood(func(w *wire) { w.frame(http2.FrameHeaders, 0, 1, first...) }, repeat(64<<10/(9+len(more)), func(w *wire) {
			w.frame(http2.FrameContinuation, 0, 1, more...)
		}))
	}
	each := func(block func(n int) []byte) func(*villain) {
		return flood(nil, func(w *wire, i int) {
			for n := i * 4; n < (i+1)*4; n++ {
				w.headers(uint32(2*n+1), block(n), true)
			}
		})
	}
	compression := func(says ...string) ending {
		return ending{codes: []string{"COMPRESSION_ERROR", "ENHANCE_YOUR_CALM"}, says: says}
	}
	return []attack{
		{
			name: "continuation_flood", cve: "CVE-2024-27316", workers: 4,
			defence: blockLimit,
			story:   "Begins a header block and sends CONTINUATION frames without end.",
			ending:  calm("header block", "header", "CONTINUATION"),
			life:    endless(uncompressed("UnaryCall"), bytes.Repeat(literal("x-filler", long), 16000/130)...),
		},
		{
			name: "continuation_flood_empty", cve: "CVE-2024-27316", workers: 4,
			defence: blockLimit,
			story:   "The same with empty CONTINUATION frames, which no limit of bytes meets.",
			ending:  calm("header block", "header", "CONTINUATION"),
			life:    endless(uncompressed("UnaryCall")),
		},
		{
			name: "continuation_flood_one_byte", cve: "CVE-2024-27316", workers: 4,
			defence: blockLimit,
			story:   "The same with one byte in each.",
			ending:  calm("header block", "header", "CONTINUATION"),
			life:    endless(uncompressed("UnaryCall"), 0x83),
		},
		{
			name: "hpack_indexed_bomb", cve: "CVE-2016-6581", workers: 4,
			defence: "`limits.maxHeaderBytes` (256 KiB) bounds the decoded list, nothing beyond is kept; " + refusedBudget,
			story:   "Puts a large field into the compression table and refers to it 15,000 times in each header block: 16 KiB that say 58 MB.",
			ending:  calm("refused", "header", "calls"),
			life: each(func(n int) []byte {
				if n == 0 {
					return append(uncompressed("UnaryCall"), big...)
				}
				return append(uncompressed("UnaryCall"), bytes.Repeat([]byte{0x80 | 62}, 15000)...)
			}),
		},
		{
			name: "hpack_many_fields", workers: 4,
			defence: "`limits.maxHeaderFields` (512); " + refusedBudget,
			story:   "Sends header blocks of 3,000 tiny fields, which a limit of bytes lets pass.",
			ending:  calm("refused", "header", "calls"),
			life:    each(func(int) []byte { return append(uncompressed("UnaryCall"), bytes.Repeat(literal("x", "y"), 3000)...) }),
		},
		{
			name: "hpack_table_updates", workers: 4,
			defence: "two size updates in a block at most (RFC 7541 section 4.2)",
			story:   "Sends header blocks that change the size of the compression table 15,000 times.",
			ending:  compression("size update", "table", "hpack"),
			life:    each(func(int) []byte { return append(bytes.Repeat([]byte{0x20}, 15000), uncompressed("UnaryCall")...) }),
		},
		{
			name: "hpack_huge_literal", workers: 4,
			defence: "a string must end inside of its block",
			story:   "Announces a header field of 4 GiB.",
			ending:  compression("string", "truncated", "integer", "hpack", "ends", "header"),
			life: each(func(int) []byte {
				return append(uncompressed("UnaryCall"), 0x40, 0x7f, 0x80, 0xff, 0xff, 0xff, 0x0f, 'x')
			}),
		},
		{
			name: "hpack_huge_integer", workers: 4,
			defence: "integers of 32 bits at most",
			story:   "Sends a number of 10,000 digits as the index of a header field.",
			ending:  compression("integer", "hpack", "number", "header"),
			life: each(func(int) []byte {
				return append(append(uncompressed("UnaryCall"), 0xff), bytes.Repeat([]byte{0x80}, 10000)...)
			}),
		},
		{
			name: "metadata_too_large", workers: 4, limit: "maxHeaderBytes: 16384", // the default's 256 KiB take longer to send
			defence: "`limits.maxHeaderBytes` (256 KiB): RESOURCE_EXHAUSTED; " + refusedBudget,
			story:   "Sends metadata above the limit in every call, and never stops.",
			ending:  calm("refused", "header", "calls"),
			life:    each(func(int) []byte { return append(uncompressed("UnaryCall"), large[:160*129]...) }),
		},
		{
			name: "metadata_too_large_by_far", workers: 4,
			defence: "`limits.maxHeaderBytes` (256 KiB): RESOURCE_EXHAUSTED, nothing beyond is kept; " + refusedBudget,
			story:   "Sends metadata of 400 KiB in every call, and never stops.",
			ending:  calm("refused", "header", "calls"), lasts: 3e9, patience: 2500 * 1e6,
			life: each(func(int) []byte { return append(uncompressed("UnaryCall"), large...) }),
		},
	}
}
