/* The 64-bit side: long mode with identity pages for the first 16 MiB and the APICs, handlers and checks as in rom.h.
 * ENTER_LONG comes after ENTER_PROTECTED. */

#define PML4 0x100000
#define PDPT 0x101000
#define PAGES 0x102000
#define HIGH_PAGES 0x103000
#define IST1 0xe000

.macro CHECK64 name:req, got:req, want:req
	push rsi
	push rdx
	push rax
	mov rax, \got
	mov rdx, \want
	call .Lnamed\@
	.asciz "\name"
.Lnamed\@:
	pop rsi
	call check64
	pop rax
	pop rdx
	pop rsi
.endm

.macro RESUME64_AT label:req
	mov qword ptr ds:[EXC_VECTOR], -1
	mov qword ptr ds:[EXC_ERROR], -1
	mov qword ptr ds:[RESUME_IP], offset \label
	mov ds:[RESUME_SP], rsp
.endm

.macro FAULT64 name:req, vector:req, error:req, insn:vararg
	RESUME64_AT .Lafter\@
.Lat\@:
	\insn
.Lafter\@:
	CHECK64 "\name: vector", ds:[EXC_VECTOR], \vector
	CHECK64 "\name: error", ds:[EXC_ERROR], \error
	CHECK64 "\name: ip", ds:[EXC_IP], "offset .Lat\@"
.endm

.macro NOFAULT64 name:req, insn:vararg
	RESUME64_AT .Lafter\@
	\insn
.Lafter\@:
	CHECK64 "\name: no fault", ds:[EXC_VECTOR], -1
.endm

.macro RING3_64 label:req
	RESUME64_AT .Lback\@
	push DATA32_3
	push STACK3
	pushfq
	push CODE64_3
	push offset \label
	iretq
.Lback\@:
.endm

.macro ENTER_LONG
	.code32
	call setup_long
	mov eax, PML4
	mov cr3, eax
	mov eax, cr4
	or eax, 0x6a0 /* PAE, PGE, OSFXSR, OSXMMEXCPT */
	mov cr4, eax
	mov ecx, 0xc0000080
	rdmsr
	or eax, 0x901 /* SCE, LME, NXE */
	wrmsr
	mov eax, cr0
	or eax, 0x80010000
	mov cr0, eax
	.byte 0xea
	.long .Llong\@
	.word CODE64
	.code64
.Llong\@:
	mov rsp, STACK0
	lidt ds:[idt64_pointer]
	/* The TSS descriptor is of 16 bytes now. */
	mov byte ptr ds:[GDT + TSS_SEL + 5], 0x89
	mov dword ptr ds:[GDT + TSS_SEL + 8], 0
	mov qword ptr ds:[TSS + 4], STACK0 - 0x1000
	mov qword ptr ds:[TSS + 0x24], IST1
	mov ax, TSS_SEL
	ltr ax
	mov qword ptr ds:[RESUME_IP], offset stray64
	mov qword ptr ds:[RESUME_SP], STACK0 - 0x800
.endm

.macro FINISH64
	mov al, EXIT_GOOD
	cmp dword ptr ds:[FAILURES], 0
	je .Lgood\@
	mov al, EXIT_BAD
.Lgood\@:
	out EXIT_PORT, al
.Lhang\@:
	hlt
	jmp .Lhang\@
.endm

	.code32
setup_long:
	mov edi, PML4
	mov ecx, 0x4000 / 4
	xor eax, eax
	rep stosd
	mov dword ptr ds:[PML4], PDPT + 7
	mov dword ptr ds:[PDPT], PAGES + 7
	mov dword ptr ds:[PDPT + 3 * 8], HIGH_PAGES + 7
	mov edi, PAGES
	mov ecx, 8
	mov eax, 0x87
