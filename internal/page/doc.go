// Package page writes reports for people to look at in a browser: one HTML file that loads nothing and needs no script,
// with small copies of pictures in it.
//
// Start with [New].
package page
