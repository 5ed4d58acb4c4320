package jpeg

const vector = true // every arm64 has NEON
