// Package console is the page for operators: what waits, what fails and of what, and how to mend it.
//
// Start with [Console]. It is served below /ops/, in English and Korean, without a request to elsewhere and without a script that a
// reader needs. However many people look at it, what it shows of the servers is asked once every two seconds, and not at all
// while nobody looks; each figure says when it was read, and whether it is exact. What a person changes is noted with who did it.
//
// Who has a token with the admin scope may change things; who has another may read. Without tokens the page is for this
// machine only, and whoever is on it may do everything.
package console
