package hpack

import (
	"testing"

	xhpack "golang.org/x/net/http2/hpack"
)

// exampleBlock is one block of RFC 7541 appendix C with what must be in the table after it.
type exampleBlock struct {
	hex   string
	want  [][2]string
	table [][2]string // newest first
	size  uint32
}

var (
	request1 = [][2]string{{":method", "GET"}, {":scheme", "http"}, {":path", "/"}, {":authority", "www.example.com"}}
	request2 = append(request1[:4:4], [2]string{"cache-control", "no-cache"})
	request3 = [][2]string{{":method", "GET"}, {":scheme", "https"}, {":path", "/index.html"},
		{":authority", "www.example.com"}, {"custom-key", "custom-value"}}
	requestTable = [][2]string{{"custom-key", "custom-value"}, {"cache-control", "no-cache"}, {":authority", "www.example.com"}}

	date1, date2 = "Mon, 21 Oct 2013 20:13:21 GMT", "Mon, 21 Oct 2013 20:13:22 GMT"
	location     = "https://www.example.com"
	cookie       = "foo=ASDJKHQKBZXOQWEOPIUAXQWEOIU; max-age=3600; version=1"
	response1    = [][2]string{{":status", "302"}, {"cache-control", "private"}, {"date", date1}, {"location", location}}
	response2    = [][2]string{{":status", "307"}, {"cache-control", "private"}, {"date", date1}, {"location", location}}
	response3    = [][2]string{{":status", "200"}, {"cache-control", "private"}, {"date", date2}, {"location", location},
		{"content-encoding", "gzip"}, {"set-cookie", cookie}}
	responseTable1 = [][2]string{{"location", location}, {"date", date1}, {"cache-control", "private"}, {":status", "302"}}
	responseTable2 = [][2]string{{":status", "307"}, {"location", location}, {"date", date1}, {"cache-control", "private"}}
	responseTable3 = [][2]string{{"set-cookie", cookie}, {"content-encoding", "gzip"}, {"date", date2}}
)

// The examples of RFC 7541 appendix C decode to what it says and leave the table that it shows.
func TestRFC7541Examples(t *testing.T) {
	for _, c := range []struct {
		name   string
		table  uint32
		blocks []exampleBlock
	}{
		{"C.2.1 with indexing", 4096, []exampleBlock{{
			"400a 6375 7374 6f6d 2d6b 6579 0d63 7573 746f 6d2d 6865 6164 6572",
			[][2]string{{"custom-key", "custom-header"}}, [][2]string{{"custom-key", "custom-header"}}, 55}}},
		{"C.2.2 without indexing", 4096, []exampleBlock{{
			"040c 2f73 616d 706c 652f 7061 7468", [][2]string{{":path", "/sample/path"}}, nil, 0}}},
		{"C.2.3 never indexed", 4096, []exampleBlock{{
			"1008 7061 7373 776f 7264 0673 6563 7265 74", [][2]string{{"password", "secret"}}, nil, 0}}},
		{"C.2.4 indexed", 4096, []exampleBlock{{"82", [][2]string{{":method", "GET"}}, nil, 0}}},
		{"C.3 requests", 4096, []exampleBlock{
			{"8286 8441 0f77 7777 2e65 7861 6d70 6c65 2e63 6f6d", request1, requestTable[2:], 57},
			{"8286 84be 5808 6e6f 2d63 6163 6865", request2, requestTable[1:], 110},
			{"8287 85bf 400a 6375 7374 6f6d 2d6b 6579 0c63 7573 746f 6d2d 7661 6c75 65", request3, requestTable, 164},
		}},
		{"C.4 requests with Huffman coding", 4096, []exampleBlock{
			{"8286 8441 8cf1 e3c2 e5f2 3a6b a0ab 90f4 ff", request1, requestTable[2:], 57},
			{"8286 84be 5886 a8eb 1064 9cbf", request2, requestTable[1:], 110},
			{"8287 85bf 4088 25a8 49e9 5ba9 7d7f 8925 a849 e95b b8e8 b4bf", request3, requestTable, 164},
		}},
		{"C.5 responses, evicting", 256, []exampleBlock{
			{`4803 3330 3258 0770 7269 7661 7465 611d 4d6f 6e2c 2032 3120 4f63 7420 3230 3133 2032 303a 3133 3a32 3120
			  474d 546e 1768 7474 7073 3a2f 2f77 7777 2e65 7861 6d70 6c65 2e63 6f6d`, response1, responseTable1, 222},
			{"4803 3330 37c1 c0bf", response2, responseTable2, 222},
			{`88c1 611d 4d6f 6e2c 2032 3120 4f63 7420 3230 3133 2032 303a 3133 3a32 3220 474d 54c0 5a04 677a 6970 7738
			  666f 6f3d 4153 444a 4b48 514b 425a 584f 5157 454f 5049 5541 5851 5745 4f49 553b 206d 6178 2d61 6765 3d33
			  3630 303b 2076 6572 7369 6f6e 3d31`, response3, responseTable3, 215},
		}},
		{"C.6 responses with Huffman coding, evicting", 256, []exampleBlock{
			{`4882 6402 5885 aec3 771a 4b61 96d0 7abe 9410 54d4 44a8 2005 9504 0b81 66e0 82a6 2d1b ff6e 919d 29ad 1718
			  63c7 8f0b 97c8 e9ae 82ae 43d3`, response1, responseTable1, 222},
			{"4883 640e ffc1 c0bf", response2, responseTable2, 222},
			{`88c1 6196 d07a be94 1054 d444 a820 0595 040b 8166 e084 a62d 1bff c05a 839b d9ab 77ad 94e7 821d d7f2 e6c7
			  b335 dfdf cd5b 3960 d5af 2708 7f36 72c1 ab27 0fb5 291f 9587 3160 65c0 03ed 4ee5 b106 3d50 07`,
				response3, responseTable3, 215},
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			in := NewInterner()
			d := NewDecoder(in, 4096)
			if c.table != 4096 {
				if _, err := d.Decode(nil, appendInt(nil, 0x20, 5, c.table)); err != nil {
					t.Fatal(err)
				}
			}
			for i, b := range c.blocks {
				fields, err := d.Decode(nil, unhex(t, b.hex))
				if err != nil {
					t.Fatalf("block %d: %v", i+1, err)
				}
				if got := pairsOf(fields); !equalPairs(got, b.want) {
					t.Errorf("block %d: got %q, want %q", i+1, got, b.want)
				}
				var entries []*Field
				for age := range d.t.n {
					entries = append(entries, d.t.at(age))
				}
				if got := pairsOf(entries); !equalPairs(got, b.table) || d.t.size != b.size {
					t.Errorf("block %d: table %q of %d bytes, want %q of %d", i+1, got, d.t.size, b.table, b.size)
				}
				releaseAll(in, fields)
			}
			d.Close()
			if in.Len() != 0 {
				t.Errorf("%d fields leaked", in.Len())
			}
		})
	}
}

