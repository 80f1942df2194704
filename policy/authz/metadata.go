package authz

import (
	"errors"
	"reflect"
	"strings"

	"github.com/google/cel-go/common/types"
	"github.com/google/cel-go/common/types/ref"
	"github.com/google/cel-go/common/types/traits"
)

var errNotOurs = errors.New("not a fact of this call")

var _ traits.Mapper = (*metadata)(nil)

// metadata is the request's metadata as CEL's map(string, list(string)), without making one: a lookup searches the fields as
// they came. Only a rule that wants them all, such as metadata.exists(...), has a map made.
type metadata struct{ f *Facts }

// each yields the fields that rules may see.
func (m *metadata) each(yield func(name, value string) bool) {
	if m.f.Each == nil {
		return
	}
	m.f.Each(func(name, value string) bool {
		return m.f.Hidden != nil && m.f.Hidden(name) || yield(name, value)
	})
}

// Find is the values of the fields of that name, in whatever case it is written.
func (m *metadata) Find(key ref.Val) (ref.Val, bool) {
	name, ok := key.(types.String)
	if !ok {
		return types.MaybeNoSuchOverloadErr(key), false
	}
	wanted := strings.ToLower(string(name))
	var values []string
	m.each(func(name, value string) bool {
		if name == wanted {
			values = append(values, value)
		}
		return true
	})
	if values == nil {
		return nil, false
	}
	return types.NewStringList(types.DefaultTypeAdapter, values), true
}

// Get is Find, or an error.
func (m *metadata) Get(key ref.Val) ref.Val {
	v, found := m.Find(key)
	if !found && v == nil {
		return types.NewErr("no such key: %v", key)
	}
	return v
}

// Contains tells whether there is a field of that name.
func (m *metadata) Contains(key ref.Val) ref.Val {
	v, found := m.Find(key)
	if v != nil && types.IsUnknownOrError(v) {
		return v
	}
	return types.Bool(found)
}

// all makes the map.
func (m *metadata) all() traits.Mapper {
	fields := map[string][]string{}
	m.each(func(name, value string) bool {
		fields[name] = append(fields[name], value)
		return true
	})
	return types.NewDynamicMap(types.DefaultTypeAdapter, fields)
}

func (m *metadata) Size() ref.Val                               { return m.all().Size() }
func (m *metadata) Iterator() traits.Iterator                   { return m.all().Iterator() }
func (m *metadata) Equal(other ref.Val) ref.Val                 { return m.all().Equal(other) }
func (m *metadata) ConvertToNative(t reflect.Type) (any, error) { return m.all().ConvertToNative(t) }
func (m *metadata) ConvertToType(t ref.Type) ref.Val            { return m.all().ConvertToType(t) }
func (m *metadata) Type() ref.Type                              { return types.MapType }
func (m *metadata) Value() any                                  { return m }
