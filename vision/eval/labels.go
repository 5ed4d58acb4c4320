package eval

import (
	"bytes"
	"crypto/sha256"
	"encoding/csv"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"unicode/utf8"

	"golang.org/x/text/unicode/norm"
)

// Item is a picture with its label.
type Item struct {
	ID     string // as the labels name it: a path
	Path   string // of the file
	Label  string // "" until it is known, where labels come from elsewhere
	Source string // where the label stands, such as "labels.csv:3"
	Digest string // SHA-256 of the file in hex, once it is read
}

// where names the item and the place of its label, which is the same for a folder.
func (it Item) where() string {
	if it.Source == it.ID {
		return it.ID
	}
	return it.Source + ": " + it.ID
}

// Faults are all that is wrong with labelled pictures, one line each.
type Faults []string

// maxFaults is how many faults are named.
const maxFaults = 50

// Error returns the faults, one a line.
func (f Faults) Error() string {
	shown := f[:min(len(f), maxFaults)]
	text := strings.Join(shown, "\n")
	if more := len(f) - len(shown); more > 0 {
		text += fmt.Sprintf("\nand %d more", more)
	}
	return text
}

// err returns f as an error, nil if there is no fault.
func (f Faults) err() error {
	if len(f) == 0 {
		return nil
	}
	return f
}

// add adds a fault. Names of files and labels are others' words, and stay on one line of the terminal.
func (f *Faults) add(format string, args ...any) {
	*f = append(*f, plain(fmt.Sprintf(format, args...)))
}

// ReadLabels reads the labelled pictures that a path names: a folder with a folder for each class, or a file of labels,
// which is .csv with a header that names the columns picture and label, or .jsonl with an object {"picture", "label"} on
// each line. Paths in a file of labels begin at its folder. Files and folders whose names begin with a dot are not looked
// at. With labelled false the labels come from elsewhere: a folder may be of any shape, and Item.Label is "".
//
// The error is of type Faults if the labels can be read and some are wrong; the others are returned beside it. No picture is
// opened.
func ReadLabels(path string, labelled bool) ([]Item, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if info.IsDir() {
		return readFolder(path, labelled)
	}
	read := readCSV
	switch ext := strings.ToLower(filepath.Ext(path)); ext {
	case ".csv":
	case ".jsonl":
		read = readJSONL
	default:
		return nil, fmt.Errorf("%s is neither a folder nor a .csv or .jsonl file: expected labelled pictures", path)
	}
	if !info.Mode().IsRegular() { // a pipe would block
		return nil, fmt.Errorf("%s is not a regular file: expected labelled pictures", path)
	}
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	items, faults, err := read(file, filepath.Base(path), labelled)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	for i := range items {
		items[i].Path = filepath.FromSlash(items[i].ID)
		if !filepath.IsAbs(items[i].Path) {
			items[i].Path = filepath.Join(filepath.Dir(path), items[i].Path)
		}
	}
	return items, faults.err()
}

// readFolder lists the pictures of a folder; the first folder of a path is the class.
func readFolder(root string, labelled bool) ([]Item, error) {
	root, err := filepath.EvalSymlinks(root) // WalkDir follows no link, the root's own included
	if err != nil {
		return nil, err
	}
	var items []Item
	var faults Faults
	err = filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		if name != "." && strings.HasPrefix(d.Name(), ".") {
			if d.IsDir() {
				return fs.SkipDir
			}
			return nil
		}
		if d.IsDir() {
			return nil
		}
		if !d.Type().IsRegular() {
			faults.add("%s: is a link, or no file: expected a picture; a .csv or .jsonl file of labels may name links", name)
			return nil
		}
		item := Item{ID: filepath.ToSlash(name), Path: path, Source: filepath.ToSlash(name)}
		class, _, below := strings.Cut(item.ID, "/")
		switch {
		case !labelled:
		case !below:
			faults.add("%s: is in no folder of a class: expected CLASS/%s", name, name)
			return nil
		case !utf8.ValidString(class):
			faults.add("%s: the folder's name is not UTF-8: expected the right answer in UTF-8", name)
			return nil
		default:
			item.Label = norm.NFC.String(class) // a Mac has names decomposed
		}
		items = append(items, item)
		return nil
	})
	if err != nil {
		return nil, err
	}
	return items, faults.err()
}

