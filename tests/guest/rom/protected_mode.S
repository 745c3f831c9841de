/* Protected mode: selectors and descriptors, privilege, interrupts between rings, I/O permission. */
#include "rom.h"

	.code16
program:
	ENTER_PROTECTED

	/* Bad selectors. The error code is the selector without its RPL. */
	mov ax, 0x7f8
	FAULT "load beyond the GDT", GP, 0x7f8, mov ds, ax
	mov ax, FREE_SEL
	FAULT "load an empty descriptor", GP, FREE_SEL, mov es, ax
	mov ax, CODE32
	NOFAULT "load readable code", mov es, ax
	xor ax, ax
	NOFAULT "load null", mov es, ax
	FAULT "use null", GP, 0, mov al, es:[0]
	FAULT "load null into SS", GP, 0, mov ss, ax
	mov ax, DATA32_3
	FAULT "load DPL 3 into SS", GP, 0x20, mov ss, ax
	NOFAULT "load DPL 3 into FS", mov fs, ax
	mov ax, CODE32
	FAULT "load code into SS", GP, CODE32, mov ss, ax
	/* Not present. */
	mov dword ptr ds:[GDT + FREE_SEL], 0x0000ffff
	mov dword ptr ds:[GDT + FREE_SEL + 4], 0x00cf1300
	mov ax, FREE_SEL
	FAULT "load not present", NP, FREE_SEL, mov gs, ax
	FAULT "load not present into SS", SS_, FREE_SEL, mov ss, ax
	/* Execute-only code cannot be loaded as data. */
	mov dword ptr ds:[GDT + FREE_SEL + 4], 0x00cf9900
	FAULT "load execute-only", GP, FREE_SEL, mov gs, ax
	mov byte ptr ds:[GDT + FREE_SEL + 5], 0x92
	NOFAULT "load data", mov gs, ax
	CHECK "loading sets the accessed bit", ds:[GDT+FREE_SEL+4], 0x00cf9300
	/* Far jumps. */
	mov dword ptr ds:[SCRATCH], offset back
	mov word ptr ds:[SCRATCH + 4], DATA32
	FAULT "far jump to data", GP, DATA32, jmp fword ptr ds:[SCRATCH]
	mov word ptr ds:[SCRATCH + 4], 0
	FAULT "far jump to null", GP, 0, jmp fword ptr ds:[SCRATCH]
	mov word ptr ds:[SCRATCH + 4], CODE32_3
	FAULT "far jump outwards", GP, 0x18, jmp fword ptr ds:[SCRATCH]

back:
	/* Descriptor queries. */
	mov ecx, DATA32
	lar eax, cx
	/* Bits 16 to 19 are not defined. */
	and eax, 0x00f0ff00
	CHECK "lar", eax, 0x00c09300
	lsl eax, cx
	CHECK "lsl", eax, 0xffffffff
	mov ecx, TSS_SEL
	lsl eax, cx
	CHECK "lsl of a TSS", eax, 0x67
	mov ecx, 0x7f8
	xor edx, edx
	lar eax, cx
	setz dl
	CHECK "lar beyond the GDT", edx, 0
	mov ecx, CODE32
	verw cx
	setz dl
	CHECK "verw of code", edx, 0
	verr cx
	setz dl
	CHECK "verr of readable code", edx, 1
	mov eax, 0x10
	mov ecx, 3
	arpl ax, cx
	setz dl
	CHECK "arpl raises", eax, 0x13
	CHECK "arpl zf", edx, 1
	str ax
	movzx eax, ax
	CHECK "str", eax, TSS_SEL
	movzx eax, byte ptr ds:[GDT + TSS_SEL + 5]
	CHECK "ltr sets busy", eax, 0x8b
	mov ax, TSS_SEL
	FAULT "ltr of a busy TSS", GP, TSS_SEL, ltr ax
	sidt ds:[SCRATCH]
	movzx eax, word ptr ds:[SCRATCH]
	CHECK "sidt limit", eax, 0x7ff
	CHECK "sidt base", ds:[SCRATCH+2], IDT

	/* Exceptions without and with an error code. */
	FAULT "ud2", UD, NO_ERROR, ud2
	xor ecx, ecx
	mov eax, 1
	xor edx, edx
	FAULT "div by zero", DE, NO_ERROR, div ecx
	mov dword ptr ds:[SCRATCH], 1
	mov dword ptr ds:[SCRATCH + 4], 5
	mov eax, 6
	FAULT "bound", BR, NO_ERROR, bound eax, ds:[SCRATCH]
	mov eax, 5
	NOFAULT "bound inside", bound eax, ds:[SCRATCH]
	RESUME_AT 1f
	int3
1:	CHECK "int3: vector", ds:[EXC_VECTOR], BP
	/* A gate that is not there: the error code names the IDT entry. */
	FAULT "int without gate", GP, 0x40*8+2, int 0x40
	RESUME_AT 1f
	pushfd
	or dword ptr [esp], 0x801
	popfd
	into
