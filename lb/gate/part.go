package gate

import "sync/atomic"

// part is something that gates share: the last that lets go of it closes it.
type part[T any] struct {
	value T
	close func()
	refs  atomic.Int64
}

func newPart[T any](value T, close func()) *part[T] {
	p := &part[T]{value: value, close: close}
	p.refs.Store(1)
	return p
}

// keep is the part for one more gate, nil if it is closed already.
func (p *part[T]) keep() *part[T] {
	if p == nil {
		return nil
	}
	for n := p.refs.Load(); n > 0; n = p.refs.Load() {
		if p.refs.CompareAndSwap(n, n+1) {
			return p
		}
	}
	return nil
}

func (p *part[T]) drop() {
	if p != nil && p.refs.Add(-1) == 0 {
		p.close()
	}
}
