//go:build !amd64

package phash

const useAVX2 = false

func narrowAVX2(*[2][side]int32, *uint8, *uint8, *[side]int32, *int16, int) { panic("no AVX2") }
