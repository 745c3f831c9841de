/* Call gates: inwards with parameters copied, back outwards, conforming code, and what is refused. */
#include "rom.h"

#define GATE 0x60
#define GATE3 0x63
#define CONFORMING 0x68
#define INNER_GATE 0x70
#define GATE16 0x78

/* A gate descriptor: selector, offset, parameter count, access byte. */
.macro MAKE_GATE slot:req, selector:req, target:req, count:req, access:req
	mov eax, offset \target
	mov edx, eax
	and eax, 0xffff
	or eax, (\selector) << 16
	mov ds:[GDT + \slot], eax
	and edx, 0xffff0000
	or edx, (\count) | (\access) << 8
	mov ds:[GDT + \slot + 4], edx
.endm

	.code16
program:
	ENTER_PROTECTED
	MAKE_GATE GATE, CODE32, inner, 2, 0xec
	MAKE_GATE INNER_GATE, CODE32, inner, 0, 0x8c
	mov dword ptr ds:[GDT + CONFORMING], 0x0000ffff
	mov dword ptr ds:[GDT + CONFORMING + 4], 0x00cf9f00

	/* From ring 3 to ring 0 and back. */
	RING3 user_calls
	CHECK "back in ring 3", ds:[EXC_VECTOR], 0x80
	CHECK "back in ring 3: cs", ds:[EXC_CS], CODE32_3
	CHECK "gate: cs", ds:[SCRATCH], CODE32
	CHECK "gate: stack from the TSS", ds:[SCRATCH+4], 0xefe8
	CHECK "gate: ss", ds:[SCRATCH+8], DATA32
	CHECK "gate: first parameter", ds:[SCRATCH+12], 0x1111
	CHECK "gate: second parameter", ds:[SCRATCH+16], 0x2222
	CHECK "gate: return cs", ds:[SCRATCH+20], CODE32_3
	CHECK "gate: outer esp", ds:[SCRATCH+24], 0x13ff8
	CHECK "gate: outer ss", ds:[SCRATCH+28], DATA32_3
	CHECK "retf n releases the parameters", ds:[SCRATCH+32], STACK3
	CHECK "flags are kept", ds:[SCRATCH+36], 1
	CHECK "outward return nulls inner segments", ds:[SCRATCH+40], 0

	/* From ring 0 the same gate changes no stack and copies nothing. */
	mov ebx, esp
	push 0x2222
	push 0x1111
	call GATE:0
	CHECK "same ring: cs", ds:[SCRATCH], CODE32
	CHECK "same ring: parameter", ds:[SCRATCH+12], 0x1111
	mov ecx, esp
	CHECK "same ring: esp", ecx, ebx

	/* Refusals. */
	RING3 user_inner_gate
	CHECK "gate of DPL 0 from ring 3", ds:[EXC_VECTOR], GP
	CHECK "gate of DPL 0 from ring 3: error", ds:[EXC_ERROR], INNER_GATE
	and byte ptr ds:[GDT + GATE + 5], 0x7f
	FAULT "gate not present", NP, GATE, call GATE:0
	or byte ptr ds:[GDT + GATE + 5], 0x80
	mov word ptr ds:[GDT + GATE + 2], 0
	FAULT "gate to null", GP, 0, call GATE:0
	mov word ptr ds:[GDT + GATE + 2], DATA32
	FAULT "gate to data", GP, DATA32, call GATE:0
	mov word ptr ds:[GDT + GATE + 2], CODE32
	/* A jump through a gate cannot change rings. */
	RING3 user_jump
	CHECK "jump inwards", ds:[EXC_VECTOR], GP
	CHECK "jump inwards: error", ds:[EXC_ERROR], CODE32
	/* Conforming code runs in the caller's ring. */
	RING3 user_conforming
	CHECK "conforming: back", ds:[EXC_VECTOR], 0x80
	CHECK "conforming: cs", ds:[SCRATCH], 0x6b

	/* Far returns refuse to go inwards. */
	RING3 user_retf_inwards
	CHECK "retf inwards", ds:[EXC_VECTOR], GP
	CHECK "retf inwards: error", ds:[EXC_ERROR], CODE32

	/* A 16-bit gate pushes words. */
	MAKE_GATE GATE16, CODE32, inner16, 0, 0x84
	and dword ptr ds:[GDT + GATE16 + 4], 0xffff
	mov dword ptr ds:[GDT + FREE_SEL + 32], 0x0000ffff
	mov dword ptr ds:[GDT + FREE_SEL + 36], 0x00cf9b0f
	mov word ptr ds:[GDT + GATE16 + 2], FREE_SEL + 32
	mov ebx, esp
	RESUME_AT 1f
	call GATE16:0
1:	CHECK "16-bit gate: pushed 4 bytes", ds:[SCRATCH], 4
	CHECK "16-bit gate: cs", ds:[SCRATCH+8], CODE32
	FINISH

	.code32
inner:
	/* [esp] eip, cs, parameters, and from ring 3: esp, ss. */
	mov eax, DATA32
	mov ds, ax
	mov ax, cs
	movzx eax, ax
	mov ds:[SCRATCH], eax
	mov ds:[SCRATCH + 4], esp
	mov ax, ss
	movzx eax, ax
	mov ds:[SCRATCH + 8], eax
	mov eax, [esp + 8]
	mov ds:[SCRATCH + 12], eax
	mov eax, [esp + 12]
	mov ds:[SCRATCH + 16], eax
	mov eax, [esp + 4]
	mov ds:[SCRATCH + 20], eax
	mov eax, [esp + 16]
	mov ds:[SCRATCH + 24], eax
	mov eax, [esp + 20]
	mov ds:[SCRATCH + 28], eax
	stc
	retf 8
inner16:
	mov ecx, ebx
	sub ecx, esp
	mov ds:[SCRATCH], ecx
	movzx eax, word ptr [esp]
	mov ds:[SCRATCH + 4], eax
	movzx eax, word ptr [esp + 2]
	mov ds:[SCRATCH + 8], eax
	/* This code segment has its own base: a far return leaves it. */
	mov esp, ebx
	push CODE32
	push dword ptr ds:[RESUME_IP]
	retf

user_calls:
	push 0x2222
	push 0x1111
	call GATE3:0
	setc dl
	movzx edx, dl
	mov cx, ds
	movzx ecx, cx
	mov ax, DATA32_3
	mov ds, ax
	mov ds:[SCRATCH + 32], esp
	mov ds:[SCRATCH + 36], edx
	mov ds:[SCRATCH + 40], ecx
	int 0x80
user_inner_gate:
	call 0x73:0
	int 0x80
user_jump:
	jmp GATE3:0
	int 0x80
user_conforming:
	mov ax, DATA32_3
	mov ds, ax
	call 0x6b:conforming
	int 0x80
conforming:
	mov ax, cs
	movzx eax, ax
	mov ds:[SCRATCH], eax
	retf
user_retf_inwards:
	push CODE32
	push offset user_conforming
	retf
