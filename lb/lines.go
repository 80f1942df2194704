package lb

import "io"

// lineWriter writes the access log's lines many at once: under load one system call for each would cost more than all else about them. It is used by
// one goroutine. A line is not torn between two writes.
type lineWriter struct {
	to  io.Writer
	buf []byte
}

// manyLines is how many bytes of lines wait at most.
const manyLines = 64 << 10

func (w *lineWriter) Write(p []byte) (int, error) {
	if w.buf = append(w.buf, p...); len(w.buf) >= manyLines {
		w.flush()
	}
	return len(p), nil
}

// flush writes what waits. A log that cannot be written has nobody to tell.
func (w *lineWriter) flush() {
	if len(w.buf) > 0 {
		_, _ = w.to.Write(w.buf)
		w.buf = w.buf[:0]
	}
}
