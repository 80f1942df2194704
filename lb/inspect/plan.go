package inspect

import (
	"sync"

	"buf.build/go/protovalidate"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/dynamicpb"
)

// maxPlans bounds what is compiled and kept: methods of the descriptors that hold, and a few of those before.
const maxPlans = 512

// plan is what is known of the messages of one method. Its validator is compiled when the first message needs it.
type plan struct {
	input protoreflect.MessageDescriptor
	types *types

	once      sync.Once
	validator protovalidate.Validator // set once in compile
	wrong     error                   // set once in compile
}

// plans keeps what was compiled. The zero value is ready.
type plans struct {
	mu    sync.Mutex
	plans map[planKey]*plan
	order []planKey // the oldest first
	types map[protoreflect.FileDescriptor]*types
}

type planKey struct {
	file  protoreflect.FileDescriptor // of the service
	input protoreflect.MessageDescriptor
}

func (p *plans) of(md protoreflect.MethodDescriptor) *plan {
	key := planKey{md.ParentFile(), md.Input()}
	p.mu.Lock()
	defer p.mu.Unlock()
	if known := p.plans[key]; known != nil {
		return known
	}
	if len(p.order) >= maxPlans {
		delete(p.plans, p.order[0])
		if file := p.order[0].file; !p.uses(file) {
			delete(p.types, file)
		}
		p.order = p.order[1:]
	}
	if p.plans == nil {
		p.plans, p.types = map[planKey]*plan{}, map[protoreflect.FileDescriptor]*types{}
	}
	t := p.types[key.file]
	if t == nil {
		t = newTypes(key.file)
		p.types[key.file] = t
	}
	made := &plan{input: key.input, types: t}
	p.plans[key] = made
	p.order = append(p.order, key)
	return made
}

func (p *plans) uses(file protoreflect.FileDescriptor) bool {
	for key := range p.plans {
		if key.file == file {
			return true
		}
	}
	return false
}

// types finds the extensions and messages that a file and its imports define. It is safe for concurrent use.
type types struct {
	own    *dynamicpb.Types
	hidden sync.Map // FieldDescriptor -> bool: has it debug_redact
}

func newTypes(file protoreflect.FileDescriptor) *types {
	files := new(protoregistry.Files)
	seen := map[string]bool{}
	var add func(protoreflect.FileDescriptor)
	add = func(f protoreflect.FileDescriptor) {
		if f.IsPlaceholder() || seen[f.Path()] {
			return
		}
		seen[f.Path()] = true
		_ = files.RegisterFile(f) // of two that define the same, the first holds
		for i := range f.Imports().Len() {
			add(f.Imports().Get(i).FileDescriptor)
		}
	}
	add(file)
	return &types{own: dynamicpb.NewTypes(files)}
}

// FindExtensionByName is part of protoregistry.ExtensionTypeResolver.
func (t *types) FindExtensionByName(name protoreflect.FullName) (protoreflect.ExtensionType, error) {
	return t.own.FindExtensionByName(name)
}

// FindExtensionByNumber is part of protoregistry.ExtensionTypeResolver.
func (t *types) FindExtensionByNumber(message protoreflect.FullName, number protoreflect.FieldNumber) (protoreflect.ExtensionType, error) {
	return t.own.FindExtensionByNumber(message, number)
}

// FindMessageByName is part of protoregistry.MessageTypeResolver.
func (t *types) FindMessageByName(name protoreflect.FullName) (protoreflect.MessageType, error) {
	if m, err := t.own.FindMessageByName(name); err == nil {
		return m, nil
	}
	return protoregistry.GlobalTypes.FindMessageByName(name)
}

// FindMessageByURL is part of protoregistry.MessageTypeResolver.
func (t *types) FindMessageByURL(url string) (protoreflect.MessageType, error) {
	if m, err := t.own.FindMessageByURL(url); err == nil {
		return m, nil
	}
	return protoregistry.GlobalTypes.FindMessageByURL(url)
}

// redacts tells whether a field has the option debug_redact.
func (t *types) redacts(fd protoreflect.FieldDescriptor) bool {
	if v, ok := t.hidden.Load(fd); ok {
		return v.(bool)
	}
	o, _ := fd.Options().(*descriptorpb.FieldOptions)
	t.hidden.Store(fd, o.GetDebugRedact())
	return o.GetDebugRedact()
}
