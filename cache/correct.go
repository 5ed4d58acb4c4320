package cache

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"onceover/phash"
	"onceover/phash/verify"
)

// Person is the model's name in an entry that a person has corrected.
const Person = "human"

// Correction is what a person says about a picture; nil leaves a field as it is.
type Correction struct {
	WasteType  *string  `json:"waste_type"`
	Confidence *float64 `json:"confidence"`
	Feedback   *string  `json:"feedback"`
	Category   *string  `json:"category"`
	Recyclable *bool    `json:"recyclable"`

	More map[string]json.RawMessage `json:"-"` // further fields

	// Required are the fields without which a correction of nothing is not
	// complete; nil stands for all of the above but confidence.
	Required []string `json:"-"`
}

// ParseCorrection reads a JSON object with fields of an answer. Whether the schema has
// them is the caller's to know.
func ParseCorrection(doc []byte) (Correction, error) {
	var c Correction
	var all map[string]json.RawMessage
	dec := json.NewDecoder(bytes.NewReader(doc))
	err := dec.Decode(&all)
	if err == nil {
		err = json.Unmarshal(doc[:dec.InputOffset()], &c)
	}
	if err != nil {
		return c, fmt.Errorf("correction: %w; expected a JSON object with some of the answer's fields, such as category", err)
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return c, errors.New("correction: there is more after the JSON object; expected nothing")
	}
	set := len(all)
	for name, value := range all {
		if string(value) == "null" { // leaves the field as it is
			set--
			delete(all, name)
		}
		is := func(own string) bool { return strings.EqualFold(own, name) } // as the decoder reads it
		if slices.ContainsFunc(answerFields, is) {
			delete(all, name)
		} else if slices.ContainsFunc(own, is) {
			return c, fmt.Errorf("correction: %s is not a model's to say; expected fields of the answer", name)
		}
	}
	if len(all) > 0 {
		c.More = all
	}
	switch {
	case set == 0:
		return c, errors.New("correction: nothing is set; expected some of the answer's fields, such as category")
	case c.Confidence != nil && (*c.Confidence < 0 || *c.Confidence > 1):
		return c, fmt.Errorf("correction: confidence is %v; expected 0 to 1", *c.Confidence)
	case c.WasteType != nil && *c.WasteType == "", c.Category != nil && *c.Category == "":
		return c, errors.New("correction: waste_type or category is empty; expected a name")
	}
	return c, nil
}

// missing returns the required fields that the correction does not set.
func (c Correction) missing() (out []string) {
	required := c.Required
	if required == nil {
		required = []string{"waste_type", "feedback", "category", "recyclable"}
	}
	for _, name := range required {
		var there bool
		switch name {
		case "waste_type":
			there = c.WasteType != nil
		case "feedback":
			there = c.Feedback != nil
		case "category":
			there = c.Category != nil
		case "recyclable":
			there = c.Recyclable != nil
		case "confidence":
			there = true // a person is sure
		default:
			_, there = c.More[name]
		}
		if !there {
			out = append(out, name)
		}
	}
	return out
}

// errNoKey says that nothing can be kept under a hash.
var errNoKey = errors.New("the hash is shared by unrelated pictures, and the file is not known: expected a hash of which half of the bits are set, or the file")

// ErrIncomplete says that a correction without an entry to correct lacks a field.
var ErrIncomplete = errors.New("there is no entry to correct, and the correction alone is not complete")

// apply returns e corrected, e being nil if there is none.
func (c Correction) apply(e *Entry, at string) (Entry, error) {
	if e == nil {
		if missing := c.missing(); len(missing) > 0 {
			return Entry{}, fmt.Errorf("%w: expected %s too", ErrIncomplete, strings.Join(missing, ", "))
		}
		e = &Entry{Confidence: 1}
	}
	out := *e
	set(&out.WasteType, c.WasteType)
	set(&out.Confidence, c.Confidence)
	set(&out.Feedback, c.Feedback)
	set(&out.Category, c.Category)
	set(&out.Recyclable, c.Recyclable)
	if len(c.More) > 0 {
		more := e.More.fields()
		maps.Copy(more, c.More)
		var err error
		if out.More, err = moreOf(more); err != nil {
			return Entry{}, err
		}
	}
	// Whatever the prompt becomes, this stays right.
	out.Model, out.PromptVersion, out.AnalyzedAt, out.CorrectedAt = Person, "", at, at
	return out, nil
}

