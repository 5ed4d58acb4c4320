package main

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"

	"onceover/cache"
	"onceover/phash"
	"onceover/vision/eval"
)

// hashes are what the cache knows pictures by, for the labels that people have put into it.
type hashes struct {
	o   *evalOptions
	all []cache.Picture // by item; nil where labels come from elsewhere
}

func newHashes(o *evalOptions, n int) *hashes {
	h := &hashes{o: o}
	if o.corrections {
		h.all = make([]cache.Picture, n)
	}
	return h
}

// add hashes picture i. It is safe for concurrent use with different i.
func (h *hashes) add(i int, data []byte) error {
	if h.all == nil {
		return nil
	}
	f, err := phash.Of(data, h.o.Tasks.PillowOrder)
	h.all[i] = cache.Picture{Digest: sha256.Sum256(data), Fingerprint: f}
	return err
}

// corrected gives the items whose entry a person has corrected that as their label.
func (h *hashes) corrected(ctx context.Context, items []eval.Item) error {
	c, closeCache, err := h.o.open(ctx)
	if err != nil {
		return err
	}
	defer closeCache()
	own, err := c.Own(ctx, h.o.variant(), h.all[:len(items)]...)
	if err != nil {
		return err
	}
	for i, it := range items {
		found := own[i].Stored
		if it.Digest == "" || found == nil || found.CorrectedAt == "" {
			continue
		}
		doc, err := found.Answer([]string{h.o.field})
		if err != nil {
			return fmt.Errorf("%s: %w", it.ID, err)
		}
		var fields map[string]json.RawMessage
		if len(doc) > 0 {
			if err := json.Unmarshal(doc, &fields); err != nil {
				return fmt.Errorf("%s: %w", it.ID, err)
			}
		}
		items[i].Label = eval.TextOf(fields[h.o.field])
	}
	return nil
}
