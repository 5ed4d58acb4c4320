package jpeg

import "golang.org/x/sys/cpu"

var vector = cpu.X86.HasAVX2
