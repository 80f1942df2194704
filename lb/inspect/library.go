package inspect

import (
	"fmt"
	"strings"
	"sync"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/descriptorpb"

	"github.com/trunkline/trunkline/discovery/reflection"
)

// maxSchemas bounds the schemas whose linked files are kept: one for each kind of endpoint, and its versions.
const maxSchemas = 128

// Library links the files that endpoints told (reflection.Result.Schema) into descriptors, and keeps them: the same schema and
// method give the same descriptor. Options of kinds that Trunkline knows, buf.validate's among them, are understood. It is safe for
// concurrent use; share one between configurations.
type Library struct {
	mu      sync.Mutex
	schemas map[*reflection.Schema]*shelf
	order   []*reflection.Schema // the oldest first
}

// shelf is the linked files of one schema.
type shelf struct {
	schema *reflection.Schema

	mu    sync.Mutex
	files protoregistry.Files
	wrong map[string]error // by file: why it cannot be linked
}

// NewLibrary makes an empty Library.
func NewLibrary() *Library { return &Library{schemas: map[*reflection.Schema]*shelf{}} }

// Method finds the descriptor of method ("pkg.Service/Method") in a schema, which may be nil. Imports that the endpoint did not
// send leave their types open: what such fields hold is not looked into beyond what can be guessed. It takes milliseconds when a file is met
// first, so call it from For's describe, not inside of a shard.
func (l *Library) Method(s *reflection.Schema, method string) (protoreflect.MethodDescriptor, error) {
	service, name, _ := strings.Cut(method, "/")
	f, ok := s.Symbol(service)
	if !ok {
		return nil, fmt.Errorf("no file of the endpoint defines %s", service)
	}
	at := l.shelf(s)
	at.mu.Lock()
	defer at.mu.Unlock()
	file, err := at.link(f, 0)
	if err != nil {
		return nil, err
	}
	for i := range file.Services().Len() {
		if sd := file.Services().Get(i); string(sd.FullName()) == service {
			if md := sd.Methods().ByName(protoreflect.Name(name)); md != nil {
				return md, nil
			}
		}
	}
	return nil, fmt.Errorf("%s does not define %s", f.Name, method)
}

func (l *Library) shelf(s *reflection.Schema) *shelf {
	l.mu.Lock()
	defer l.mu.Unlock()
	at := l.schemas[s]
	if at == nil {
		if len(l.order) == maxSchemas {
			delete(l.schemas, l.order[0])
			l.order = l.order[1:]
		}
		at = &shelf{schema: s, wrong: map[string]error{}}
		l.schemas[s] = at
		l.order = append(l.order, s)
	}
	return at
}

// maxImportDepth bounds chains of imports; a file that imports itself ends there, too.
const maxImportDepth = 200

// link links a file after its imports. With s.mu held.
func (s *shelf) link(f reflection.File, depth int) (protoreflect.FileDescriptor, error) {
	if fd, err := s.files.FindFileByPath(f.Name); err == nil {
		return fd, nil
	}
	if err := s.wrong[f.Name]; err != nil {
		return nil, err
	}
	fd, err := s.linkNew(f, depth)
	if err != nil {
		err = fmt.Errorf("%s: %w", f.Name, err)
		s.wrong[f.Name] = err
	}
	return fd, err
}

func (s *shelf) linkNew(f reflection.File, depth int) (protoreflect.FileDescriptor, error) {
	if depth > maxImportDepth {
		return nil, fmt.Errorf("imports nest more than %d deep", maxImportDepth)
	}
	var file descriptorpb.FileDescriptorProto
	// With the global types: so buf.validate's options are read as what they are, not as unknown bytes.
	if err := proto.Unmarshal(f.Raw(), &file); err != nil {
		return nil, fmt.Errorf("cannot be read: %w", err)
	}
	for _, name := range file.GetDependency() {
		if dep, ok := s.schema.File(name); ok {
			_, _ = s.link(dep, depth+1) // what is missing is left open below
		} else if known, err := protoregistry.GlobalFiles.FindFileByPath(name); err == nil {
			s.borrow(known)
		}
	}
	// AllowUnresolvable: a server need not send what it imports.
	fd, err := protodesc.FileOptions{AllowUnresolvable: true}.New(&file, &s.files)
	if err != nil {
		return nil, err
	}
	if err := s.files.RegisterFile(fd); err != nil {
		return nil, err
	}
	return fd, nil
}

// borrow takes a file that Trunkline was built with, such as google/protobuf/timestamp.proto, for one that was not sent.
func (s *shelf) borrow(file protoreflect.FileDescriptor) {
	if _, err := s.files.FindFileByPath(file.Path()); err == nil {
		return
	}
	for i := range file.Imports().Len() {
		s.borrow(file.Imports().Get(i).FileDescriptor)
	}
	_ = s.files.RegisterFile(file) // a name that is taken stays whose it is
}
