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

	mu       sync.Mutex
	pictures map[int]*picture
}

// picture is what is known of one, by its number.
type picture struct {
	data    []byte
	missing bool // 404 until mended
	busy    int  // how many vision calls are still answered with 503
	calls   int  // vision calls, the 503s among them

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
	mux.HandleFunc("POST /v1/chat/completions", h.analyze)
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

func (h *host) urlOf(number int) string { return fmt.Sprintf("%s/picture/%d", h.url, number) }

// callsOf returns how often the model was asked about the picture.
func (h *host) callsOf(number int) int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.pictures[number].calls
}

func (h *host) serve(w http.ResponseWriter, r *http.Request) {
	number, err := strconv.Atoi(r.PathValue("number"))
	h.mu.Lock()
	p := h.pictures[number]
	h.mu.Unlock()
	if err != nil || p == nil || p.missing && !h.mended.Load() {
		http.NotFound(w, r)
		return
	}
	w.Header().Set("Content-Type", "image/png")
	_, _ = w.Write(p.data)
}

func (h *host) analyze(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return // the worker died
	}
	h.calls.Add(1)
	busy, after, err := h.count(string(body))
	if err != nil {
		h.unreadable.Add(1)
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	if pause(r.Context(), time.Duration(rand.Int64N(int64(h.slow)))) != nil {
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

// count counts a call for the picture in it, and says whether to refuse it.
func (h *host) count(body string) (busy bool, after time.Duration, err error) {
	_, data, ok := strings.Cut(body, "data:image/jpeg;base64,")
	if !ok {
		return false, 0, fmt.Errorf("no picture in the request")
	}
	data, _, _ = strings.Cut(data, `"`)
	preview, err := base64.StdEncoding.DecodeString(data)
	if err != nil {
		return false, 0, err
	}
	number, err := readNumber(preview)
	if err != nil {
		return false, 0, err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	p := h.pictures[number]
	if p == nil {
		return false, 0, fmt.Errorf("no picture %d", number)
	}
	p.calls++
	if p.busy > 0 {
		p.busy--
		if p.parked {
			after = max(parkedPause, time.Until(p.notBefore)+time.Second)
		}
		return true, after, nil
	}
	return false, 0, nil
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
