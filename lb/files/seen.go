package files

import (
	"crypto/sha256"
	"fmt"
	"io"
	"os"
)

// Read reads a file of at most that many bytes. Its errors name the file.
func Read(path string, most int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, most+1))
	if err != nil {
		return nil, err
	}
	if int64(len(text)) > most {
		return nil, fmt.Errorf("%s has more than %d bytes", path, most)
	}
	return text, nil
}

// Seen remembers what reading a file came to, without what it held. The zero Seen has seen nothing, to which everything is news.
type Seen struct {
	known bool
	sum   [sha256.Size]byte
	bad   bool
}

// News tells whether reading the file now came to something else than before, and remembers it. Of failures one after the other the
// first is news, and so is what comes after them.
func (s *Seen) News(text []byte, err error) bool {
	now := Seen{known: true, bad: err != nil}
	if err == nil {
		now.sum = sha256.Sum256(text)
	}
	if now == *s {
		return false
	}
	*s = now
	return true
}
