/* Long mode: 64-bit arithmetic and addressing, system calls, interrupt stacks, compatibility mode, canonical addresses. */
#include "rom.h"
#include "rom64.h"

#define ENTRY 0x104000
#define TEST_PAGE 0x400000

	.code16
program:
	ENTER_PROTECTED
	ENTER_LONG

	/* Operand sizes. */
	mov rax, -1
	mov eax, 5
	CHECK64 "32-bit results clear the upper half", rax, 5
	mov rax, -1
	mov ax, 5
	CHECK64 "16-bit results do not", rax, 0xffffffffffff0005
	mov rax, -1
	xor ah, ah
	CHECK64 "nor 8-bit ones", rax, 0xffffffffffff00ff
	mov rbx, 0x123456789abcdef0
	mov r9, 0x0fedcba987654321
	mov rax, rbx
	mul r9
	CHECK64 "mul low", rax, 0x2236d88fe5618cf0
	CHECK64 "mul high", rdx, 0x0121fa00ad77d742
	movsxd rcx, ebx
	CHECK64 "movsxd", rcx, 0xffffffff9abcdef0
	bswap rbx
	CHECK64 "bswap", rbx, 0xf0debc9a78563412
	mov rcx, 0x40
	mov rax, 1
	shl rax, cl
	CHECK64 "shift counts are modulo 64", rax, 1
	lea r15, [rip + 0]
rip_label:
	CHECK64 "rip-relative", r15, "offset rip_label"
	mov sil, 0x42
	movzx eax, sil
	CHECK64 "byte registers of REX", rax, 0x42
	mov rdi, 0x20000
	mov r13, 3
	mov qword ptr [rdi + r13 * 8 - 8], 0x77
	CHECK64 "index and displacement", ds:[0x20010], 0x77
	mov eax, 0xffffffff
	lea rbx, [eax + 2]
	CHECK64 "32-bit addresses wrap", rbx, 1
	mov rcx, 0x100000000
	mov rax, 0
	jecxz 1f
	mov rax, 1
1:	CHECK64 "jecxz looks at ECX", rax, 0
	push -5
	pop rax
	CHECK64 "push sign-extends", rax, -5
	mov rax, 0x7000000000000000
	mov rdx, 0
	mov rcx, 0x10
	div rcx
	CHECK64 "div", rax, 0x0700000000000000
	mov rax, 0x20030
	mov qword ptr [rax], 0
	mov eax, 0x1111
	movabs qword ptr ds:[0x20030], rax
	CHECK64 "movabs", ds:[0x20030], 0x1111
	mov qword ptr ds:[0x20040], 1
	mov qword ptr ds:[0x20048], 2
	mov rax, 1
	mov rdx, 2
	mov rbx, 3
	mov rcx, 4
	lock cmpxchg16b ds:[0x20040]
	CHECK64 "cmpxchg16b", ds:[0x20048], 4

	/* Opcodes that 64-bit mode does not have. */
	FAULT64 "push cs", UD, NO_ERROR, .byte 0x0e
	FAULT64 "daa", UD, NO_ERROR, .byte 0x27
	FAULT64 "pusha", UD, NO_ERROR, .byte 0x60
	FAULT64 "far call immediate", UD, NO_ERROR, .byte 0x9a, 0, 0, 0, 0, 8, 0
	FAULT64 "into", UD, NO_ERROR, .byte 0xce

	/* Canonical addresses. */
	mov rax, 0x800000000000
	FAULT64 "read of a non-canonical address", GP, 0, mov rbx, [rax]
	mov rbp, 0x800000000000
	FAULT64 "by RBP it is a stack fault", SS_, 0, mov rbx, [rbp]
	RESUME64_AT 1f
	jmp rax
1:	CHECK64 "jump to a non-canonical address", ds:[EXC_VECTOR], GP
	mov ecx, 0xc0000100
	xor eax, eax
	mov edx, 0x8000
	FAULT64 "non-canonical FS base", GP, 0, wrmsr

	/* FS and GS bases; SWAPGS. */
	mov ecx, 0xc0000101
	mov eax, 0x20000
	xor edx, edx
	wrmsr
	mov ecx, 0xc0000102
	mov eax, 0x21000
	wrmsr
	mov qword ptr ds:[0x20050], 0xaaaa
	mov qword ptr ds:[0x21050], 0xbbbb
	CHECK64 "gs base", gs:[0x50], 0xaaaa
	swapgs
	CHECK64 "swapgs", gs:[0x50], 0xbbbb
	swapgs
	/* Segment limits and bases of the others do not count. */
	CHECK64 "ds has no base", ds:[0x20050], 0xaaaa

	/* Interrupt frames: aligned, with SS:RSP always. */
	mov rbx, rsp
	RESUME64_AT 1f
	sub rsp, 3
	int 0x80
