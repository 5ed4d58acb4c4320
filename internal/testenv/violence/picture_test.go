package violence

import (
	"testing"

	"onceover/phash"
	"onceover/vision"
)

func TestPicturesHaveNumbersAndHashesOfTheirOwn(t *testing.T) {
	t.Parallel()
	a := &album{seed: 1, seen: map[phash.Hash]bool{}}
	for _, number := range []int{0, 1, 2, 3, 255, 256, 40000, maxPictures - 1} {
		data, err := a.draw(number)
		if err != nil {
			t.Fatal(err)
		}
		preview, err := vision.NewPreview(data)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := readNumber(preview.JPEG); err != nil || got != number {
			t.Errorf("number in the preview of picture %d: got %d, %v", number, got, err)
		}
	}
}
