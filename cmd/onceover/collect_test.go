package main

import "testing"

func TestGarbageAt(t *testing.T) {
	t.Parallel()
	for live, want := range map[uint64]int{0: 1000, 1 << 20: 1000, 8 << 20: 300, 24 << 20: 100, 48 << 20: 50, 96 << 20: 30, 1 << 40: 30} {
		if got := garbageAt(live); got != want {
			t.Errorf("%d bytes in use: got %d %%, want %d", live, got, want)
		}
	}
}
