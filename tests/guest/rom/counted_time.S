/* Virtual time under -icount: the time-stamp counter follows the instructions, and HLT lets time pass to the timer's
 * interrupt. Prints one hexadecimal number a line: the ticks of two equal loops, of one HLT, and the counter at the end.
 * With a counted clock the numbers are the same in each run. */
#include "rom.h"

	.code16
/* Prints dx:ax. */
hex:
	xchg ax, dx
	call hex16
	xchg ax, dx
	call hex16
	mov al, '\n'
	out DEBUG_PORT, al
	ret

hex16:
	mov cx, 4
1:	rol ax, 4
	push ax
	and al, 15
	cmp al, 10
	sbb al, 0x69
	das
	out DEBUG_PORT, al
	pop ax
	loop 1b
	ret

/* Runs the code between START and STOP_AND_PRINT and prints the ticks it took (below 2^32). */
.macro START
	rdtsc
	mov ebx, eax
.endm

.macro STOP_AND_PRINT
	rdtsc
	sub eax, ebx
	mov edx, eax
	shr edx, 16
	call hex
.endm

timer:
	inc word ptr ds:[SCRATCH]
	mov al, 0x20
	out 0x20, al
	iret

program:
	.rept 2
	START
	mov ecx, 50000
1:	dec ecx
	jnz 1b
	STOP_AND_PRINT
	.endr

	/* The 8259s: vectors from 8 and 0x70, only IRQ 0 open. */
	mov al, 0x11
	out 0x20, al
	out 0xa0, al
	mov al, 8
	out 0x21, al
	mov al, 0x70
	out 0xa1, al
	mov al, 4
	out 0x21, al
	mov al, 2
	out 0xa1, al
	mov al, 1
	out 0x21, al
	out 0xa1, al
	mov al, 0xfe
	out 0x21, al
	mov word ptr ds:[8 * 4], offset (timer - rom_base)
	mov word ptr ds:[8 * 4 + 2], 0xf000

	/* Counter 0 once (mode 0) to the end of 11932 ticks of 1193182 Hz: 10 ms. */
	START
	mov al, 0x30
	out 0x43, al
	mov al, 11932 & 0xff
	out 0x40, al
	mov al, 11932 >> 8
	out 0x40, al
	sti
1:	hlt
	cmp word ptr ds:[SCRATCH], 0
	je 1b
	cli
	STOP_AND_PRINT

	rdtsc
	mov edx, eax
	shr edx, 16
	call hex
	FINISH