func set[T any](to, from *T) {
	if from != nil {
		*to = *from
	}
}

// answered returns e with the answer of another picture's entry.
func (e Entry) answered(by Entry) Entry {
	own := e.Origin
	e = by
	e.Origin = own
	e.CorrectedAt = by.CorrectedAt
	return e
}

// Corrected is what Correct did.
type Corrected struct {
	Key        string `json:"key"`        // of the picture's own entry
	Entry      Entry  `json:"entry"`      // under Key
	Copies     int    `json:"copies"`     // other pictures that had the same answer, as near hits, and have the new one
	Neighbours int    `json:"neighbours"` // other pictures within the radius that had an answer of their own or another's, and have the new one
}

// Correct writes what a person says about the picture of a hash through to its
// entry, to what it is a copy of, to all copies of that, and to the entries of
// pictures that show the same, uncropped; one that has no
// entry gets the answer at its next lookup. With only, the picture is told apart
// from the others instead: just its own entry changes, and it is no copy any
// more. A picture that is kept by its file has no others. No model's answer replaces a
// correction. The error is ErrIncomplete where there is nothing to correct.
func (c *Cache) Correct(ctx context.Context, p Picture, v Variant, correction Correction, only bool) (Corrected, error) {
	done, err := c.correct(ctx, p, v, correction, only)
	if err != nil {
		return done, fmt.Errorf("correct %s: %w", p.Hash, err)
	}
	return done, nil
}

func (c *Cache) correct(ctx context.Context, p Picture, v Variant, correction Correction, only bool) (Corrected, error) {
	found, err := c.own(ctx, v, p)
	if err != nil {
		return Corrected{}, err
	}
	if found[0].key == "" {
		return Corrected{}, errNoKey
	}
	h, key, own := p.Hash, found[0].key, found[0].entry
	only = only || key != Key(h, v)
	fam, root, err := c.familyOf(ctx, h, v, own)
	if err != nil {
		return Corrected{}, err
	}
	corrected, err := correction.apply(own, c.now().UTC().Format(timeLayout))
	if err != nil {
		return Corrected{}, err
	}
	var signature *verify.Signature
	if corrected.Colour == "" && p.hasColour() {
		corrected.Colour = p.Colour.String()
	}
	if own == nil {
		if signature, err = p.signature(ctx); err != nil {
			return Corrected{}, err
		}
		if signature != nil {
			corrected.File = p.Digest.String()
		}
		fam.like, fam.file = corrected.Colour, corrected.File
	}
	top := fam.root // whose answer the family has from now on
	if only || root == nil {
		if corrected.DerivedFrom != "" && corrected.File != "" { // it is a copy no more, and answers others
			kept, err := c.signatures(ctx, corrected.File)
			if err != nil {
				return Corrected{}, err
			}
			signature = kept[0]
		}
		corrected.DerivedFrom, corrected.Distance, corrected.DerivedFile, top = "", 0, "", h
	}
	done := Corrected{Key: key, Entry: corrected}
	if err := c.replace(ctx, key, corrected, signature); err != nil || only {
		return done, err
	}
	answer := corrected
	if top != h {
		answer = root.answered(corrected)
		answer.DerivedFrom, answer.Distance, answer.DerivedFile = "", 0, "" // where it had become a copy of another one
		if err := c.replace(ctx, Key(top, v), answer, nil); err != nil {
			return done, err
		}
		done.Copies++
	}
	err = c.each(ctx, []string{hashPrefix + "*"}, nil, nil, func(found []item) error {
		for _, f := range found {
			at, _ := hashOfKey(f.key)
			if f.entry == nil || f.key != Key(at, v) || at == h || at == top {
				continue
			}
			member, err := c.has(ctx, &fam, f)
			if err != nil {
				return err
			}
			if !member {
				if takes, err := c.takes(ctx, at, f.entry, top, &answer); err != nil || !takes {
					if err != nil {
						return err
					}
					continue
				}
			}
			e := f.entry.answered(answer)
			if e.DerivedFrom != top.String() {
				e.DerivedFrom, e.Distance, e.DerivedFile = top.String(), top.Distance(at), answer.File
			}
			switch {
			case e == *f.entry: // seen before
				continue
			case member:
				done.Copies++
			default:
				done.Neighbours++
			}
			if err := c.replace(ctx, f.key, e, nil); err != nil {
				return err
			}
		}
		return nil
	})
	return done, err
}

