package cache

import (
	"bytes"
	"context"
	"crypto/rand"
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
	ID         string `json:"id"`         // for Undo
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
// more. No model's answer replaces a correction. Undo takes it back. The error is ErrIncomplete where there is nothing to correct.
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
	place := found[0]
	if place.key == "" {
		return Corrected{}, errNoKey
	}
	h, key, own := p.Hash, place.key, place.entry
	only = only || h.Degenerate() // nothing can be near it
	fam, root, err := c.familyOf(ctx, &p, v, place)
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
	if own == nil || own.File == "" {
		if signature, err = p.signature(ctx); err != nil {
			return Corrected{}, err
		}
		if signature != nil {
			corrected.File = p.Digest.String()
		}
	}
	top, topKey := fam.root, root.key // whose answer the family has from now on
	if only || root.entry == nil {
		if corrected.DerivedFrom != "" && corrected.File != "" { // it is a copy no more, and answers others
			kept, err := c.signatures(ctx, corrected.File)
			if err != nil {
				return Corrected{}, err
			}
			signature = kept[0]
		}
		corrected.DerivedFrom, corrected.Distance, corrected.DerivedFile, top, topKey = "", 0, "", h, key
	}
	done := Corrected{ID: strings.ToLower(rand.Text()[:12]), Key: key, Entry: corrected}
	if err := c.note(ctx, done.ID, place, corrected); err != nil {
		return done, err
	}
	if err := c.replace(ctx, key, corrected, signature); err != nil || only {
		return done, err
	}
	answer := corrected
	if topKey != key {
		answer = root.entry.answered(corrected)
		answer.DerivedFrom, answer.Distance, answer.DerivedFile = "", 0, "" // where it had become a copy of another one
		if err := c.note(ctx, done.ID, root, answer); err != nil {
			return done, err
		}
		if err := c.replace(ctx, topKey, answer, nil); err != nil {
			return done, err
		}
		done.Copies++
	}
	err = c.each(ctx, entries, func(at string) bool { return at != key && at != topKey && v.has(at) }, nil, func(found []item) error {
		var others []item
		for _, f := range found {
			member, err := c.has(ctx, &fam, f)
			if err != nil {
				return err
			}
			if !member {
				others = append(others, f)
				continue
			}
			new, err := c.hand(ctx, done.ID, f, answer, top)
			if err != nil {
				return err
			}
			if new {
				done.Copies++
			}
		}
		takers, err := c.takers(ctx, others, top, &answer)
		if err != nil {
			return err
		}
		for _, f := range takers {
			new, err := c.hand(ctx, done.ID, f, answer, top)
			if err != nil {
				return err
			}
			if new {
				done.Neighbours++
			}
		}
		return nil
	})
	return done, err
}

// hand gives an entry the answer of top. It reports whether the entry had not got it before.
func (c *Cache) hand(ctx context.Context, id string, f item, answer Entry, top phash.Hash) (bool, error) {
	e := f.entry.answered(answer)
	if e.DerivedFrom != top.String() {
		e.DerivedFrom = top.String()
		if h, ok := hashOfKey(f.key); ok {
			e.Distance = top.Distance(h)
		}
	}
	e.DerivedFile = answer.File
	if e == *f.entry { // seen before
		return false, nil
	}
	if err := c.note(ctx, id, f, e); err != nil {
		return false, err
	}
	return true, c.replace(ctx, f.key, e, nil)
}

// takers returns the entries whose pictures would get the answer of top, had they none. It goes by what is kept of them.
func (c *Cache) takers(ctx context.Context, found []item, top phash.Hash, answer *Entry) ([]item, error) {
	found = slices.DeleteFunc(found, func(f item) bool {
		return f.entry == nil || f.entry.CorrectedAt != "" || f.entry.File == ""
	})
	if len(found) == 0 || answer.File == "" || top.Degenerate() || c.cfg.Radius == 0 {
		return nil, nil
	}
	files := []string{answer.File}
	for _, f := range found {
		files = append(files, f.entry.File)
	}
	kept, err := c.signatures(ctx, files...)
	if err != nil || kept[0] == nil {
		return nil, err
	}
	var out []item
	for i, f := range found {
		if s := kept[i+1]; s != nil && s.Apart(&kept[0].Hashes) <= c.cfg.Radius && verify.Compare(s.View(), kept[0], c.cfg.options()).Reason == verify.Same {
			out = append(out, f)
		}
	}
	return out, nil
}
