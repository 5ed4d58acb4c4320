// Package eval measures vision models on labelled pictures: how often they are right, how well their confidence says so,
// what a right answer costs, and whether one model is better than another.
//
// Start with [Run], which asks the models and keeps every answer in a results file, and [Score], which makes a [Report] of
// that file. Labels are read by [ReadLabels]; [Pictures.Spread] gives them to what people have found to show the same. The
// report is written by its methods Text, JSON and HTML.
//
// What it promises: an intent is on disk before a picture is sent, and the verdict before the slot goes on to the next
// picture. A process that is killed therefore leaves at most one picture per slot in doubt; such a picture counts as lost
// and is asked again only if the caller says so. Spending stays within Config.MaxCost, as far as docs/eval.md says.
// The statistics are pure functions of their arguments, and equal to those of scikit-learn, statsmodels and NumPy within
// 1e-9 (testdata/make_tables.py).
//
// What it does not do: read the environment, talk to Redis, or print. Errors of the endpoint (rate limits, outages) are no
// verdict on the model; they are waited for, and what has no verdict in the end is counted apart.
package eval
