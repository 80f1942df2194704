package connect

import (
	"encoding/json"
	"strings"
	"testing"
)

// sends is a call's metadata: names and values; of a path alone it is a call of gRPC's.
func sends(path string, kv ...string) Field {
	kv = append([]string{":method", "POST", ":path", path, ":authority", "shop.example"}, kv...)
	return func(name string) (string, bool) {
		var values []string
		for i := 0; i < len(kv); i += 2 {
			if kv[i] == name {
				values = append(values, kv[i+1])
			}
		}
		return strings.Join(values, ","), values != nil
	}
}

var (
	denies = fallback{why: "Consul's default is to deny"}
	allows = fallback{allowed: true, why: "Consul's default is to allow"}
)

// permit compiles JSON objects without their braces.
func permit(last fallback, list ...string) *permissions {
	var raw []json.RawMessage
	for _, text := range list {
		raw = append(raw, json.RawMessage("{"+text+"}"))
	}
	return compile(raw, `"web" call "trunkline"`, "default/web => default/trunkline", last)
}

func TestAPermissionMatchesTheCallsThatItDescribes(t *testing.T) {
	const get = "/pkg.Shop/Get"
	for _, c := range []struct {
		http  string
		call  Field
		match bool
	}{
		{``, sends(get), true},
		{`"PathExact":"/pkg.Shop/Get"`, sends(get), true},
		{`"PathExact":"/pkg.Shop/Get"`, sends(get + "?a=b"), true}, // as a server that reads queries sees it
		{`"PathExact":"/pkg.Shop/Get"`, sends(get + "#a"), true},
		{`"PathExact":"/pkg.Shop/Get"`, sends(get + "All"), false},
		{`"PathExact":"/pkg.Shop/Get"`, sends("/pkg.shop/Get"), false},
		{`"PathPrefix":"/pkg.Shop/"`, sends(get), true},
		{`"PathPrefix":"/pkg.Shop/"`, sends("/pkg.Shopping/Get"), false},
		{`"PathPrefix":"/pkg.Sh"`, sends("/pkg.Shopping/Get"), true},
		{`"PathRegex":"/pkg\\.Shop/(Get|List)"`, sends(get), true},
		{`"PathRegex":"/pkg\\.Shop/(Get|List)"`, sends(get + "All"), false}, // all of it must match
		{`"PathRegex":"Get"`, sends(get), false},
		{`"PathRegex":".*/Get|nothing"`, sends(get), true},
		{`"PathRegex":"nothing|.*/Get"`, sends(get + "All"), false},
		{`"PathRegex":".*Get"`, sends("/pkg.Shop/X?Get"), false},
		{`"Methods":["POST"]`, sends(get), true},
		{`"Methods":["GET","PUT"]`, sends(get), false},
		{`"Methods":["GET","POST"],"PathPrefix":"/other."`, sends(get), false},
		{`"Header":[{"Name":"x-a","Present":true}]`, sends(get, "x-a", ""), true},
		{`"Header":[{"Name":"X-A","Present":true}]`, sends(get, "x-a", "1"), true},
		{`"Header":[{"Name":"x-a","Present":true}]`, sends(get), false},
		{`"Header":[{"Name":"x-a","Present":true,"Invert":true}]`, sends(get), true},
		{`"Header":[{"Name":"x-a","Present":true,"Invert":true}]`, sends(get, "x-a", ""), false},
		{`"Header":[{"Name":"x-a","Exact":"gold"}]`, sends(get, "x-a", "gold"), true},
		{`"Header":[{"Name":"x-a","Exact":"gold"}]`, sends(get, "x-a", "Gold"), false},
		{`"Header":[{"Name":"x-a","Exact":"Gold","IgnoreCase":true}]`, sends(get, "x-a", "goLD"), true},
		{`"Header":[{"Name":"x-a","Exact":"k","IgnoreCase":true}]`, sends(get, "x-a", "\u212a"), false}, // the Kelvin sign
		{`"Header":[{"Name":"x-a","Exact":"gold"}]`, sends(get), false},
		{`"Header":[{"Name":"x-a","Exact":"gold","Invert":true}]`, sends(get, "x-a", "tin"), true},
		{`"Header":[{"Name":"x-a","Exact":"gold","Invert":true}]`, sends(get, "x-a", "gold"), false},
		{`"Header":[{"Name":"x-a","Exact":"gold","Invert":true}]`, sends(get), false}, // as in Envoy
		{`"Header":[{"Name":"x-a","Exact":"gold"}]`, sends(get, "x-a", "tin", "x-a", "gold"), false},
		{`"Header":[{"Name":"x-a","Exact":"tin,gold"}]`, sends(get, "x-a", "tin", "x-a", "gold"), true},
		{`"Header":[{"Name":"x-a","Prefix":"go"}]`, sends(get, "x-a", "gold"), true},
		{`"Header":[{"Name":"x-a","Prefix":"go"}]`, sends(get, "x-a", "ingot"), false},
		{`"Header":[{"Name":"x-a","Prefix":"GO","IgnoreCase":true,"Invert":true}]`, sends(get, "x-a", "gold"), false},
		{`"Header":[{"Name":"x-a","Suffix":"ld"}]`, sends(get, "x-a", "gold"), true},
		{`"Header":[{"Name":"x-a","Suffix":"ld"}]`, sends(get, "x-a", "lda"), false},
		{`"Header":[{"Name":"x-a","Contains":"ol"}]`, sends(get, "x-a", "gold"), true},
		{`"Header":[{"Name":"x-a","Contains":"OL","IgnoreCase":true}]`, sends(get, "x-a", "gold"), true},
		{`"Header":[{"Name":"x-a","Contains":"ol"}]`, sends(get, "x-a", "tin"), false},
		{`"Header":[{"Name":"x-a","Regex":"g.*d"}]`, sends(get, "x-a", "gold"), true},
		{`"Header":[{"Name":"x-a","Regex":"g.*d"}]`, sends(get, "x-a", "golden"), false},
		{`"Header":[{"Name":"x-a","Regex":"(?i)GOLD"}]`, sends(get, "x-a", "gold"), true},
		{`"Header":[{"Name":"x-a","Present":true},{"Name":"x-b","Exact":"1"}]`, sends(get, "x-a", "1"), false}, // all must match
		{`"Header":[{"Name":"x-a","Present":true},{"Name":"x-b","Exact":"1"}]`, sends(get, "x-a", "1", "x-b", "1"), true},
		{`"Header":[{"Name":":authority","Exact":"shop.example"}]`, sends(get), true},
		{`"Header":[{"Name":"Host","Exact":"shop.example"}]`, sends(get), true}, // Envoy calls both :authority
		{`"Header":[{"Name":"host","Exact":"other"}]`, sends(get, "host", "other"), false},
		{`"Header":[{"Name":":method","Exact":"POST"}]`, sends(get), true},
	} {
		if one := permit(denies, `"Action":"allow","HTTP":{`+c.http+`}`); one.list[0].broken != "" {
			t.Errorf("%s: %s", c.http, one.list[0].broken)
		} else if allowed, why := one.judge(c.call); allowed != c.match {
			t.Errorf("%s: %s", c.http, why)
		}
		if allowed, why := permit(allows, `"Action":"deny","HTTP":{`+c.http+`}`).judge(c.call); allowed == c.match {
			t.Errorf("deny %s: %s", c.http, why)
		}
	}
}

