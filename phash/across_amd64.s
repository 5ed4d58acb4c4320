#include "textflag.h"

// func narrowVector(sums *[2][side]int32, row0, row1 *uint8, start *[side]int32, weights *uint8, blocks int)
TEXT ·narrowVector(SB), NOSPLIT, $0-48
	MOVQ sums+0(FP), DI
	MOVQ row0+8(FP), SI
	MOVQ row1+16(FP), DX
	MOVQ start+24(FP), R10
	MOVQ weights+32(FP), BX
	MOVQ blocks+40(FP), R11
	MOVQ $64, R12

output:
	MOVLQSX (R10), AX
	LEAQ    (SI)(AX*1), R8
	LEAQ    (DX)(AX*1), R9
	VPXOR   Y0, Y0, Y0 // row 0, high halves of the weights
	VPXOR   Y1, Y1, Y1 // row 0, low halves
	VPXOR   Y2, Y2, Y2 // row 1
	VPXOR   Y3, Y3, Y3
	MOVQ    R11, CX

block:
	VPMOVZXBW (R8), Y4
	VPMOVZXBW (R9), Y5
	VMOVDQU   (BX), Y6
	VMOVDQU   32(BX), Y7
	VPMADDWD  Y6, Y4, Y8
	VPMADDWD  Y7, Y4, Y9
	VPMADDWD  Y6, Y5, Y10
	VPMADDWD  Y7, Y5, Y11
	VPADDD    Y8, Y0, Y0
	VPADDD    Y9, Y1, Y1
	VPADDD    Y10, Y2, Y2
	VPADDD    Y11, Y3, Y3
	ADDQ      $16, R8
	ADDQ      $16, R9
	ADDQ      $64, BX
	DECQ      CX
	JNZ       block

	VPSLLD       $16, Y0, Y0
	VPSLLD       $16, Y2, Y2
	VPADDD       Y1, Y0, Y0
	VPADDD       Y3, Y2, Y2
	VPHADDD      Y2, Y0, Y0
	VEXTRACTI128 $1, Y0, X1
	VPADDD       X1, X0, X0
	VPHADDD      X0, X0, X0
	VMOVD        X0, (DI)
	VPEXTRD      $1, X0, 256(DI)
	ADDQ         $4, DI
	ADDQ         $4, R10
	DECQ         R12
	JNZ          output
	VZEROUPPER
	RET
