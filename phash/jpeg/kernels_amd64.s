#include "textflag.h"

// Constants of the inverse DCT: pairs of factors for VPMADDWD, times 2^13. See idct.go for their names.
// c26sum: f0541+f0765, f0541. c26diff: f0541, f0541-f1847. c7351a: f1175-f1961, f1175. c7351b: f1175, f1175-f0390.
// c71a: f0298-f0899, -f0899. c71b: -f0899, f1501-f0899. c53a: f2053-f2562, -f2562. c53b: -f2562, f3072-f2562.
DATA c26sum<>+0(SB)/8, $0x115129cf115129cf
DATA c26sum<>+8(SB)/8, $0x115129cf115129cf
DATA c26sum<>+16(SB)/8, $0x115129cf115129cf
DATA c26sum<>+24(SB)/8, $0x115129cf115129cf
GLOBL c26sum<>(SB), RODATA|NOPTR, $32

DATA c26diff<>+0(SB)/8, $0xd6301151d6301151
DATA c26diff<>+8(SB)/8, $0xd6301151d6301151
DATA c26diff<>+16(SB)/8, $0xd6301151d6301151
DATA c26diff<>+24(SB)/8, $0xd6301151d6301151
GLOBL c26diff<>(SB), RODATA|NOPTR, $32

DATA c7351a<>+0(SB)/8, $0x25a1e6dc25a1e6dc
DATA c7351a<>+8(SB)/8, $0x25a1e6dc25a1e6dc
DATA c7351a<>+16(SB)/8, $0x25a1e6dc25a1e6dc
DATA c7351a<>+24(SB)/8, $0x25a1e6dc25a1e6dc
GLOBL c7351a<>(SB), RODATA|NOPTR, $32

DATA c7351b<>+0(SB)/8, $0x192525a1192525a1
DATA c7351b<>+8(SB)/8, $0x192525a1192525a1
DATA c7351b<>+16(SB)/8, $0x192525a1192525a1
DATA c7351b<>+24(SB)/8, $0x192525a1192525a1
GLOBL c7351b<>(SB), RODATA|NOPTR, $32

DATA c71a<>+0(SB)/8, $0xe333ecc1e333ecc1
DATA c71a<>+8(SB)/8, $0xe333ecc1e333ecc1
DATA c71a<>+16(SB)/8, $0xe333ecc1e333ecc1
DATA c71a<>+24(SB)/8, $0xe333ecc1e333ecc1
GLOBL c71a<>(SB), RODATA|NOPTR, $32

DATA c71b<>+0(SB)/8, $0x133ee333133ee333
DATA c71b<>+8(SB)/8, $0x133ee333133ee333
DATA c71b<>+16(SB)/8, $0x133ee333133ee333
DATA c71b<>+24(SB)/8, $0x133ee333133ee333
GLOBL c71b<>(SB), RODATA|NOPTR, $32

DATA c53a<>+0(SB)/8, $0xadfdefb0adfdefb0
DATA c53a<>+8(SB)/8, $0xadfdefb0adfdefb0
DATA c53a<>+16(SB)/8, $0xadfdefb0adfdefb0
DATA c53a<>+24(SB)/8, $0xadfdefb0adfdefb0
GLOBL c53a<>(SB), RODATA|NOPTR, $32

DATA c53b<>+0(SB)/8, $0x1051adfd1051adfd
DATA c53b<>+8(SB)/8, $0x1051adfd1051adfd
DATA c53b<>+16(SB)/8, $0x1051adfd1051adfd
DATA c53b<>+24(SB)/8, $0x1051adfd1051adfd
GLOBL c53b<>(SB), RODATA|NOPTR, $32

DATA half11<>+0(SB)/8, $0x0000040000000400
DATA half11<>+8(SB)/8, $0x0000040000000400
DATA half11<>+16(SB)/8, $0x0000040000000400
DATA half11<>+24(SB)/8, $0x0000040000000400
GLOBL half11<>(SB), RODATA|NOPTR, $32

DATA half18<>+0(SB)/8, $0x0002000000020000
DATA half18<>+8(SB)/8, $0x0002000000020000
DATA half18<>+16(SB)/8, $0x0002000000020000
DATA half18<>+24(SB)/8, $0x0002000000020000
GLOBL half18<>(SB), RODATA|NOPTR, $32

DATA level<>+0(SB)/8, $0x8080808080808080
DATA level<>+8(SB)/8, $0x8080808080808080
DATA level<>+16(SB)/8, $0x8080808080808080
DATA level<>+24(SB)/8, $0x8080808080808080
GLOBL level<>(SB), RODATA|NOPTR, $32

