package cache

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"

	"github.com/redis/go-redis/v9"

	"onceover/phash"
	"onceover/phash/verify"
)

// Whether two files show the same is told by what is kept of one of them: see package verify.

// options are those of comparisons.
func (c Config) options() verify.Options { return verify.Options{Corner: c.Corner} }

// Matches reports whether a picture shows the same as that of a signature, as it is or in the way that is nearest to it.
func (c Config) Matches(v *verify.View, s *verify.Signature) bool {
	ways := append([]verify.Way{v.Itself()}, v.Ways(c.Turned)...)
	if verify.Compare(v, s, c.options()).Reason == verify.Same {
		return true
	}
	nearest := slices.MinFunc(ways, func(a, b verify.Way) int { return cmp.Compare(a.Apart(&s.Hashes), b.Apart(&s.Hashes)) })
	return nearest != ways[0] && nearest.Apart(&s.Hashes) <= c.Radius && verify.Compare(nearest.View(), s, c.options()).Reason == verify.Same
}

// showing is what is known of a picture and an entry that has its hash.
type showing int

const (
	shown showing = iota // the entry is of this picture
	other                // it is of another one
	lost                 // what it was of is not kept any more
)

// shows tells whether a picture is the one of an entry that has its hash. A hash that is all there is is taken for the picture, and
// what Python wrote for one of the same colours; any other two files are compared. A copy has to show what it is a copy of, so that
// no chain leads away from what was looked at. compared says that they were, and show the same.
func (c *Cache) shows(ctx context.Context, p *Picture, e *Entry) (is showing, compared bool, err error) {
	switch {
	case e.File != "" && (e.File == p.Digest.String() || p.Like != (Digest{}) && p.Like == likeOf(e)):
		return shown, false, nil
	case e.File == "" || p.Digest == (Digest{}):
		if p.differs(e) {
			return other, false, nil
		}
		return shown, false, nil
	}
	whole := true // compared with all of it
	kept, err := c.signatures(ctx, e.File, cmp.Or(e.DerivedFile, e.File), p.Digest.String())
	if err != nil {
		return other, false, err
	}
	switch {
	case kept[0] != nil && kept[1] != nil:
	case e.CorrectedAt == "":
		return lost, false, nil
	case kept[0] != nil: // a person's answer is not given up for what is lost
		kept[1], whole = kept[0], e.DerivedFile == ""
	default: // nor is it the answer to what it cannot be compared with
		return other, false, nil
	}
	var view *verify.View
	switch {
	case p.View != nil:
		if view, err = p.View(ctx); err != nil {
			return other, false, err
		}
	case kept[2] != nil:
		view = kept[2].View()
	default:
		return other, false, nil
	}
	if verify.Compare(view, kept[0], c.cfg.options()).Reason != verify.Same || kept[1] != kept[0] && e.DerivedFile != "" && !c.cfg.Matches(view, kept[1]) {
		c.metrics.vetoed.Inc()
		return other, false, nil
	}
	return shown, whole, nil
}

// likeOf names what a picture was compared with that was found to show what e does: a file, or a copy with what it is a copy of.
func likeOf(e *Entry) Digest {
	if e.DerivedFrom == "" {
		return parseDigest(e.File)
	}
	return sha256.Sum256([]byte(e.File + e.DerivedFile))
}

// signatures returns those that are kept of files, by their SHA-256 in hex, nil where there is none.
func (c *Cache) signatures(ctx context.Context, files ...string) ([]*verify.Signature, error) {
	texts := make([]*redis.StringCmd, len(files))
	err := c.pipeline(ctx, func(p redis.Pipeliner) {
		for i, file := range files {
			texts[i] = p.GetRange(ctx, signatureKey(file), 0, maxSignature)
		}
	})
	if err != nil {
		return nil, fmt.Errorf("look up the signature of %s (%d files): %w", files[0], len(files), err)
	}
	out := make([]*verify.Signature, len(files))
	for i, text := range texts {
		out[i], _ = verify.Parse(text.Val()) // what is none is as good as none
	}
	return out, nil
}

func signatureKey(file string) string { return digestPrefix + file + signature }

