#include "textflag.h"

// Instructions that Go's assembler does not know. As in its own ones, the destination is the last operand; operands are numbers
// of vector registers. A 2 in a name stands for the upper half of the narrow operands; i is an element of m, of 16 bits, for
// which m has to be below 16.
#define MUL_8H(m, n, d)        WORD $(0x4e609c00 | (m)<<16 | (n)<<5 | (d)) // mul Vd.8H, Vn.8H, Vm.8H
#define SMULL(i, m, n, d)      WORD $(0x0f40a000 | ((i)&3)<<20 | ((i)>>2)<<11 | (m)<<16 | (n)<<5 | (d)) // smull Vd.4S, Vn.4H, Vm.H[i]
#define SMULL2(i, m, n, d)     WORD $(0x4f40a000 | ((i)&3)<<20 | ((i)>>2)<<11 | (m)<<16 | (n)<<5 | (d)) // smull2 Vd.4S, Vn.8H, Vm.H[i]
#define SMLAL(i, m, n, d)      WORD $(0x0f402000 | ((i)&3)<<20 | ((i)>>2)<<11 | (m)<<16 | (n)<<5 | (d)) // smlal Vd.4S, Vn.4H, Vm.H[i]
#define SMLAL2(i, m, n, d)     WORD $(0x4f402000 | ((i)&3)<<20 | ((i)>>2)<<11 | (m)<<16 | (n)<<5 | (d)) // smlal2 Vd.4S, Vn.8H, Vm.H[i]
#define SQDMULL(i, m, n, d)    WORD $(0x0f40b000 | ((i)&3)<<20 | ((i)>>2)<<11 | (m)<<16 | (n)<<5 | (d)) // sqdmull Vd.4S, Vn.4H, Vm.H[i]
#define SQDMULL2(i, m, n, d)   WORD $(0x4f40b000 | ((i)&3)<<20 | ((i)>>2)<<11 | (m)<<16 | (n)<<5 | (d)) // sqdmull2 Vd.4S, Vn.8H, Vm.H[i]
#define SQDMULH(i, m, n, d)    WORD $(0x4f40c000 | ((i)&3)<<20 | ((i)>>2)<<11 | (m)<<16 | (n)<<5 | (d)) // sqdmulh Vd.8H, Vn.8H, Vm.H[i]
#define SSHLL_4S(s, n, d)      WORD $(0x0f00a400 | (16+(s))<<16 | (n)<<5 | (d)) // sshll Vd.4S, Vn.4H, #s
#define SSHLL2_4S(s, n, d)     WORD $(0x4f00a400 | (16+(s))<<16 | (n)<<5 | (d)) // sshll2 Vd.4S, Vn.8H, #s
#define SSHLL_8H(s, n, d)      WORD $(0x0f00a400 | (8+(s))<<16 | (n)<<5 | (d)) // sshll Vd.8H, Vn.8B, #s
#define SSHLL2_8H(s, n, d)     WORD $(0x4f00a400 | (8+(s))<<16 | (n)<<5 | (d)) // sshll2 Vd.8H, Vn.16B, #s
#define SQRSHRN_4H(s, n, d)    WORD $(0x0f009c00 | (32-(s))<<16 | (n)<<5 | (d)) // sqrshrn Vd.4H, Vn.4S, #s
#define SQRSHRN2_8H(s, n, d)   WORD $(0x4f009c00 | (32-(s))<<16 | (n)<<5 | (d)) // sqrshrn2 Vd.8H, Vn.4S, #s
#define SQRSHRN_8B(s, n, d)    WORD $(0x0f009c00 | (16-(s))<<16 | (n)<<5 | (d)) // sqrshrn Vd.8B, Vn.8H, #s
#define SQRSHRN2_16B(s, n, d)  WORD $(0x4f009c00 | (16-(s))<<16 | (n)<<5 | (d)) // sqrshrn2 Vd.16B, Vn.8H, #s
#define SHRN_8B(s, n, d)       WORD $(0x0f008400 | (16-(s))<<16 | (n)<<5 | (d)) // shrn Vd.8B, Vn.8H, #s
#define SHRN2_16B(s, n, d)     WORD $(0x4f008400 | (16-(s))<<16 | (n)<<5 | (d)) // shrn2 Vd.16B, Vn.8H, #s
#define RSHRN_8B(s, n, d)      WORD $(0x0f008c00 | (16-(s))<<16 | (n)<<5 | (d)) // rshrn Vd.8B, Vn.8H, #s
#define RSHRN2_16B(s, n, d)    WORD $(0x4f008c00 | (16-(s))<<16 | (n)<<5 | (d)) // rshrn2 Vd.16B, Vn.8H, #s
#define SRSRA_8H(s, n, d)      WORD $(0x4f003400 | (32-(s))<<16 | (n)<<5 | (d)) // srsra Vd.8H, Vn.8H, #s
#define SQXTUN_8B(n, d)        WORD $(0x2e212800 | (n)<<5 | (d)) // sqxtun Vd.8B, Vn.8H
#define SQXTUN2_16B(n, d)      WORD $(0x6e212800 | (n)<<5 | (d)) // sqxtun2 Vd.16B, Vn.8H
#define ADDHN_4H(m, n, d)      WORD $(0x0e604000 | (m)<<16 | (n)<<5 | (d)) // addhn Vd.4H, Vn.4S, Vm.4S
#define ADDHN2_8H(m, n, d)     WORD $(0x4e604000 | (m)<<16 | (n)<<5 | (d)) // addhn2 Vd.8H, Vn.4S, Vm.4S
#define SUBHN_4H(m, n, d)      WORD $(0x0e606000 | (m)<<16 | (n)<<5 | (d)) // subhn Vd.4H, Vn.4S, Vm.4S
#define SUBHN2_8H(m, n, d)     WORD $(0x4e606000 | (m)<<16 | (n)<<5 | (d)) // subhn2 Vd.8H, Vn.4S, Vm.4S
#define RADDHN_4H(m, n, d)     WORD $(0x2e604000 | (m)<<16 | (n)<<5 | (d)) // raddhn Vd.4H, Vn.4S, Vm.4S
#define RADDHN2_8H(m, n, d)    WORD $(0x6e604000 | (m)<<16 | (n)<<5 | (d)) // raddhn2 Vd.8H, Vn.4S, Vm.4S
#define UMULL_8H(m, n, d)      WORD $(0x2e20c000 | (m)<<16 | (n)<<5 | (d)) // umull Vd.8H, Vn.8B, Vm.8B
#define UMULL2_8H(m, n, d)     WORD $(0x6e20c000 | (m)<<16 | (n)<<5 | (d)) // umull2 Vd.8H, Vn.16B, Vm.16B
#define UMLAL_8H(m, n, d)      WORD $(0x2e208000 | (m)<<16 | (n)<<5 | (d)) // umlal Vd.8H, Vn.8B, Vm.8B
#define UMLAL2_8H(m, n, d)     WORD $(0x6e208000 | (m)<<16 | (n)<<5 | (d)) // umlal2 Vd.8H, Vn.16B, Vm.16B
#define USUBL_8H(m, n, d)      WORD $(0x2e202000 | (m)<<16 | (n)<<5 | (d)) // usubl Vd.8H, Vn.8B, Vm.8B
#define USUBL2_8H(m, n, d)     WORD $(0x6e202000 | (m)<<16 | (n)<<5 | (d)) // usubl2 Vd.8H, Vn.16B, Vm.16B

