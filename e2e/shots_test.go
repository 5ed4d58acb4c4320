package e2e

import (
	"bytes"
	"cmp"
	"context"
	"image"
	"image/color"
	"image/draw"
	"image/png"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/chromedp/cdproto/emulation"
	cdppage "github.com/chromedp/cdproto/page"
	"github.com/chromedp/chromedp"
)

// shots is the folder for screenshots, for make screenshots; "" for none.
var shots = os.Getenv("ONCEOVER_TEST_SCREENSHOTS")

// masks gives what is the test's own the names that it has elsewhere.
const masks = `(() => {
	const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
	while (walk.nextNode()) {
		const text = walk.currentNode.data.replace(/http:\/\/127\.0\.0\.1:\d+\/v1/g, "https://models.example.com/v1").replace(/http:\/\/127\.0\.0\.1:\d+/g, "https://pictures.example.com").replace(/test-model/g, "vision-small");
		if (text !== walk.currentNode.data) walk.currentNode.data = text;
	}
	document.activeElement.blur();
	scrollTo(0, 0);
	return true;
})()`

// shoot takes a screenshot of the page, of at most so many pixels in height, if they are asked for.
func (s *site) shoot(w *tab, name string, height float64) {
	s.t.Helper()
	if shots == "" {
		return
	}
	w.do("move the pointer away", chromedp.MouseEvent("mouseMoved", 0, 0))
	value[bool](w, masks)
	size := value[struct{ W, H float64 }](w, `({W: innerWidth, H: Math.ceil(document.querySelector("main").getBoundingClientRect().bottom) - 24})`)
	ctx, cancel := context.WithTimeout(w.ctx, patience)
	defer cancel()
	got, err := chromedp.Call(ctx, cdppage.CaptureScreenshot, cdppage.CaptureScreenshotParams{
		Format: cdppage.CaptureScreenshotFormatPng, CaptureBeyondViewport: new(true),
		Clip: &cdppage.Viewport{Width: size.W, Height: min(size.H, height), Scale: 1},
	})
	if err != nil {
		s.t.Fatal(err)
	}
	whole, err := png.Decode(bytes.NewReader(got.Data))
	if err != nil {
		s.t.Fatal(err)
	}
	var small bytes.Buffer
	if err := (&png.Encoder{CompressionLevel: png.BestCompression}).Encode(&small, quantised(whole)); err != nil {
		s.t.Fatal(err)
	}
	if small.Len() > 150<<10 {
		s.t.Errorf("%s.png has %d KB, want at most 150", name, small.Len()>>10)
	}
	if err := os.WriteFile(filepath.Join(shots, name+".png"), small.Bytes(), 0o644); err != nil {
		s.t.Fatal(err)
	}
}

// quantised is a picture in 256 colours: the 64 of which it has most, which are those of the page, and means of the others, which
// are those of photos.
func quantised(whole image.Image) image.Image {
	size := whole.Bounds()
	from := image.NewRGBA(size)
	draw.Draw(from, size, whole, size.Min, draw.Src)
	count := map[[3]uint8]int{}
	for i := 0; i < len(from.Pix); i += 4 {
		count[[3]uint8(from.Pix[i:i+3])]++
	}
	most := slices.SortedFunc(maps.Keys(count), func(a, b [3]uint8) int {
		return cmp.Or(count[b]-count[a], slices.Compare(a[:], b[:]))
	})
	var palette color.Palette
	own := min(len(most), 64)
	for _, c := range most[:own] {
		palette = append(palette, color.RGBA{c[0], c[1], c[2], 255})
	}
	for _, box := range boxes(most[own:], 256-own) {
		var sum [3]int
		for _, c := range box {
			for k := range sum {
				sum[k] += int(c[k])
			}
		}
		n := len(box)
		palette = append(palette, color.RGBA{uint8(sum[0] / n), uint8(sum[1] / n), uint8(sum[2] / n), 255})
	}
	out := image.NewPaletted(size, palette)
	index := map[[3]uint8]uint8{}
	for i := range out.Pix {
		c := [3]uint8(from.Pix[4*i : 4*i+3])
		at, known := index[c]
		if !known {
			at = uint8(palette.Index(color.RGBA{c[0], c[1], c[2], 255}))
			index[c] = at
		}
		out.Pix[i] = at
	}
	return out
}