1:	mov [edi], eax
	add eax, 0x200000
	add edi, 8
	loop 1b
	/* The I/O APIC and the local APIC, and the ROM below 4 GiB. */
	mov dword ptr ds:[HIGH_PAGES + 0x1f6 * 8], 0xfec00093
	mov dword ptr ds:[HIGH_PAGES + 0x1f7 * 8], 0xfee00093
	mov dword ptr ds:[HIGH_PAGES + 0x1ff * 8], 0xffe00083
	mov edi, IDT64
	mov eax, offset vectors64
	mov ecx, 32
1:	mov edx, eax
	and edx, 0xffff
	or edx, CODE64 << 16
	mov [edi], edx
	mov edx, eax
	and edx, 0xffff0000
	or edx, 0x8e00
	mov [edi + 4], edx
	mov dword ptr [edi + 8], 0
	add eax, 16
	add edi, 16
	loop 1b
	mov eax, offset vector80_64
	mov edx, eax
	and edx, 0xffff
	or edx, CODE64 << 16
	mov ds:[IDT64 + 0x80 * 16], edx
	and eax, 0xffff0000
	or eax, 0xee00
	mov ds:[IDT64 + 0x80 * 16 + 4], eax
	ret

idt64_pointer:
	.word 0xfff
	.quad IDT64

	.code64
	.balign 16
vectors64:
	.set vector, 0
	.rept 32
	.balign 16
	.if !(vector == 8 || (vector >= 10 && vector <= 14) || vector == 17)
	.byte 0x6a, 0
	.endif
	.byte 0x6a, vector
	jmp note64
	.set vector, vector + 1
	.endr
	.balign 16
vector80_64:
	.byte 0x6a, 0
	push 0x80
	jmp note64

note64:
	push rax
	mov rax, [rsp + 8]
	mov ds:[EXC_VECTOR], rax
	mov rax, [rsp + 16]
	mov ds:[EXC_ERROR], rax
	mov rax, [rsp + 24]
	mov ds:[EXC_IP], rax
	mov rax, [rsp + 32]
	mov ds:[EXC_CS], rax
	mov rax, [rsp + 40]
	mov ds:[EXC_FLAGS], rax
	mov rax, [rsp + 48]
	mov ds:[EXC_SP], rax
	mov rax, [rsp + 56]
	mov ds:[EXC_SS], rax
	mov rax, cr2
	mov ds:[EXC_CR2], rax
	/* Where the handler's own stack was. */
	mov ds:[EXC_SS + 0x20], rsp
	pop rax
	mov rsp, ds:[RESUME_SP]
	push qword ptr ds:[RESUME_IP]
	mov qword ptr ds:[RESUME_IP], offset stray64
	ret

stray64:
	CHECK64 "an exception that nobody waits for: vector", ds:[EXC_VECTOR], -1
	CHECK64 "an exception that nobody waits for: ip", ds:[EXC_IP], -1
	FINISH64

/* rax got, rdx wanted, rsi name. Keeps every register. */
check64:
	push rax
	push rbx
	push rcx
	push rdi
	push rsi
	mov rbx, rax
	mov rdi, rsi
	mov esi, offset text_ok
	cmp rax, rdx
	je 1f
	mov esi, offset text_fail
	inc dword ptr ds:[FAILURES]
1:	call print64
	mov rsi, rdi
	call print64
	cmp rbx, rdx
	je 2f
	mov esi, offset text_got
	call print64
	mov rax, rbx
	call hex64
	mov esi, offset text_want
	call print64
	mov rax, rdx
	call hex64
2:	mov al, '\n'
	out DEBUG_PORT, al
	pop rsi
	pop rdi
	pop rcx
	pop rbx
	pop rax
	ret

print64:
	mov al, [rsi]
	inc rsi
	test al, al
	jz 2f
	out DEBUG_PORT, al
	jmp print64
2:	ret

hex64:
	mov ecx, 16
1:	rol rax, 4
	push rax
	and al, 15
	add al, '0'
	cmp al, '9'
	jbe 2f
	add al, 'A' - '9' - 1
2:	out DEBUG_PORT, al
	pop rax
	loop 1b
	ret