DATA turn<>+0(SB)/8, $0x0d0905010c080400
DATA turn<>+8(SB)/8, $0x0f0b07030e0a0602
DATA turn<>+16(SB)/8, $0x0d0905010c080400
DATA turn<>+24(SB)/8, $0x0f0b07030e0a0602
GLOBL turn<>(SB), RODATA|NOPTR, $32

DATA one28<>+0(SB)/8, $0x0080008000800080
DATA one28<>+8(SB)/8, $0x0080008000800080
DATA one28<>+16(SB)/8, $0x0080008000800080
DATA one28<>+24(SB)/8, $0x0080008000800080
GLOBL one28<>(SB), RODATA|NOPTR, $32

DATA one<>+0(SB)/8, $0x0001000100010001
DATA one<>+8(SB)/8, $0x0001000100010001
DATA one<>+16(SB)/8, $0x0001000100010001
DATA one<>+24(SB)/8, $0x0001000100010001
GLOBL one<>(SB), RODATA|NOPTR, $32

DATA white<>+0(SB)/8, $0x00ff00ff00ff00ff
DATA white<>+8(SB)/8, $0x00ff00ff00ff00ff
DATA white<>+16(SB)/8, $0x00ff00ff00ff00ff
DATA white<>+24(SB)/8, $0x00ff00ff00ff00ff
GLOBL white<>(SB), RODATA|NOPTR, $32

DATA toR<>+0(SB)/8, $0x66e966e966e966e9
DATA toR<>+8(SB)/8, $0x66e966e966e966e9
DATA toR<>+16(SB)/8, $0x66e966e966e966e9
DATA toR<>+24(SB)/8, $0x66e966e966e966e9
GLOBL toR<>(SB), RODATA|NOPTR, $32

DATA toB<>+0(SB)/8, $0xc5a2c5a2c5a2c5a2
DATA toB<>+8(SB)/8, $0xc5a2c5a2c5a2c5a2
DATA toB<>+16(SB)/8, $0xc5a2c5a2c5a2c5a2
DATA toB<>+24(SB)/8, $0xc5a2c5a2c5a2c5a2
GLOBL toB<>(SB), RODATA|NOPTR, $32

DATA toG<>+0(SB)/8, $0x492ea7e6492ea7e6
DATA toG<>+8(SB)/8, $0x492ea7e6492ea7e6
DATA toG<>+16(SB)/8, $0x492ea7e6492ea7e6
DATA toG<>+24(SB)/8, $0x492ea7e6492ea7e6
GLOBL toG<>(SB), RODATA|NOPTR, $32

DATA half16<>+0(SB)/8, $0x0000800000008000
DATA half16<>+8(SB)/8, $0x0000800000008000
DATA half16<>+16(SB)/8, $0x0000800000008000
DATA half16<>+24(SB)/8, $0x0000800000008000
GLOBL half16<>(SB), RODATA|NOPTR, $32

DATA fromRG<>+0(SB)/8, $0x4b234c8b4b234c8b
DATA fromRG<>+8(SB)/8, $0x4b234c8b4b234c8b
DATA fromRG<>+16(SB)/8, $0x4b234c8b4b234c8b
DATA fromRG<>+24(SB)/8, $0x4b234c8b4b234c8b
GLOBL fromRG<>(SB), RODATA|NOPTR, $32

DATA fromGB<>+0(SB)/8, $0x1d2f4b231d2f4b23
DATA fromGB<>+8(SB)/8, $0x1d2f4b231d2f4b23
DATA fromGB<>+16(SB)/8, $0x1d2f4b231d2f4b23
DATA fromGB<>+24(SB)/8, $0x1d2f4b231d2f4b23
GLOBL fromGB<>(SB), RODATA|NOPTR, $32

