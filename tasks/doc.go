// Package tasks holds the tasks themselves. There is one so far: image.analyze,
// which gives the analysis of a picture and pays a vision model only for
// pictures that nobody has asked about before.
//
// Start with [ImageAnalyze]. Its stages, with the progress that each shows:
//
//	download 10 ─ hash 20 ─ cache 30 ─┬─ hit ──────────────────────────────────────── (feedback 70, 80) ─┬─ done 100
//	                                  └─ miss ─ preprocess 40 ─ ai_vision 50, 60 ─ feedback 70, 80 ─ store 90 ─┘
//
// A hit shows the feedback stage only where a question has to be answered.
//
// It promises that a picture is looked at once, that a question is answered
// from the picture's analysis and never cached with it, and that the progress
// says 100 only once the result can be read. It does not store results or
// acknowledge anything: package worker does.
package tasks