1:	mov rsp, rbx
	CHECK64 "interrupt pushes ss", ds:[EXC_SS], DATA32
	lea rcx, [rbx - 3]
	CHECK64 "interrupt pushes rsp", ds:[EXC_SP], rcx
	mov rax, ds:[EXC_SS + 0x20]
	and rax, 15
	CHECK64 "the frame is aligned", rax, 0
	/* With IST 1. */
	mov byte ptr ds:[IDT64 + UD * 16 + 4], 1
	FAULT64 "ud2 on its own stack", UD, NO_ERROR, ud2
	CHECK64 "IST stack", ds:[EXC_SS+0x20], 0xdfc0
	mov byte ptr ds:[IDT64 + UD * 16 + 4], 0

	/* Ring 3, SYSCALL and SYSRET. */
	mov ecx, 0xc0000081
	xor eax, eax
	mov edx, CODE64 | 0x4b << 16 /* SYSRET: SS 0x53, CS 0x5b */
	wrmsr
	/* SYSCALL loads CS 0x38 and SS 0x40: the attributes are fixed, the descriptors are not read. */
	mov ecx, 0xc0000082
	mov eax, offset syscall_entry
	xor edx, edx
	wrmsr
	mov ecx, 0xc0000084
	mov eax, 0x600
	wrmsr
	RING3_64 user_syscall
	CHECK64 "back from ring 3", ds:[EXC_VECTOR], 0x80
	CHECK64 "syscall: rcx is the return address", ds:[0x20060], "offset after_syscall"
	mov rax, ds:[0x20068]
	and rax, 0x601
	CHECK64 "syscall: r11 holds the flags", rax, 0x401
	mov rax, ds:[0x20070]
	and rax, 0x601
	CHECK64 "syscall: the mask clears flags", rax, 0x1
	CHECK64 "syscall: cs", ds:[0x20078], CODE64
	CHECK64 "sysret: cs", ds:[EXC_CS], CODE64_3
	CHECK64 "sysret: ss", ds:[EXC_SS], 0x53
	CHECK64 "sysret: rsp is the program's", ds:[EXC_SP], STACK3
	mov rax, ds:[EXC_FLAGS]
	and rax, 0x601
	CHECK64 "sysret: flags come back", rax, 0x401
	RING3_64 user_hlt
	CHECK64 "hlt in ring 3", ds:[EXC_VECTOR], GP

	/* NX, user and supervisor, in a 4 KiB page. */
	mov edi, ENTRY
	mov ecx, 512
	xor eax, eax
	rep stosq
	mov qword ptr ds:[PAGES + 2 * 8], ENTRY + 7
	mov qword ptr ds:[ENTRY], TEST_PAGE + 7
	mov rax, cr3
	mov cr3, rax
	mov byte ptr ds:[TEST_PAGE], 0xc3
	mov eax, TEST_PAGE
	NOFAULT64 "execute", call rax
	bts qword ptr ds:[ENTRY], 63
	invlpg ds:[TEST_PAGE]
	RESUME64_AT 1f
	jmp rax
1:	CHECK64 "NX: error", ds:[EXC_ERROR], 0x11
	CHECK64 "NX: cr2", ds:[EXC_CR2], TEST_PAGE
	CHECK64 "not mapped", ds:[EXC_VECTOR], PF
	FAULT64 "next page", PF, 2, mov qword ptr ds:[TEST_PAGE + 0xffc], 1
	CHECK64 "next page: cr2", ds:[EXC_CR2], TEST_PAGE+0x1000

	/* CR8 is the task priority. */
	mov eax, 5
	mov cr8, rax
	mov rbx, cr8
	CHECK64 "cr8", rbx, 5
	mov eax, 0x10
	FAULT64 "cr8 has four bits", GP, 0, mov cr8, rax
	xor eax, eax
	mov cr8, rax

	/* Compatibility mode and back. */
	mov rax, 0x1234567800000001
	mov r8, 0x1122334455667788
	push 0x10
	mov rbx, rsp
	push CODE32
	push offset compatibility
	retfq
back_to_long:
	mov rsp, rbx
	pop rcx
	CHECK64 "compatibility mode: 32-bit increment", rdx, 2
	CHECK64 "r8 survives compatibility mode", r8, 0x1122334455667788
	/* Clearing CR0.PG leaves long mode only from compatibility mode; in 64-bit mode PAE must stay. */
	mov rax, cr4
	and rax, -0x21
	FAULT64 "clearing PAE in long mode", GP, 0, mov cr4, rax

	/* Vector registers. */
	movabs rax, 0x3ff8000000000000
	movq xmm9, rax
	addsd xmm9, xmm9
	movq rax, xmm9
	movabs rdx, 0x4008000000000000
	CHECK64 "xmm9", rax, rdx
	cvttsd2si r10, xmm9
	CHECK64 "cvttsd2si of 64 bits", r10, 3
	fxsave64 ds:[0x20100]
	pxor xmm9, xmm9
	fxrstor64 ds:[0x20100]
	movq rax, xmm9
	CHECK64 "fxrstor", rax, rdx
	FINISH64

	.code32
compatibility:
	mov edx, eax
	/* 0x48 is no prefix here but DEC EAX. */
	inc edx
	mov ax, DATA32
	mov ds, ax
	mov ss, ax
	.byte 0xea
	.long back_to_long
	.word CODE64

	.code64
syscall_entry:
	mov ds:[0x20060], rcx
	mov ds:[0x20068], r11
	mov rdx, rsp
	mov rsp, STACK0 - 0x2000
	pushfq
	pop rax
	mov ds:[0x20070], rax
	mov ax, cs
	movzx eax, ax
	mov ds:[0x20078], rax
	mov rsp, rdx
	sysretq
user_syscall:
	stc
	std
	syscall
after_syscall:
	int 0x80
user_hlt:
	hlt
