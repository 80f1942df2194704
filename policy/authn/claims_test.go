package authn

import (
	"encoding/json"
	"testing"
)

func TestAClaimBecomesTheValueOfAField(t *testing.T) {
	var claims map[string]any
	must(json.Unmarshal([]byte(`{
		"sub": "alice", "n": 12345678901, "half": 0.5, "yes": true, "none": null, "empty": "", "list": ["a", 2, false], "nothing": [],
		"realm": {"roles": ["x", "y"], "deep": {"er": "z"}},
		"https://shop.example.com/roles": ["admin"], "a.b": "whole", "a": {"b": "inner"},
		"comma": ["a,b", "c"], "newline": "a\r\nx-evil: 1", "umlaut": "ä", "space": " a", "nested": [["a"]], "object": {"x": 1}, "mixed": ["a", null]
	}`), &claims))
	for path, want := range map[string]string{
		"sub": "alice", "n": "12345678901", "half": "0.5", "yes": "true", "list": "a,2,false",
		"realm.roles": "x,y", "realm.deep.er": "z", "https://shop.example.com/roles": "admin", "a.b": "whole",
		// What cannot be sent as it is.
		"none": "", "empty": "", "nothing": "", "comma": "", "newline": "", "umlaut": "", "space": "", "nested": "", "object": "", "mixed": "",
		// What is not there.
		"absent": "", "realm.absent": "", "sub.x": "", "realm..roles": "", ".": "", "": "",
	} {
		claim, _ := Claim(claims, path)
		got, ok := Value(claim)
		if got = map[bool]string{true: got}[ok]; got != want {
			t.Errorf("%q: %q, want %q", path, got, want)
		}
	}
}
