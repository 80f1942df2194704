package lb

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	configv1 "github.com/trunkline/trunkline/proto/trunkline/config/v1"
)

func TestTheLineOfAnAnsweredCallNamesWhoCalledAndWhereItWent(t *testing.T) {
	addr := backend(t)
	cfg := parse(t, echoAt(addr))
	file := filepath.Join(t.TempDir(), "access.log")
	cfg = proto.CloneOf(cfg)
	cfg.AccessLog = &configv1.AccessLog{Mode: "all", Path: file}
	r := runConfig(t, cfg)
	if _, err := r.call("bench.Echo/Ping", "shop.example.com"); err != nil {
		t.Fatal(err)
	}
	var line map[string]any
	for end := time.Now().Add(10 * time.Second); line == nil; time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("no line in 10 s")
		}
		if b, err := os.ReadFile(file); err == nil {
			_ = json.Unmarshal(b, &line) // a half-written line comes whole the next time
		}
	}
	for key, want := range map[string]string{
		"method": "bench.Echo/Ping", "status": "OK", "origin": "upstream", "outcome": "OK", "endpoint": addr, "authority": "shop.example.com",
	} {
		if line[key] != want {
			t.Errorf("%s is %v, want %s", key, line[key], want)
		}
	}
	if ua, _ := line["user_agent"].(string); len(ua) < 8 || ua[:8] != "grpc-go/" {
		t.Errorf("user_agent is %q", ua)
	}
}
