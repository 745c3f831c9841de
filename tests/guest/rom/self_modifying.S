/* Code that changes: its next instruction, a loop it runs in, a page seen twice, code under a string copy. */
#include "rom.h"

#define CODE 0x30000
#define DIRECTORY 0x100000
#define TABLE 0x101000

	.code16
program:
	ENTER_PROTECTED

	/* mov eax, N; ret: called, changed, called again. */
	mov byte ptr ds:[CODE], 0xb8
	mov dword ptr ds:[CODE + 1], 1
	mov byte ptr ds:[CODE + 5], 0xc3
	mov ebx, CODE
	call ebx
	CHECK "first version", eax, 1
	mov dword ptr ds:[CODE + 1], 2
	call ebx
	CHECK "second version", eax, 2
	mov byte ptr ds:[CODE + 2], 1
	call ebx
	CHECK "one byte changed", eax, 0x102

	/* Many changes in a row. */
	xor esi, esi
	mov ecx, 5000
1:	mov ds:[CODE + 1], ecx
	call ebx
	add esi, eax
	loop 1b
	CHECK "5000 changes", esi, 5000*5001/2

	/* An instruction changes the one right behind it (a jump in between serializes on every processor). */
	mov edi, CODE + 0x100
	mov esi, offset next_image
	mov ecx, next_image_end - next_image
	rep movsb
	mov eax, CODE + 0x100
	call eax
	CHECK "the next instruction", eax, 0x22222222

	/* A loop that rewrites its own body each round. */
	mov edi, CODE + 0x200
	mov esi, offset loop_image
	mov ecx, loop_image_end - loop_image
	rep movsb
	mov eax, CODE + 0x200
	call eax
	CHECK "a loop that rewrites itself", edx, 5050

	/* Code and data in one page: the data changes, the code stays. */
	mov dword ptr ds:[CODE + 1], 7
	mov ecx, 20000
1:	inc dword ptr ds:[CODE + 0x800]
	call ebx
	loop 1b
	CHECK "data beside code", ds:[CODE+0x800], 20000
	CHECK "code beside data", eax, 7

	/* A string copy over code. */
	mov edi, CODE
	mov esi, offset copied_image
	mov ecx, copied_image_end - copied_image
	rep movsb
	call ebx
	CHECK "copied over", eax, 0x5555
	/* Across a page boundary, both parts. */
	mov edi, CODE + 0x1000 - 3
	mov esi, offset copied_image
	mov ecx, copied_image_end - copied_image
	rep movsb
	mov edx, CODE + 0x1000 - 3
	call edx
	CHECK "across pages", eax, 0x5555
	mov byte ptr ds:[CODE + 0x1000], 0x11
	call edx
	CHECK "across pages, second page changed", eax, 0x115555
	mov byte ptr ds:[CODE + 0x1000 - 1], 0x66
	call edx
	CHECK "across pages, first page changed", eax, 0x116655

	/* Patching by an atomic instruction. */
	mov eax, 0xb8
	xchg ds:[CODE], al
	mov eax, 0x4444
	lock xchg ds:[CODE + 1], eax
	call ebx
	CHECK "patched by xchg", eax, 0x4444

	/* Two mappings of one page: changed through one, run through the other. */
	mov edi, DIRECTORY
	mov ecx, 1024
	xor eax, eax
	rep stosd
	mov dword ptr ds:[DIRECTORY], TABLE + 7
	mov edi, TABLE
	mov ecx, 1024
	mov eax, 7
1:	stosd
	add eax, 0x1000
	loop 1b
	mov dword ptr ds:[TABLE + 0x50 * 4], CODE + 7
	mov eax, DIRECTORY
	mov cr3, eax
	mov eax, cr0
	or eax, 0x80000000
	mov cr0, eax
	mov edx, 0x50000
	call edx
	CHECK "run through the other mapping", eax, 0x4444
	mov dword ptr ds:[CODE + 1], 0x9999
	call edx
	CHECK "changed through the first mapping", eax, 0x9999
	mov dword ptr ds:[0x50001], 0xaaaa
	call ebx
	CHECK "changed through the second mapping", eax, 0xaaaa
	/* The same address, another page. */
	mov byte ptr ds:[0x40000], 0xb8
	mov dword ptr ds:[0x40001], 0xbbbb
	mov byte ptr ds:[0x40005], 0xc3
	mov dword ptr ds:[TABLE + 0x50 * 4], 0x40007
	invlpg ds:[0x50000]
	call edx
	CHECK "remapped", eax, 0xbbbb
	/* Code pages swapped back and forth by CR3. */
	mov esi, 0
	mov ecx, 300
1:	xor dword ptr ds:[TABLE + 0x50 * 4], 0x70000
	mov eax, cr3
	mov cr3, eax
	call edx
	add esi, eax
	loop 1b
	CHECK "remapped 300 times", esi, (0xaaaa+0xbbbb)*150
	FINISH

	.code32
next_image:
	mov dword ptr ds:[CODE + 0x100 + (next_value - next_image)], 0x22222222
	jmp next_instruction
next_instruction:
	.byte 0xb8
next_value:
	.long 0x11111111
	ret
next_image_end:

loop_image:
	xor edx, edx
	mov ecx, 100
loop_head:
	mov ds:[CODE + 0x200 + (loop_value - loop_image)], ecx
	jmp loop_body
loop_body:
	.byte 0x81, 0xc2 /* add edx, N */
loop_value:
	.long 0
	dec ecx
	jnz loop_head
	ret
loop_image_end:

copied_image:
	.byte 0xb8
	.long 0x5555
	ret
copied_image_end:
