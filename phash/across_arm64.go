package phash

const vector = true // every arm64 has NEON

// put writes weight i: the assembly takes them as they are, 32 bits from the low half on.
func put(weights []int16, i int, w int32) {
	weights[2*i], weights[2*i+1] = int16(w), int16(w>>16)
}
