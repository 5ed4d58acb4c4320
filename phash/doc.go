// Package phash computes the 256-bit perceptual hash that Python computes with
//
//	str(imagehash.phash(PIL.Image.open(f), hash_size=16))
//
// bit for bit, so that a Go process and a Python process that see the same file use the same cache key.
//
// Start with [Sum], which turns an encoded picture into a [Hash]. Before that, [Inspect] tells format and size from the header
// alone, so that a caller can refuse a picture for its pixel count before anything is decoded:
//
//	info, err := phash.Inspect(data)
//	if err == nil && info.Width*info.Height > limit { … }
//	h, err := phash.Sum(data)
//
// What it promises:
//   - PNG, JPEG, GIF, WebP, BMP and TIFF give Python's hash exactly, lossy or not, pictures with ties at the median (flat, symmetric,
//     striped ones) included. What cannot be done exactly is refused as unsupported, not guessed.
//   - Refused although Pillow reads it: JPEG with arithmetic coding, or progressive with scans missing, for which libjpeg guesses; TIFF
//     with LAB or with YCbCr other than by JPEG, faxes other than Group 4 and one-dimensional Group 3, CMYK or separate planes by JPEG,
//     compression by LZMA, Zstandard or WebP, BigTIFF; a GIF with a gray frame under a global palette of colours; and what releases of
//     Pillow read differently: BMP run lengths with moves or odd numbers of literal pixels, BMP palettes of black alone, pixels in the
//     place of a BMP palette of 3 bytes a colour, uncompressed YCbCr in TIFF.
//   - Palette indices past the end are black, as in Pillow since 10.4; before they were gray levels.
//   - A file that was cut off before the end of its first frame, or that its decoder finds corrupt, is an error, never a hash. A JPEG
//     without its end passes where Pillow lets it pass. Where
//     Pillow does not notice, this package does not either, with the same hash: corrupt entropy-coded data in a JPEG that has its end,
//     a PNG of which nothing is missing but what follows the last pixel, a GIF frame with too much data.
//   - Alpha of a lossy WebP counts only for what is seen: a file that is corrupt there alone is hashed, and Pillow refuses it.
//   - No input makes it panic, and memory is bounded by the pixel count: none for a JPEG of one scan, 1 to 8 bytes a pixel for the
//     decoded picture as a rule, 16 at worst (16-bit TIFF in one strip, turned); conversion and resampling go row by row.
//   - Everything is safe for concurrent use; there is no state.
//
// Pillow is not one reference but three: from 12.2 on it resamples tall pictures in another order, which changes their hash.
// [Sum] follows Pillow up to 12.1; [Of] follows the others, see [ParseOrder].
//
// [LookAt] returns what people see of a picture from the same pass over its pixels: on white where it is transparent, in the colours
// of sRGB, and how it is to be turned. None of that changes the hash: Python knows nothing of it when it hashes (TIFF's own
// orientation tag counts, as in Pillow).
//
// What it does not do: no I/O, no search for similar hashes.
package phash