// Factors of the inverse DCT, times 2^13, eight in V14 and four in V15. See idct.go for their names.
// f0541+f0765, f0541, f0541-f1847, f1175-f1961.
DATA cosines<>+0(SB)/8, $0xe6dcd630115129cf
// f1175, f1175-f0390, f0298-f0899, -f0899.
DATA cosines<>+8(SB)/8, $0xe333ecc1192525a1
// f1501-f0899, f2053-f2562, -f2562, f3072-f2562.
DATA cosines<>+16(SB)/8, $0x1051adfdefb0133e
DATA cosines<>+24(SB)/8, $0
GLOBL cosines<>(SB), RODATA|NOPTR, $32

// TERMS has the sums of one pass of the inverse DCT over eight vectors V0 to V7, the coefficients of eight columns (or rows). A sum
// is 2 x 4 x 32 bits. Those of even coefficients come to V22 and V23, V24 and V25, V20 and V21, V18 and V19, those of odd ones to
// V10 and V11, V26 and V27, V28 and V29, V8 and V9. The two kinds take turns, so that neither waits for its own multiplications.
#define TERMS \
	VADD V3.H8, V7.H8, V26.H8   \
	VADD V1.H8, V5.H8, V27.H8   \
	VADD V4.H8, V0.H8, V16.H8   \
	VSUB V4.H8, V0.H8, V17.H8   \
	SMULL(3, 14, 26, 8)         \
	SMULL2(3, 14, 26, 9)        \
	SMULL(4, 14, 26, 10)        \
	SMULL2(4, 14, 26, 11)       \
	SMLAL(4, 14, 27, 8)         \
	SMLAL2(4, 14, 27, 9)        \
	SSHLL_4S(13, 16, 18)        \
	SSHLL2_4S(13, 16, 19)       \
	SMLAL(5, 14, 27, 10)        \
	SMLAL2(5, 14, 27, 11)       \
	SMULL(0, 14, 2, 12)         \
	SMULL2(0, 14, 2, 13)        \
	VMOV V8.B16, V26.B16        \
	VMOV V9.B16, V27.B16        \
	SMLAL(1, 14, 6, 12)         \
	SMLAL2(1, 14, 6, 13)        \
	VMOV V10.B16, V28.B16       \
	VMOV V11.B16, V29.B16       \
	SMLAL(7, 14, 7, 10)         \
	SMLAL2(7, 14, 7, 11)        \
	SSHLL_4S(13, 17, 20)        \
	SSHLL2_4S(13, 17, 21)       \
	SMLAL(0, 15, 1, 10)         \
	SMLAL2(0, 15, 1, 11)        \
	SMULL(1, 14, 2, 30)         \
	SMULL2(1, 14, 2, 31)        \
	SMLAL(6, 14, 7, 8)          \
	SMLAL2(6, 14, 7, 9)         \
	VADD V12.S4, V18.S4, V22.S4 \
	VADD V13.S4, V19.S4, V23.S4 \
	VSUB V12.S4, V18.S4, V18.S4 \
	VSUB V13.S4, V19.S4, V19.S4 \
	SMLAL(7, 14, 1, 8)          \
	SMLAL2(7, 14, 1, 9)         \
	SMLAL(2, 14, 6, 30)         \
	SMLAL2(2, 14, 6, 31)        \
	SMLAL(2, 15, 5, 26)         \
	SMLAL2(2, 15, 5, 27)        \
	SMLAL(1, 15, 5, 28)         \
	SMLAL2(1, 15, 5, 29)        \
	SMLAL(3, 15, 3, 26)         \
	SMLAL2(3, 15, 3, 27)        \
	SMLAL(2, 15, 3, 28)         \
	SMLAL2(2, 15, 3, 29)        \
	VADD V30.S4, V20.S4, V24.S4 \
	VADD V31.S4, V21.S4, V25.S4 \
	VSUB V30.S4, V20.S4, V20.S4 \
	VSUB V31.S4, V21.S4, V21.S4

