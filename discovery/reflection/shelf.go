package reflection

// shelf bounds the file descriptors that all results of a Prober hold together. Equal results share one Schema, and equal
// files count once. It is guarded by Prober.mu.
type shelf struct {
	limit   int              // bytes of files
	bytes   int              // of the files that are held
	files   map[File]int     // how many schemas hold it
	schemas map[string]*held // by Result.Hash
}

type held struct {
	schema *Schema
	refs   int // results
}

func newShelf(limit int) *shelf {
	return &shelf{limit: limit, files: map[File]int{}, schemas: map[string]*held{}}
}

// keep returns r, or a copy with the Schema of its equals, or with none where there is no room. Give each kept one to drop.
func (s *shelf) keep(r *Result) *Result {
	out := *r
	if h := s.schemas[r.Hash]; h != nil {
		h.refs++
		out.Schema = h.schema
		return &out
	}
	more := 0
	for _, f := range r.Schema.files {
		if s.files[f] == 0 {
			more += f.Size()
		}
	}
	if s.bytes+more > s.limit {
		out.Schema = nil
		return &out
	}
	s.bytes += more
	for _, f := range r.Schema.files {
		s.files[f]++
	}
	s.schemas[r.Hash] = &held{schema: r.Schema, refs: 1}
	return r
}

// drop says that a kept result is no longer held; nil is fine.
func (s *shelf) drop(r *Result) {
	if r == nil || r.Schema == nil {
		return
	}
	h := s.schemas[r.Hash]
	if h.refs--; h.refs > 0 {
		return
	}
	delete(s.schemas, r.Hash)
	for _, f := range h.schema.files {
		if s.files[f]--; s.files[f] == 0 {
			delete(s.files, f)
			s.bytes -= f.Size()
		}
	}
}
