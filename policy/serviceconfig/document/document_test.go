package document

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
)

// JSON that YAML cannot read, or reads otherwise, is read as JSON, each value at its place.
func TestJSONIsReadAsJSONWithThePlaceOfEachValue(t *testing.T) {
	text := "\n{\t\"a\\/b\": \"\\ud83d\\ude00\",\r\n\t\"ä\": [1, -2.5e3 , true,null]\n,\"k\"\n:\n{}}\n"
	root, err := Parse([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	var walk func(n *yaml.Node)
	walk = func(n *yaml.Node) {
		got = append(got, fmt.Sprintf("%d:%d %s %s", n.Line, n.Column, n.ShortTag(), n.Value))
		for _, c := range n.Content {
			walk(c)
		}
	}
	walk(root)
	want := []string{
		"2:1 !!map ", "2:3 !!str a/b", "2:11 !!str 😀",
		"3:2 !!str ä", "3:7 !!seq ", "3:8 !!int 1", "3:11 !!float -2.5e3", "3:20 !!bool true", "3:25 !!null null",
		"4:2 !!str k", "6:1 !!map ",
	}
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

func TestWhatIsNoDocumentIsToldWithItsPlace(t *testing.T) {
	for text, want := range map[string]string{
		"{\n  \"a\": 1,\n}":   "3:1: not JSON: invalid character '}' looking for beginning of object key string",
		"{\"ä\": x}":          "1:7: not JSON: invalid character 'x' looking for beginning of value",
		"{}\n{}":              "2:1: not JSON: invalid character '{' after top-level value",
		"a: 1\n---\nb: 1\n":   "2:1: a second document begins: there must be one, remove the \"---\" and what follows",
		"a: 1\nb: \xff":       "2:1: not UTF-8 text: save it as UTF-8",
		"{\"a\": \n\"\xff\"}": "2:1: not UTF-8 text: save it as UTF-8",
		"a: 1\n\tb: 1\n":      "2:1: not YAML: found a tab character that violates indentation",
		"a: [1\nb: 2":         "1:1: not YAML: did not find expected ',' or ']'",
		"{\"a\":" + strings.Repeat("[", 70) + strings.Repeat("]", 70) + "}": "1:70: is nested too deep",
	} {
		_, err := Parse([]byte(text))
		var e *Error
		if !errors.As(err, &e) || err.Error() != want {
			t.Errorf("%.30q: %v, want %s", text, err, want)
		}
	}
	for _, text := range []string{"", "\n", "# nothing\n", "null", "~"} {
		if _, err := Parse([]byte(text)); !errors.Is(err, ErrEmpty) {
			t.Errorf("%q: %v", text, err)
		}
	}
}

func TestTheNearestWordIsWhatWasMeant(t *testing.T) {
	known := []string{"timeout", "idleTimeout", "retryPolicy", "name"}
	for word, want := range map[string]string{
		"Timeout": "timeout", "idle_timeout": "idleTimeout", "retrypolcy": "retryPolicy", "nmae": "name", "elephant": "", "x": "",
	} {
		if got := Nearest(word, known); got != want {
			t.Errorf("%s: %q, want %q", word, got, want)
		}
	}
}
