package forward

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// heard is what a client got of one call: its header blocks and its data, however they were cut.
type heard struct {
	mu     sync.Mutex
	blocks []string
	data   strings.Builder
	end    string
}

func (h *heard) take(_ *peer, f http2.Frame) {
	h.mu.Lock()
	defer h.mu.Unlock()
	switch f := f.(type) {
	case *http2.MetaHeadersFrame:
		var s []string
		for _, f := range f.Fields {
			s = append(s, f.Name+"="+f.Value)
		}
		h.blocks = append(h.blocks, fmt.Sprintf("%s after %d bytes", strings.Join(s, " "), h.data.Len()))
		h.end += flag(f.StreamEnded(), "END")
	case *http2.DataFrame:
		h.data.Write(f.Data())
		h.end += flag(f.StreamEnded(), "END")
	case *http2.RSTStreamFrame:
		h.end += f.ErrCode.String()
	}
}

// cuts decides by the bytes of a fuzz input where things are cut; when they are used up, nothing more is.
type cuts struct{ b []byte }

func (c *cuts) next(n int) int {
	if len(c.b) == 0 || n <= 0 {
		return 0
	}
	v := int(c.b[0])
	c.b = c.b[1:]
	return v % n
}

// headers says a block in as many frames as it is cut into.
func (c *cuts) headers(p *peer, id uint32, end bool, kv []string) {
	p.do(func() error {
		p.ebuf.Reset()
		for i := 0; i < len(kv); i += 2 {
			_ = p.enc.WriteField(hpack.HeaderField{Name: kv[i], Value: kv[i+1]})
		}
		block := slices.Clone(p.ebuf.Bytes())
		n := len(block) - c.next(len(block)+1)
		first := block[:n]
		err := p.fr.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: first, EndStream: end, EndHeaders: n == len(block), PadLength: uint8(c.next(5))})
		for block = block[n:]; err == nil && len(block) > 0; block = block[n:] {
			n = len(block) - c.next(len(block))
			err = p.fr.WriteContinuation(id, n == len(block), block[:n])
		}
		return err
	})
}

// say says data in as many frames, padded or empty, as it is cut into.
func (c *cuts) say(p *peer, id uint32, data string) {
	for len(data) > 0 {
		n := len(data) - c.next(len(data)+1) // maybe none
		pad := make([]byte, c.next(4))
		piece := data[:n]
		p.do(func() error { return p.fr.WriteDataPadded(id, false, []byte(piece), pad) })
		data = data[n:]
		if c.next(3) == 1 {
			synctest.Wait()
		}
	}
}

// However the frames of responses are cut, the client of a call that was retried gets the answer of one attempt whole and
// in order: the failed one leaves no trace, and what is not retried is as it came.
func FuzzEverySplitOfHeadersDataAndTrailers(f *testing.F) {
	f.Add([]byte{}, uint8(14), uint8(0), "", "\x00\x00\x00\x00\x03yes")
	f.Add([]byte{9, 1, 3, 2, 1, 7, 7, 1, 1, 1, 1, 2, 2, 2}, uint8(14), uint8(0), "\x00\x00\x00\x00\x05par", "\x00\x00\x00\x00\x00\x00\x00\x00\x00\x01x")
	f.Add([]byte{1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1}, uint8(5), uint8(0), "\x00\x00", "")
	f.Add([]byte{200, 100, 50, 25, 12, 6, 3}, uint8(14), uint8(14), "\x00\x00\x00\x00\x01a", "\x00\x00\x00\x00")
	f.Fuzz(func(t *testing.T, b []byte, first, second uint8, bad, good string) {
		if len(bad) > 4000 || len(good) > 4000 || len(b) > 400 {
			t.Skip("more of the same")
		}
		under(t, 2, method(strings.Replace(retryPolicy, `"maxAttempts": 4`, `"maxAttempts": 2`, 1), `, "holdResponse": "1s"`, ""), func(t *testing.T, r *rig) {
			c := &cuts{b}
			h := &heard{}
			p := r.automatic(h.take)
			p.call(1, true)
			whole := func(data string) bool { // a message is: what is held is the client's then
				return len(data) >= 5 && len(data)-5 >= int(data[1])<<24|int(data[2])<<16|int(data[3])<<8|int(data[4])
			}
			answer := func(name string, status uint8, data string) (want []string) {
				end := r.end(name, 0)
				head := []string{":status", "200", "from", name, "content-type", "application/grpc"}
				trail := []string{"grpc-status", fmt.Sprint(status % 17), "detail", name}
				if data == "" && c.next(2) == 1 {
					trail = append(head, trail...)
				} else {
					c.headers(end, 1, false, head)
					c.say(end, 1, data)
					want = append(want, strings.Join([]string{":status=200", "from=" + name, "content-type=application/grpc"}, " ")+" after 0 bytes")
				}
				c.headers(end, 1, true, trail)
				var s []string
				for i := 0; i < len(trail); i += 2 {
					s = append(s, trail[i]+"="+trail[i+1])
				}
				return append(want, fmt.Sprintf("%s after %d bytes", strings.Join(s, " "), len(data)))
			}
			want, data := answer("one", first, bad), bad
			synctest.Wait()
			if first%17 == 14 && !whole(bad) {
				time.Sleep(125 * time.Millisecond)
				want, data = answer("two", second, good), good
			}
			synctest.Wait()
			h.mu.Lock()
			defer h.mu.Unlock()
			if !slices.Equal(h.blocks, want) || h.data.String() != data || h.end != "END" {
				t.Errorf("the client got\n\t%q, data %q, %s\nwant\n\t%q, data %q", h.blocks, h.data.String(), h.end, want, data)
			}
		})
	})
}
