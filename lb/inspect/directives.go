package inspect

import (
	"bytes"
	"crypto/rand"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/corazawaf/coraza-coreruleset/v4"
	"github.com/corazawaf/coraza/v3"
	"github.com/corazawaf/coraza/v3/debuglog"

	"github.com/trunkline/trunkline/lb/files"
	configv1 "github.com/trunkline/trunkline/proto/trunkline/config/v1"
)

// families are the files of the core rule set that look at what a client says. The others are left out, for they look at what a
// gRPC call does not have or what Trunkline checks itself, and would only make noise: 905 (exceptions for Apache's own
// requests), 911 (HTTP methods), 913 (scanners, by User-Agent), 920 (HTTP's form: headers, content types, URL encoding), 921
// (request splitting and header injection), 922 (multipart), 95x and 980 (responses).
//
// It is never written.
var families = [...]string{
	"REQUEST-901-INITIALIZATION",
	"REQUEST-930-APPLICATION-ATTACK-LFI",
	"REQUEST-931-APPLICATION-ATTACK-RFI",
	"REQUEST-932-APPLICATION-ATTACK-RCE",
	"REQUEST-933-APPLICATION-ATTACK-PHP",
	"REQUEST-934-APPLICATION-ATTACK-GENERIC",
	"REQUEST-941-APPLICATION-ATTACK-XSS",
	"REQUEST-942-APPLICATION-ATTACK-SQLI",
	"REQUEST-943-APPLICATION-ATTACK-SESSION-FIXATION",
	"REQUEST-944-APPLICATION-ATTACK-JAVA",
	"REQUEST-949-BLOCKING-EVALUATION",
}

// namesOnly are rules that look at nothing but the arguments' names: those are the schema's, not the client's. They take a field
// that is called session_id for an attack.
const namesOnly = "943110 943120"

// newWall builds the firewall of one waf entry.
func newWall(c *configv1.Waf, at string) (*wall, error) {
	root := &ruleFiles{core: coreruleset.FS, mark: "." + rand.Text(), seen: map[string]files.Seen{}}
	config := coraza.NewWAFConfig().WithRootFS(root).WithDebugLogger(debuglog.Noop()).WithDirectives(setup(c))
	for _, f := range families {
		config = config.WithDirectives("Include @owasp_crs/" + f + ".conf")
	}
	own := ""
	if c.GetDirectivesFile() != "" {
		text, err := root.own(c.GetDirectivesFile())
		if err != nil {
			return nil, fmt.Errorf("%s.directivesFile: %w", at, err)
		}
		own = string(root.marked(text))
		root.dir = filepath.Dir(c.GetDirectivesFile())
		config = config.WithDirectives(own)
	}
	waf, err := coraza.NewWAF(config.WithDirectives(lock(c)))
	if err != nil {
		if own != "" { // the others are known to parse
			return nil, fmt.Errorf("%s.directivesFile: %s: %s", at, c.GetDirectivesFile(), strings.ReplaceAll(err.Error(), root.mark, ""))
		}
		return nil, fmt.Errorf("%s: %w", at, err)
	}
	return &wall{waf: waf, block: c.GetMode() == "block", threshold: int(c.GetAnomalyThreshold()), files: root.seen}, nil
}

// setup is what comes before the rules, in the place of crs-setup.conf. SecRxPreFilter skips expressions whose literals are not there:
// on long texts that is a third of the cost.
func setup(c *configv1.Waf) string {
	return fmt.Sprintf(`SecRuleEngine On
SecRxPreFilter On
SecRequestBodyAccess Off
SecResponseBodyAccess Off
SecArgumentsLimit %d
SecDefaultAction "phase:1,nolog,noauditlog,pass"
SecDefaultAction "phase:2,nolog,noauditlog,pass"
SecAction "id:900000,phase:1,pass,nolog,t:none,setvar:tx.blocking_paranoia_level=%d"
SecAction "id:900110,phase:1,pass,nolog,t:none,setvar:tx.inbound_anomaly_score_threshold=%d"
SecAction "id:900990,phase:1,pass,nolog,t:none,setvar:tx.crs_setup_version=4250"
`, maxTexts+1, c.GetParanoia(), c.GetAnomalyThreshold())
}

