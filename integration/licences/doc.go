// Package licences owns the list of what the product's binary is made of and under which licences (licences.txt), and the test that
// keeps it true; it must not be imported.
//
// A licence is known by its text in the module's own files, and by nothing but its text: see texts. A module whose files hold none that
// is known, or more than such texts and a few words, fails the test, and so it is somebody's decision to add to them.
package licences
