package licences

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// text is a licence that the product may be made of: its text begins and ends so, and says this between. All in the form of plain.
type text struct {
	name     string // SPDX
	from, to string
	says     []string
	not      []string
}

// texts are the licences that ask for no more than notices and, MPL, for the sources of files of theirs that were changed; none were. Those that
// would reach over the product (GPL, AGPL, LGPL ...) are not here and must not come.
func texts() []text {
	bsd := text{
		from: "redistribution and use in source and binary forms, with or without modification, are permitted provided that the following conditions are met",
		to:   "even if advised of the possibility of such damage",
		says: []string{"redistributions of source code must retain the above copyright notice", "redistributions in binary form must reproduce the above copyright notice"},
		not:  []string{"advertising materials"},
	}
	bsd3, bsd2 := bsd, bsd
	bsd3.name, bsd3.says = "BSD-3-Clause", append(slices.Clone(bsd.says), "to endorse or promote products derived from this software without specific prior written permission")
	bsd2.name, bsd2.not = "BSD-2-Clause", append(slices.Clone(bsd.not), "endorse or promote")
	return []text{
		bsd3, bsd2,
		{
			name: "MIT",
			from: "permission is hereby granted, free of charge, to any person obtaining a copy of this software and associated documentation files",
			to:   "or the use or other dealings in the software",
			says: []string{"without restriction, including without limitation the rights to use, copy, modify, merge, publish, distribute, sublicense, and/or sell copies",
				"copyright notice and this permission notice shall be included in all copies or substantial portions"},
		},
		{
			name: "Apache-2.0", from: "apache license version 2.0, january 2004", to: "end of terms and conditions",
			says: []string{"grant of copyright license", "grant of patent license", "redistribution", "accepting warranty or additional liability"},
		},
		{
			name: "Apache-2.0", from: "licensed under the apache license, version 2.0", to: "limitations under the license", // as at the heads of files
			says: []string{"you may not use this file except in compliance with the license", "http://www.apache.org/licenses/license-2.0"},
		},
		{
			name: "ISC", from: "permission to use, copy, modify, and/or distribute this software for any purpose with or without fee is hereby granted", to: "performance of this software",
			says: []string{"copyright notice and this permission notice appear in all copies"},
		},
		{
			name: "MPL-2.0", from: "mozilla public license, version 2.0 1. definitions", to: "as defined by the mozilla public license, v. 2.0",
			says: []string{"3.2. distribution of executable form", "remove or alter the substance of any license notices"},
		},
		{
			name: "Unlicense", from: "this is free and unencumbered software released into the public domain", to: "other dealings in the software",
			says: []string{"anyone is free to copy, modify, publish, use, compile, sell, or distribute this software"},
		},
		{
			name: "CC0-1.0", from: "cc0 1.0 universal creative commons corporation is not a law firm", to: "no duty or obligation with respect to this cc0 or use of the work",
			says: []string{"waiver", "public license fallback", "affirmer"},
		},
	}
}

// maxRest is how many words may stand beside licences in a file: titles, names, years, how to apply it.
const maxRest = 150

// plain is a text in lower case, with single spaces, without quotation marks and what sets comments and lists off.
func plain(s string) string {
	s = regexp.MustCompile("[\"'`“”‘’*#=>]+|(?m)^[ \t]*(//+|--+|-)").ReplaceAllString(strings.ToLower(s), " ")
	return strings.Join(strings.Fields(s), " ")
}

// find names the licences that a file holds, sorted, and says what else it has if that is more than a few words.
func find(file string) ([]string, error) {
	rest, names := plain(file), []string(nil)
	for again := true; again; {
		again = false
		for _, l := range texts() {
			from := strings.Index(rest, l.from)
			if from < 0 {
				continue
			}
			n := strings.Index(rest[from:], l.to)
			if n < 0 {
				continue
			}
			body := rest[from : from+n+len(l.to)]
			in := func(s string) bool { return strings.Contains(body, s) }
			if slices.ContainsFunc(l.says, func(s string) bool { return !in(s) }) || slices.ContainsFunc(l.not, in) {
				continue
			}
			rest, again = rest[:from]+rest[from+len(body):], true
			if !slices.Contains(names, l.name) {
				names = append(names, l.name)
			}
		}
	}
	slices.Sort(names)
	switch words := strings.Fields(rest); {
	case len(names) == 0:
		return nil, fmt.Errorf("no licence that is known, in: %s", brief(rest))
	case strings.Contains(rest, "general public licen"):
		return nil, fmt.Errorf("beside %v it names a General Public Licence, in: %s", names, brief(rest))
	case len(words) > maxRest:
		return nil, fmt.Errorf("%d words beside %v, in: %s", len(words), names, brief(rest))
	}
	return names, nil
}

func brief(s string) string { return s[:min(len(s), 400)] }

const mit = `The MIT License (MIT)

Copyright (c) 2026 Somebody

Permission is hereby granted, free of charge, to any person obtaining a copy of this software and associated documentation files (the
"Software"), to deal in the Software without restriction, including without limitation the rights to use, copy, modify, merge, publish,
distribute, sublicense, and/or sell copies of the Software, and to permit persons to whom the Software is furnished to do so, subject to
the following conditions: The above copyright notice and this permission notice shall be included in all copies or substantial portions of
the Software. THE SOFTWARE IS PROVIDED "AS IS" ... OR THE USE OR OTHER DEALINGS IN THE SOFTWARE.
`

func TestALicenceIsKnownByItsTextAlone(t *testing.T) {
	apache := "Licensed under the Apache License, Version 2.0 (the \"License\");\nyou may not use this file except in compliance with the License.\n" +
		"http://www.apache.org/licenses/LICENSE-2.0\nlimitations under the License.\n"
	for _, c := range []struct{ name, file, want string }{
		{"the text", mit, "MIT"},
		{"two texts", mit + apache, "Apache-2.0 MIT"},
		{"two owners", mit + mit, "MIT"},
		{"the name without the text", "This software is under the MIT License, see elsewhere.", ""},
		{"a text that leaves a right out", strings.Replace(mit, ", sublicense,", ",", 1), ""},
		{"a text and another that is not known", mit + strings.Repeat("You must also give us your house. ", 30), ""},
		{"a text, or the GPL at one's choice", mit + "Parts are under the GNU General Public License, version 3.", ""},
		{"nothing", "", ""},
	} {
		names, err := find(c.file)
		if got := strings.Join(names, " "); got != c.want || (err == nil) != (c.want != "") {
			t.Errorf("%s: %q, %v; want %q", c.name, got, err, c.want)
		}
	}
}