1:	CHECK "into: vector", ds:[EXC_VECTOR], OF
	/* Coprocessor not available. */
	mov eax, cr0
	or eax, 8
	mov cr0, eax
	FAULT "fpu with TS", NM, NO_ERROR, fld1
	clts
	NOFAULT "fpu after clts", fninit

	/* Ring 3. */
	RING3 user_int80
	CHECK "int 80 from ring 3", ds:[EXC_VECTOR], 0x80
	CHECK "ring 3 cs", ds:[EXC_CS], CODE32_3
	CHECK "ring 3 ss", ds:[EXC_SS], DATA32_3
	CHECK "ring 3 esp", ds:[EXC_SP], 0x13ffc
	CHECK "iret to ring 3 drops ring 0 segments", ds:[SCRATCH], 0
	CHECK "and keeps ring 3 segments", ds:[SCRATCH+4], 0x23
	RING3 user_cli
	CHECK "cli in ring 3", ds:[EXC_VECTOR], GP
	CHECK "cli in ring 3: ip", ds:[EXC_IP], "offset user_cli"
	RING3 user_hlt
	CHECK "hlt in ring 3", ds:[EXC_VECTOR], GP
	RING3 user_out
	CHECK "out in ring 3", ds:[EXC_VECTOR], GP
	CHECK "out in ring 3: error", ds:[EXC_ERROR], 0
	RING3 user_cr0
	CHECK "mov cr0 in ring 3", ds:[EXC_VECTOR], GP
	RING3 user_int_gate
	CHECK "gate of DPL 0 from ring 3", ds:[EXC_VECTOR], GP
	CHECK "gate of DPL 0 from ring 3: error", ds:[EXC_ERROR], 0x0d*8+2
	RING3 user_load_ring0
	CHECK "load DPL 0 in ring 3", ds:[EXC_VECTOR], GP
	CHECK "load DPL 0 in ring 3: error", ds:[EXC_ERROR], DATA32
	RING3 user_popf
	CHECK "popf in ring 3 keeps IF and IOPL", ds:[SCRATCH], 0x0002
	/* With a permission bitmap that allows port 0xe9 and no other. */
	mov word ptr ds:[TSS + 0x66], 0x68
	mov edi, TSS + 0x68
	mov ecx, 0x40
	mov eax, DATA32
	mov es, ax
	mov eax, -1
	rep stosd
	mov byte ptr ds:[TSS + 0x68 + 0xe9 / 8], 0xff - (1 << (0xe9 % 8))
	mov word ptr ds:[GDT + TSS_SEL], 0x67 + 0x100
	and byte ptr ds:[GDT + TSS_SEL + 5], 0xfd
	mov ax, TSS_SEL
	ltr ax
	RING3 user_permitted
	CHECK "port in the bitmap", ds:[EXC_VECTOR], 0x80
	RING3 user_out
	CHECK "port not in the bitmap", ds:[EXC_VECTOR], GP
	RING3 user_wide
	CHECK "neighbour not in the bitmap", ds:[EXC_VECTOR], GP
	/* With IOPL 3 everything goes. */
	RESUME_AT 1f
	push DATA32_3
	push STACK3
	push 0x3002
	push CODE32_3
	push offset user_out
	iretd
1:	CHECK "out with IOPL 3", ds:[EXC_VECTOR], 0x80

	/* Interrupt gates clear IF, trap gates do not. */
	mov byte ptr ds:[IDT + 3 * 8 + 5], 0xef
	mov dword ptr ds:[RESUME_IP], offset 1f
	mov dword ptr ds:[RESUME_SP], esp
	sti
	int3
1:	pushfd
	pop eax
	cli
	and eax, 0x200
	CHECK "a trap gate keeps IF", eax, 0x200
	mov dword ptr ds:[RESUME_IP], offset 1f
	mov dword ptr ds:[RESUME_SP], esp
	sti
	int 0x80
1:	pushfd
	pop eax
	and eax, 0x200
	CHECK "an interrupt gate clears IF", eax, 0
	mov eax, ds:[EXC_FLAGS]
	and eax, 0x200
	CHECK "and pushed it set", eax, 0x200
	FINISH

	.code32
user_int80:
	mov ax, ds
	movzx eax, ax
	mov bx, DATA32_3
	mov ds, bx
	mov ds:[SCRATCH], eax
	mov ax, ds
	movzx eax, ax
	mov ds:[SCRATCH + 4], eax
	push eax
	int 0x80
user_cli:
	cli
	int 0x80
user_hlt:
	hlt
	int 0x80
user_out:
	mov al, 0
	out 0x80, al
	int 0x80
user_cr0:
	mov eax, cr0
	int 0x80
user_int_gate:
	int 0x0d
	int 0x80
user_load_ring0:
	mov ax, DATA32
	mov ds, ax
	int 0x80
user_popf:
	mov ax, DATA32_3
	mov ds, ax
	push 0x3202
	popfd
	pushfd
	pop ds:[SCRATCH]
	int 0x80
user_permitted:
	mov al, '.'
	out 0xe9, al
	mov al, '\n'
	out 0xe9, al
	int 0x80
user_wide:
	mov ax, '.'
	out 0xe9, ax
	int 0x80
