package console

import (
	"bytes"
	"encoding/json"
	"net/http"
	"net/url"

	"onceover/progress"
)

// answered is what the API for clients has answered.
type answered struct {
	http.ResponseWriter // of the reader: deadlines are set on his connection
	status              int
	header              http.Header
	body                bytes.Buffer
}

func (a *answered) Unwrap() http.ResponseWriter { return a.ResponseWriter }
func (a *answered) Header() http.Header         { return a.header }
func (a *answered) WriteHeader(status int)      { a.status = status }
func (a *answered) Write(b []byte) (int, error) { return a.body.Write(b) }

// ask asks the API for clients as the reader.
func (p *page) ask(method, path string) *answered {
	req := p.Request.Clone(p.Context())
	req.Method, req.URL, req.RequestURI = method, &url.URL{Path: path}, path
	req.Header.Del("Cookie")
	if raw := tokenIn(p.Request); raw != "" {
		req.Header.Set("Authorization", "Bearer "+raw)
	}
	if method == http.MethodGet {
		req.Body, req.ContentLength = http.NoBody, 0
	}
	out := &answered{ResponseWriter: p.w, status: http.StatusOK, header: http.Header{}}
	p.c.API.ServeHTTP(out, req)
	return out
}

func (c *Console) try(p *page) error { return p.show("try", "Try a picture", c.Uploads) }

// send puts the job of an uploaded picture on its queue, as a client of the API does.
func (c *Console) send(p *page) error {
	got := p.ask(http.MethodPost, "/api/v1/"+c.Domain+"/analyze")
	var doc struct {
		JobID  string `json:"job_id"`
		Detail string `json:"detail"`
	}
	if err := json.Unmarshal(got.body.Bytes(), &doc); err != nil {
		return err
	}
	if got.status != http.StatusAccepted {
		return refusal(got.status, "%s", doc.Detail)
	}
	return p.back("try/"+url.PathEscape(doc.JobID), "")
}

// triedShown is what the page of a picture shows that was tried.
type triedShown struct {
	ID     string
	Update *progress.Update
	Status string // as the API names it: pending, processing, completed or failed
	Result string // of a job that has ended, JSON
}

func (c *Console) tried(p *page) error {
	id := p.PathValue("id")
	got := p.ask(http.MethodGet, "/api/v1/"+c.Domain+"/status/"+url.PathEscape(id))
	var doc struct {
		progress.Update
		Status string          `json:"status"`
		Detail string          `json:"detail"`
		Result json.RawMessage `json:"result"`
	}
	if err := json.Unmarshal(got.body.Bytes(), &doc); err != nil {
		return err
	}
	if got.status != http.StatusOK {
		return refusal(got.status, "%s", doc.Detail)
	}
	data := triedShown{ID: id, Update: &doc.Update, Status: doc.Status}
	var pretty bytes.Buffer
	if len(doc.Result) > 0 && json.Indent(&pretty, doc.Result, "", "  ") == nil {
		data.Result = pretty.String()
	}
	return p.show("tried", "Picture", data)
}
