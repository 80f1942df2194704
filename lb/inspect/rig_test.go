package inspect

import (
	"bytes"
	"compress/gzip"
	"io"
	"log/slog"
	"os"
	"strings"
	"sync"
	"testing"

	"buf.build/gen/go/bufbuild/protovalidate/protocolbuffers/go/buf/validate"
	"go.uber.org/goleak"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/dynamicpb"

	"github.com/trunkline/trunkline/discovery/reflection"
	"github.com/trunkline/trunkline/lb/config"
	configv1 "github.com/trunkline/trunkline/proto/trunkline/config/v1"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const place = "shop.Orders/Place"

// schema is testdata/shop.txtpb as an endpoint tells it: serialized files.
func schema(t testing.TB) *reflection.Schema {
	t.Helper()
	text, err := os.ReadFile("testdata/shop.txtpb")
	if err != nil {
		t.Fatal(err)
	}
	// shop.rules.calm is an extension that Trunkline was not built with: its bytes are put into the options by hand.
	var set descriptorpb.FileDescriptorSet
	if err := prototext.Unmarshal([]byte(strings.Replace(string(text), "[shop.rules.calm]: true", "", 1)), &set); err != nil {
		t.Fatal(err)
	}
	for _, f := range set.GetFile()[1].GetMessageType()[0].GetField() {
		if f.GetName() == "title" {
			rules := proto.GetExtension(f.GetOptions(), validate.E_Field).(*validate.FieldRules).GetString()
			rules.ProtoReflect().SetUnknown(protowire.AppendVarint(protowire.AppendTag(nil, 1161, protowire.VarintType), 1))
		}
	}
	var raw [][]byte
	for _, f := range set.GetFile() {
		b, err := proto.Marshal(f)
		if err != nil {
			t.Fatal(err)
		}
		raw = append(raw, b)
	}
	return reflection.NewSchema(raw)
}

func describe(t testing.TB, method string) func() protoreflect.MethodDescriptor {
	t.Helper()
	md, err := NewLibrary().Method(schema(t), method)
	if err != nil {
		t.Fatal(err)
	}
	return func() protoreflect.MethodDescriptor { return md }
}

// message is JSON as a message of md.
func message(t testing.TB, md protoreflect.MessageDescriptor, json string) []byte {
	t.Helper()
	m := dynamicpb.NewMessage(md)
	if err := (protojson.UnmarshalOptions{Resolver: newTypes(md.ParentFile()).own, AllowPartial: true}).Unmarshal([]byte(json), m); err != nil {
		t.Fatal(err)
	}
	b, err := proto.MarshalOptions{AllowPartial: true, Deterministic: true}.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// inspector has the rules of a configuration in YAML. What it logs goes to the writer.
func inspector(t testing.TB, yaml string, log io.Writer) *Inspector {
	t.Helper()
	cfg, _, err := config.Parse("test.yaml", []byte(yaml))
	if err != nil {
		t.Fatal(err)
	}
	config.ApplyDefaults(cfg)
	return inspectorOf(t, cfg, log)
}

func inspectorOf(t testing.TB, cfg *configv1.Config, log io.Writer) *Inspector {
	t.Helper()
	if log == nil {
		log = io.Discard
	}
	i, err := New(cfg, slog.New(slog.NewTextHandler(log, nil)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(i.Close)
	return i
}

// judge waits for the verdict on one message.
func judge(r *Rules, m *Message) *Verdict {
	if m.Method == "" {
		m.Method = place
	}
	if m.Index == 0 {
		m.Index = 1
	}
	got := make(chan *Verdict, 1)
	r.Judge(m, func(v *Verdict) { got <- v })
	return <-got
}

func zip(t testing.TB, b []byte) []byte {
	var out bytes.Buffer
	z := gzip.NewWriter(&out)
	if _, err := z.Write(b); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// mustSay fails the test unless v refuses with status and reason, in a message that holds all of what.
func mustSay(t testing.TB, v *Verdict, status, reason string, what ...string) {
	t.Helper()
	if !v.Refused || v.Status.String() != status || v.Reason != reason {
		t.Errorf("%t %s %s %q; want %s %s", v.Refused, v.Status, v.Reason, v.Message, status, reason)
	}
	for _, w := range what {
		if !strings.Contains(v.Message, w) {
			t.Errorf("%q does not say %q", v.Message, w)
		}
	}
}

func mustPass(t testing.TB, v *Verdict) {
	t.Helper()
	if v.Refused || len(v.Notes) > 0 {
		t.Errorf("refused: %t, %s %s; notes %+v", v.Refused, v.Reason, v.Message, v.Notes)
	}
}

// lines is a log that several goroutines write to.
type lines struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}
