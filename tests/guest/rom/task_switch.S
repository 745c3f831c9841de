/* Hardware task switches: by jump, call, task gate and interrupt (Intel SDM volume 3, chapter 8). */
#include "rom.h"

#define TASK_A 0x60
#define TASK_B 0x68
#define TASK_GATE 0x70
#define TSS_A 0x20000
#define TSS_B 0x20100
#define STACK_A 0x21000
#define STACK_B 0x22000

/* A TSS of 32 bits that starts at a label, and its descriptor. */
.macro MAKE_TASK selector:req, tss:req, entry:req, stack:req
	mov edi, \tss
	mov ecx, 0x68 / 4
	xor eax, eax
	rep stosd
	mov dword ptr ds:[\tss + 0x20], offset \entry
	mov dword ptr ds:[\tss + 0x24], 2
	mov dword ptr ds:[\tss + 0x38], \stack
	mov dword ptr ds:[\tss + 0x48], DATA32
	mov dword ptr ds:[\tss + 0x4c], CODE32
	mov dword ptr ds:[\tss + 0x50], DATA32
	mov dword ptr ds:[\tss + 0x54], DATA32
	mov word ptr ds:[\tss + 0x66], 0x68
	mov dword ptr ds:[GDT + \selector], 0x67 | ((\tss & 0xffff) << 16)
	mov dword ptr ds:[GDT + \selector + 4], 0x8900 | (\tss >> 16)
.endm

	.code16
program:
	ENTER_PROTECTED
	MAKE_TASK TASK_A, TSS_A, task_a, STACK_A
	MAKE_TASK TASK_B, TSS_B, task_b, STACK_B
	mov dword ptr ds:[GDT + TASK_GATE], TASK_A << 16
	mov dword ptr ds:[GDT + TASK_GATE + 4], 0x8500

	/* A jump: the old task is no longer busy, the new one is, and no link is made. */
	mov dword ptr ds:[SCRATCH], 0
	mov eax, 0x11111111
	mov ebx, 0x22222222
	mov esi, 0x33333333
	mov dword ptr ds:[TSS_A + 0x28], 0xaaaaaaaa
	jmp TASK_A:0
after_jump:
	CHECK "jump: registers come back", ebx, 0x22222222
	CHECK "jump: esi comes back", esi, 0x33333333
	CHECK "jump: eax of the new task", ds:[SCRATCH], 0xaaaaaaaa
	CHECK "jump: esp of the new task", ds:[SCRATCH+4], STACK_A
	CHECK "jump: the old task was left free", ds:[SCRATCH+8], 0x89
	CHECK "jump: the new task was busy", ds:[SCRATCH+12], 0x8b
	CHECK "jump: task register", ds:[SCRATCH+16], TASK_A
	CHECK "jump: NT stays clear", ds:[SCRATCH+20], 0
	CHECK "jump: saved eip", ds:[TSS+0x20], "offset after_jump"
	CHECK "jump: saved esi", ds:[TSS+0x40], 0x33333333
	CHECK "jump: saved eip of the task that was left", ds:[TSS_A+0x20], "offset task_a_again"
	mov eax, cr0
	and eax, 8
	CHECK "a switch sets TS", eax, 8
	clts

	/* A call: the new task is nested, both are busy, IRET comes back. */
	call TASK_B:0
	CHECK "call: link", ds:[SCRATCH], TSS_SEL
	CHECK "call: NT", ds:[SCRATCH+4], 0x4000
	CHECK "call: the caller stays busy", ds:[SCRATCH+8], 0x8b
	movzx eax, byte ptr ds:[GDT + TASK_B + 5]
	CHECK "iret frees the nested task", eax, 0x89
	mov eax, ds:[TSS_B + 0x24]
	and eax, 0x4000
	CHECK "iret clears NT in the task it leaves", eax, 0
	pushfd
	pop eax
	and eax, 0x4000
	CHECK "the caller's NT is clear", eax, 0
	/* The task went on behind its IRET when called again. */
	call TASK_B:0
	CHECK "call again", ds:[SCRATCH], 0x2222

	/* Through a task gate. */
	mov dword ptr ds:[SCRATCH], 0
	call TASK_GATE:0
	CHECK "task gate", ds:[SCRATCH], 0x4a4a
	clts

	/* An exception through a task gate: the error code is on the new task's stack. */
	MAKE_TASK TASK_B, TSS_B, task_fault, STACK_B
	mov dword ptr ds:[IDT + GP * 8], TASK_B << 16
	mov dword ptr ds:[IDT + GP * 8 + 4], 0x8500
	mov dword ptr ds:[SCRATCH], 0
	mov eax, 0x7f8
fault_at:
	mov es, ax
	nop
after_fault:
	CHECK "exception task: error code", ds:[SCRATCH], 0x7f8
	CHECK "exception task: saved eip", ds:[SCRATCH+4], "offset fault_at"
	CHECK "exception task: esp", ds:[SCRATCH+8], 0x21ffc

	/* Refusals. */
	mov dword ptr ds:[IDT + GP * 8], offset gp_vector - 0xf0000 + (CODE32 << 16)
	mov dword ptr ds:[IDT + GP * 8 + 4], 0x000f8e00
	or byte ptr ds:[GDT + TASK_A + 5], 2
	FAULT "jump to a busy task", GP, TASK_A, jmp TASK_A:0
	and byte ptr ds:[GDT + TASK_A + 5], 0x7d
	FAULT "jump to a task not present", NP, TASK_A, jmp TASK_A:0
	or byte ptr ds:[GDT + TASK_A + 5], 0x80
	mov word ptr ds:[GDT + TASK_A], 0x40
	FAULT "jump to a TSS too short", TS, TASK_A, jmp TASK_A:0
	mov word ptr ds:[GDT + TASK_A], 0x67
	FINISH

	.code32
gp_vector:
	.byte 0x6a, GP
	jmp note32

task_a:
	mov ds:[SCRATCH], eax
	mov ds:[SCRATCH + 4], esp
	movzx eax, byte ptr ds:[GDT + TSS_SEL + 5]
	mov ds:[SCRATCH + 8], eax
	movzx eax, byte ptr ds:[GDT + TASK_A + 5]
	mov ds:[SCRATCH + 12], eax
	str ax
	movzx eax, ax
	mov ds:[SCRATCH + 16], eax
	pushfd
	pop eax
	and eax, 0x4000
	mov ds:[SCRATCH + 20], eax
	jmp TSS_SEL:0
task_a_again:
	/* Entered once more, through the gate. */
	mov dword ptr ds:[SCRATCH], 0x4a4a
	iretd

task_b:
	movzx eax, word ptr ds:[TSS_B]
	mov ds:[SCRATCH], eax
	pushfd
	pop eax
	and eax, 0x4000
	mov ds:[SCRATCH + 4], eax
	movzx eax, byte ptr ds:[GDT + TSS_SEL + 5]
	mov ds:[SCRATCH + 8], eax
	iretd
	mov dword ptr ds:[SCRATCH], 0x2222
	iretd

task_fault:
	mov ds:[SCRATCH + 8], esp
	pop eax
	mov ds:[SCRATCH], eax
	mov eax, ds:[TSS + 0x20]
	mov ds:[SCRATCH + 4], eax
	mov dword ptr ds:[TSS + 0x20], offset after_fault
	iretd
