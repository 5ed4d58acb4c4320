package samples

import (
	"embed"
	"io/fs"
)

//go:embed pictures
var pictures embed.FS

// Job is one job of the demo.
type Job struct {
	Name string // short and unique, for the first column of a table
	File string // name in FS; empty where the picture is missing, which the demo's server answers with 404
	Note string // what the job shows, such as "original" or "resized to 60 %"
}

// Fails reports whether the job is meant to fail.
func (j Job) Fails() bool { return j.File == "" || j.File == "broken.jpg" }

// FS returns the folder of the sample pictures: plain files at its top level, at most 60 KiB each, named as in Job.File.
// It is read-only and safe for concurrent use.
func FS() fs.FS {
	sub, err := fs.Sub(pictures, "pictures")
	if err != nil {
		panic(err) // only for a name that is no valid path, and this one is a constant
	}
	return sub
}

// Jobs returns the jobs of the demo in the order in which they are enqueued: an original always before its repeats.
// The slice is the caller's own.
func Jobs() []Job {
	return []Job{
		{"bottle", "bottle.jpg", "original"},
		{"can", "can.jpg", "original"},
		{"box", "box.jpg", "original"},
		{"jar", "jar.jpg", "original"},
		{"bottle, again", "bottle.jpg", "same file again"},
		{"newspapers", "newspapers.jpg", "original"},
		{"jar, re-encoded", "jar-quality-50.jpg", "re-encoded at quality 50"},
		{"batteries", "batteries.jpg", "original"},
		{"flat", "flat.png", "flat picture: cached by its file"},
		{"newspapers, smaller", "newspapers-60-percent.jpg", "resized to 60 %"},
		{"can, as WebP", "can-webp.webp", "re-encoded as WebP at quality 75"},
		{"broken", "broken.jpg", "broken file"},
		{"box, again", "box.jpg", "same file again"},
		{"bottle, re-encoded", "bottle-quality-40.jpg", "re-encoded at quality 40"},
		{"missing", "", "missing (404)"},
		{"batteries, smaller", "batteries-40-percent.png", "resized to 40 %, as PNG"},
		{"box, cropped", "box-cropped.jpg", "cropped by 1 %"},
		{"can, again", "can.jpg", "same file again"},
	}
}
