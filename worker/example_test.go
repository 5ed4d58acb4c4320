package worker_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"onceover/celery"
	"onceover/worker"
)

type resizeArgs struct {
	Image string            `celery:"image"`
	Width int               `celery:"width" default:"640"`
	Tags  []string          `celery:"*tags"`
	Extra map[string]string `celery:"**extra"`
}

// A task is a function with typed arguments. It is called as a Python function
// with these parameters would be:
//
//	def resize(image, width=640, *tags, **extra): ...
func ExampleFunc() {
	resize := worker.Func(func(_ context.Context, a resizeArgs) (string, error) {
		return fmt.Sprintf("%s at %d %v %v", a.Image, a.Width, a.Tags, a.Extra), nil
	})
	call := func(args, kwargs string) {
		req := &celery.Request{ID: "1", Task: "resize"}
		if json.Unmarshal([]byte(args), &req.Args) != nil || json.Unmarshal([]byte(kwargs), &req.Kwargs) != nil {
			return
		}
		fmt.Println(resize.Run(context.Background(), req))
	}
	call(`["cat.jpg"]`, `{}`)
	call(`["cat.jpg", 100, "small"]`, `{"by": "me"}`)
	call(`[]`, `{"width": "wide"}`)
	// Output:
	// cat.jpg at 640 [] map[] <nil>
	// cat.jpg at 100 [small] map[by:me] <nil>
	// <nil> TypeError: resize() argument 'width' must be int, not str
}

// What a task returns as its error decides what becomes of it.
func ExampleRetry() {
	err := worker.Retry(errors.New("the model is busy"), 30*time.Second)
	var again *celery.Retry
	fmt.Println(errors.As(err, &again), again.After, err)
	// Output: true 30s the model is busy
}