// Integers are coded as in RFC 7541 C.1 and come back at every prefix length.
func TestIntegersRoundTrip(t *testing.T) {
	for _, c := range []struct {
		v    uint32
		n    uint
		want string
	}{{10, 5, "\x0a"}, {1337, 5, "\x1f\x9a\x0a"}, {42, 8, "\x2a"}} {
		if got := string(appendInt(nil, 0, c.n, c.v)); got != c.want {
			t.Errorf("%d with %d bits: got %x, want %x", c.v, c.n, got, c.want)
		}
	}
	for n := uint(4); n <= 7; n++ {
		for _, v := range []uint32{0, 1, 14, 15, 16, 30, 31, 62, 63, 126, 127, 128, 254, 255, 16383, 1 << 20, 1<<32 - 1} {
			b := appendInt(nil, 0, n, v)
			if got, p, err := readInt(b, 0, n); got != v || p != len(b) || err != nil {
				t.Errorf("%d with %d bits: got %d, %v", v, n, got, err)
			}
		}
	}
}

// The static table is that of x/net, entry by entry.
func TestStaticTableIsThatOfTheRFC(t *testing.T) {
	in := NewInterner()
	d, x := NewDecoder(in, 4096), xhpack.NewDecoder(4096, nil)
	for i := 1; i <= staticLen; i++ {
		block := []byte{0x80 | byte(i)}
		want, err := x.DecodeFull(block)
		if err != nil {
			t.Fatal(err)
		}
		got, err := d.Decode(nil, block)
		if err != nil {
			t.Fatal(err)
		}
		f := got[0]
		if f.Name != want[0].Name || f.Value != want[0].Value || !f.Static() {
			t.Errorf("entry %d: got %s: %s, want %v", i, f.Name, f.Value, want[0])
		}
		if f.Flags&^Pseudo != 0 && f.ID != TransferEncoding {
			t.Errorf("entry %d (%s) has flags %08b", i, f.Name, f.Flags)
		}
		if same := in.Intern(f.Name, f.Value); same != f {
			t.Errorf("entry %d: a literal of the same content is another field", i)
		}
	}
	if in.Len() != 0 {
		t.Errorf("static fields were counted: %d", in.Len())
	}
}

// Every byte has its own Huffman code, and the table decodes each after each.
func TestHuffmanPairsOfAllBytes(t *testing.T) {
	for a := range 256 {
		for b := range 256 {
			want := string([]byte{byte(a), byte(b), byte(a)})
			got, err := decodeHuffman(nil, xhpack.AppendHuffmanString(nil, want))
			if err != nil || string(got) != want {
				t.Fatalf("%q: got %q, %v", want, got, err)
			}
		}
	}
}