func TestTheFirstPermissionThatMatchesDecides(t *testing.T) {
	const (
		admin = `"Action":"deny","HTTP":{"PathPrefix":"/pkg.Shop/Admin"}`
		root  = `"Action":"allow","HTTP":{"PathExact":"/pkg.Shop/AdminSelf"}`
		shop  = `"Action":"allow","HTTP":{"PathPrefix":"/pkg.Shop/"}`
		token = `"Action":"allow","HTTP":{"PathPrefix":"/pkg.Shop/Admin"},"JWT":{"Providers":[{"Name":"okta"}]}`
		none  = `"Action":"allow","HTTP":{"PathPrefix":"/pkg.Shop/"},"JWT":{}`
		bad   = `"Action":"allow","HTTP":{"PathRegex":"a)|(b"}`
		both  = `"Action":"allow","HTTP":{"PathPrefix":"/","PathExact":"/"}`
		empty = `"Action":"allow","HTTP":{"Header":[{"Name":"x-a"}]}`
		newer = `"Action":"allow","GRPC":{"Service":"pkg.Shop"}`
		other = `"Action":"ask","HTTP":{}`
	)
	for _, c := range []struct {
		list    []string
		last    fallback
		path    string
		allowed bool
		says    string
	}{
		{[]string{admin, shop}, denies, "/pkg.Shop/Get", true, "permission 2 of the intention default/web => default/trunkline allows it"},
		{[]string{admin, shop}, denies, "/pkg.Shop/AdminSelf", false, `do not let "web" call "trunkline" with the path "/pkg.Shop/AdminSelf": the intention default/web => default/trunkline: permission 1 denies it`},
		{[]string{root, admin, shop}, denies, "/pkg.Shop/AdminSelf", true, "permission 1"},
		{[]string{shop, admin}, denies, "/pkg.Shop/AdminSelf", true, "permission 1"},
		{[]string{admin, shop}, denies, "/pkg.Cart/Get", false, "no permission matches, and Consul's default is to deny"},
		{[]string{admin}, allows, "/pkg.Cart/Get", true, "default is to allow"},
		{nil, allows, "/pkg.Cart/Get", true, "default is to allow"},
		{[]string{token, shop}, denies, "/pkg.Shop/AdminSelf", false, "permission 1 asks for a JWT, which cannot be judged here"},
		{[]string{token, shop}, denies, "/pkg.Shop/Get", true, "permission 2"},
		{[]string{none}, denies, "/pkg.Shop/Get", true, "permission 1"},
		{[]string{admin, bad, shop}, allows, "/pkg.Shop/Get", false, "permission 2 cannot be judged here: pathRegex: error parsing regexp"},
		{[]string{admin, bad, shop}, allows, "/pkg.Shop/Admin", false, "permission 1 denies it"},
		{[]string{both}, allows, "/pkg.Shop/Get", false, "permission 1 cannot be judged here: it asks for a path in 2 ways"},
		{[]string{empty}, allows, "/pkg.Shop/Get", false, `permission 1 cannot be judged here: header "x-a": it asks for a value in 0 ways`},
		{[]string{newer}, allows, "/pkg.Shop/Get", false, `permission 1 cannot be judged here: json: unknown field "GRPC"`},
		{[]string{other}, allows, "/pkg.Shop/Get", false, `permission 1 cannot be judged here: its action is "ask"`},
		// What some servers take for another method is not judged by the name it has not.
		{[]string{admin, shop}, allows, "/pkg.Shop/%41dmin", false, "its path has escapes"},
		{[]string{admin, shop}, allows, "/pkg.Shop/../pkg.Shop/Admin", false, "segments that are empty or dots"},
		{[]string{admin, shop}, allows, "/./pkg.Shop/Admin", false, "segments that are empty or dots"},
		{[]string{admin, shop}, allows, "//pkg.Shop/Admin", false, "segments that are empty or dots"},
		{[]string{admin, shop}, allows, `/pkg.Shop\Admin`, false, "its path has escapes"},
		{[]string{admin, shop}, allows, "/pkg.Shop/Admin/..", false, "segments that are empty or dots"},
		{[]string{admin, shop}, allows, "", false, "its path"},
		{[]string{admin, shop}, denies, "/pkg.Shop/..Get", true, "permission 2"},
		{[]string{admin, shop}, denies, "/pkg.Shop/Get?%41", true, "permission 2"},
	} {
		allowed, why := permit(c.last, c.list...).judge(sends(c.path))
		if allowed != c.allowed || !strings.Contains(why, c.says) {
			t.Errorf("%q of %q: %v, %s", c.path, c.list, allowed, why)
		}
	}
}

