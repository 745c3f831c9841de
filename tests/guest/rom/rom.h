/* What every ROM program starts from: the way from the reset vector into protected mode, exception handlers that note
 * what happened and go on at a place of the program's choice, and checks that report on the debug console.
 *
 * Text goes to port 0xe9, one line a check: "ok NAME" or "FAIL NAME got=X want=X". The write to port 0xf4 ends the
 * emulator with status 33 (all checks held) or 35.
 *
 * Memory: 0x5000 notes, 0x6000 GDT, 0x6800 IDT, 0x7000 64-bit IDT, 0x8000 TSS, stacks below 0x10000 (ring 0), 0x14000
 * (ring 3) and 0x18000 (real mode), free from 0x20000, page tables from 0x100000. */

.intel_syntax noprefix
.text

#define DEBUG_PORT 0xe9
#define EXIT_PORT 0xf4
#define EXIT_GOOD 0x10
#define EXIT_BAD 0x11

/* What the exception handler notes: 8 bytes each. */
#define EXC_VECTOR 0x5000
#define EXC_ERROR 0x5008
#define EXC_IP 0x5010
#define EXC_CS 0x5018
#define EXC_FLAGS 0x5020
#define EXC_CR2 0x5028
#define EXC_SP 0x5030
#define EXC_SS 0x5038
/* Where it goes on. */
#define RESUME_IP 0x5040
#define RESUME_SP 0x5048
#define FAILURES 0x5050
/* For the programs. */
#define SCRATCH 0x5100

#define GDT 0x6000
#define IDT 0x6800
#define IDT64 0x7000
#define TSS 0x8000
#define STACK0 0x10000
#define STACK3 0x14000
#define STACK16 0x8000 /* in segment 0x1000 */

#define CODE32 0x08
#define DATA32 0x10
#define CODE32_3 0x1b
#define DATA32_3 0x23
#define CODE16 0x28
#define DATA16 0x30
#define CODE64 0x38
#define TSS_SEL 0x40
#define CODE64_3 0x5b
/* Descriptors from here on are the program's. */
#define FREE_SEL 0x60

#define DE 0
#define DB 1
#define BP 3
#define OF 4
#define BR 5
#define UD 6
#define NM 7
#define DF 8
#define TS 10
#define NP 11
#define SS_ 12
#define GP 13
#define PF 14
#define AC 17
#define NO_ERROR 0

	.code16
rom_base:
	/* The reset vector jumps here with CS = 0xF000. */
	cli
	cld
	xor ax, ax
	mov ds, ax
	mov es, ax
	mov ss, ax
	mov esp, 0xf000
	/* No interrupts from the 8259 pair, whose vectors nobody has set. */
	mov al, 0xff
	out 0x21, al
	out 0xa1, al
	xor ax, ax
	/* Clean notes, tables and stacks. */
	mov di, 0x5000
	mov cx, 0x4000
	rep stosb
	/* GDT to RAM, where accessed and busy bits can be written. */
	mov si, offset (gdt_image - rom_base)
	mov di, GDT
	mov cx, gdt_image_end - gdt_image
	rep movsb es:[di], cs:[si]
	jmp program

gdt_image:
	.quad 0
	.quad 0x00cf9b000000ffff /* 08 code, ring 0 */
	.quad 0x00cf93000000ffff /* 10 data, ring 0 */
	.quad 0x00cffb000000ffff /* 18 code, ring 3 */
	.quad 0x00cff3000000ffff /* 20 data, ring 3 */
	.quad 0x00009b0f0000ffff /* 28 16-bit code at 0xF0000 */
	.quad 0x000093000000ffff /* 30 16-bit data */
	.quad 0x00af9b000000ffff /* 38 64-bit code, ring 0 */
	.quad 0x0000890080000067 /* 40 TSS at 0x8000 */
	.quad 0                  /* 48 its upper half in long mode */
	.quad 0x00cff3000000ffff /* 50 data, ring 3, below the 64-bit code of ring 3 as SYSRET wants it */
	.quad 0x00affb000000ffff /* 58 64-bit code, ring 3 */
gdt_image_end:

gdt_pointer:
	.word 0x7ff
	.long GDT
idt_pointer:
	.word 0x7ff
	.long IDT
real_idt_pointer:
	.word 0x3ff
	.long 0

/* From real mode to 32 bits, with exception handlers and a TSS. */
.macro ENTER_PROTECTED
	.code16
	lgdt cs:[gdt_pointer - rom_base]
	mov eax, cr0
	or eax, 1
	mov cr0, eax
	.byte 0x66, 0xea
	.long .Lprotected\@
	.word CODE32
	.code32
.Lprotected\@:
	mov ax, DATA32
	mov ds, ax
	mov es, ax
	mov ss, ax
	mov fs, ax
	mov gs, ax
	mov esp, STACK0
	call setup32
.endm

/* Compares a register or memory with an immediate. Keeps every register but the flags. */
.macro CHECK name:req, got:req, want:req
	push esi
	push edx
	push eax
	mov eax, \got
	mov edx, \want
	call .Lnamed\@
	.asciz "\name"
.Lnamed\@:
	pop esi
	call check32
	pop eax
	pop edx
	pop esi
.endm

/* Notes are taken from here on; the handler goes on at the label. */
.macro RESUME_AT label:req
	mov dword ptr ds:[EXC_VECTOR], -1
	mov dword ptr ds:[EXC_ERROR], -1
	mov dword ptr ds:[RESUME_IP], offset \label
	mov dword ptr ds:[RESUME_SP], esp
