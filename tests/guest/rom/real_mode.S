/* Real mode: flags, decimal arithmetic, strings, stack frames, far calls, interrupts, segment arithmetic. */
#include "rom.h"

/* ax got, dx wanted; the name follows the call. */
.macro CHECK16 name:req, got:req, want:req
	pusha
	push ds
	mov ax, \got
	mov dx, \want
	call .Lnamed\@
	.asciz "\name"
.Lnamed\@:
	pop si
	call check16
	pop ds
	popa
.endm

	.code16
check16:
	xor bx, bx
	mov ds, bx
	mov bx, ax
	mov di, si
	mov si, offset (text_ok - rom_base)
	cmp bx, dx
	je 1f
	mov si, offset (text_fail - rom_base)
	inc word ptr ds:[FAILURES]
1:	call print16
	mov si, di
	call print16
	cmp bx, dx
	je 2f
	mov si, offset (text_got - rom_base)
	call print16
	mov ax, bx
	call hex16
	mov si, offset (text_want - rom_base)
	call print16
	mov ax, dx
	call hex16
2:	mov al, '\n'
	out DEBUG_PORT, al
	ret

print16:
	mov al, cs:[si]
	inc si
	test al, al
	jz 2f
	out DEBUG_PORT, al
	jmp print16
2:	ret

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

/* Flags after an instruction, masked to those it defines. */
.macro FLAGS16 name:req, mask:req, want:req
	pushf
	pop bp
	and bp, \mask
	CHECK16 "\name flags", bp, \want
.endm

#define ARITHMETIC 0x8d5

program:
	mov ax, 0x1000
	mov ss, ax
	mov sp, STACK16
	xor ax, ax
	mov ds, ax
	mov es, ax

	/* Arithmetic flags. */
	mov al, 0x7f
	add al, 1
	FLAGS16 "add 7f+1", ARITHMETIC, 0x890
	mov ax, 0xffff
	add ax, 1
	FLAGS16 "add ffff+1", ARITHMETIC, 0x055
	mov al, 0x80
	sub al, 1
	FLAGS16 "sub 80-1", ARITHMETIC, 0x810
	stc
	mov ax, 0
	sbb ax, 0
	CHECK16 "sbb", ax, 0xffff
	mov cx, 0x1234
	neg cx
	CHECK16 "neg", cx, 0xedcc
	stc
	mov cl, 0x81
	rcl cl, 1
	FLAGS16 "rcl 81", 0x801, 0x801
	CHECK16 "rcl 81 value", cx, 0xed03
	mov ax, 0x8001
	mov cl, 17
	shl ax, cl
	CHECK16 "shl by 17", ax, 0
	mov ax, 0x1234
	mov dx, 0x5678
	shld ax, dx, 4
	CHECK16 "shld", ax, 0x2345
	mov ax, 300
	mov bx, 300
	mul bx
	FLAGS16 "mul carry", 0x801, 0x801
	CHECK16 "mul low", ax, 0x5f90
	CHECK16 "mul high", dx, 1
	mov ax, -7
	cwd
	mov bx, 2
	idiv bx
	CHECK16 "idiv quotient", ax, 0xfffd
	CHECK16 "idiv remainder", dx, 0xffff
	mov ax, 0x0040
	bsf bx, ax
	CHECK16 "bsf", bx, 6

	/* Decimal adjustment. */
	mov ax, 0x0099
	add al, 0x28
	daa
	FLAGS16 "daa carry", 1, 1
	CHECK16 "daa", ax, 0x27
	mov ax, 0x0035
	sub al, 0x47
	das
	CHECK16 "das", ax, 0x88
	mov ax, 0x0109
	add al, 8
	aaa
	CHECK16 "aaa", ax, 0x0207
	mov ax, 0x0105
	sub al, 9
	aas
	CHECK16 "aas", ax, 0x0006
	mov ax, 0x004f
	aam
	CHECK16 "aam", ax, 0x0709
	aad
	CHECK16 "aad", ax, 0x004f

	/* Strings, both directions, with prefixes and a wrapping index. */
	mov si, 0x2000
	mov di, si
	mov cx, 256
	xor ax, ax
