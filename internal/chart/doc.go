// Package chart draws line charts as SVG, for reports and for the documentation. A chart needs no script and no style sheet:
// it is drawn with presentation attributes in currentColor, so that a page decides on ink and ground, and a file on its own is
// readable on both light and dark ground. Lines differ in colour and in dashes. The colours are those of Okabe and Ito,
// "Color Universal Design" (2008), which the colour-blind tell apart.
package chart
