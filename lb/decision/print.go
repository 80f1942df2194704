package decision

import (
	"fmt"
	"io"
	"strings"
)

// titles is never written.
var titles = [...]string{
	SectionSummary:  "In short",
	SectionWhere:    "Where it went",
	SectionStory:    "What happened (time since it arrived)",
	SectionDeadline: "Its time",
	SectionAdvice:   "What to change, or to look at",
}

// width is at which columns lines are broken where they can be.
const width = 110

// Print writes a story to a terminal.
func Print(w io.Writer, lines []Line) {
	section := SectionCall
	for _, l := range lines {
		if l.Section != section {
			section = l.Section
			if int(section) < len(titles) {
				fmt.Fprintf(w, "\n  %s\n", titles[section])
			}
		}
		switch {
		case section == SectionCall && !l.Detail:
			fmt.Fprintln(w, l.Text)
		case section == SectionCall:
			wrap(w, "  ", "  ", l.Text)
		case section == SectionStory && !l.Detail:
			wrap(w, fmt.Sprintf("  %10s  ", "+"+span(l.At)), strings.Repeat(" ", 14), l.Text)
		case section == SectionStory:
			wrap(w, strings.Repeat(" ", 16), strings.Repeat(" ", 18), l.Text)
		case section == SectionAdvice:
			wrap(w, "    - ", "      ", l.Text)
		case l.Detail:
			wrap(w, "      ", "        ", l.Text)
		default:
			wrap(w, "    ", "    ", l.Text)
		}
	}
}

// wrap writes text with a first and a following indentation.
func wrap(w io.Writer, first, next, text string) {
	line := first
	for text != "" {
		if len(line)+len(text) <= width {
			break
		}
		cut := strings.LastIndexByte(text[:min(len(text), max(width-len(line)+1, 1))], ' ')
		if cut <= 0 {
			if cut = strings.IndexByte(text, ' '); cut < 0 {
				break
			}
		}
		fmt.Fprintln(w, strings.TrimRight(line+text[:cut], " "))
		line, text = next, strings.TrimLeft(text[cut:], " ")
	}
	fmt.Fprintln(w, strings.TrimRight(line+text, " "))
}