// ROWS16 makes 16 bits of sum and difference of an even and an odd term, at the end of the first pass.
#define ROWS16(even0, even1, odd0, odd1, sum, difference) \
	VADD odd0.S4, even0.S4, V12.S4 \
	VADD odd1.S4, even1.S4, V13.S4 \
	VSUB odd0.S4, even0.S4, V30.S4 \
	VSUB odd1.S4, even1.S4, V31.S4 \
	SQRSHRN_4H(11, 12, sum)        \
	SQRSHRN2_8H(11, 13, sum)       \
	SQRSHRN_4H(11, 30, difference) \
	SQRSHRN2_8H(11, 31, difference)

// COLUMNS16 does so at the end of the second pass, and leaves two of the 18 bits to shift.
#define COLUMNS16(even0, even1, odd0, odd1, sum, difference) \
	ADDHN_4H(odd0, even0, sum)        \
	ADDHN2_8H(odd1, even1, sum)       \
	SUBHN_4H(odd0, even0, difference) \
	SUBHN2_8H(odd1, even1, difference)

// func idctVector(dst *uint8, stride int, coefs *[64]int16, quant *[64]uint16)
TEXT ·idctVector(SB), NOSPLIT, $0-32
	MOVD dst+0(FP), R0
	MOVD stride+8(FP), R1
	MOVD coefs+16(FP), R2
	MOVD quant+24(FP), R3
	MOVD $cosines<>(SB), R4
	VLD1 (R4), [V14.H8, V15.H8]

	VLD1.P 64(R2), [V0.H8, V1.H8, V2.H8, V3.H8]
	VLD1   (R2), [V4.H8, V5.H8, V6.H8, V7.H8]
	VLD1.P 64(R3), [V16.H8, V17.H8, V18.H8, V19.H8]
	VORR   V1.B16, V2.B16, V24.B16
	VORR   V3.B16, V4.B16, V25.B16
	VORR   V5.B16, V6.B16, V26.B16
	VORR   V24.B16, V7.B16, V24.B16
	VORR   V25.B16, V26.B16, V25.B16
	VORR   V24.B16, V25.B16, V24.B16
	VMOV   V24.D[0], R4
	VMOV   V24.D[1], R5
	ORR    R4, R5, R4
	MUL_8H(16, 0, 0)
	CBNZ   R4, columns

	// Nothing below the first row: all rows are the same after the first pass.
	VSHL $2, V0.H8, V0.H8
	VDUP V0.H[1], V1.H8
	VDUP V0.H[2], V2.H8
	VDUP V0.H[3], V3.H8
	VDUP V0.H[4], V4.H8
	VDUP V0.H[5], V5.H8
	VDUP V0.H[6], V6.H8
	VDUP V0.H[7], V7.H8
	VDUP V0.H[0], V0.H8
	B    rows

