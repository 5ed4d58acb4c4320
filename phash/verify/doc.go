// Package verify tells whether two pictures show the same: whether one is a copy of the other, resized, compressed, cropped by a few
// percent, a little turned, lighter or warmer. A perceptual hash cannot: pictures that differ in something small, such as the digits of
// a meter before a fixed camera, have hashes a few bits apart.
//
// A picture that was looked at keeps a [Signature] of 2,912 bytes. Another one, of which [Of] has made a [View], is aligned with it by an
// affine transformation, its tones are fitted, and what counts is the cell in which the two differ most: a small thing that is
// different is one cell that is far off, and a copy is off a little everywhere.
//
// The numbers were chosen so that none of 546 pairs of different pictures passes. Alignment is that of Baker and Matthews, "Lucas-Kanade 20 Years On" (2004), forward additive, with robust weights.
package verify