// A client of the mesh must not make the shard wait for as much text as metadata can hold.
func TestALongTextIsNotHeldAgainstARegularExpression(t *testing.T) {
	const get, reads = "/pkg.Shop/Get", `"Action":"allow","HTTP":{"PathPrefix":"/"}`
	long := strings.Repeat("g", maxRegex+1)
	for _, c := range []struct {
		http    string
		call    Field
		allowed bool
	}{
		{`"PathRegex":".*admin.*"`, sends("/" + long), false},
		{`"PathRegex":".*admin.*"`, sends(get + "?" + long), true}, // it is not looked at
		{`"PathExact":"/admin"`, sends("/" + long), true},
		{`"Header":[{"Name":"x-a","Regex":".*admin.*"}]`, sends(get, "x-a", long), false},
		{`"Header":[{"Name":"x-a","Regex":".*g.*","Invert":true}]`, sends(get, "x-a", long), false},
		{`"Header":[{"Name":"x-a","Regex":".*admin.*"}]`, sends(get, "x-a", long[1:]), true},
		{`"Header":[{"Name":"x-a","Suffix":"admin"}]`, sends(get, "x-a", long), true},
		{`"PathPrefix":"/other","Header":[{"Name":"x-a","Regex":".*admin.*"}]`, sends(get, "x-a", long), true}, // it is not for the call anyhow
	} {
		allowed, why := permit(denies, `"Action":"deny","HTTP":{`+c.http+`}`, reads).judge(c.call)
		if allowed != c.allowed || !allowed && !strings.Contains(why, "permission 1 cannot be judged here: a text of more than 8 KiB") {
			t.Errorf("%s: %v, %s", c.http, allowed, why[:min(len(why), 500)])
		}
	}
}

