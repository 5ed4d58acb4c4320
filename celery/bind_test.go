package celery_test

import (
	"encoding/json"
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"

	"onceover/celery"
)

type analyzeArgs struct {
	JobID     string  `celery:"job_id,optional"`
	ImageURL  string  `celery:"image_url"`
	UserInput *string `celery:"user_input,optional"`
	Note      string  // takes no part
	Lang      string  `celery:"lang,keyword"`
	Limit     int     `celery:"limit,keyword"`
}

func request(args, kwargs string) *celery.Request {
	r := &celery.Request{ID: "i", Task: "image.analyze"}
	if json.Unmarshal([]byte(args), &r.Args) != nil || json.Unmarshal([]byte(kwargs), &r.Kwargs) != nil {
		panic("bad test data")
	}
	return r
}

func TestBind(t *testing.T) {
	question := "뭐예요?"
	tests := []struct {
		args, kwargs string
		want         analyzeArgs
	}{
		{`["j","u"]`, `{}`, analyzeArgs{JobID: "j", ImageURL: "u"}},
		{`[]`, `{"image_url":"u"}`, analyzeArgs{ImageURL: "u"}},
		{`[null,"u",null]`, `{"lang":null}`, analyzeArgs{ImageURL: "u"}},
		{`["j"]`, `{"image_url":"u","user_input":"뭐예요?","lang":"en","limit":3}`,
			analyzeArgs{JobID: "j", ImageURL: "u", UserInput: &question, Lang: "en", Limit: 3}},
		{`[{"__type__":"uuid","__value__":{"hex":"0123456789abcdef0123456789abcdef"}},"u"]`, `{}`,
			analyzeArgs{JobID: "01234567-89ab-cdef-0123-456789abcdef", ImageURL: "u"}},
		{`[{"__type__":"datetime","__value__":"2026-01-02T03:04:05"},"u"]`, `{}`,
			analyzeArgs{JobID: "2026-01-02T03:04:05", ImageURL: "u"}},
	}
	for _, tt := range tests {
		var got analyzeArgs
		if err := request(tt.args, tt.kwargs).Bind(&got); err != nil {
			t.Errorf("Bind(%s, %s): %v", tt.args, tt.kwargs, err)
			continue
		}
		if diff := cmp.Diff(tt.want, got); diff != "" {
			t.Errorf("Bind(%s, %s) (-want +got):\n%s", tt.args, tt.kwargs, diff)
		}
	}
}

// TestBindTypeErrors holds the texts of CPython 3.11 for
// def analyze(job_id=None, image_url, user_input=None, *, lang=None, limit=None).
func TestBindTypeErrors(t *testing.T) {
	tests := []struct{ args, kwargs, want string }{
		{`[]`, `{}`, "TypeError: image.analyze() missing 1 required positional argument: 'image_url'"},
		{`["j","u","q","x"]`, `{}`, "TypeError: image.analyze() takes from 1 to 3 positional arguments but 4 were given"},
		{`["j","u"]`, `{"image_url":"v"}`, "TypeError: image.analyze() got multiple values for argument 'image_url'"},
		{`["j","u"]`, `{"colour":1}`, "TypeError: image.analyze() got an unexpected keyword argument 'colour'"},
		{`["j",7]`, `{}`, "TypeError: image.analyze() argument 'image_url' must be str, not int"},
		{`["j",null]`, `{}`, "TypeError: image.analyze() argument 'image_url' must be str, not NoneType"},
		{`["j",["u"]]`, `{}`, "TypeError: image.analyze() argument 'image_url' must be str, not list"},
		{`["j",{"__type__":"uuid","__value__":{"hex":"12"}}]`, `{}`, "TypeError: image.analyze() argument 'image_url' must be str, not dict"},
		{`["j","u"]`, `{"limit":1.5}`, "TypeError: image.analyze() argument 'limit' must be int, not float"},
	}
	for _, tt := range tests {
		var dst analyzeArgs
		err := request(tt.args, tt.kwargs).Bind(&dst)
		var exc *celery.Exception
		if !errors.As(err, &exc) || exc.Error() != tt.want {
			t.Errorf("Bind(%s, %s): got %v, want %s", tt.args, tt.kwargs, err, tt.want)
		}
	}
}

func FuzzBind(f *testing.F) {
	f.Add(`["j","u"]`, `{"lang":"en"}`)
	f.Add(`[{"__type__":"uuid","__value__":{"hex":"0123456789abcdef0123456789abcdef"}},1e400]`, `{"limit":"x"}`)
	f.Fuzz(func(t *testing.T, args, kwargs string) {
		r := &celery.Request{ID: "i", Task: "t"}
		if json.Unmarshal([]byte(args), &r.Args) != nil || json.Unmarshal([]byte(kwargs), &r.Kwargs) != nil {
			return
		}
		var dst analyzeArgs
		err := r.Bind(&dst)
		var exc *celery.Exception
		if err != nil && (!errors.As(err, &exc) || exc.Type != "TypeError") {
			t.Fatalf("got %v, want a TypeError", err)
		}
	})
}
