#include "textflag.h"

// Go's assembler does not know this one. As in its own instructions, the destination is the last operand.
#define UDOT(m, n, d) WORD $(0x6e809400 | (m)<<16 | (n)<<5 | (d)) // udot Vd.4S, Vn.16B, Vm.16B

// func narrowVector(sums *[2][side]int32, row0, row1 *uint8, start *[side]int32, weights *uint8, blocks int)
TEXT ·narrowVector(SB), NOSPLIT, $0-48
	MOVD sums+0(FP), R0
	MOVD row0+8(FP), R1
	MOVD row1+16(FP), R2
	MOVD start+24(FP), R3
	MOVD weights+32(FP), R4
	MOVD blocks+40(FP), R5
	MOVD $64, R6
	ADD  $256, R0, R7

output:
	MOVW.P 4(R3), R8
	ADD    R8, R2, R9
	ADD    R8, R1, R8
	VEOR   V0.B16, V0.B16, V0.B16 // row 0, from the lowest bytes of the weights to the highest
	VEOR   V1.B16, V1.B16, V1.B16
	VEOR   V2.B16, V2.B16, V2.B16
	VEOR   V3.B16, V3.B16, V3.B16
	VEOR   V4.B16, V4.B16, V4.B16 // row 1
	VEOR   V5.B16, V5.B16, V5.B16
	VEOR   V6.B16, V6.B16, V6.B16
	VEOR   V7.B16, V7.B16, V7.B16
	MOVD   R5, R10

block:
	VLD1.P 16(R8), [V16.B16]
	VLD1.P 16(R9), [V17.B16]
	VLD1.P 64(R4), [V20.B16, V21.B16, V22.B16, V23.B16]
	UDOT(20, 16, 0)
	UDOT(21, 16, 1)
	UDOT(22, 16, 2)
	UDOT(23, 16, 3)
	UDOT(20, 17, 4)
	UDOT(21, 17, 5)
	UDOT(22, 17, 6)
	UDOT(23, 17, 7)
	SUB    $1, R10
	CBNZ   R10, block

	VSHL   $8, V1.S4, V1.S4
	VSHL   $16, V2.S4, V2.S4
	VSHL   $24, V3.S4, V3.S4
	VSHL   $8, V5.S4, V5.S4
	VSHL   $16, V6.S4, V6.S4
	VSHL   $24, V7.S4, V7.S4
	VADD   V1.S4, V0.S4, V0.S4
	VADD   V3.S4, V2.S4, V2.S4
	VADD   V5.S4, V4.S4, V4.S4
	VADD   V7.S4, V6.S4, V6.S4
	VADD   V2.S4, V0.S4, V0.S4
	VADD   V6.S4, V4.S4, V4.S4
	VADDP  V4.S4, V0.S4, V0.S4
	VADDP  V0.S4, V0.S4, V0.S4
	VST1.P V0.S[0], 4(R0)
	VST1.P V0.S[1], 4(R7)
	SUB    $1, R6
	CBNZ   R6, output
	RET
