package files

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestNewsIsWhatReadingCameToForTheFirstTimeInARow(t *testing.T) {
	var s Seen
	bad, worse := errors.New("bad"), errors.New("worse")
	for i, step := range []struct {
		text string
		err  error
		news bool
	}{
		{"", nil, true}, // an empty file is not nothing
		{"", nil, false},
		{"a", nil, true},
		{"a", nil, false},
		{"", bad, true},
		{"", worse, false},
		{"a", nil, true}, // it can be read again, and its owner has heard otherwise
		{"a", nil, false},
	} {
		if got := s.News([]byte(step.text), step.err); got != step.news {
			t.Errorf("step %d, %q %v: news %v", i, step.text, step.err, got)
		}
	}
	if s = (Seen{}); !s.News(nil, bad) || s.News(nil, worse) {
		t.Error("a first failure is news, and the next is not")
	}
}

func TestAFileThatIsTooLargeIsNotRead(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, []byte("12345"), 0o600); err != nil {
		t.Fatal(err)
	}
	if text, err := Read(path, 5); err != nil || string(text) != "12345" {
		t.Errorf("%q %v", text, err)
	}
	if text, err := Read(path, 4); text != nil || err == nil || !strings.Contains(err.Error(), path+" has more than 4 bytes") {
		t.Errorf("%q %v", text, err)
	}
}
