/* Segment limits and types: every access is checked against them (Intel SDM volume 3, 5.3 and 5.5). */
#include "rom.h"

/* Writes a data descriptor at FREE_SEL and loads it into ES: 16-bit limit field, access byte, flags. */
.macro SEGMENT limit:req, access:req, flags:req
	mov dword ptr ds:[GDT + FREE_SEL], (\limit) & 0xffff | (0x2000 << 16)
	mov dword ptr ds:[GDT + FREE_SEL + 4], 2 | (\access) << 8 | (((\limit) >> 16) & 15) << 16 | (\flags) << 20
	mov ax, FREE_SEL
	mov es, ax
.endm

	.code16
program:
	ENTER_PROTECTED
	/* The segment starts at 0x22000. Bytes up to 0x0fff. */
	SEGMENT 0x0fff, 0x93, 4
	mov byte ptr ds:[0x22fff], 0x5a
	NOFAULT "last byte", mov al, es:[0x0fff]
	movzx eax, al
	CHECK "last byte's value", eax, 0x5a
	FAULT "one beyond", GP, 0, mov al, es:[0x1000]
	FAULT "word across the end", GP, 0, mov ax, es:[0x0fff]
	FAULT "dword across the end", GP, 0, mov eax, es:[0x0ffd]
	NOFAULT "last dword", mov eax, es:[0x0ffc]
	FAULT "store beyond", GP, 0, mov byte ptr es:[0x1000], 1
	FAULT "far beyond", GP, 0, mov al, es:[0x80000000]
	FAULT "wrapping dword", GP, 0, mov eax, es:[0xfffffffe]
	mov edi, 0x0fff
	mov al, 0x77
	NOFAULT "stosb at the end", stosb
	FAULT "stosb beyond", GP, 0, stosb
	/* A repeated string instruction stops at the fault with its registers up to date. */
	mov edi, 0x0ff0
	mov ecx, 0x20
	mov eax, 0
	FAULT "rep stosb across the end", GP, 0, rep stosb
	CHECK "rep stosb: edi", edi, 0x1000
	CHECK "rep stosb: ecx", ecx, 0x10
	/* An atomic operation that faults changes nothing. */
	mov eax, 5
	FAULT "xadd beyond", GP, 0, lock xadd es:[0x1000], eax
	CHECK "xadd left its register", eax, 5

	/* Page granularity. */
	SEGMENT 0x1, 0x93, 12
	NOFAULT "page granular: last byte", mov al, es:[0x1fff]
	FAULT "page granular: beyond", GP, 0, mov al, es:[0x2000]
	/* Limit 0 holds one byte. */
	SEGMENT 0, 0x93, 4
	NOFAULT "limit 0: byte 0", mov al, es:[0]
	FAULT "limit 0: byte 1", GP, 0, mov al, es:[1]

	/* Read-only data. */
	SEGMENT 0x0fff, 0x91, 4
	NOFAULT "read read-only", mov al, es:[0]
	FAULT "write read-only", GP, 0, mov byte ptr es:[0], 1
	FAULT "read-modify-write read-only", GP, 0, inc byte ptr es:[0]
	/* Code is never writable. */
	FAULT "write code", GP, 0, mov byte ptr cs:[0x22000], 1
	NOFAULT "read readable code", mov al, cs:[0x22000]

	/* Expand-down: valid above the limit, up to 4 GiB (B set) or 64 KiB. */
	SEGMENT 0x0fff, 0x97, 4
	FAULT "expand-down: at the limit", GP, 0, mov al, es:[0x0fff]
	NOFAULT "expand-down: above the limit", mov al, es:[0x1000]
	NOFAULT "expand-down: far above", mov al, es:[0x10000]
	SEGMENT 0x0fff, 0x97, 0
	NOFAULT "expand-down, 16-bit: top", mov al, es:[0xffff]
	FAULT "expand-down, 16-bit: beyond", GP, 0, mov al, es:[0x10000]
	FAULT "expand-down, 16-bit: word across the top", GP, 0, mov ax, es:[0xffff]

	/* The stack segment faults with its own vector. */
	mov dword ptr ds:[GDT + FREE_SEL + 8], 0x20000fff
	mov dword ptr ds:[GDT + FREE_SEL + 12], 0x00409302
	mov dword ptr ds:[SCRATCH], esp
	RESUME_AT 1f
	mov ax, FREE_SEL + 8
	mov ss, ax
	mov esp, 0x1000
stack_at:
	mov eax, ss:[esp]
1:	mov ax, DATA32
	mov ss, ax
	CHECK "stack beyond: vector", ds:[EXC_VECTOR], SS_
	CHECK "stack beyond: error", ds:[EXC_ERROR], 0
	CHECK "stack beyond: ip", ds:[EXC_IP], "offset stack_at"

	/* The code segment: a jump beyond its limit faults at the jump. */
	mov dword ptr ds:[GDT + FREE_SEL + 16], 0x00000fff
	mov dword ptr ds:[GDT + FREE_SEL + 20], 0x00409b02
	/* At 0x20000: jmp to 0x2000, which lies beyond. */
	mov byte ptr ds:[0x20000], 0xe9
	mov dword ptr ds:[0x20001], 0x2000 - 5
	mov dword ptr ds:[SCRATCH], 0
	mov word ptr ds:[SCRATCH + 4], FREE_SEL + 16
	RESUME_AT 1f
	jmp fword ptr ds:[SCRATCH]
1:	CHECK "jump beyond the code limit: vector", ds:[EXC_VECTOR], GP
	CHECK "jump beyond the code limit: error", ds:[EXC_ERROR], 0
	/* Falling off the end: a nop as the last byte, then nothing. */
	mov byte ptr ds:[0x20fff], 0x90
	mov dword ptr ds:[SCRATCH], 0x0fff
	RESUME_AT 1f
	jmp fword ptr ds:[SCRATCH]
1:	CHECK "running off the code limit: vector", ds:[EXC_VECTOR], GP
	CHECK "running off the code limit: ip", ds:[EXC_IP], 0x1000
	/* A far jump beyond the limit faults before it lands. */
	mov dword ptr ds:[SCRATCH], 0x1000
	FAULT "far jump beyond the limit", GP, 0, jmp fword ptr ds:[SCRATCH]
	FINISH