// boxes cuts colours into at most n boxes, each time the longest at its median.
func boxes(colours [][3]uint8, n int) [][][3]uint8 {
	if len(colours) == 0 {
		return nil
	}
	length := func(box [][3]uint8) (longest, axis int) {
		for k := range 3 {
			low, high := 255, 0
			for _, c := range box {
				low, high = min(low, int(c[k])), max(high, int(c[k]))
			}
			if high-low > longest {
				longest, axis = high-low, k
			}
		}
		return longest, axis
	}
	all := [][][3]uint8{colours}
	for len(all) < n {
		at, best, axis := 0, 0, 0
		for i, box := range all {
			if l, k := length(box); l > best {
				at, best, axis = i, l, k
			}
		}
		if best == 0 {
			break
		}
		box := all[at]
		slices.SortFunc(box, func(a, b [3]uint8) int { return cmp.Compare(a[axis], b[axis]) })
		all[at] = box[:len(box)/2]
		all = append(all, box[len(box)/2:])
	}
	return all
}

// audit is an expression of what is wrong with a page: text of too little contrast (WCAG 2.2, 1.4.3), fields without a name, what
// is too small to be hit (2.5.8), headings, and what is wider than the window.
const audit = `(() => {
	const faults = [];
	const parse = (text) => { const c = text.match(/[\d.]+/g).map(Number); return c.length < 4 ? [...c, 1] : c; };
	const over = (top, under) => [0, 1, 2].map((i) => top[i] * top[3] + under[i] * (1 - top[3])).concat(1);
	const light = (c) => { const [r, g, b] = c.map((v) => (v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4); return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
	const ratio = (a, b) => { const [x, y] = [light(a), light(b)].sort((p, q) => q - p); return (x + 0.05) / (y + 0.05); };
	const ground = (e) => {
		const layers = [];
		for (; e; e = e.parentElement) { layers.unshift(parse(getComputedStyle(e).backgroundColor)); if (layers[0][3] === 1) break; }
		return layers.reduce((under, top) => over(top, under), [255, 255, 255, 1]);
	};
	const named = (e) => e.localName + (e.className?.baseVal ?? e.className ? "." + (e.className.baseVal ?? e.className) : "") + " " + (e.textContent || e.name || "").trim().slice(0, 40);
	const contrast = (e, ink, least) => {
		const under = ground(e), got = ratio(over(parse(ink), under), under);
		if (got < least) faults.push("contrast " + got.toFixed(2) + " of " + named(e));
	};
	const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
	while (walk.nextNode()) {
		const e = walk.currentNode.parentElement, style = getComputedStyle(e);
		if (!walk.currentNode.data.trim() || !e.checkVisibility() || e.closest(".hidden, title")) continue;
		const large = parseFloat(style.fontSize) >= 24 || parseFloat(style.fontSize) >= 18.66 && style.fontWeight >= 700;
		contrast(e, e instanceof SVGElement ? style.fill : style.color, large ? 3 : 4.5);
	}
	for (const e of document.querySelectorAll("input:not([type=hidden]), select, textarea")) {
		if (!e.labels?.length && !e.ariaLabel) faults.push("no label of " + named(e));
		if (e.type === "checkbox" || e.type === "file") continue;
		contrast(e, getComputedStyle(e).color, 4.5);
		if (e.placeholder) contrast(e, getComputedStyle(e, "::placeholder").color, 4.5);
		const edge = ratio(parse(getComputedStyle(e).borderTopColor), ground(e.parentElement));
		if (edge < 3) faults.push("contrast " + edge.toFixed(2) + " of the edge of " + named(e));
	}
	for (const e of document.querySelectorAll("button, .button, input:not([type=hidden], [type=checkbox]), select, nav a, summary")) {
		const r = e.getBoundingClientRect();
		if (e.checkVisibility() && (r.width < 24 || r.height < 24)) faults.push("too small to be hit: " + named(e) + " " + r.width + " x " + r.height);
		if (!e.textContent.trim() && e.localName === "button") faults.push("a button without a name");
	}
	if (document.querySelectorAll("h1").length !== 1) faults.push("not one h1");
	if (!document.documentElement.lang || !document.title) faults.push("no language or title");
	const ids = [...document.querySelectorAll("[id]")].map((e) => e.id);
	if (new Set(ids).size !== ids.length) faults.push("an id twice");
	for (const e of document.querySelectorAll("img:not([alt]), svg[role=img]:not([aria-label])")) faults.push("no alternative for " + named(e));
	if (document.documentElement.scrollWidth > innerWidth) faults.push("wider than the window: " + document.documentElement.scrollWidth + " of " + innerWidth + ": " +
		[...document.querySelectorAll("main *, header *")].filter((e) => e.getBoundingClientRect().right > innerWidth && !e.closest(".wide")).slice(0, 3).map(named).join("; "));
	return faults;
})()`

