package vision

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	"onceover/vision/prompt"
)

// OpenAIConfig says which model is asked, where and how. It is all that decides: no environment variable is read,
// except that a nil HTTPClient honours the usual proxy variables.
type OpenAIConfig struct {
	Name        string        // of the endpoint, for limits and people; empty means "default"
	BaseURL     string        // what comes before /chat/completions, such as https://api.openai.com/v1
	Model       string        // the default model, which must take pictures
	APIKey      string        // sent as a bearer token; empty for a server that asks for none
	Timeout     time.Duration // for one call, the reading of its answer included; 0 means 60 s
	DefaultLang string        // language of the answers, as a BCP 47 tag; empty means "ko"
	Prompts     *prompt.Folder
	Format      Format // the strictest form that an answer is asked in; empty means JSONSchema

	Prices Prices // of the default model; where they are not known costs are left out, as for any other model
	Tier   string // service_tier of the requests; empty: none
	Cheap  bool   // of a tier that may have no room at any time: in a Chain the next endpoint is asked then
	Gate   Gate   // lets calls begin; nil: at once

	// HTTPClient carries the requests; nil means a client of our own. Its redirect policy is not used: the key and the
	// pictures are meant for BaseURL only.
	HTTPClient *http.Client
}

const (
	defaultTimeout = 60 * time.Second
	defaultLang    = "ko"
	maxPrice       = 1_000_000_000 // $1,000 per million tokens; keeps the cost of a call within int64
	maxModelBytes  = 200
)

// validate returns every fault of c, each naming its field; nil if there is none. Values that may be secret are not
// repeated.
func (c OpenAIConfig) validate() error {
	err := c.Check()
	if c.Prompts == nil {
		err = errors.Join(err, errors.New("vision Prompts: is nil: expected a folder that was loaded"))
	}
	return err
}

// Check is every fault of c but that of missing prompts, each naming its field; nil if there is none. Values that may be
// secret are not repeated.
func (c OpenAIConfig) Check() error {
	var faults []error
	fault := func(field, text string) { faults = append(faults, fmt.Errorf("vision %s: %s", field, text)) }

	if text := baseURLFault(c.BaseURL); text != "" {
		fault("BaseURL", text+": expected a URL such as https://api.openai.com/v1")
	}
	if text := modelFault(c.Model); text != "" {
		fault("Model", text)
	}
	if strings.ContainsFunc(c.APIKey, func(r rune) bool { return r <= ' ' || r >= 0x7f }) {
		fault("APIKey", "has white space or another character that no key has: check how it was copied")
	}
	if f := c.Format; f != "" && f != JSONSchema && f != JSONObject && f != PlainText {
		fault("Format", fmt.Sprintf("is %q: expected %s, %s or %s", f, JSONSchema, JSONObject, PlainText))
	}
	if c.Timeout < 0 {
		fault("Timeout", fmt.Sprintf("is negative (%v): expected a duration, or 0 for %v", c.Timeout, defaultTimeout))
	}
	if c.DefaultLang != "" {
		if err := CheckLang(c.DefaultLang); err != nil {
			fault("DefaultLang", err.Error())
		}
	}
	if in, out := c.Prices.In, c.Prices.Out; min(in, out) < 0 || max(in, out) > maxPrice {
		fault("Prices", fmt.Sprintf("out of range: expected 0 to %d, in millionths of a dollar per million tokens", maxPrice))
	} else if (in == 0) != (out == 0) {
		fault("Prices", "only one is set: set both, or neither if the price is not known")
	}
	return errors.Join(faults...)
}

// baseURLFault says what is wrong with a base URL, without repeating it; empty if nothing is.
func baseURLFault(s string) string {
	if s == "" {
		return "is empty"
	}
	u, err := url.Parse(s)
	switch {
	case err != nil:
		return "is not a URL"
	case u.Scheme != "http" && u.Scheme != "https":
		return "is not an http or https URL"
	case u.Hostname() == "":
		return "has no host"
	case u.User != nil:
		return "has a user name or password, which belong in the API key"
	case u.RawQuery != "" || u.ForceQuery || u.Fragment != "":
		return "has a query or fragment, which would not be sent"
	case strings.HasSuffix(strings.TrimRight(u.Path, "/"), "/chat/completions"):
		return "ends in /chat/completions, which is added"
	}
	return ""
}

// modelFault says what is wrong with a model's name; empty if nothing is.
func modelFault(name string) string {
	switch {
	case name == "":
		return "is empty: expected the name of a model that takes pictures"
	case len(name) > maxModelBytes || strings.ContainsFunc(name, func(r rune) bool { return r < ' ' || r == 0x7f }):
		return fmt.Sprintf("%.40q… is not a model's name: it is longer than %d bytes or has control characters", name, maxModelBytes)
	}
	return ""
}