.endm

/* The instruction must fault, and the noted address must be its own. */
.macro FAULT name:req, vector:req, error:req, insn:vararg
	RESUME_AT .Lafter\@
.Lat\@:
	\insn
.Lafter\@:
	CHECK "\name: vector", ds:[EXC_VECTOR], \vector
	CHECK "\name: error", ds:[EXC_ERROR], \error
	CHECK "\name: ip", ds:[EXC_IP], "offset .Lat\@"
.endm

/* The instruction must not fault. */
.macro NOFAULT name:req, insn:vararg
	RESUME_AT .Lafter\@
	\insn
.Lafter\@:
	CHECK "\name: no fault", ds:[EXC_VECTOR], -1
.endm

/* Runs code at a label in ring 3 until it faults or comes back by INT 0x80. */
.macro RING3 label:req
	RESUME_AT .Lback\@
	push DATA32_3
	push STACK3
	pushfd
	push CODE32_3
	push offset \label
	iretd
.Lback\@:
.endm

.macro FINISH
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
setup32:
	/* 32 exceptions, then a gate that ring 3 may use. */
	mov edi, IDT
	mov eax, offset vectors32
	mov ecx, 32
1:	mov edx, eax
	and edx, 0xffff
	or edx, CODE32 << 16
	mov [edi], edx
	mov edx, eax
	and edx, 0xffff0000
	or edx, 0x8e00
	mov [edi + 4], edx
	add eax, 16
	add edi, 8
	loop 1b
	mov eax, offset vector80
	mov edx, eax
	and edx, 0xffff
	or edx, CODE32 << 16
	mov ds:[IDT + 0x80 * 8], edx
	and eax, 0xffff0000
	or eax, 0xee00
	mov ds:[IDT + 0x80 * 8 + 4], eax
	lidt ds:[idt_pointer]
	mov dword ptr ds:[RESUME_IP], offset stray32
	mov dword ptr ds:[RESUME_SP], STACK0 - 0x800
	mov dword ptr ds:[TSS + 4], STACK0 - 0x1000
	mov dword ptr ds:[TSS + 8], DATA32
	mov word ptr ds:[TSS + 0x66], 0x68
	mov ax, TSS_SEL
	ltr ax
	ret

	.balign 16
vectors32:
	.set vector, 0
	.rept 32
	.balign 16
	.if !(vector == 8 || (vector >= 10 && vector <= 14) || vector == 17)
	.byte 0x6a, 0
	.endif
	.byte 0x6a, vector
	jmp note32
	.set vector, vector + 1
	.endr
	.balign 16
vector80:
	.byte 0x6a, 0
	push 0x80
	jmp note32

/* Notes vector, error code and frame, then goes on at RESUME_IP on the stack of RESUME_SP, in ring 0. Registers other
 * than DS, SS and ESP stay as they were. */
note32:
	push eax
	mov eax, DATA32
	mov ds, ax
	mov eax, [esp + 4]
	mov ds:[EXC_VECTOR], eax
	mov eax, [esp + 8]
	mov ds:[EXC_ERROR], eax
	mov eax, [esp + 12]
	mov ds:[EXC_IP], eax
	mov eax, [esp + 16]
	mov ds:[EXC_CS], eax
	mov eax, [esp + 20]
	mov ds:[EXC_FLAGS], eax
	test byte ptr ds:[EXC_CS], 3
	jz 1f
	mov eax, [esp + 24]
	mov ds:[EXC_SP], eax
	mov eax, [esp + 28]
	mov ds:[EXC_SS], eax
1:	mov eax, cr2
	mov ds:[EXC_CR2], eax
	pop eax
	mov ss, word ptr cs:[flat_stack]
	mov esp, ds:[RESUME_SP]
	/* A place to go on is good for one exception: a second one that nobody waits for ends the program. */
	push dword ptr ds:[RESUME_IP]
	mov dword ptr ds:[RESUME_IP], offset stray32
	ret
stray32:
	CHECK "an exception that nobody waits for: vector", ds:[EXC_VECTOR], -1
	CHECK "an exception that nobody waits for: ip", ds:[EXC_IP], -1
	FINISH
flat_stack:
	.word DATA32

/* eax got, edx wanted, esi name. Keeps every register. */
check32:
	pushad
	mov ebx, eax
	mov ebp, offset text_ok
	cmp eax, edx
	je 1f
	mov ebp, offset text_fail
	inc dword ptr ds:[FAILURES]
1:	xchg esi, ebp
	call print32
	xchg esi, ebp
	call print32
	cmp ebx, edx
	je 2f
	mov esi, offset text_got
	call print32
	mov eax, ebx
	call hex32
	mov esi, offset text_want
	call print32
	mov eax, edx
	call hex32
2:	mov al, '\n'
	out DEBUG_PORT, al
	popad
	ret

print32:
	push eax
1:	mov al, cs:[esi]
	inc esi
	test al, al
	jz 2f
	out DEBUG_PORT, al
	jmp 1b
2:	pop eax
	ret

hex32:
	push ecx
	mov ecx, 8
1:	rol eax, 4
	push eax
	and al, 15
	cmp al, 10
	sbb al, 0x69
	das
	out DEBUG_PORT, al
	pop eax
	loop 1b
	pop ecx
	ret

text_ok:
	.asciz "ok "
text_fail:
	.asciz "FAIL "
text_got:
	.asciz " got="
text_want:
	.asciz " want="

	.section .reset, "ax"
	.code16
	.byte 0xea
	.word 0, 0xf000
	.text