// remote finds the scheme of a URL; a Windows drive is one letter.
var remote = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9+.-]+:`)

// item takes one line of a file of labels, or says what is wrong with it.
func (f *Faults) item(name string, line int, picture, label string, labelled bool) (Item, bool) {
	source := fmt.Sprintf("%s:%d", name, line)
	before := len(*f)
	picture, label = strings.TrimSpace(picture), strings.TrimSpace(label)
	switch {
	case picture == "":
		f.add("%s: picture is empty: expected the path of a file", source)
	case remote.MatchString(picture):
		f.add("%s: picture is a URL: expected the path of a file, as eval fetches nothing; download it first", source)
	case strings.ContainsRune(picture, 0):
		f.add("%s: picture has a zero byte: expected the path of a file", source)
	}
	if !labelled {
		label = ""
	} else if label == "" {
		f.add("%s: label is empty: expected the right answer", source)
	} else if !utf8.ValidString(label) {
		f.add("%s: label is not UTF-8: expected the file in UTF-8", source)
	}
	return Item{ID: picture, Label: norm.NFC.String(label), Source: source}, len(*f) == before
}

// readCSV reads labels in CSV (RFC 4180).
func readCSV(in io.Reader, name string, labelled bool) (items []Item, faults Faults, err error) {
	doc, err := io.ReadAll(in)
	if err != nil {
		return nil, nil, err
	}
	r := csv.NewReader(bytes.NewReader(bytes.TrimPrefix(doc, []byte("\ufeff"))))
	header, err := r.Read()
	if errors.Is(err, io.EOF) {
		return nil, nil, errors.New("is empty: expected a header with the columns picture and label")
	}
	if err != nil {
		return nil, nil, err
	}
	columns := map[string]int{}
	for i, c := range header {
		c = strings.ToLower(strings.TrimSpace(c))
		if _, there := columns[c]; there && (c == "picture" || c == "label") {
			return nil, nil, fmt.Errorf("the header names the column %s twice: expected picture and label once each", c)
		}
		columns[c] = i
	}
	at, ok := columns["picture"]
	label, hasLabel := columns["label"]
	if !ok || labelled && !hasLabel {
		return nil, nil, fmt.Errorf("the header is %q: expected the columns picture and label", strings.Join(header, ","))
	}
	for {
		row, err := r.Read()
		if errors.Is(err, io.EOF) {
			return items, faults, nil
		}
		if errors.Is(err, csv.ErrFieldCount) {
			line, _ := r.FieldPos(0)
			faults.add("%s:%d: has %s: expected %d, as the header has; a comma in a field takes quotes around it", name, line, count(len(row), "field", "fields"), len(header))
			continue
		}
		if err != nil {
			return nil, nil, err
		}
		text := ""
		if hasLabel {
			text = row[label]
		}
		line, _ := r.FieldPos(0)
		if item, ok := faults.item(name, line, row[at], text, labelled); ok {
			items = append(items, item)
		}
	}
}

// readJSONL reads labels of which each line is a JSON object. Blank lines are allowed.
func readJSONL(in io.Reader, name string, labelled bool) (items []Item, faults Faults, err error) {
	doc, err := io.ReadAll(in)
	if err != nil {
		return nil, nil, err
	}
	n := 0
	for line := range bytes.Lines(bytes.TrimPrefix(doc, []byte("\ufeff"))) {
		n++
		if line = bytes.TrimSpace(line); len(line) == 0 {
			continue
		}
		var row struct {
			Picture string          `json:"picture"`
			Label   json.RawMessage `json:"label"`
		}
		if !utf8.Valid(line) { // else the bad bytes are replaced
			faults.add("%s:%d: is not UTF-8: expected the file in UTF-8", name, n)
			continue
		}
		if err := json.Unmarshal(line, &row); err != nil {
			faults.add(`%s:%d: is not {"picture": "…", "label": "…"}: %v`, name, n, err)
			continue
		}
		if item, ok := faults.item(name, n, row.Picture, TextOf(row.Label), labelled); ok {
			items = append(items, item)
		}
	}
	return items, faults, nil
}

// TextOf is a JSON value as a label: a text without its quotes and composed (NFC), null as nothing, anything else as it is.
func TextOf(raw json.RawMessage) string {
	var text string
	if len(raw) == 0 || json.Unmarshal(raw, &text) == nil {
		return norm.NFC.String(text)
	}
	var out bytes.Buffer
	if json.Compact(&out, raw) != nil {
		return ""
	}
	return out.String()
}

// Digest is how the results name the content of a file.
func Digest(data []byte) string {
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}

// Distinct returns the items without copies, which are files of the same bytes: of those with the same label the first
// stays. They are ordered by their digests: an order that has nothing to do with labels, so that the part of a run that is
// done when it ends early is a fair sample. Items without a digest, which could not be read, are left out. The error is of
// type Faults if a picture has two labels.
func Distinct(items []Item) (distinct []Item, copies int, err error) {
	var faults Faults
	first := map[string]Item{}
	for _, it := range items {
		f, there := first[it.Digest]
		switch {
		case it.Digest == "":
		case !there:
			first[it.Digest] = it
			distinct = append(distinct, it)
		case f.Label != it.Label:
			faults.add("%s: is the same picture as %s, with another label (%q and %q): expected one label", it.where(), f.where(), it.Label, f.Label)
		default:
			copies++
		}
	}
	slices.SortFunc(distinct, func(a, b Item) int { return strings.Compare(a.Digest, b.Digest) })
	return distinct, copies, faults.err()
}

// Relabel replaces each label that is known by the one that canon makes of it. The error is of type Faults, with a line for each label
// that canon does not take.
func Relabel(items []Item, canon func(label string) (string, error)) error {
	type known struct {
		label string
		err   error
		first Item
		n     int
	}
	all := map[string]*known{}
	var order []*known
	for i, it := range items {
		if it.Label == "" {
			continue
		}
		k := all[it.Label]
		if k == nil {
			k = &known{first: it}
			k.label, k.err = canon(it.Label)
			all[it.Label] = k
			order = append(order, k)
		}
		k.n++
		items[i].Label = k.label
	}
	var faults Faults
	for _, k := range order {
		if k.err != nil {
			faults.add("%s: label %q of %s cannot be an answer: %v", k.first.Source, k.first.Label, count(k.n, "picture", "pictures"), k.err)
		}
	}
	return faults.err()
}
