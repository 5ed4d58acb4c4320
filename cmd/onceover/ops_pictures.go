package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"image"
	"time"

	"onceover/cache"
	"onceover/celery"
	"onceover/internal/config"
	"onceover/internal/console"
	"onceover/internal/source"
	"onceover/phash"
	"onceover/tasks"
)

// opsPictures is a console.Pictures.
type opsPictures struct {
	settings *cacheSettings
	cache    *cache.Cache
	fetcher  *source.Fetcher
}

func newOpsPictures(s *config.Settings, c *cache.Cache, fetcher *source.Fetcher) *opsPictures {
	return &opsPictures{&cacheSettings{Settings: s}, c, fetcher}
}

// File fetches the picture of a job.
func (o *opsPictures) File(ctx context.Context, req *celery.Request) ([]byte, error) {
	url, err := tasks.ImageURL(req)
	if err != nil {
		return nil, err
	}
	data, err := o.fetcher.Fetch(ctx, url)
	if err != nil {
		return nil, err
	}
	return data, checkPixels(data, o.settings.Tasks.MaxPixels)
}

// subject returns the picture that a name stands for, or a file.
func (o *opsPictures) subject(ctx context.Context, name string, data []byte) (*subject, error) {
	s := &subject{name: name, hasHash: true}
	if data != nil {
		info, err := phash.Inspect(data)
		if err != nil {
			return nil, err
		}
		if s.Picture, err = pictureOf(data, o.settings.Tasks.PillowOrder); err != nil {
			return nil, err
		}
		s.file = &file{info, len(data)}
		return s, nil
	}
	var err error
	if s.Hash, err = phash.Parse(name); err != nil {
		return nil, console.ErrNoPicture
	}
	return s, s.identify(ctx, o.cache, o.settings.variant())
}

func (o *opsPictures) Look(ctx context.Context, name string, data []byte) (*console.Picture, error) {
	s, err := o.subject(ctx, name, data)
	if err != nil {
		return nil, err
	}
	i, err := o.settings.inspect(ctx, o.cache, s, cache.MaxRadius)
	if err != nil {
		return nil, err
	}
	out := &console.Picture{Name: cmp.Or(i.PHash, i.Digest), Hash: i.PHash, Key: i.Key, Answer: i.Answer}
	if i.stored != nil {
		out.Entry, out.File = pretty(i.stored.Entry), i.stored.File
		out.Left = max(0, i.stored.TTL.Round(time.Second))
	}
	for _, n := range i.Neighbours {
		near := console.Neighbour{Hash: n.PHash, Distance: n.Distance, Verdict: cmp.Or(verdictText[n.Verdict], string(n.Verdict))}
		if n.Verdict == cache.Differs || n.Verdict == cache.Answers {
			near.Why = reasonText[n.Reason]
		}
		if n.Entry != nil {
			near.Category, near.Entry, near.File = n.Entry.Category, pretty(*n.Entry), n.Entry.File
		}
		out.Neighbours = append(out.Neighbours, near)
	}
	return out, nil
}

func (o *opsPictures) Thumbnail(ctx context.Context, name string) (image.Image, error) {
	file, err := phash.Parse(name) // a digest is as long
	if err != nil {
		return nil, console.ErrNoPicture
	}
	return o.cache.Thumbnail(ctx, digestOf(file))
}

func pretty(e cache.Entry) string {
	doc, err := json.MarshalIndent(e, "", "  ")
	if err != nil {
		return "" // it was read from JSON
	}
	return string(doc)
}

func (o *opsPictures) Correct(ctx context.Context, name string, doc []byte, only bool) (cache.Corrected, error) {
	correction, err := o.settings.correction(doc)
	if err != nil {
		return cache.Corrected{}, &console.CorrectionError{Text: err.Error()}
	}
	s, err := o.subject(ctx, name, nil)
	if err != nil {
		return cache.Corrected{}, err
	}
	if err := s.checkKey(); err != nil {
		return cache.Corrected{}, &console.CorrectionError{Text: err.Error()}
	}
	done, err := o.cache.Correct(ctx, s.Picture, o.settings.variant(), correction, only)
	if errors.Is(err, cache.ErrIncomplete) {
		return done, &console.CorrectionError{Text: err.Error()}
	}
	return done, err
}

func (o *opsPictures) Undo(ctx context.Context, id string) (int, error) { return o.cache.Undo(ctx, id) }