// It is done for each call, on the shard.
func TestJudgingACallThatIsAllowedAllocatesNothing(t *testing.T) {
	p := permit(denies, `"Action":"deny","HTTP":{"PathRegex":"/pkg\\.Admin/.*"}`, `"Action":"allow","HTTP":{"PathPrefix":"/pkg.","Methods":["POST"],"Header":[{"Name":"x-a","Prefix":"go","IgnoreCase":true}]}`)
	field := func(name string) (string, bool) {
		switch name {
		case ":path":
			return "/pkg.Shop/Get", true
		case ":method":
			return "POST", true
		}
		return "gold", name == "x-a"
	}
	if n := testing.AllocsPerRun(100, func() {
		if allowed, why := p.judge(field); !allowed {
			t.Fatal(why)
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// Whatever Consul and clients say, it is judged without panic, and never allowed by a permission that was not understood.
func FuzzPermissions(f *testing.F) {
	f.Add(`{"Action":"allow","HTTP":{"PathRegex":"/a.*","Header":[{"Name":"x","Regex":"b","Invert":true}],"Methods":["POST"]}}`, "/a.S/M?x", "b")
	f.Add(`{"Action":"deny","JWT":{"Providers":[{"Name":"n"}]}}`, "//%", "")
	f.Fuzz(func(t *testing.T, text, path, value string) {
		p := compile([]json.RawMessage{json.RawMessage(text)}, "a call b", "a => b", denies)
		allowed, why := p.judge(sends(path, "x", value))
		if why == "" || allowed && (p.list[0].broken != "" || p.list[0].jwt || !p.list[0].allow || !plain(strings.SplitN(strings.SplitN(path, "?", 2)[0], "#", 2)[0])) {
			t.Errorf("%v, %s", allowed, why)
		}
	})
}