// PASS is one pass of the inverse DCT over eight vectors Y0 to Y7, the coefficients of eight columns (or rows) in the lower halves
// of the two lanes. Results are 8 x 32 bits, from first to last in Y8, Y9, Y10, Y11, Y6, Y4, Y2, Y0.
#define PASS(half, shift) \
	VPUNPCKLWD Y6, Y2, Y8          \
	VPMADDWD   c26sum<>(SB), Y8, Y9 \
	VPMADDWD   c26diff<>(SB), Y8, Y8 \
	VPADDW     Y4, Y0, Y10         \
	VPSUBW     Y4, Y0, Y11         \
	VPXOR      Y12, Y12, Y12       \
	VPUNPCKLWD Y10, Y12, Y10       \
	VPUNPCKLWD Y11, Y12, Y11       \
	VPSRAD     $3, Y10, Y10        \
	VPSRAD     $3, Y11, Y11        \
	VPADDD     half, Y10, Y10      \
	VPADDD     half, Y11, Y11      \
	VPADDD     Y9, Y10, Y0         \
	VPSUBD     Y9, Y10, Y6         \
	VPADDD     Y8, Y11, Y2         \
	VPSUBD     Y8, Y11, Y4         \
	VPADDW     Y3, Y7, Y8          \
	VPADDW     Y1, Y5, Y9          \
	VPUNPCKLWD Y9, Y8, Y8          \
	VPMADDWD   c7351a<>(SB), Y8, Y9 \
	VPMADDWD   c7351b<>(SB), Y8, Y8 \
	VPUNPCKLWD Y1, Y7, Y10         \
	VPUNPCKLWD Y3, Y5, Y11         \
	VPMADDWD   c71a<>(SB), Y10, Y12 \
	VPADDD     Y9, Y12, Y12        \
	VPMADDWD   c71b<>(SB), Y10, Y10 \
	VPADDD     Y8, Y10, Y10        \
	VPMADDWD   c53a<>(SB), Y11, Y13 \
	VPADDD     Y8, Y13, Y13        \
	VPMADDWD   c53b<>(SB), Y11, Y11 \
	VPADDD     Y9, Y11, Y11        \
	VPADDD     Y10, Y0, Y8         \
	VPSUBD     Y10, Y0, Y0         \
	VPADDD     Y11, Y2, Y9         \
	VPSUBD     Y11, Y2, Y2         \
	VPADDD     Y13, Y4, Y10        \
	VPSUBD     Y13, Y4, Y4         \
	VPADDD     Y12, Y6, Y11        \
	VPSUBD     Y12, Y6, Y6         \
	VPSRAD     shift, Y8, Y8       \
	VPSRAD     shift, Y9, Y9       \
	VPSRAD     shift, Y10, Y10     \
	VPSRAD     shift, Y11, Y11     \
	VPSRAD     shift, Y6, Y6       \
	VPSRAD     shift, Y4, Y4       \
	VPSRAD     shift, Y2, Y2       \
	VPSRAD     shift, Y0, Y0

// func idctVector(dst *uint8, stride int, coefs *[64]int16, quant *[64]uint16)
TEXT ·idctVector(SB), NOSPLIT, $0-32
	MOVQ dst+0(FP), DI
	MOVQ stride+8(FP), DX
	MOVQ coefs+16(FP), SI
	MOVQ quant+24(FP), BX

	VMOVDQU 16(SI), X1
	VMOVDQU 32(SI), X2
	VMOVDQU 48(SI), X3
	VMOVDQU 64(SI), X4
	VMOVDQU 80(SI), X5
	VMOVDQU 96(SI), X6
	VMOVDQU 112(SI), X7
	VPOR    X1, X2, X8
	VPOR    X3, X4, X9
	VPOR    X5, X6, X10
	VPOR    X8, X7, X8
	VPOR    X9, X10, X9
	VPOR    X8, X9, X8
	VMOVDQU (SI), X0
	VPMULLW (BX), X0, X0
	VPTEST  X8, X8
	JNZ     columns

	// Nothing below the first row: all rows are the same after the first pass.
	VPSLLW  $2, X0, X0
	VPERMQ  $0x44, Y0, Y8
	VMOVDQA Y8, Y9
	VMOVDQA Y8, Y10
	VMOVDQA Y8, Y11
	JMP     rows

columns:
	VPMULLW 16(BX), X1, X1
	VPMULLW 32(BX), X2, X2
	VPMULLW 48(BX), X3, X3
	VPMULLW 64(BX), X4, X4
	VPMULLW 80(BX), X5, X5
	VPMULLW 96(BX), X6, X6
	VPMULLW 112(BX), X7, X7
	VPERMQ  $0x50, Y0, Y0
	VPERMQ  $0x50, Y1, Y1
	VPERMQ  $0x50, Y2, Y2
	VPERMQ  $0x50, Y3, Y3
	VPERMQ  $0x50, Y4, Y4
	VPERMQ  $0x50, Y5, Y5
	VPERMQ  $0x50, Y6, Y6
	VPERMQ  $0x50, Y7, Y7
	PASS(half11<>(SB), $11)

	// 16 bits; rows 0 and 4, 1 and 5, 2 and 6, 3 and 7 in the two lanes.
	VPACKSSDW Y6, Y8, Y8
	VPACKSSDW Y4, Y9, Y9
	VPACKSSDW Y2, Y10, Y10
	VPACKSSDW Y0, Y11, Y11
	VPERMQ    $0xD8, Y8, Y8
	VPERMQ    $0xD8, Y9, Y9
	VPERMQ    $0xD8, Y10, Y10
	VPERMQ    $0xD8, Y11, Y11

