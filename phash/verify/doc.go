// Package verify decides whether two pictures show the same: whether one is a copy of the other,
// resized, compressed, cropped by a few percent, a little turned, lighter or warmer. A perceptual hash
// cannot decide that: pictures that differ in something small, such as the digits of a meter in front of
// a fixed camera, have hashes a few bits apart.
//
// A picture that was looked at keeps a [Signature] of 2,912 bytes. [Of] makes a [View] of another
// picture, and [Compare] compares the two: it aligns the view with the signature by an affine
// transformation, fits tone and sharpness, and judges the cell in which the two differ most. A small
// thing that is different is one cell that is far off, and a copy is off a little everywhere.
//
// The package does no I/O and is safe for concurrent use. It does not see what is smaller than its
// cells resolve, such as one small letter. docs/near-duplicates.md says what it finds and what it
// misses, and where each limit was drawn. Alignment is that of Baker and Matthews, "Lucas-Kanade 20
// Years On" (2004), forward additive, with robust weights.
package verify
