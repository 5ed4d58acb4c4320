package violence

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// host plays the picture host and the vision model, and counts what it is asked.
type host struct {
	server *http.Server
	url    string
	done   chan error

	mended     atomic.Bool  // missing pictures are there
	calls      atomic.Int64 // vision calls
	unreadable atomic.Int64 // vision calls about no picture of ours
	slow       time.Duration
	kill       func(life string) // of a process that has begun what is deadly; set before it is asked

	mu       sync.Mutex
	pictures map[int]*picture
}

// picture is what is known of one, by its number.
type picture struct {
	data    []byte
	missing bool    // 404 until mended
	busy    int     // how many vision calls are still answered with 503
	calls   []visit // for the model, those answered by 503 among them
	fetches []visit // of the picture, by those that say who they are

	takes  time.Duration // how long the model takes for it; 0: as for others
	deadly bool          // kills who gets it, until mended

	parked    bool      // with the 503 comes a pause so long that the retry is parked
	notBefore time.Time // and that ends no earlier than this
}

// openHost listens on the loopback interface. The model takes up to slow for an
// answer.
func openHost(slow time.Duration) (*host, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("listen for pictures: %w", err)
	}
	h := &host{url: "http://" + l.Addr().String(), pictures: map[int]*picture{}, done: make(chan error, 1), slow: slow}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /picture/{number}", h.serve)
	mux.HandleFunc("GET /"+bucket+"/{number}", h.serve)
	mux.HandleFunc("POST /w/{life}/v1/chat/completions", h.analyze)
	h.server = &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second}
	go func() { h.done <- h.server.Serve(l) }()
	return h, nil
}

// close ends the server, and what it is answering.
func (h *host) close() {
	_ = h.server.Close()
	<-h.done
}

func (h *host) add(number int, p *picture) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.pictures[number] = p
}

// bucket is where pictures are in S3, whose reader tells the host who it is.
const bucket = "violence"

func (h *host) urlOf(number int, k kind) string {
	if k == missing || k == broken {
		return fmt.Sprintf("%s/picture/%d", h.url, number)
	}
	return fmt.Sprintf("s3://%s/%d", bucket, number)
}

// modelOf is the base URL of the model for a life.
func (h *host) modelOf(life string) string { return h.url + "/w/" + life + "/v1" }

// callsOf returns the calls of the model about the picture.
func (h *host) callsOf(number int) []visit {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.pictures[number].calls)
}

// fetchesOf returns who got the picture.
func (h *host) fetchesOf(number int) []visit {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.pictures[number].fetches)
}

// lifeOf is who asks S3: the access key of the signature (AWS4-HMAC-SHA256 Credential=KEY/…).
func lifeOf(r *http.Request) string {
	_, rest, _ := strings.Cut(r.Header.Get("Authorization"), "Credential=")
	key, _, _ := strings.Cut(rest, "/")
	return key
}

func (h *host) serve(w http.ResponseWriter, r *http.Request) {
	number, err := strconv.Atoi(r.PathValue("number"))
	life := lifeOf(r)
	h.mu.Lock()
	p := h.pictures[number]
	if p != nil && life != "" {
		p.fetches = append(p.fetches, visit{life, time.Now()})
	}
	h.mu.Unlock()
	if err != nil || p == nil || p.missing && !h.mended.Load() {
		http.NotFound(w, r)
		return
	}
	if p.deadly && !h.mended.Load() {
		// Those that have begun before have ended by then.
		if pause(r.Context(), h.slow+200*time.Millisecond) == nil {
			h.kill(life)
		}
		return
	}
	w.Header().Set("Content-Type", "image/png")
	w.Header().Set("Last-Modified", "Mon, 02 Jan 2006 15:04:05 GMT")
	w.Header().Set("ETag", fmt.Sprintf(`"%d"`, number))
	_, _ = w.Write(p.data)
}

func (h *host) analyze(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return // the worker died
	}
	h.calls.Add(1)
	busy, takes, after, err := h.count(r.PathValue("life"), string(body))
	if err != nil {
		h.unreadable.Add(1)
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	if takes == 0 {
		takes = rand.N(h.slow)
	}
	if pause(r.Context(), takes) != nil {
		return
	}
	w.Header().Set("Content-Type", "application/json")
	if busy {
		if after > 0 {
			w.Header().Set("Retry-After", strconv.Itoa(int(after.Seconds())))
		}
		w.WriteHeader(http.StatusServiceUnavailable)
		_, _ = io.WriteString(w, `{"error":{"message":"busy"}}`)
		return
	}
	const content = `{"waste_type":"plastic","confidence":0.93,"feedback":"라벨을 떼고 헹궈서 버리세요","category":"plastic_bottle","recyclable":true}`
	_ = json.NewEncoder(w).Encode(map[string]any{
		"id": "c", "object": "chat.completion", "created": 1, "model": "violence",
		"choices": []any{map[string]any{"index": 0, "finish_reason": "stop", "message": map[string]any{"role": "assistant", "content": content}}},
		"usage":   map[string]any{"prompt_tokens": 900, "completion_tokens": 50, "total_tokens": 950},
	})
}

// count counts a call of a life for the picture in it, and says how long it takes, and
// whether it is refused.
func (h *host) count(life, body string) (busy bool, takes, after time.Duration, err error) {
	_, data, ok := strings.Cut(body, "data:image/jpeg;base64,")
	if !ok {
		return false, 0, 0, fmt.Errorf("no picture in the request")
	}
	data, _, _ = strings.Cut(data, `"`)
	preview, err := base64.StdEncoding.DecodeString(data)
	if err != nil {
		return false, 0, 0, err
	}
	number, err := readNumber(preview)
	if err != nil {
		return false, 0, 0, err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	p := h.pictures[number]
	if p == nil {
		return false, 0, 0, fmt.Errorf("no picture %d", number)
	}
	p.calls = append(p.calls, visit{life, time.Now()})
	if p.busy > 0 {
		p.busy--
		if p.parked {
			after = max(parkedPause, time.Until(p.notBefore)+time.Second)
		}
		return true, 0, after, nil
	}
	return false, p.takes, 0, nil
}

// pause waits for d, or returns why ctx ended.
func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
