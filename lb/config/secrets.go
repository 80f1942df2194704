package config

import "regexp"

// What may be secret in an address: the user's part, and a query's values.
var (
	userAtHost   = regexp.MustCompile(`://[^/\s"']*@`)
	userPassword = regexp.MustCompile(`[^\s"'/@:?=]+:[^\s"'@/][^\s"'@]*@`)
	query        = regexp.MustCompile(`\?[^\s"'?]*=[^\s"']*`)
)

// Redact takes out of a text what addresses in it may have of secrets: user names and passwords, and queries. For whatever shows an
// address of the configuration.
func Redact(text string) string {
	text = query.ReplaceAllString(text, "?...")
	text = userAtHost.ReplaceAllString(text, "://...@")
	return userPassword.ReplaceAllString(text, "...@")
}
