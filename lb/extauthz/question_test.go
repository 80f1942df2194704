package extauthz

import (
	"strings"
	"testing"
)

// A client's header table says a long field five hundred times in as many bytes.
func TestFieldsOfOneNameAreJoinedForWhatTheyAreLong(t *testing.T) {
	o := &owned{}
	long := strings.Repeat("v", 470)
	for range 500 {
		o.fields = append(o.fields, [2]string{"x-a", long})
	}
	o.Set = [][2]string{{"x-b", "1"}, {"x-b", "2"}}
	c := &Client{}
	told := c.headers(o, "/s.S/M", "http")
	if want := strings.TrimSuffix(strings.Repeat(long+",", 500), ","); told["x-a"] != want || told["x-b"] != "1,2" {
		t.Errorf("told %d bytes and %q", len(told["x-a"]), told["x-b"])
	}
	if n := testing.AllocsPerRun(3, func() { c.headers(o, "/s.S/M", "http") }); n > 50 {
		t.Errorf("they are put together in %v pieces", n)
	}
	o.Set = [][2]string{{"x-a", "ours"}}
	if told := c.headers(o, "/s.S/M", "http"); told["x-a"] != "ours" {
		t.Errorf("told %d bytes beside what is set", len(told["x-a"]))
	}
}