columns:
	VLD1 (R3), [V20.H8, V21.H8, V22.H8, V23.H8]
	MUL_8H(23, 7, 7)
	MUL_8H(19, 3, 3)
	MUL_8H(21, 5, 5)
	MUL_8H(17, 1, 1)
	MUL_8H(20, 4, 4)
	MUL_8H(18, 2, 2)
	MUL_8H(22, 6, 6)
	TERMS
	ROWS16(V22, V23, V10, V11, 0, 7)
	ROWS16(V24, V25, V26, V27, 1, 6)
	ROWS16(V20, V21, V28, V29, 2, 5)
	ROWS16(V18, V19, V8, V9, 3, 4)

	// Transpose.
	VTRN1 V1.H8, V0.H8, V16.H8
	VTRN2 V1.H8, V0.H8, V17.H8
	VTRN1 V3.H8, V2.H8, V18.H8
	VTRN2 V3.H8, V2.H8, V19.H8
	VTRN1 V5.H8, V4.H8, V20.H8
	VTRN2 V5.H8, V4.H8, V21.H8
	VTRN1 V7.H8, V6.H8, V22.H8
	VTRN2 V7.H8, V6.H8, V23.H8
	VTRN1 V18.S4, V16.S4, V24.S4
	VTRN2 V18.S4, V16.S4, V26.S4
	VTRN1 V19.S4, V17.S4, V25.S4
	VTRN2 V19.S4, V17.S4, V27.S4
	VTRN1 V22.S4, V20.S4, V28.S4
	VTRN2 V22.S4, V20.S4, V30.S4
	VTRN1 V23.S4, V21.S4, V29.S4
	VTRN2 V23.S4, V21.S4, V31.S4
	VTRN1 V28.D2, V24.D2, V0.D2
	VTRN2 V28.D2, V24.D2, V4.D2
	VTRN1 V29.D2, V25.D2, V1.D2
	VTRN2 V29.D2, V25.D2, V5.D2
	VTRN1 V30.D2, V26.D2, V2.D2
	VTRN2 V30.D2, V26.D2, V6.D2
	VTRN1 V31.D2, V27.D2, V3.D2
	VTRN2 V31.D2, V27.D2, V7.D2