func dark(on bool) chromedp.Action[chromedp.Void] {
	scheme := "light"
	if on {
		scheme = "dark"
	}
	return call(emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: scheme}, {Name: "prefers-reduced-motion", Value: "reduce"}}})
}

// looks audits every page in light and dark, on a screen and on a phone.
func (s *site) looks() {
	s.jobs(2, s.damaged)
	later := s.good(0)
	later.Options = map[string]any{"countdown": 3600}
	s.b.client("send", later)
	w := s.open("/ops/failed?error=ValueError")
	w.shows("td.id a", "")
	record := value[string](w, `document.querySelector("td.id a").getAttribute("href")`)
	w.visit("/ops/bulk")
	bulk := value[string](w, `document.querySelector("td a").getAttribute("href")`)
	w.visit("/ops/parked")
	w.shows("td.id", "")
	s.excuse(`status of 40[04]`)
	for _, path := range []string{
		"/ops/", "/ops/failed", "/ops/failed?cause=nothing", record, "/ops/bulk", bulk, "/ops/bulk/new?action=replay", "/ops/bulk/new?action=discard&error=ValueError",
		"/ops/parked", "/ops/running", "/ops/queues", "/ops/pictures", "/ops/pictures?hash=" + strings.Repeat("a5c3", 16), "/ops/try", "/ops/changes", "/ops/nothing",
	} {
		w.visit(path)
		w.audit()
	}
	s.pose(w)
	w.close()
}

// audit fails the test for what is wrong with how a page looks.
func (w *tab) audit() {
	w.t.Helper()
	path := value[string](w, "location.pathname + location.search")
	for _, seen := range []struct {
		what  string
		width int64
		dark  bool
	}{{"in light on a screen", 1200, false}, {"in dark on a screen", 1200, true}, {"in dark on a phone", 390, true}, {"in light on a phone", 390, false}} {
		w.size(seen.width, 844)
		w.do(seen.what, dark(seen.dark))
		for _, fault := range value[[]string](w, audit) {
			w.t.Errorf("%s %s: %s", path, seen.what, fault)
		}
	}
	w.size(1200, 900)
}

// pose takes the screenshots for which the deployment has to be busy.
func (s *site) pose(w *tab) {
	if shots == "" {
		return
	}
	s.past()
	s.jobs(9, func(i int) job { return s.missing(40 + i) })
	w.visit("/ops/queues")
	w.enter(`[data-key="q.ai"] input[name="why"]`, "a new model is rolled out")
	w.press("\r")
	w.shows(".said", "Queue q.ai is paused")
	s.jobs(6, s.good)
	w.visit("/ops/")
	w.wait(`/^q.ai\s+6\s+≥/.test(document.querySelector('tr[data-key="q.ai"]').innerText)`)
	w.kept("FileNotFoundError", 9)
	w.wait(`/of \d\u202f\d{3} jobs/.test(document.querySelector(".big").innerText)`)
	s.shoot(w, "overview", 2000)
	w.do("dark", dark(true))
	s.shoot(w, "overview-dark", 2000)
	w.do("light", dark(false))
	w.size(390, 844)
	s.shoot(w, "overview-phone", 1700)
	w.size(1200, 900)
	w.visit("/ops/?lang=ko")
	w.shows("h1", "개요")
	s.shoot(w, "overview-korean", 2000)
	w.visit("/ops/failed?lang=en")
	w.shows("h1", "Failed jobs")
	s.shoot(w, "failed", 1100)
	w.visit("/ops/queues")
	w.click(`[data-key="q.ai"] button`, "Resume")
	w.shows(".said", "Queue q.ai is not paused any more: 1 of the 1 workers")
}