1:	stosb
	inc ax
	loop 1b
	mov si, 0x2000
	mov di, 0x2080
	mov cx, 64
	rep movsw
	CHECK16 "movsw copied", ds:[0x20fe], 0x7f7e
	CHECK16 "movsw cx", cx, 0
	mov di, 0x2000
	mov al, 0x55
	mov cx, 256
	repne scasb
	CHECK16 "scasb", di, 0x2056
	mov si, 0x2000
	mov di, 0x2080
	mov cx, 128
	repe cmpsb
	FLAGS16 "cmpsb equal", 0x40, 0x40
	std
	mov si, 0x2011
	mov di, 0x2012
	mov cx, 0x10
	rep movsb
	cld
	CHECK16 "movsb backwards", ds:[0x2004], 0x0403
	mov ax, 0x1000
	mov es, ax
	mov di, 0xfffe
	mov ax, 0x1111
	stosw
	CHECK16 "index wraps", di, 0
	xor ax, ax
	mov es, ax

	/* 16-bit addressing wraps at 64 KiB, the segment base is added after. */
	mov ax, 0x100
	mov ds, ax
	mov bx, 0xff00
	mov si, 0x0200
	mov word ptr [bx + si + 0x10], 0x4711
	xor ax, ax
	mov ds, ax
	CHECK16 "offset wraps", ds:[0x1110], 0x4711

	/* Frames. */
	mov bp, 0x1357
	mov bx, sp
	enter 16, 0
	mov word ptr [bp - 2], 0x7777
	mov cx, ss:[bp]
	leave
	CHECK16 "enter saves bp", cx, 0x1357
	CHECK16 "leave restores bp", bp, 0x1357
	mov cx, sp
	CHECK16 "leave restores sp", cx, bx
	mov ax, 1
	mov cx, 3
	pusha
	mov bx, sp
	CHECK16 "pusha ax", ss:[bx+14], 1
	CHECK16 "pusha cx", ss:[bx+12], 3
	popa
	mov bx, sp
	push sp
	pop cx
	CHECK16 "push sp pushes the old value", cx, bx

	/* Far calls through memory; RET with a count. */
	mov word ptr ds:[SCRATCH], offset (far_target - rom_base)
	mov word ptr ds:[SCRATCH + 2], 0xf000
	mov bx, sp
	push 0x2222
	call dword ptr ds:[SCRATCH]
	CHECK16 "far call", ax, 0x2222
	mov cx, sp
	CHECK16 "retf n", cx, bx

	/* Interrupts. */
	mov bx, 0
	mov ax, offset (on_int - rom_base)
	mov cx, 32 * 2
	mov di, 0
1:	stosw
	xchg ax, dx
	mov ax, 0xf000
	stosw
	xchg ax, dx
	dec cx
	loop 1b
	mov word ptr ds:[0x60 * 4], offset (on_int - rom_base)
	mov word ptr ds:[0x60 * 4 + 2], 0xf000
	sti
	int 0x60
	cli
	CHECK16 "int runs its handler", ds:[SCRATCH+8], 0x600d
	CHECK16 "int pushes IF", ds:[SCRATCH+10], 0x0200
	CHECK16 "int clears IF", ds:[SCRATCH+12], 0
	mov word ptr ds:[0], offset (on_divide - rom_base)
	mov ax, 7
	xor bx, bx
divide_at:
	div bx
	CHECK16 "divide error ip", ds:[SCRATCH+14], offset(divide_at-rom_base)
	mov word ptr ds:[4 * 4], offset (on_int - rom_base)
	mov word ptr ds:[SCRATCH + 8], 0
	mov al, 0x7f
	add al, 1
	into
	CHECK16 "into", ds:[SCRATCH+8], 0x600d
	mov word ptr ds:[3 * 4], offset (on_int - rom_base)
	mov word ptr ds:[SCRATCH + 8], 0
	int3
	CHECK16 "int3", ds:[SCRATCH+8], 0x600d

	/* Conditional moves of control. */
	mov cx, 0
	jcxz 1f
	CHECK16 "jcxz", cx, 1
1:	mov cx, 5
	xor ax, ax
2:	inc ax
	cmp ax, 3
	loopne 2b
	CHECK16 "loopne", cx, 2
	mov bx, 0x2000
	mov byte ptr ds:[0x2007], 0x99
	mov al, 7
	xlatb
	CHECK16 "xlat", ax, 0x99

	/* 32-bit operands and addresses with prefixes. */
	mov eax, 0x12345678
	rol eax, 8
	mov bx, ax
	CHECK16 "32-bit operand", bx, 0x7812
	mov ebx, 0x2000
	mov ecx, 2
	mov word ptr ds:[0x200c], 0x2468
	mov ax, [ebx + ecx * 4 + 4]
	CHECK16 "32-bit address", ax, 0x2468
	mov eax, 0x20000
	push ds
	lgdt cs:[gdt_pointer - rom_base]
	mov ecx, cr0
	or cl, 1
	mov cr0, ecx
	mov bx, DATA32
	mov ds, bx
	and cl, 0xfe
	mov cr0, ecx
	mov word ptr ds:[eax], 0xbead
	mov bx, word ptr ds:[eax]
	pop ds
	CHECK16 "unreal mode keeps the limit", bx, 0xbead

	mov al, EXIT_GOOD
	cmp word ptr ds:[FAILURES], 0
	je 1f
	mov al, EXIT_BAD
1:	out EXIT_PORT, al
	hlt

far_target:
	push bp
	mov bp, sp
	mov ax, [bp + 6]
	pop bp
	retf 2

on_int:
	push bp
	mov bp, sp
	push ax
	mov word ptr ds:[SCRATCH + 8], 0x600d
	mov ax, [bp + 6]
	and ax, 0x200
	mov ds:[SCRATCH + 10], ax
	pushf
	pop ax
	and ax, 0x200
	mov ds:[SCRATCH + 12], ax
	pop ax
	pop bp
	iret

on_divide:
	push bp
	mov bp, sp
	push ax
	mov ax, [bp + 2]
	mov ds:[SCRATCH + 14], ax
	add word ptr [bp + 2], 2
	pop ax
	pop bp
	iret