rows:
	TERMS
	COLUMNS16(22, 23, 10, 11, 0, 7)
	COLUMNS16(24, 25, 26, 27, 1, 6)
	COLUMNS16(20, 21, 28, 29, 2, 5)
	COLUMNS16(18, 19, 8, 9, 3, 4)

	// 8 bits; columns 0 and 4, 1 and 5, 2 and 6, 3 and 7 in the two halves. Transpose.
	VMOVI $0x80, V24.B16
	SQRSHRN_8B(2, 0, 16)
	SQRSHRN_8B(2, 1, 17)
	SQRSHRN_8B(2, 2, 18)
	SQRSHRN_8B(2, 3, 19)
	SQRSHRN2_16B(2, 4, 16)
	SQRSHRN2_16B(2, 5, 17)
	SQRSHRN2_16B(2, 6, 18)
	SQRSHRN2_16B(2, 7, 19)
	VEOR  V24.B16, V16.B16, V16.B16
	VEOR  V24.B16, V17.B16, V17.B16
	VEOR  V24.B16, V18.B16, V18.B16
	VEOR  V24.B16, V19.B16, V19.B16
	VTRN1 V17.B16, V16.B16, V20.B16
	VTRN2 V17.B16, V16.B16, V21.B16
	VTRN1 V19.B16, V18.B16, V22.B16
	VTRN2 V19.B16, V18.B16, V23.B16
	VTRN1 V22.H8, V20.H8, V24.H8
	VTRN2 V22.H8, V20.H8, V25.H8
	VTRN1 V23.H8, V21.H8, V26.H8
	VTRN2 V23.H8, V21.H8, V27.H8
	VUZP1 V26.S4, V24.S4, V28.S4
	VUZP2 V26.S4, V24.S4, V29.S4
	VUZP1 V27.S4, V25.S4, V30.S4
	VUZP2 V27.S4, V25.S4, V31.S4

	VST1.P V28.D[0], (R0)(R1)
	VST1.P V28.D[1], (R0)(R1)
	VST1.P V30.D[0], (R0)(R1)
	VST1.P V30.D[1], (R0)(R1)
	VST1.P V29.D[0], (R0)(R1)
	VST1.P V29.D[1], (R0)(R1)
	VST1.P V31.D[0], (R0)(R1)
	VST1   V31.D[1], (R0)
	RET

// func acrossVector(dst, near, far *uint8, blocks, biasLeft, biasRight int)
// blocks of 16 samples.
TEXT ·acrossVector(SB), NOSPLIT, $0-48
	MOVD  dst+0(FP), R0
	MOVD  near+8(FP), R2
	MOVD  far+16(FP), R5
	MOVD  blocks+24(FP), R7
	MOVD  biasLeft+32(FP), R8
	MOVD  biasRight+40(FP), R9
	SUB   $1, R2, R1
	ADD   $1, R2, R3
	SUB   $1, R5, R4
	ADD   $1, R5, R6
	VDUP  R8, V30.H8
	VDUP  R9, V31.H8
	VMOVI $9, V28.B16
	VMOVI $3, V29.B16

samples:
	VLD1.P  16(R1), [V0.B16]      // near: before, here and after
	VLD1.P  16(R2), [V1.B16]
	VLD1.P  16(R3), [V2.B16]
	VLD1.P  16(R4), [V3.B16]      // far
	VLD1.P  16(R5), [V4.B16]
	VLD1.P  16(R6), [V5.B16]
	UMULL_8H(28, 1, 16)           // 9*near + 3*far
	UMULL2_8H(28, 1, 17)
	UMLAL_8H(29, 4, 16)
	UMLAL2_8H(29, 4, 17)
	VUADDW  V3.B8, V30.H8, V18.H8 // 3*near + far + bias
	VUADDW2 V3.B16, V30.H8, V19.H8
	VUADDW  V5.B8, V31.H8, V20.H8
	VUADDW2 V5.B16, V31.H8, V21.H8
	UMLAL_8H(29, 0, 18)
	UMLAL2_8H(29, 0, 19)
	UMLAL_8H(29, 2, 20)
	UMLAL2_8H(29, 2, 21)
	VADD    V16.H8, V18.H8, V18.H8
	VADD    V17.H8, V19.H8, V19.H8
	VADD    V16.H8, V20.H8, V20.H8
	VADD    V17.H8, V21.H8, V21.H8
	SHRN_8B(4, 18, 22)
	SHRN_8B(4, 20, 23)
	SHRN2_16B(4, 19, 22)
	SHRN2_16B(4, 21, 23)
	VST2.P  [V22.B16, V23.B16], 32(R0)
	SUB     $1, R7
	CBNZ    R7, samples
	RET