// takes reports whether the picture of an entry at a hash would get the answer of top, had it none. It goes by what is kept of both.
func (c *Cache) takes(ctx context.Context, at phash.Hash, e *Entry, top phash.Hash, answer *Entry) (bool, error) {
	if e.CorrectedAt != "" || at.Distance(top) > c.cfg.Radius {
		return false, nil
	}
	return c.alike(ctx, e.File, answer.File)
}

// alike reports whether the pictures of two files are known to show the same, by what is kept of them.
func (c *Cache) alike(ctx context.Context, one, other string) (bool, error) {
	if one == "" || other == "" {
		return false, nil
	}
	kept, err := c.signatures(ctx, one, other)
	if err != nil || kept[0] == nil || kept[1] == nil {
		return false, err
	}
	return verify.Compare(kept[0].View(), kept[1], c.cfg.options()).Reason == verify.Same, nil
}

// A family is a picture that was looked at with the copies of its answer.
type family struct {
	hash phash.Hash // the member that was asked for
	root phash.Hash // the one that was looked at
	like string     // its colours; "" if they are not known
	file string     // Entry.File of that one; "" if it is not known
}

// familyOf returns the family of a hash whose entry is own, nil if it has none, and the entry of what was looked at, nil if
// that is gone.
func (c *Cache) familyOf(ctx context.Context, h phash.Hash, v Variant, own *Entry) (fam family, root *Entry, err error) {
	fam, root = family{hash: h, root: h}, own
	if own != nil && own.DerivedFrom != "" {
		if of, err := phash.Parse(own.DerivedFrom); err == nil && !of.Degenerate() && of != h {
			found, err := c.get(ctx, Key(of, v))
			if err != nil {
				return fam, nil, err
			}
			fam.root, root = of, found[0].entry
		}
	}
	if root != nil {
		fam.like, fam.file = root.Colour, root.File
	}
	if own == nil {
		return fam, root, nil
	}
	shows, err := c.ofFamily(ctx, &fam, own)
	if err != nil {
		return fam, nil, err
	}
	if !shows {
		root, fam.like, fam.file = nil, own.Colour, own.DerivedFile // another picture has its hash by now
	}
	return fam, root, nil
}

// has reports whether an entry belongs to a family.
func (c *Cache) has(ctx context.Context, fam *family, f item) (bool, error) {
	h, _ := hashOfKey(f.key)
	is := func(of phash.Hash) bool { return h == of || strings.EqualFold(f.entry.DerivedFrom, of.String()) }
	if !is(fam.hash) && !is(fam.root) {
		return false, nil
	}
	return c.ofFamily(ctx, fam, f.entry)
}

// ofFamily reports whether an entry that has a hash of a family is of its picture: it is, unless its colours are known to be others
// and what is kept of both says nothing else.
func (c *Cache) ofFamily(ctx context.Context, fam *family, e *Entry) (bool, error) {
	if fam.file != "" && (e.DerivedFile == fam.file || e.File == fam.file) {
		return true, nil
	}
	one, err := phash.ParseColour(fam.like)
	other, wrong := phash.ParseColour(e.Colour)
	if err != nil || wrong != nil || one.Same(other) {
		return true, nil
	}
	return c.alike(ctx, e.File, fam.file)
}
