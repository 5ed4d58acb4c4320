// Package page writes reports for people to look at in a browser: one HTML file that loads nothing and can be read without
// a script, with small copies of pictures in it.
//
// Start with [New].
package page
