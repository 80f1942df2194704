package reflection

import (
	"iter"
	"slices"
	"strings"
	"sync"
	"unique"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/descriptorpb"
)

// File is one FileDescriptorProto as its server serialized it. It is immutable. Two Files are the same exactly when they are
// equal.
type File struct {
	Name string
	raw  unique.Handle[string] // so that equal files of many servers are held once
}

// Raw returns a copy of the serialized FileDescriptorProto.
func (f File) Raw() []byte { return []byte(f.raw.Value()) }

// Size is the length of Raw, in bytes.
func (f File) Size() int { return len(f.raw.Value()) }

// Schema is a set of files, as one server has them: it says which file defines what. It is immutable, and safe for
// concurrent use. A nil Schema is empty.
type Schema struct {
	files   map[string]File     // by name; set once
	imports map[string][]string // by name: the names of the files that it imports; set once

	once       sync.Once // the index is made when the first question comes: most schemas meet none
	symbols    map[string]File
	extensions map[string]map[int32]File // by the extended message's full name, then by field number
	names      int                       // bytes of the names in the index
}

func newSchema() *Schema { return &Schema{files: map[string]File{}, imports: map[string][]string{}} }

// NewSchema makes a Schema of serialized FileDescriptorProtos. What cannot be read, and what has the name of an earlier one,
// is left out.
func NewSchema(raw [][]byte) *Schema {
	s := newSchema()
	for _, b := range raw {
		var file descriptorpb.FileDescriptorProto
		if proto.Unmarshal(b, &file) == nil {
			s.add(b, &file)
		}
	}
	return s
}

// add takes a file in, unless there is one of its name. Only while the schema is made.
func (s *Schema) add(raw []byte, file *descriptorpb.FileDescriptorProto) {
	name := file.GetName()
	if _, have := s.files[name]; have || name == "" {
		return
	}
	s.files[name] = File{Name: name, raw: unique.Make(string(raw))}
	s.imports[name] = file.GetDependency()
}

// missing names the imported files that are not there, sorted.
func (s *Schema) missing() (names []string) {
	for _, imports := range s.imports {
		for _, name := range imports {
			if _, have := s.files[name]; !have {
				names = append(names, name)
			}
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// File returns the file of that name.
func (s *Schema) File(name string) (File, bool) {
	if s == nil {
		return File{}, false
	}
	f, ok := s.files[name]
	return f, ok
}

// Symbol returns the file that defines a fully-qualified name: of a service, method, message, field, oneof, enum, enum value
// or extension.
func (s *Schema) Symbol(name string) (File, bool) {
	if s == nil {
		return File{}, false
	}
	s.once.Do(s.index)
	f, ok := s.symbols[name]
	return f, ok
}

// Extension returns the file that defines the extension of a message by its field number.
func (s *Schema) Extension(message string, number int32) (File, bool) {
	if s == nil {
		return File{}, false
	}
	s.once.Do(s.index)
	f, ok := s.extensions[message][number]
	return f, ok
}

// ExtensionNumbers returns the field numbers of a message's extensions, sorted.
func (s *Schema) ExtensionNumbers(message string) (numbers []int32) {
	if s == nil {
		return nil
	}
	s.once.Do(s.index)
	for n := range s.extensions[message] {
		numbers = append(numbers, n)
	}
	slices.Sort(numbers)
	return numbers
}

// WithImports yields f, a file of s, and then what it imports and those import, as far as they are there, each once.
func (s *Schema) WithImports(f File) iter.Seq[File] {
	return func(yield func(File) bool) {
		queue, seen := []File{f}, map[string]bool{f.Name: true}
		for len(queue) > 0 {
			next := queue[0]
			queue = queue[1:]
			if !yield(next) {
				return
			}
			for _, name := range s.imports[next.Name] {
				if dep, ok := s.files[name]; ok && !seen[name] {
					seen[name] = true
					queue = append(queue, dep)
				}
			}
		}
	}
}

// index reads all files once more. A name that several define belongs to the file that comes first by name.
func (s *Schema) index() {
	s.symbols, s.extensions = map[string]File{}, map[string]map[int32]File{}
	names := make([]string, 0, len(s.files))
	for name := range s.files {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		var file descriptorpb.FileDescriptorProto
		if proto.Unmarshal([]byte(s.files[name].raw.Value()), &file) == nil {
			(&indexer{schema: s, file: s.files[name]}).walk(&file)
		}
	}
}

// maxNames bounds, in bytes, what the full names in one index may come to: deep nesting makes much of little.
const maxNames = 32 << 20

// indexer walks one file.
type indexer struct {
	schema *Schema
	file   File
}

func (x *indexer) walk(file *descriptorpb.FileDescriptorProto) {
	pkg := file.GetPackage()
	for _, s := range file.GetService() {
		name := x.define(pkg, s.GetName())
		for _, m := range s.GetMethod() {
			x.define(name, m.GetName())
		}
	}
	x.messages(pkg, file.GetMessageType())
	x.enums(pkg, file.GetEnumType())
	x.extensions(pkg, file.GetExtension())
}

func (x *indexer) messages(scope string, list []*descriptorpb.DescriptorProto) {
	for _, m := range list {
		name := x.define(scope, m.GetName())
		if x.schema.names > maxNames {
			return
		}
		for _, f := range m.GetField() {
			x.define(name, f.GetName())
		}
		for _, o := range m.GetOneofDecl() {
			x.define(name, o.GetName())
		}
		x.messages(name, m.GetNestedType()) // as deep as protobuf's own limit on nesting lets a message be read
		x.enums(name, m.GetEnumType())
		x.extensions(name, m.GetExtension())
	}
}

// enums: a value's name stands beside its enum's, not in it (protobuf language specification, "Enumerations").
func (x *indexer) enums(scope string, list []*descriptorpb.EnumDescriptorProto) {
	for _, e := range list {
		x.define(scope, e.GetName())
		for _, v := range e.GetValue() {
			x.define(scope, v.GetName())
		}
	}
}

func (x *indexer) extensions(scope string, list []*descriptorpb.FieldDescriptorProto) {
	for _, f := range list {
		x.define(scope, f.GetName())
		message, absolute := strings.CutPrefix(f.GetExtendee(), ".")
		if !absolute {
			continue // compilers and servers write it in full
		}
		numbers := x.schema.extensions[message]
		if numbers == nil {
			numbers = map[int32]File{}
			x.schema.extensions[message] = numbers
		}
		if _, have := numbers[f.GetNumber()]; !have {
			numbers[f.GetNumber()] = x.file
		}
	}
}

func (x *indexer) define(scope, name string) (full string) {
	full = name
	if scope != "" {
		full = scope + "." + name
	}
	x.schema.names += len(full)
	if _, have := x.schema.symbols[full]; !have && x.schema.names <= maxNames {
		x.schema.symbols[full] = x.file
	}
	return full
}
