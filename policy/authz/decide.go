package authz

import (
	"fmt"
	"slices"
	"strings"
)

// Decision is what rules say of one call.
type Decision struct {
	Denied bool
	// Rule is the rule that decided, and Message what it says to those whom it refuses; "" where none did: the default decided,
	// or none of Missing let the call in.
	Rule, Message string
	// Missing are the allow rules of which one would have let a refused call in.
	Missing []string
	// Unclear: the deny rule's condition could not be evaluated.
	Unclear bool
	// Notes are for the call's record. Not to be written to.
	Notes []Note
}

// Note is something that the call's record tells.
type Note struct {
	Name    string // of the rule, provider or service
	Text    string
	Refused bool // it refused, or would have (Shadow)
	Shadow  bool
}

// Decide asks the rules about a call. It keeps nothing of f.
func (r *Rules) Decide(f *Facts) Decision {
	w, _ := r.policy.working.Get().(*facts)
	w.begin(r, f)
	d := r.decide(w)
	if len(r.shadows) > 0 {
		r.decideShadows(w, &d)
	}
	w.end()
	r.policy.working.Put(w)
	return d
}

func (r *Rules) decide(w *facts) Decision {
	for _, x := range r.deny {
		if yes, why := x.when.holds(w); why != "" {
			text := "denies it: its condition cannot be evaluated (" + why + ")"
			return Decision{Denied: true, Rule: x.Name, Message: x.Message, Unclear: true, Notes: []Note{{Name: x.Name, Text: text, Refused: true}}}
		} else if yes {
			return Decision{Denied: true, Rule: x.Name, Message: x.Message, Notes: []Note{{Name: x.Name, Text: "denies it", Refused: true}}}
		}
	}
	var notes []Note
	for _, x := range r.allow {
		yes, why := x.when.holds(w)
		if yes {
			return Decision{Rule: x.Name, Notes: x.allowed}
		}
		text := "does not allow it"
		if why != "" {
			text += ": its condition cannot be evaluated (" + why + ")"
		}
		notes = append(notes, Note{Name: x.Name, Text: text})
	}
	switch {
	case len(r.allow) > 0:
		d := Decision{Denied: true, Notes: notes}
		for i, x := range r.allow {
			d.Notes[i].Refused = true
			d.Missing = append(d.Missing, x.Name)
			if d.Message == "" {
				d.Message = x.Message
			}
		}
		return d
	case r.policy.deny:
		return Decision{Denied: true, Notes: []Note{{Name: "authorization.default", Text: "denies it: no rule allows this method", Refused: true}}}
	}
	return Decision{}
}

// decideShadows notes what would have been if the shadow rules were in force with the others.
func (r *Rules) decideShadows(w *facts, d *Decision) {
	var notes []Note
	var allows []string
	var allowed *rule
	for _, x := range r.shadows {
		if !x.Deny && allowed != nil {
			continue
		}
		yes, why := x.when.holds(w)
		switch {
		case x.Deny && why != "":
			notes = append(notes, Note{Name: x.Name, Text: "would deny it: its condition cannot be evaluated (" + why + ")", Refused: true, Shadow: true})
		case x.Deny && yes:
			notes = append(notes, Note{Name: x.Name, Text: "would deny it", Refused: true, Shadow: true})
		case !x.Deny && yes:
			allowed = x
		case !x.Deny:
			allows = append(allows, x.Name)
		}
	}
	switch {
	case allowed != nil && d.Denied && d.Rule == "": // refused for want of an allow rule
		notes = append(notes, Note{Name: allowed.Name, Text: "would allow it", Shadow: true})
	case allowed == nil && len(allows) > 0 && len(r.allow) == 0 && !d.Denied:
		// The default lets it in, which would no longer hold.
		notes = append(notes, Note{Name: allows[0], Text: fmt.Sprintf("would refuse it: %s would have to allow it", anyOf(allows)), Refused: true, Shadow: true})
	}
	if len(notes) > 0 {
		d.Notes = append(slices.Clip(d.Notes), notes...)
	}
}

// anyOf lists a few names: "a", "one of a, b and 3 more".
func anyOf(names []string) string {
	const most = 5
	switch n := len(names); {
	case n == 1:
		return names[0]
	case n > most:
		return fmt.Sprintf("one of %s and %d more", strings.Join(names[:most], ", "), n-most)
	}
	return "one of " + strings.Join(names, ", ")
}

// Wanting is the allow rules of which one would have let the call in, in words; "" if there are none.
func (d *Decision) Wanting() string {
	if len(d.Missing) == 0 {
		return ""
	}
	return anyOf(d.Missing)
}
