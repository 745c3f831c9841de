/* Starting the other processors: INIT, start-up IPI, a shared counter under a lock, IPIs both ways. Run with -smp 4. */
#include "rom.h"
#include "rom64.h"

#define APIC 0xfee00000
#define PROCESSORS 4
#define ROUNDS 20000

/* Shared words. */
#define STARTED 0x20000
#define LOCK 0x20008
#define COUNTER 0x20010
#define ATOMIC 0x20018
#define FINISHED 0x20020
#define GO 0x20028
#define PINGS 0x20030
#define IDS 0x20040

	.code16
program:
	ENTER_PROTECTED
	ENTER_LONG
	mov r12d, APIC
	/* The start-up page: real-mode code that jumps into the ROM. */
	mov rsi, offset trampoline
	mov rdi, 0x9000
	mov rcx, trampoline_end - trampoline
	rep movsb
	mov edi, STARTED
	mov ecx, 0x100 / 8
	xor eax, eax
	rep stosq
	/* The APIC on, and vector 0x90 for our own interrupts. */
	mov dword ptr [r12 + 0xf0], 0x1ff
	mov eax, [r12 + 0x20]
	shr eax, 24
	CHECK64 "the first processor's APIC id", rax, 0
	mov ecx, 0x1b
	rdmsr
	and eax, 0x100
	CHECK64 "it is the bootstrap processor", rax, 0x100
	mov eax, offset on_ping
	mov edx, eax
	and edx, 0xffff
	or edx, CODE64 << 16
	mov ds:[IDT64 + 0x90 * 16], edx
	and eax, 0xffff0000
	or eax, 0x8e00
	mov ds:[IDT64 + 0x90 * 16 + 4], eax

	/* INIT, then start-up at 0x9000, to all others. */
	mov dword ptr [r12 + 0x300], 0x000c4500
	call wait_delivered
	call pause_a_while
	mov dword ptr [r12 + 0x300], 0x000c4609
	call wait_delivered
	call pause_a_while
	mov dword ptr [r12 + 0x300], 0x000c4609
	call wait_delivered
	mov rcx, 2000000000
1:	cmp dword ptr ds:[STARTED], PROCESSORS - 1
	je 2f
	pause
	dec rcx
	jnz 1b
2:	mov eax, ds:[STARTED]
	CHECK64 "processors started", rax, 3
	mov eax, ds:[IDS]
	CHECK64 "their ids", rax, 0x0e
	mov eax, ds:[IDS + 8]
	CHECK64 "none is the bootstrap processor", rax, 0

	/* All count together. */
	mov dword ptr ds:[GO], 1
	call count
	mov rcx, 4000000000
1:	cmp dword ptr ds:[FINISHED], PROCESSORS
	je 2f
	pause
	dec rcx
	jnz 1b
2:	mov eax, ds:[COUNTER]
	CHECK64 "counted under the lock", rax, 80000
	mov eax, ds:[ATOMIC]
	CHECK64 "counted atomically", rax, 80000

	/* An interrupt to each of the others, which halt and wait for it. */
	mov dword ptr [r12 + 0x300], 0x000c4090
	call wait_delivered
	mov rcx, 2000000000
1:	cmp dword ptr ds:[PINGS], PROCESSORS - 1
	je 2f
	pause
	dec rcx
	jnz 1b
2:	mov eax, ds:[PINGS]
	CHECK64 "interrupts answered", rax, 3
	/* And one to ourselves. */
	mov dword ptr [r12 + 0x300], 0x00044090
	sti
	nop
	mov rcx, 100000000
1:	cmp dword ptr ds:[PINGS], PROCESSORS
	je 2f
	dec rcx
	jnz 1b
2:	cli
	mov eax, ds:[PINGS]
	CHECK64 "an interrupt to itself", rax, 4
	FINISH64

wait_delivered:
	test dword ptr [r12 + 0x300], 0x1000
	jnz wait_delivered
	ret
pause_a_while:
	mov ecx, 200000
1:	pause
	loop 1b
	ret

count:
	mov ecx, ROUNDS
1:	lock bts dword ptr ds:[LOCK], 0
	jc 2f
	inc dword ptr ds:[COUNTER]
	mov dword ptr ds:[LOCK], 0
	lock inc dword ptr ds:[ATOMIC]
	dec ecx
	jnz 1b
	lock inc dword ptr ds:[FINISHED]
	ret
2:	pause
	jmp 1b

on_ping:
	lock inc dword ptr ds:[PINGS]
	mov dword ptr [r12 + 0xb0], 0
	iretq

	.code16
/* At 0900:0000. */
trampoline:
	cli
	xor ax, ax
	mov ds, ax
	lgdt cs:[trampoline_gdt - trampoline]
	mov eax, cr0
	or eax, 1
	mov cr0, eax
	.byte 0x66, 0xea
	.long other_processor
	.word CODE32
trampoline_gdt:
	.word 0x7ff
	.long GDT
trampoline_end:

	.code32
other_processor:
	mov ax, DATA32
	mov ds, ax
	mov es, ax
	mov ss, ax
	mov eax, PML4
	mov cr3, eax
	mov eax, cr4
	or eax, 0x6a0
	mov cr4, eax
	mov ecx, 0xc0000080
	rdmsr
	or eax, 0x901
	wrmsr
	mov eax, cr0
	or eax, 0x80010000
	mov cr0, eax
	.byte 0xea
	.long other_long
	.word CODE64
	.code64
other_long:
	lidt ds:[idt64_pointer]
	mov r12d, APIC
	mov dword ptr [r12 + 0xf0], 0x1ff
	mov eax, [r12 + 0x20]
	shr eax, 24
	mov ecx, eax
	mov rsp, rax
	shl rsp, 12
	add rsp, 0x30000
	mov eax, 1
	shl eax, cl
	lock or ds:[IDS], eax
	mov ecx, 0x1b
	rdmsr
	and eax, 0x100
	lock or ds:[IDS + 8], eax
	lock inc dword ptr ds:[STARTED]
1:	pause
	cmp dword ptr ds:[GO], 1
	jne 1b
	call count
1:	sti
	hlt
	jmp 1b