// lock is what comes after all rules: what directivesFile cannot change.
func lock(c *configv1.Waf) string {
	var b strings.Builder
	b.WriteString("SecRuleEngine On\nSecAuditEngine Off\nSecRequestBodyAccess Off\nSecRuleRemoveById " + namesOnly + "\n")
	for _, id := range c.GetDisabledRules() {
		fmt.Fprintf(&b, "SecRuleRemoveById %d\n", id)
	}
	return b.String()
}

// forbidden finds a directive that would write files or fetch rules; "" if there is none.
func forbidden(text string) string {
	return strings.TrimSpace(regexp.MustCompile(`(?im)^\s*Sec(?:AuditLog\w*|DebugLog|DataDir|UploadDir|TmpDir|TmpSaveUploadedFiles|RemoteRules\w*)\b`).FindString(text))
}

// ruleFiles is the core rule set as Coraza's parser sees it, and the directory of directivesFile for what that names.
type ruleFiles struct {
	core fs.FS
	dir  string                // "": none
	mark string                // ends the names of data files, see marked; set once in newWall
	seen map[string]files.Seen // of dir and directivesFile, by path: what was read
}

// ReadFile gives the rules with their lists of variables cut down to what there is: texts. It halves the cost, and keeps the rules
// from fields' names.
func (r *ruleFiles) ReadFile(name string) ([]byte, error) {
	if core := strings.Index(name, "@owasp_crs"); core >= 0 {
		text, err := fs.ReadFile(r.core, name[core:])
		if err != nil || !strings.HasSuffix(name, ".conf") {
			return text, err
		}
		// utf8toUnicode writes characters beyond ASCII as %u escapes, of which urlDecodeUni keeps the lower byte, as some servers
		// did. So it takes the Chinese for "is a" for the beginning of a comment. Here strings are UTF-8; see fold.
		return bytes.ReplaceAll(narrow(text), []byte("t:utf8toUnicode,"), nil), nil
	}
	if r.dir == "" {
		return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
	}
	name, data := strings.CutSuffix(name, r.mark)
	if !filepath.IsAbs(name) {
		name = filepath.Join(r.dir, name)
	}
	text, err := r.own(name)
	if data || err != nil {
		return text, err
	}
	return r.marked(text), nil
}

// own reads an operator's file, and remembers what it held.
func (r *ruleFiles) own(name string) ([]byte, error) {
	text, err := os.ReadFile(name)
	if err != nil {
		return nil, err
	}
	if word := forbidden(string(text)); word != "" {
		return nil, fmt.Errorf("%s holds %s: Trunkline writes no files and asks nobody for rules; remove it", name, word)
	}
	var seen files.Seen
	seen.News(text, nil)
	r.seen[name] = seen
	return text, nil
}

// marked gives the data files that directives name an end of this firewall's own: Coraza keeps their lists for the whole process, by
// name, and so would not see that one has changed while an older firewall lives.
func (r *ruleFiles) marked(text []byte) []byte {
	return regexp.MustCompile(`"!?@(?:pmFromFile|pmf) [^"\n\\]*[^"\s\\]`).ReplaceAll(text, []byte("${0}"+r.mark))
}

// Open is part of fs.FS; Coraza reads by ReadFile.
func (r *ruleFiles) Open(name string) (fs.File, error) {
	return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
}

// narrow rewrites `SecRule REQUEST_COOKIES|...|ARGS_NAMES|ARGS|XML:/* "` to `SecRule ARGS "`.
func narrow(text []byte) []byte {
	return regexp.MustCompile(`(?m)^(\s*SecRule )(\S+)( ")`).ReplaceAllFunc(text, func(line []byte) []byte {
		head, rest, _ := strings.Cut(string(line), "SecRule ")
		list := strings.TrimSuffix(rest, ` "`)
		var keep []string
		for _, v := range strings.Split(list, "|") {
			if v == "ARGS" || strings.HasPrefix(v, "!ARGS:") {
				keep = append(keep, v)
			}
		}
		if len(keep) == 0 {
			return line
		}
		return []byte(head + "SecRule " + strings.Join(keep, "|") + ` "`)
	})
}
