// Package samples holds the pictures that `onceover demo` analyses, and the order in which it enqueues them.
//
// Start with [Jobs]: a short day at the queue, in which six pictures come in, and then come in again: the same file,
// re-encoded, resized, cropped; among them a broken file, a missing one and a flat one without a usable hash. The files
// themselves are in [FS].
//
// The pictures are computed by make_samples.py beside this file; README.md says what they are for, who may use them, and
// how far the repeats are from their originals in bits of the perceptual hash. The package decodes and hashes nothing.
package samples