rows:
	// Transpose.
	VPUNPCKLWD Y9, Y8, Y12
	VPUNPCKHWD Y9, Y8, Y13
	VPUNPCKLWD Y11, Y10, Y14
	VPUNPCKHWD Y11, Y10, Y15
	VPUNPCKLDQ Y14, Y12, Y0
	VPUNPCKHDQ Y14, Y12, Y2
	VPUNPCKLDQ Y15, Y13, Y4
	VPUNPCKHDQ Y15, Y13, Y6
	VPSRLDQ    $8, Y0, Y1
	VPSRLDQ    $8, Y2, Y3
	VPSRLDQ    $8, Y4, Y5
	VPSRLDQ    $8, Y6, Y7
	PASS(half18<>(SB), $18)

	// 8 bits: columns 0 to 3 and 4 to 7 of rows 0 to 3 in the lower lane, of rows 4 to 7 in the upper one. Transpose.
	VPACKSSDW  Y9, Y8, Y8
	VPACKSSDW  Y11, Y10, Y10
	VPACKSSDW  Y4, Y6, Y6
	VPACKSSDW  Y0, Y2, Y2
	VPACKSSWB  Y10, Y8, Y8
	VPACKSSWB  Y2, Y6, Y6
	VMOVDQU    turn<>(SB), Y1
	VPSHUFB    Y1, Y8, Y8
	VPSHUFB    Y1, Y6, Y6
	VMOVDQU    level<>(SB), Y2
	VPUNPCKLDQ Y6, Y8, Y0
	VPUNPCKHDQ Y6, Y8, Y1
	VPXOR      Y2, Y0, Y0
	VPXOR      Y2, Y1, Y1

	LEAQ         (DI)(DX*4), AX
	LEAQ         (DX)(DX*2), CX
	VMOVQ        X0, (DI)
	VPEXTRQ      $1, X0, (DI)(DX*1)
	VMOVQ        X1, (DI)(DX*2)
	VPEXTRQ      $1, X1, (DI)(CX*1)
	VEXTRACTI128 $1, Y0, X0
	VEXTRACTI128 $1, Y1, X1
	VMOVQ        X0, (AX)
	VPEXTRQ      $1, X0, (AX)(DX*1)
	VMOVQ        X1, (AX)(DX*2)
	VPEXTRQ      $1, X1, (AX)(CX*1)
	VZEROUPPER
	RET

// func acrossVector(dst, near, far *uint8, blocks, biasLeft, biasRight int)
// blocks of 16 samples.
TEXT ·acrossVector(SB), NOSPLIT, $0-48
	MOVQ         dst+0(FP), DI
	MOVQ         near+8(FP), SI
	MOVQ         far+16(FP), BX
	MOVQ         blocks+24(FP), CX
	MOVQ         biasLeft+32(FP), AX
	MOVQ         biasRight+40(FP), DX
	VMOVQ        AX, X14
	VMOVQ        DX, X15
	VPBROADCASTW X14, Y14
	VPBROADCASTW X15, Y15

samples:
	// 3*near + far of the samples before, here and after.
	VPMOVZXBW -1(SI), Y0
	VPMOVZXBW (SI), Y1
	VPMOVZXBW 1(SI), Y2
	VPMOVZXBW -1(BX), Y3
	VPMOVZXBW (BX), Y4
	VPMOVZXBW 1(BX), Y5
	VPADDW    Y0, Y3, Y3
	VPADDW    Y1, Y4, Y4
	VPADDW    Y2, Y5, Y5
	VPADDW    Y0, Y0, Y0
	VPADDW    Y1, Y1, Y1
	VPADDW    Y2, Y2, Y2
	VPADDW    Y0, Y3, Y0
	VPADDW    Y1, Y4, Y1
	VPADDW    Y2, Y5, Y2

	VPADDW Y1, Y1, Y3
	VPADDW Y1, Y3, Y1
	VPADDW Y14, Y0, Y0
	VPADDW Y15, Y2, Y2
	VPADDW Y1, Y0, Y0
	VPADDW Y1, Y2, Y2
	VPSRLW $4, Y0, Y0
	VPSRLW $4, Y2, Y2
	VPSLLW $8, Y2, Y2
	VPOR   Y0, Y2, Y0
	VMOVDQU Y0, (DI)
	ADDQ   $16, SI
	ADDQ   $16, BX
	ADDQ   $32, DI
	DECQ   CX
	JNZ    samples
	VZEROUPPER
	RET

