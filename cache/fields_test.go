package cache

import (
	"encoding/json"
	"reflect"
	"strings"
	"testing"
)

// TestOwnNames has every field of an entry be one of its own names.
func TestOwnNames(t *testing.T) {
	var names []string
	var read func(typ reflect.Type)
	read = func(typ reflect.Type) {
		for i := range typ.NumField() {
			f := typ.Field(i)
			if f.Anonymous {
				read(f.Type)
			} else if name, _, _ := strings.Cut(f.Tag.Get("json"), ","); name != "-" {
				names = append(names, name)
			}
		}
	}
	read(reflect.TypeFor[Entry]())
	if got, want := strings.Join(names, " "), strings.Join(own, " "); got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

// TestFurtherFields keeps what an answer says beyond the shared fields.
func TestFurtherFields(t *testing.T) {
	waste := []string{"waste_type", "category", "recyclable", "confidence", "feedback"}
	for _, tt := range []struct {
		answer, doc, back string
		names             []string
	}{
		{`{"waste_type":"can","category":"metal","recyclable":true,"confidence":0.5,"feedback":"f"}`,
			`{"waste_type":"can","confidence":0.5,"feedback":"f","category":"metal","recyclable":true,"analyzed_at":""}`,
			`{"category":"metal","confidence":0.5,"feedback":"f","recyclable":true,"waste_type":"can"}`, waste},
		{`{"total":12.50,"merchant":"A & <B>","lines":[{"b":1,"a":2}],"model":"x","phash":"y"}`,
			`{"waste_type":"","confidence":0,"feedback":"","category":"","recyclable":false,"analyzed_at":"","lines":[{"b":1,"a":2}],"merchant":"A & <B>","phash":"y","total":12.50}`,
			`{"lines":[{"b":1,"a":2}],"total":12.50}`, []string{"total", "lines", "date"}},
		{`{"feedback":"f"}`, `{"waste_type":"","confidence":0,"feedback":"f","category":"","recyclable":false,"analyzed_at":""}`, `{"feedback":"f"}`, []string{"feedback"}},
	} {
		e, err := EntryOf(json.RawMessage(tt.answer))
		if err != nil {
			t.Fatal(err)
		}
		doc, err := e.MarshalJSON()
		if err != nil || string(doc) != tt.doc {
			t.Errorf("%s: got %s, %v, want %s", tt.answer, doc, err, tt.doc)
		}
		var again Entry
		if err := json.Unmarshal(doc, &again); err != nil || again != e {
			t.Errorf("%s: got %+v, %v, want %+v", tt.answer, again, err, e)
		}
		if back, err := e.Answer(tt.names); err != nil || string(back) != tt.back {
			t.Errorf("%s: got %s, %v, want %s", tt.answer, back, err, tt.back)
		}
	}
	if got := More(`{"a":1,"job_id":2,"total":3}`).Only([]string{"total", "x"}); got != `{"total":3}` {
		t.Errorf("got %s", got)
	}
	python := Entry{WasteType: "PET 플라스틱", Category: "플라스틱"}
	receipt := Entry{More: `{"total":1}`}
	for _, tt := range []struct {
		e    Entry
		name string
		want bool
	}{
		{python, "recyclable", true}, {python, "total", false}, {receipt, "total", true}, {receipt, "category", false}, {receipt, "merchant", false},
	} {
		if got := tt.e.Has(tt.name); got != tt.want {
			t.Errorf("%+v has %s: got %v", tt.e, tt.name, got)
		}
	}
}

// TestCorrectFurtherFields corrects one of them and leaves the others.
func TestCorrectFurtherFields(t *testing.T) {
	c, err := ParseCorrection([]byte(`{"total": 2}`))
	if err != nil {
		t.Fatal(err)
	}
	c.Required = []string{"total", "merchant"}
	got, err := c.apply(&Entry{More: `{"merchant":"a","total":1}`}, "now")
	if err != nil || got.More != `{"merchant":"a","total":2}` || got.Model != Person {
		t.Errorf("got %+v, %v", got, err)
	}
	if _, err := c.apply(nil, "now"); err == nil || !strings.Contains(err.Error(), "expected merchant too") {
		t.Errorf("got %v, want that merchant is missing", err)
	}
}
