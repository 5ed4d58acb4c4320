#include "textflag.h"

// Go's assembler does not know this one. As in its own instructions, the destination is the last operand.
#define MLA_4S(m, n, d) WORD $(0x4ea09400 | (m)<<16 | (n)<<5 | (d)) // mla Vd.4S, Vn.4S, Vm.4S

// Where to find 16 bytes of 32 bits each in 16 bytes; indices that are out of range give 0.
DATA widen<>+0(SB)/8, $0xffffff01ffffff00
DATA widen<>+8(SB)/8, $0xffffff03ffffff02
DATA widen<>+16(SB)/8, $0xffffff05ffffff04
DATA widen<>+24(SB)/8, $0xffffff07ffffff06
DATA widen<>+32(SB)/8, $0xffffff09ffffff08
DATA widen<>+40(SB)/8, $0xffffff0bffffff0a
DATA widen<>+48(SB)/8, $0xffffff0dffffff0c
DATA widen<>+56(SB)/8, $0xffffff0fffffff0e
GLOBL widen<>(SB), RODATA|NOPTR, $64

// func narrowVector(sums *[2][side]int32, row0, row1 *uint8, start *[side]int32, weights *int16, blocks int)
TEXT ·narrowVector(SB), NOSPLIT, $0-48
	MOVD sums+0(FP), R0
	MOVD row0+8(FP), R1
	MOVD row1+16(FP), R2
	MOVD start+24(FP), R3
	MOVD weights+32(FP), R4
	MOVD blocks+40(FP), R5
	MOVD $64, R6
	ADD  $256, R0, R7
	MOVD $widen<>(SB), R8
	VLD1 (R8), [V28.B16, V29.B16, V30.B16, V31.B16]

output:
	MOVW.P 4(R3), R8
	ADD    R8, R2, R9
	ADD    R8, R1, R8
	VEOR   V0.B16, V0.B16, V0.B16 // row 0
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
	VLD1.P 64(R4), [V20.S4, V21.S4, V22.S4, V23.S4]
	VTBL   V28.B16, [V16.B16], V24.B16
	VTBL   V29.B16, [V16.B16], V25.B16
	VTBL   V30.B16, [V16.B16], V26.B16
	VTBL   V31.B16, [V16.B16], V27.B16
	MLA_4S(20, 24, 0)
	MLA_4S(21, 25, 1)
	MLA_4S(22, 26, 2)
	MLA_4S(23, 27, 3)
	VTBL   V28.B16, [V17.B16], V24.B16
	VTBL   V29.B16, [V17.B16], V25.B16
	VTBL   V30.B16, [V17.B16], V26.B16
	VTBL   V31.B16, [V17.B16], V27.B16
	MLA_4S(20, 24, 4)
	MLA_4S(21, 25, 5)
	MLA_4S(22, 26, 6)
	MLA_4S(23, 27, 7)
	SUB    $1, R10
	CBNZ   R10, block

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