// func yccVector(gray, luminance, cbs, crs *uint8, blocks int)
// blocks of 16 pixels. A factor above 32767 is split into 65536, or twice that, and the rest. (a*b + 2^15) >> 16 is
// (((a*2*b) >> 16) + 1) >> 1.
TEXT ·yccVector(SB), NOSPLIT, $0-40
	MOVQ    gray+0(FP), DI
	MOVQ    luminance+8(FP), SI
	MOVQ    cbs+16(FP), BX
	MOVQ    crs+24(FP), DX
	MOVQ    blocks+32(FP), CX
	VMOVDQU one28<>(SB), Y15
	VMOVDQU one<>(SB), Y14
	VMOVDQU white<>(SB), Y13
	VMOVDQU half16<>(SB), Y12
	VPXOR   Y11, Y11, Y11

pixels:
	VPMOVZXBW (SI), Y0
	VPMOVZXBW (BX), Y1
	VPMOVZXBW (DX), Y2
	VPSUBW    Y15, Y1, Y1            // Cb
	VPSUBW    Y15, Y2, Y2            // Cr
	VPADDW    Y1, Y1, Y3
	VPADDW    Y2, Y2, Y4
	VPMULHW   toB<>(SB), Y3, Y5
	VPMULHW   toR<>(SB), Y4, Y6
	VPADDW    Y14, Y5, Y5
	VPADDW    Y14, Y6, Y6
	VPSRAW    $1, Y5, Y5
	VPSRAW    $1, Y6, Y6
	VPADDW    Y3, Y5, Y5             // B without Y
	VPADDW    Y2, Y6, Y6             // R without Y
	VPUNPCKLWD Y2, Y1, Y7
	VPUNPCKHWD Y2, Y1, Y8
	VPMADDWD  toG<>(SB), Y7, Y7
	VPMADDWD  toG<>(SB), Y8, Y8
	VPADDD    Y12, Y7, Y7
	VPADDD    Y12, Y8, Y8
	VPSRAD    $16, Y7, Y7
	VPSRAD    $16, Y8, Y8
	VPACKSSDW Y8, Y7, Y7
	VPSUBW    Y2, Y7, Y7             // G without Y

	VPADDW  Y0, Y5, Y5
	VPADDW  Y0, Y6, Y6
	VPADDW  Y0, Y7, Y7
	VPMAXSW Y11, Y5, Y5
	VPMAXSW Y11, Y6, Y6
	VPMAXSW Y11, Y7, Y7
	VPMINSW Y13, Y5, Y5
	VPMINSW Y13, Y6, Y6
	VPMINSW Y13, Y7, Y7

	// Gray. The weight of G is split in two.
	VPUNPCKLWD Y7, Y6, Y0
	VPUNPCKHWD Y7, Y6, Y1
	VPUNPCKLWD Y5, Y7, Y2
	VPUNPCKHWD Y5, Y7, Y3
	VPMADDWD   fromRG<>(SB), Y0, Y0
	VPMADDWD   fromRG<>(SB), Y1, Y1
	VPMADDWD   fromGB<>(SB), Y2, Y2
	VPMADDWD   fromGB<>(SB), Y3, Y3
	VPADDD     Y12, Y0, Y0
	VPADDD     Y12, Y1, Y1
	VPADDD     Y2, Y0, Y0
	VPADDD     Y3, Y1, Y1
	VPSRLD     $16, Y0, Y0
	VPSRLD     $16, Y1, Y1
	VPACKUSDW  Y1, Y0, Y0
	VPACKUSWB  Y0, Y0, Y0
	VPERMQ     $0x08, Y0, Y0
	VMOVDQU    X0, (DI)
	ADDQ       $16, SI
	ADDQ       $16, BX
	ADDQ       $16, DX
	ADDQ       $16, DI
	DECQ       CX
	JNZ        pixels
	VZEROUPPER
	RET
