package lb

import (
	"strings"
	"testing"
)

// writes counts, and keeps what was written each time.
type writes []string

func (w *writes) Write(p []byte) (int, error) {
	*w = append(*w, string(p))
	return len(p), nil
}

func TestLinesAreWrittenTogetherAndNoneIsTorn(t *testing.T) {
	var got writes
	w := &lineWriter{to: &got}
	w.flush()
	line := strings.Repeat("x", 999) + "\n"
	for range 3 * manyLines / len(line) {
		if n, err := w.Write([]byte(line)); n != len(line) || err != nil {
			t.Fatalf("%d, %v", n, err)
		}
	}
	if len(got) != 2 {
		t.Errorf("%d writes before the end, not 2", len(got))
	}
	w.flush()
	w.flush()
	if len(got) != 3 || len(strings.Join(got, "")) != 3*manyLines/len(line)*len(line) {
		t.Errorf("%d writes of %d bytes", len(got), len(strings.Join(got, "")))
	}
	for _, all := range got {
		if !strings.HasSuffix(all, "\n") {
			t.Error("a line is torn")
		}
	}
}
