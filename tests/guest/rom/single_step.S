/* Single step, breakpoints and watchpoints (Intel SDM volume 3, chapter 18). */
#include "rom.h"

.macro CLEAR_DR6
	xor eax, eax
	mov dr6, eax
.endm

	.code16
program:
	ENTER_PROTECTED
	CLEAR_DR6

	/* TF: a trap behind each instruction, beginning with the one after POPFD. */
	mov dword ptr ds:[IDT + DB * 8], offset step_vector - 0xf0000 + (CODE32 << 16)
	mov dword ptr ds:[SCRATCH], 0
	pushfd
	or dword ptr [esp], 0x100
	popfd
	nop
	nop
step_a:
	xor eax, eax
	pushfd
	and dword ptr [esp], 0xfffffeff
	popfd
	nop
	CHECK "instructions stepped", ds:[SCRATCH], 6
	mov eax, dr6
	and eax, 0x4000
	CHECK "DR6.BS", eax, 0x4000
	CHECK "the trap comes behind the instruction", ds:[SCRATCH+8], "offset step_a"

	/* Taken branches, loops and repeated strings step once an iteration. */
	mov dword ptr ds:[SCRATCH], 0
	mov ecx, 5
	mov edi, 0x20000
	xor eax, eax
	pushfd
	or dword ptr [esp], 0x100
	popfd
	rep stosb
	pushfd
	and dword ptr [esp], 0xfffffeff
	popfd
	CHECK "a repeated string steps each round", ds:[SCRATCH], 8
	CHECK "and its registers are up to date", edi, 0x20005

	/* MOV SS holds the trap off for one instruction. */
	mov dword ptr ds:[SCRATCH], 0
	mov edx, DATA32
	pushfd
	or dword ptr [esp], 0x100
	popfd
	mov ss, dx
	nop
	pushfd
	and dword ptr [esp], 0xfffffeff
	popfd
	CHECK "MOV SS delays the trap", ds:[SCRATCH], 4

	/* Back to noting. */
	mov eax, offset vectors32 + DB * 16
	and eax, 0xffff
	or eax, CODE32 << 16
	mov ds:[IDT + DB * 8], eax
	RESUME_AT 1f
	.byte 0xf1
1:	CHECK "icebp: vector", ds:[EXC_VECTOR], DB

	/* An instruction breakpoint is a fault. */
	CLEAR_DR6
	mov eax, offset break_at
	mov dr0, eax
	mov eax, 0x2
	mov dr7, eax
	xor ebx, ebx
	RESUME_AT 1f
	nop
break_at:
	inc ebx
	nop
1:	CHECK "breakpoint: vector", ds:[EXC_VECTOR], DB
	CHECK "breakpoint: ip", ds:[EXC_IP], "offset break_at"
	CHECK "breakpoint: before the instruction", ebx, 0
	mov eax, dr6
	and eax, 0xf
	CHECK "breakpoint: dr6", eax, 1
	/* RF lets it through once. */
	CLEAR_DR6
	RESUME_AT 1f
	push 0x10002
	push CODE32
	push offset break_at_return
	iretd
break_at_return:
	nop
1:	mov eax, offset break_rf
	mov dr0, eax
	xor ebx, ebx
	RESUME_AT 1f
	push 0x10002
	push CODE32
	push offset break_rf
	iretd
break_rf:
	inc ebx
1:	CHECK "RF: ran", ebx, 1
	CHECK "RF: no trap", ds:[EXC_VECTOR], -1

	/* A data watchpoint is a trap: writes of 4 bytes at SCRATCH + 16. */
	CLEAR_DR6
	mov eax, SCRATCH + 16
	mov dr1, eax
	mov eax, 0x00d00008
	mov dr7, eax
	RESUME_AT 1f
	mov eax, ds:[SCRATCH + 16]
	mov dword ptr ds:[SCRATCH + 12], 1
	mov dword ptr ds:[SCRATCH + 20], 1
	jmp 2f
1:	CHECK "watchpoint too early", eax, 0
2:	RESUME_AT 1f
	mov byte ptr ds:[SCRATCH + 19], 7
watch_after:
	nop
1:	CHECK "write watchpoint: vector", ds:[EXC_VECTOR], DB
	CHECK "write watchpoint: ip", ds:[EXC_IP], "offset watch_after"
	mov eax, dr6
	and eax, 0xf
	CHECK "write watchpoint: dr6", eax, 2
	movzx eax, byte ptr ds:[SCRATCH + 19]
	CHECK "write watchpoint: the write happened", eax, 7
	/* Reads or writes. */
	CLEAR_DR6
	mov eax, 0x00f00008
	mov dr7, eax
	RESUME_AT 1f
	mov eax, ds:[SCRATCH + 14]
1:	CHECK "access watchpoint", ds:[EXC_VECTOR], DB
	xor eax, eax
	mov dr7, eax

	/* General detect: DR7.GD makes any access to a debug register trap before it happens. */
	CLEAR_DR6
	mov eax, 0x2000
	RESUME_AT 1f
	mov dr7, eax
detect_at:
	mov eax, dr0
1:	CHECK "general detect: ip", ds:[EXC_IP], "offset detect_at"
	mov eax, dr6
	and eax, 0x2000
	CHECK "general detect: dr6", eax, 0x2000
	/* DR4 and DR5 are DR6 and DR7, unless CR4.DE. */
	mov eax, cr4
	or eax, 8
	mov cr4, eax
	FAULT "dr4 with CR4.DE", UD, NO_ERROR, .byte 0x0f, 0x21, 0xe0
	FINISH

	.code32
/* Counts and goes on. */
step_vector:
	inc dword ptr ds:[SCRATCH]
	cmp dword ptr ds:[SCRATCH], 2
	jne 1f
	push eax
	mov eax, [esp + 4]
	mov ds:[SCRATCH + 8], eax
	pop eax
1:	iretd
