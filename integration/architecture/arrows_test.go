package architecture

import (
	"path"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// arrow says what a room may import of the others, and why no more. The picture (a -> b: b may import a):
//
//	proto -> discovery -> policy -> lb -> integration
//	codec --------------> policy -> lb
type arrow struct {
	from []string // folders, each with what is below it; one that ends in "." without it
	why  string
}

func arrows() map[string]arrow {
	return map[string]arrow{
		"proto":     {nil, "it is what our APIs promise: it depends on nobody who keeps the promise"},
		"codec":     {nil, "it knows bytes, and must be readable, fuzzable and reusable without the rest"},
		"discovery": {[]string{"proto"}, "it says which endpoints exist; what to do with them is policy's, and calls are lb's"},
		"policy": {[]string{"codec", "discovery."},
			"it decides on facts: the nouns of discovery and the leaf types of codec, not the sources that fetch them or those who act"},
		"lb":          {[]string{"proto", "codec", "discovery", "policy"}, "it makes everything happen, and is tested from outside by integration, not by importing it"},
		"integration": {[]string{"proto", "codec", "discovery", "policy", "lb"}, "it looks from outside"},
		"":            {[]string{"lb/cli"}, "main.go is thin: what it does is lb/cli's, where it can be tested"},
	}
}

func brokenArrows(t *tree) []string {
	var found []string
	for _, f := range t.files {
		a, known := arrows()[f.room()]
		if !known {
			found = append(found, t.finding(f.ast, "%q is not one of the rooms: proto, codec, discovery, policy, lb, integration", f.room()))
			continue
		}
		for _, spec := range f.ast.Imports {
			target, err := strconv.Unquote(spec.Path.Value)
			ours, ok := strings.CutPrefix(target, module+"/")
			if err != nil || !ok {
				continue
			}
			room, _, _ := strings.Cut(ours, "/")
			if room == f.room() || slices.ContainsFunc(a.from, func(allowed string) bool { return covers(allowed, ours) }) {
				continue
			}
			found = append(found, t.finding(spec, "%s may not import %s: %s", path.Join(f.room(), "..."), ours, a.why))
		}
	}
	return found
}

func covers(allowed, imported string) bool {
	if only, ok := strings.CutSuffix(allowed, "."); ok {
		return imported == only
	}
	return imported == allowed || strings.HasPrefix(imported, allowed+"/")
}

func TestRoomsImportOnlyAlongTheArrows(t *testing.T) {
	check(t, brokenArrows, map[string]string{
		"codec/h2/x.go":         `package h2; import _ "` + module + `/policy/route"`,
		"codec/h2/x_test.go":    `package h2; import _ "` + module + `/lb/shard"`,
		"discovery/consul/x.go": `package consul; import _ "` + module + `/lb/config"`,
		"policy/route/x.go":     `package route; import _ "` + module + `/discovery/consul"`,
		"policy/balance/x.go":   `package balance; import _ "` + module + `/proto/trunkline/config/v1"`,
		"lb/shard/x.go":         `package shard; import _ "` + module + `/integration/harness"`,
		"proto/x.go":            `package proto; import _ "` + module + `/codec/h2"`,
		"main.go":               `package main; import _ "` + module + `/lb/shard"`,
		"pkg/x.go":              `package pkg`,
	})
	passes(t, brokenArrows, map[string]string{
		"policy/route/x.go": `package route; import (_ "` + module + `/discovery"; _ "` + module + `/codec/grpc"; _ "strings")`,
		"lb/shard/x.go":     `package shard; import (_ "` + module + `/discovery/consul"; _ "` + module + `/lb/transport")`,
		"main.go":           `package main; import _ "` + module + `/lb/cli"`,
	})
}
