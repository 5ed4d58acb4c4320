package source_test

import (
	"context"
	"errors"
	"fmt"

	"onceover/internal/source"
)

func Example() {
	fetcher, err := source.New(source.DefaultConfig())
	if err != nil {
		fmt.Println(err)
		return
	}
	defer fetcher.Close()

	data, err := fetcher.Fetch(context.Background(), "data:text/plain;base64,cGljdHVyZQ==")
	fmt.Printf("%s %v\n", data, err)

	_, err = fetcher.Fetch(context.Background(), "http://169.254.169.254/latest/meta-data?token=hush")
	var e *source.Error
	if errors.As(err, &e) {
		fmt.Println(e.Kind)
		fmt.Println(e)
	}
	// Output:
	// picture <nil>
	// forbidden
	// fetch http://169.254.169.254/latest/meta-data: the host's address is not public; to fetch from it, list the host or its CIDR in ONCEOVER_IMAGE_ALLOW
}