// func yccVector(gray, luminance, cbs, crs *uint8, blocks int)
// blocks of 16 pixels. SQDMULH is (2*a*b) >> 16, and SRSRA, by 1, adds that plus 1, shifted once more: (a*b + 2^15) >> 16 in all.
// A factor above 32767 is split into 65536, or twice that, and the rest, or halved where a factor or SQDMULL doubles.
TEXT ·yccVector(SB), NOSPLIT, $0-40
	MOVD  gray+0(FP), R0
	MOVD  luminance+8(FP), R1
	MOVD  cbs+16(FP), R2
	MOVD  crs+24(FP), R3
	MOVD  blocks+32(FP), R4
	VMOVI $0x80, V31.B16
	VMOVI $0x4c, V24.B16                  // high bytes of the weights of R, G, B
	VMOVI $0x96, V25.B16
	VMOVI $0x1d, V26.B16
	VMOVI $0x8b, V27.B16                  // low bytes
	VMOVI $0x46, V28.B16
	VMOVI $0x2f, V29.B16
	MOVD  $0xa497d3f3e2d166e9, R5         // 91881-65536, (116130-131072)/2, -22554/2, -46802/2
	VMOV  R5, V15.D[0]

pixels:
	VLD1.P 16(R1), [V0.B16]
	VLD1.P 16(R2), [V1.B16]
	VLD1.P 16(R3), [V2.B16]
	VEOR   V31.B16, V1.B16, V1.B16
	SSHLL_8H(1, 1, 3)                     // twice Cb
	SSHLL2_8H(1, 1, 4)
	USUBL_8H(31, 2, 5)                    // Cr
	USUBL2_8H(31, 2, 6)
	SMULL(2, 15, 3, 8)
	SMULL2(2, 15, 3, 9)
	SMULL(2, 15, 4, 10)
	SMULL2(2, 15, 4, 11)
	SQDMULL(3, 15, 5, 12)
	SQDMULL2(3, 15, 5, 13)
	SQDMULL(3, 15, 6, 14)
	SQDMULL2(3, 15, 6, 21)
	RADDHN_4H(12, 8, 22)
	RADDHN2_8H(13, 9, 22)
	RADDHN_4H(14, 10, 23)
	RADDHN2_8H(21, 11, 23)
	SQDMULH(0, 15, 5, 7)
	SQDMULH(0, 15, 6, 16)
	SQDMULH(1, 15, 3, 8)
	SQDMULH(1, 15, 4, 9)
	VUADDW  V0.B8, V5.H8, V17.H8
	VUADDW2 V0.B16, V6.H8, V18.H8
	VUADDW  V0.B8, V3.H8, V19.H8
	VUADDW2 V0.B16, V4.H8, V20.H8
	VUADDW  V0.B8, V22.H8, V22.H8         // G
	VUADDW2 V0.B16, V23.H8, V23.H8
	SRSRA_8H(1, 7, 17)                    // R
	SRSRA_8H(1, 16, 18)
	SRSRA_8H(1, 8, 19)                    // B
	SRSRA_8H(1, 9, 20)
	SQXTUN_8B(17, 17)
	SQXTUN_8B(22, 22)
	SQXTUN_8B(19, 19)
	SQXTUN2_16B(18, 17)
	SQXTUN2_16B(23, 22)
	SQXTUN2_16B(20, 19)

	// Gray, by bytes of the weights: neither the high ones nor the low ones have a sum above 256.
	UMULL_8H(24, 17, 7)
	UMULL2_8H(24, 17, 8)
	UMULL_8H(27, 17, 9)
	UMULL2_8H(27, 17, 10)
	UMLAL_8H(25, 22, 7)
	UMLAL2_8H(25, 22, 8)
	UMLAL_8H(28, 22, 9)
	UMLAL2_8H(28, 22, 10)
	UMLAL_8H(26, 19, 7)
	UMLAL2_8H(26, 19, 8)
	UMLAL_8H(29, 19, 9)
	UMLAL2_8H(29, 19, 10)
	VUSRA  $8, V9.H8, V7.H8
	VUSRA  $8, V10.H8, V8.H8
	RSHRN_8B(8, 7, 0)
	RSHRN2_16B(8, 8, 0)
	VST1.P [V0.B16], 16(R0)
	SUB    $1, R4
	CBNZ   R4, pixels
	RET