// maxSignature is how much is read of one.
const maxSignature = 5000

// keepSignature keeps the signature of an entry's picture for as long as the entry: s, or if that is nil the one that is there. So it
// does with that of what the entry is a copy of.
func (c *Cache) keepSignature(ctx context.Context, p redis.Pipeliner, e Entry, s *verify.Signature) {
	switch {
	case e.File == "":
	case s != nil:
		p.Set(ctx, signatureKey(e.File), s.String(), TTL)
	default:
		p.Expire(ctx, signatureKey(e.File), TTL)
	}
	if e.DerivedFile != "" {
		p.Expire(ctx, signatureKey(e.DerivedFile), TTL)
	}
}

// parseDigest reads 64 hex digits, zeros if they are none.
func parseDigest(s string) (d Digest) {
	if b, err := hex.DecodeString(s); err == nil && len(b) == len(d) {
		return Digest(b)
	}
	return Digest{}
}

// A family is a picture that was looked at with the copies of its answer.
type family struct {
	hash phash.Hash // of the member that was asked for
	root phash.Hash // of the one that was looked at
	like string     // its colours; "" if they are not known
	file string     // Entry.File of that one; "" if it is not known
}

// familyOf returns the family of a picture whose place is own, and the place of what was looked at, whose entry is nil if that is
// gone.
func (c *Cache) familyOf(ctx context.Context, p *Picture, v Variant, own item) (fam family, root item, err error) {
	fam, root = family{hash: p.Hash, root: p.Hash, file: p.Digest.String()}, own
	if p.Digest == (Digest{}) {
		fam.file = ""
	}
	if p.hasColour() {
		fam.like = p.Colour.String()
	}
	e := own.entry
	if e == nil {
		return fam, root, nil
	}
	fam.like, fam.file = e.Colour, e.File
	of, err := phash.Parse(e.DerivedFrom)
	if e.DerivedFrom == "" || err != nil || of.Degenerate() || Key(of, v) == own.key {
		return fam, root, nil
	}
	found, err := c.get(ctx, Key(of, v))
	if err != nil {
		return fam, root, err
	}
	fam.root, root = of, found[0]
	if root.entry != nil {
		fam.like, fam.file = root.entry.Colour, root.entry.File
		is, err := c.ofFamily(ctx, &fam, e)
		if err != nil {
			return fam, root, err
		}
		if is {
			return fam, root, nil
		}
	}
	fam.like, fam.file, root.entry = e.Colour, e.DerivedFile, nil // another picture has its hash by now
	return fam, root, nil
}

// has reports whether an entry belongs to a family: one that has a hash of it, or is a copy of what has.
func (c *Cache) has(ctx context.Context, fam *family, f item) (bool, error) {
	if f.entry == nil {
		return false, nil
	}
	h, byHash := hashOfKey(f.key)
	of, err := phash.Parse(f.entry.DerivedFrom)
	copied := err == nil && (of == fam.hash || of == fam.root)
	if !copied && (!byHash || h != fam.hash && h != fam.root) {
		return false, nil
	}
	return c.ofFamily(ctx, fam, f.entry)
}

// ofFamily reports whether an entry that has a hash of a family is of its picture. Where files are not known, colours are all there is
// to tell by.
func (c *Cache) ofFamily(ctx context.Context, fam *family, e *Entry) (bool, error) {
	of := e.File
	if e.DerivedFrom != "" {
		of = e.DerivedFile
	}
	if of != "" && fam.file != "" {
		if e.File == fam.file || of == fam.file {
			return true, nil
		}
		kept, err := c.signatures(ctx, of, e.File, fam.file)
		if kept == nil || kept[2] == nil {
			return false, err
		}
		mine := kept[0]
		if mine == nil { // what it is a copy of is long gone
			mine = kept[1]
		}
		return mine != nil && verify.Compare(mine.View(), kept[2], c.cfg.options()).Reason == verify.Same, nil
	}
	one, err := phash.ParseColour(fam.like)
	other, wrong := phash.ParseColour(e.Colour)
	return err != nil || wrong != nil || one.Same(other), nil
}
