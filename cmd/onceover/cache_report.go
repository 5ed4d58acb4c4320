package main

import (
	"context"
	"crypto/sha256"
	_ "embed" // the report's page
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"time"

	"onceover/internal/page"
	"onceover/phash"
	"onceover/phash/verify"
	"onceover/vision"
)

var (
	//go:embed cache_report.html
	reportText string
	//go:embed cache_report.css
	reportStyle string
	//go:embed cache_report.js
	reportScript string

	reportPage = page.New(reportText, reportStyle, reportScript)
)

// report is what the page shows.
type report struct {
	Dir       string
	Facts     []string
	Scenarios []scenario
	Priced    bool
	Distances []distanceCount
	Most      int // of Distances
	Groups    []reportGroup
	Skipped   []skipped
	More      int // skipped files that are not shown
}

type distanceCount struct{ Bits, Count int }

// reportGroup is what the page shows of one verdict.
type reportGroup struct {
	Title, Intro, Left, Right string
	Verdict                   string
	Pairs                     []reportPair
	Total, LeftOut, Judged    int
}

type reportPair struct {
	pair
	Number        int
	Before, After thumbnail
}

// side is one of the two pictures of a pair.
type side struct {
	page.Picture
	Role, Info string
}

// Side is called by the template.
func (p reportPair) Side(second bool, role string) side {
	if second {
		return side{page.Picture{Thumb: p.After.Thumb, Name: p.Second}, role, p.After.Info}
	}
	return side{page.Picture{Thumb: p.Before.Thumb, Name: p.First}, role, p.Before.Info}
}

// Why is called by the template: what the comparison found.
func (p reportPair) Why() string {
	out := reasonText[p.Reason]
	if p.Turned {
		out += ", turned or mirrored"
	}
	return out
}

// reasonText is what people read of a comparison.
var reasonText = map[verify.Reason]string{
	verify.Same: "the same", verify.Elsewhere: "too little of one is in the other", verify.Alike: "different on the whole",
	verify.Tone: "far lighter or darker", verify.Part: "a part differs", verify.Colour: "the colours of a part differ",
}

// thumbnail is a picture, small, and what is to be said of it.
type thumbnail struct {
	page.Thumb
	Info string
}

// thumbnailSide is the longer side of a small picture, in pixels.
const thumbnailSide = 280

// maxSkippedShown is how many skipped files the page names.
const maxSkippedShown = 200

// writeReport writes the page, under its name only once it is whole.
func (s *simulation) writeReport(ctx context.Context, f folder, workers int) error {
	begun := false
	err := replaceFile(s.HTML, func(w io.Writer) error {
		begun = true
		small, err := s.thumbnails(ctx, f, workers)
		if err != nil {
			return err
		}
		return reportPage.Write(w, s.report(small), "onceover "+version, time.Now().Format("2006-01-02 15:04 MST"))
	})
	if err != nil && !begun {
		return usageError(fmt.Errorf("--html: %w", err))
	}
	return err
}

// thumbnails draws the pictures that the page shows.
func (s *simulation) thumbnails(ctx context.Context, f folder, workers int) (map[int]thumbnail, error) {
	var shown []int
	for _, p := range s.Pairs {
		shown = append(shown, p.first, p.second)
	}
	slices.Sort(shown)
	shown = slices.Compact(shown)
	drawn := make([]thumbnail, len(shown))
	bar := newCounter(len(shown))
	defer bar.close()
	err := parallel(ctx, len(shown), workers, func(i int) {
		drawn[i] = f.thumbnail(s.pictures[shown[i]])
		bar.add(1)
	})
	out := map[int]thumbnail{}
	for i, n := range shown {
		out[n] = drawn[i]
	}
	return out, err
}

// thumbnail draws a picture, or says why it cannot.
func (f folder) thumbnail(p photo) thumbnail {
	data, err := f.load(p.name)
	if err == nil && sha256.Sum256(data) != p.Digest {
		err = errors.New("it has changed meanwhile")
	}
	if err != nil {
		return thumbnail{Info: plainReason(err)}
	}
	info, err := phash.Inspect(data)
	if err != nil {
		return thumbnail{Info: err.Error()}
	}
	t := thumbnail{Info: fmt.Sprintf("%s, %d × %d, %s bytes", info.Format, info.Width, info.Height, number(len(data)))}
	preview, err := vision.NewPreview(data)
	if err != nil {
		t.Info += "; cannot be drawn"
		return t
	}
	if t.Thumb, err = page.Draw(preview.Image, thumbnailSide); err != nil {
		t.Info += "; cannot be drawn"
	}
	return t
}

func (s *simulation) report(small map[int]thumbnail) report {
	r := report{
		Dir: s.Dir, Facts: s.facts(), Scenarios: s.scenarios(), Priced: s.Price != nil,
		Skipped: s.Skipped[:min(len(s.Skipped), maxSkippedShown)],
	}
	r.More = len(s.Skipped) - len(r.Skipped)
	for _, d := range slices.Sorted(maps.Keys(s.Distances)) {
		r.Distances = append(r.Distances, distanceCount{d, s.Distances[d]})
		r.Most = max(r.Most, s.Distances[d])
	}
	if s.NearHits == 0 {
		r.Distances = nil
	}
	for _, g := range []reportGroup{
		{Verdict: pairNear, Title: "Near hits", Left: "was looked at", Right: "got its answer", Total: s.NearHits,
			Intro: "The picture on the right got the answer of the one on the left. It is a false hit where that answer is wrong for it. Those that differ most come first."},
		{Verdict: pairTwin, Title: "Equal hashes", Left: "came first", Right: "did not get its answer", Total: s.Twins,
			Intro: "The hashes are equal, but the pictures differ, so the model would have been asked about the picture on the right too, and its answer is kept by its file. A Python service that shares the cache takes the answer of the one on the left. Those that differ least come first."},
		{Verdict: pairVetoed, Title: "Told apart", Left: "came first", Right: "did not get its answer", Total: s.Vetoed,
			Intro: "To the hash the two are near, but they differ, so the model would have been asked about the picture on the right too. A call was wasted where the two show the same. Those that differ least come first."},
	} {
		for _, p := range s.Pairs {
			if p.Verdict == g.Verdict {
				g.Pairs = append(g.Pairs, reportPair{p, len(g.Pairs) + 1, small[p.first], small[p.second]})
			}
		}
		g.Judged = s.judgedBy[g.Verdict]
		g.LeftOut = g.Total - g.Judged - len(g.Pairs)
		if g.Total > 0 || g.Verdict != pairTwin {
			r.Groups = append(r.Groups, g)
		}
	}
	return r
}
