package vision

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const goodReply = `{"waste_type":"plastic","category":"clear_pet_bottle","recyclable":true,"confidence":0.93,"feedback":"투명 페트병입니다. 라벨을 떼고 헹궈서 배출하세요."}`

var goodAnalysis = Analysis{
	WasteType:  "plastic",
	Category:   "clear_pet_bottle",
	Recyclable: true,
	Confidence: 0.93,
	Feedback:   "투명 페트병입니다. 라벨을 떼고 헹궈서 배출하세요.",
}

func mustParseSchema(t testing.TB) schema {
	t.Helper()
	s, err := parseSchema(analysisSchema)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// What strict structured outputs demand of a schema: every property required, no others allowed.
func TestSchemaIsStrict(t *testing.T) {
	t.Parallel()
	var s struct {
		Properties           map[string]any `json:"properties"`
		Required             []string       `json:"required"`
		AdditionalProperties *bool          `json:"additionalProperties"`
	}
	if err := json.Unmarshal([]byte(analysisSchema), &s); err != nil {
		t.Fatal(err)
	}
	if s.AdditionalProperties == nil || *s.AdditionalProperties {
		t.Error("additionalProperties: got something else, want false")
	}
	var fields map[string]any
	b, err := json.Marshal(Analysis{})
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(b, &fields); err != nil {
		t.Fatal(err)
	}
	for name := range fields {
		if s.Properties[name] == nil || !slices.Contains(s.Required, name) {
			t.Errorf("field %s of Analysis: got no required property, want one", name)
		}
	}
	if got, want := len(s.Properties), len(fields); got != want || len(s.Required) != want {
		t.Errorf("got %d properties, %d required, want %d", got, len(s.Required), want)
	}
	for _, field := range []string{"waste_type", "category"} {
		if !slices.Contains(mustParseSchema(t).Properties[field].Enum, Unclassified) {
			t.Errorf("%s: %q is not among its values", field, Unclassified)
		}
	}
}

func TestParseReply(t *testing.T) {
	t.Parallel()
	s := mustParseSchema(t)
	swap := func(old, new string) string {
		if !strings.Contains(goodReply, old) {
			t.Fatalf("%s is not in the good reply", old)
		}
		return strings.Replace(goodReply, old, new, 1)
	}
	tests := []struct {
		name  string
		reply string
		fault string // part of the error; empty if the reply is good
	}{
		{"good", goodReply, ""},
		{"white space around", "\n " + goodReply + "\n", ""},
		{"confidence 0", swap("0.93", "0"), ""},
		{"confidence 1", swap("0.93", "1"), ""},
		{"empty", "", "not one JSON object"},
		{"null", "null", "not one JSON object"},
		{"array", "[" + goodReply + "]", "not one JSON object"},
		{"prose", "It is a bottle.", "not one JSON object"},
		{"code fence", "```json\n" + goodReply + "\n```", "not one JSON object"},
		{"two objects", goodReply + goodReply, "not one JSON object"},
		{"cut off", goodReply[:len(goodReply)-10], "not one JSON object"},
		{"missing field", swap(`"recyclable":true,`, ""), "recyclable is missing"},
		{"several faults at once", swap(`"recyclable":true,"confidence":0.93`, `"confidence":"high"`), "recyclable is missing; confidence is not a number"},
		{"null field", swap("true", "null"), "recyclable is not true or false"},
		{"wrong type", swap("true", `"yes"`), "recyclable is not true or false"},
		{"number in a string", swap("0.93", `"0.93"`), "confidence is not a number"},
		{"number beyond float64", swap("0.93", "1e400"), "confidence is not a number"},
		{"percent", swap("0.93", "93"), "confidence is not between 0 and 1"},
		{"negative", swap("0.93", "-0.1"), "confidence is not between 0 and 1"},
		{"unknown waste type", swap(`"plastic"`, `"plutonium"`), "waste_type is not one of the listed"},
		{"unknown category", swap(`"clear_pet_bottle"`, `"bottle"`), "category is not one of the listed"},
		{"name in other case", swap(`"recyclable"`, `"Recyclable"`), "recyclable is missing"},
		{"extra field", swap(`{`, `{"note":1,`), "field that the schema does not have"},
		{"empty feedback", `{"waste_type":"plastic","category":"other","recyclable":true,"confidence":1,"feedback":" "}`, "feedback is empty"},
		{"endless feedback", swap("투명", strings.Repeat("가", MaxFeedbackRunes)), "more than 2000"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			a, err := s.parseReply(tt.reply)
			if tt.fault == "" {
				if err != nil {
					t.Fatalf("got error %v, want none", err)
				}
				return
			}
			if err == nil || !strings.Contains(err.Error(), tt.fault) {
				t.Errorf("got error %v, want one with %q", err, tt.fault)
			}
			if a != (Analysis{}) {
				t.Errorf("got %+v beside the error, want nothing", a)
			}
		})
	}

	got, err := s.parseReply(goodReply)
	if diff := cmp.Diff(goodAnalysis, got); err != nil || diff != "" {
		t.Errorf("good reply: error %v, (-want +got)\n%s", err, diff)
	}
}

func FuzzParseReply(f *testing.F) {
	s := mustParseSchema(f)
	f.Add(goodReply)
	f.Add("```json\n" + goodReply + "\n```")
	f.Add(`{"waste_type":null,"category":1,"recyclable":"","confidence":-1e999,"feedback":[]}`)
	f.Fuzz(func(t *testing.T, reply string) {
		a, err := s.parseReply(reply)
		if err != nil {
			return
		}
		if !(a.Confidence >= 0 && a.Confidence <= 1) || a.WasteType == "" || a.Category == "" || a.Feedback == "" {
			t.Errorf("accepted %+v", a)
		}
		b, err := json.Marshal(a)
		if err != nil {
			t.Fatal(err)
		}
		if again, err := s.parseReply(string(b)); err != nil || again != a {
			t.Errorf("its own JSON: got %+v, %v, want %+v", again, err, a)
		}
	})
}
