package phash_test

import (
	"errors"
	"fmt"
	"log"
	"os"

	"onceover/phash"
)

func Example() {
	data, err := os.ReadFile("testdata/golden/png-rgb-photo.png")
	if err != nil {
		log.Fatal(err)
	}
	info, err := phash.Inspect(data)
	if err != nil {
		log.Fatal(err)
	}
	const maxPixels = 50_000_000
	if info.Width*info.Height > maxPixels {
		log.Fatalf("%d x %d is too large", info.Width, info.Height)
	}
	h, err := phash.Sum(data)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(info.Format, info.Width, info.Height)
	fmt.Println(h)
	fmt.Println("can be a key:", !h.Degenerate())
	// Output:
	// png 160 120
	// c210d29c98fc93ffd6bfae32ff757fcdea98d110792269457015f002a047402f
	// can be a key: true
}

func ExampleHash_Distance() {
	a, _ := phash.Parse("fac8bdf6a026f0d984d847a2917546b8ddc2ca81930f0b77971c4c5c933b671b")
	b, _ := phash.Parse("fa88bdf2a036f0dd845947a2977146b8ddc2ca81930f0b57961c4c5c933b2f3b")
	fmt.Println(a.Distance(b))
	// Output: 14
}

func ExampleFormatError() {
	_, err := phash.Sum([]byte("\x00\x00\x00\x18ftypheic\x00\x00\x00\x00mif1heic"))
	fmt.Println(err)
	var format *phash.FormatError
	if errors.As(err, &format) && format.Fault == phash.Unsupported {
		fmt.Println("ask for another format")
	}
	// Output:
	// HEIC is not supported; accepted are JPEG, PNG, GIF, WebP, BMP and TIFF; have the upload form ask for JPEG (accept="image/jpeg", for which phones convert), set the phone's camera to its most compatible format, or convert where pictures are uploaded
	// ask for another format
}
