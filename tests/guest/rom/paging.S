/* Paging: page-fault error codes, accessed and dirty bits, write protection, large pages, TLB flushes, PAE and NX. */
#include "rom.h"

#define DIRECTORY 0x100000
#define TABLE 0x101000
#define POINTERS 0x102000
#define PAE_DIRECTORY 0x103000
#define PAE_TABLE 0x104000
#define PAGE 0x30000
#define OTHER 0x31000
/* Page table entry of an address below 4 MiB. */
#define ENTRY(address) TABLE+(address)/4096*4
#define PAE_ENTRY(address) PAE_TABLE+(address)/4096*8

.macro PAGE_FAULT name:req, error:req, address:req, insn:vararg
	FAULT "\name", PF, \error, \insn
	CHECK "\name: cr2", ds:[EXC_CR2], \address
.endm

.macro SET_ENTRY value:req
	mov dword ptr ds:[ENTRY(PAGE)], \value
	invlpg ds:[PAGE]
.endm

	.code16
program:
	ENTER_PROTECTED
	/* Identity for the first 4 MiB, everything a user may touch. */
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
	mov eax, DIRECTORY
	mov cr3, eax
	mov eax, cr0
	or eax, 0x80000000
	mov cr0, eax

	/* Accessed and dirty. */
	SET_ENTRY PAGE+7
	mov eax, ds:[PAGE]
	CHECK "a read sets A", ds:[ENTRY(PAGE)], PAGE+0x27
	mov dword ptr ds:[PAGE], 5
	CHECK "a write sets D", ds:[ENTRY(PAGE)], PAGE+0x67
	mov eax, ds:[DIRECTORY]
	and eax, 0xff
	CHECK "the directory has A and no D", eax, 0x27
	SET_ENTRY PAGE+7
	mov dword ptr ds:[PAGE], 5
	CHECK "a write sets A and D", ds:[ENTRY(PAGE)], PAGE+0x67
	/* The TLB knows the entry as read only: a write must still set D. */
	SET_ENTRY PAGE+7
	mov eax, ds:[PAGE]
	inc dword ptr ds:[PAGE]
	CHECK "read-modify-write sets D", ds:[ENTRY(PAGE)], PAGE+0x67
	SET_ENTRY PAGE+7
	mov eax, 1
	mov ecx, 2
	cmpxchg ds:[PAGE], ecx
	CHECK "a failed cmpxchg writes too", ds:[ENTRY(PAGE)], PAGE+0x67

	/* Error codes in ring 0. */
	SET_ENTRY PAGE
	PAGE_FAULT "read not present", 0, PAGE, mov eax, ds:[PAGE]
	PAGE_FAULT "write not present", 2, 0x30004, mov dword ptr ds:[PAGE + 4], 1
	/* Whether the read or the write of a read-modify-write faults is not defined. */
	RESUME_AT 1f
	inc dword ptr ds:[PAGE]
1:	CHECK "read-modify-write not present: vector", ds:[EXC_VECTOR], PF
	CHECK "read-modify-write not present: cr2", ds:[EXC_CR2], PAGE
	PAGE_FAULT "across into not present", 0, PAGE, mov eax, ds:[PAGE - 2]
	mov dword ptr ds:[PAGE - 4], 0x12345678
	PAGE_FAULT "store across into not present", 2, PAGE, mov dword ptr ds:[PAGE - 2], 0
	CHECK "and nothing was stored", ds:[0x2fffc], 0x12345678
	CHECK "no A without a translation", ds:[ENTRY(PAGE)], PAGE
	PAGE_FAULT "no directory entry", 0, 0x800000, mov eax, ds:[0x800000]
	RESUME_AT 1f
	mov eax, PAGE + 0x10
	jmp eax
1:	CHECK "fetch not present: vector", ds:[EXC_VECTOR], PF
	CHECK "fetch not present: error", ds:[EXC_ERROR], 0
	CHECK "fetch not present: cr2", ds:[EXC_CR2], PAGE+0x10
	CHECK "fetch not present: ip", ds:[EXC_IP], PAGE+0x10
	/* An instruction that crosses a page: its first byte runs only with both pages there. */
	SET_ENTRY PAGE+7
	mov dword ptr ds:[PAGE - 2], 0x90903db0
	mov byte ptr ds:[PAGE + 2], 0xc3
	SET_ENTRY PAGE
	mov byte ptr ds:[PAGE - 1], 0xb8
	RESUME_AT 1f
	mov eax, PAGE - 1
	jmp eax
1:	CHECK "instruction across pages: cr2", ds:[EXC_CR2], PAGE
	CHECK "instruction across pages: ip", ds:[EXC_IP], 0x2ffff

	/* Write protection applies to ring 0 with CR0.WP only. */
	SET_ENTRY PAGE+5
	NOFAULT "read-only, WP clear", mov dword ptr ds:[PAGE], 1
	CHECK "it set D all the same", ds:[ENTRY(PAGE)], PAGE+0x65
	mov eax, cr0
	or eax, 0x10000
	mov cr0, eax
	PAGE_FAULT "read-only, WP set", 3, PAGE, mov dword ptr ds:[PAGE], 1
	NOFAULT "reading read-only", mov eax, ds:[PAGE]
	PAGE_FAULT "xchg on read-only", 3, PAGE, xchg ds:[PAGE], eax
	/* Ring 3. */
	SET_ENTRY PAGE+7
	RING3 user_read
	CHECK "ring 3 reads a user page", ds:[EXC_VECTOR], 0x80
	SET_ENTRY PAGE+3
	RING3 user_read
	CHECK "ring 3 reads a supervisor page: vector", ds:[EXC_VECTOR], PF
	CHECK "ring 3 reads a supervisor page: error", ds:[EXC_ERROR], 5
	RING3 user_write
	CHECK "ring 3 writes a supervisor page: error", ds:[EXC_ERROR], 7
	SET_ENTRY PAGE+5
	RING3 user_write
	CHECK "ring 3 writes a read-only page: error", ds:[EXC_ERROR], 7
	SET_ENTRY PAGE
	RING3 user_read
	CHECK "ring 3 reads not present: error", ds:[EXC_ERROR], 4
	RING3 user_write
	CHECK "ring 3 writes not present: error", ds:[EXC_ERROR], 6
	RING3 user_fetch
	CHECK "ring 3 fetches not present: error", ds:[EXC_ERROR], 4
	CHECK "ring 3 fetches not present: cr2", ds:[EXC_CR2], PAGE

	/* The TLB: a changed entry counts after INVLPG, or after CR3 is loaded. */
	mov dword ptr ds:[OTHER], 0x0fe40fe4
	SET_ENTRY PAGE+7
	mov dword ptr ds:[PAGE], 0x600d600d
	mov eax, ds:[PAGE]
	mov dword ptr ds:[ENTRY(PAGE)], OTHER + 7
	invlpg ds:[PAGE]
	mov eax, ds:[PAGE]
	CHECK "invlpg shows the other page", eax, 0x0fe40fe4
	mov dword ptr ds:[ENTRY(PAGE)], PAGE + 7
	mov eax, cr3
	mov cr3, eax
	mov eax, ds:[PAGE]
	CHECK "cr3 shows the first page again", eax, 0x600d600d

	/* Two addresses of one page. */
	mov dword ptr ds:[ENTRY(OTHER)], PAGE + 7
	invlpg ds:[OTHER]
	mov dword ptr ds:[OTHER + 8], 0x77
	CHECK "aliases show the same", ds:[PAGE+8], 0x77
	mov dword ptr ds:[ENTRY(OTHER)], OTHER + 7
	invlpg ds:[OTHER]

	/* 4 MiB pages. */
	mov eax, cr4
	or eax, 0x10
	mov cr4, eax
	mov dword ptr ds:[DIRECTORY + 4], 0x83
	mov eax, cr3
	mov cr3, eax
	mov eax, ds:[0x400000 + PAGE]
	CHECK "a 4 MiB page", eax, 0x600d600d
	mov eax, ds:[DIRECTORY + 4]
	CHECK "A in a 4 MiB entry", eax, 0xa3
	mov dword ptr ds:[0x400000 + PAGE], 0x1
	CHECK "D in a 4 MiB entry", ds:[DIRECTORY+4], 0xe3
	/* A reserved bit (21) in a 4 MiB entry. */
	mov dword ptr ds:[DIRECTORY + 8], 0x200083
	mov eax, cr3
	mov cr3, eax
	PAGE_FAULT "reserved bit", 9, 0x800000, mov eax, ds:[0x800000]

	/* PAE with NX. */
	mov eax, cr0
	and eax, 0x7fffffff
	mov cr0, eax
	/* Coming back from ring 3 left ES null or as ring 3 had it. */
	mov eax, DATA32
	mov es, ax
	mov edi, POINTERS
	mov ecx, 0x3000 / 4
	xor eax, eax
	rep stosd
	mov dword ptr ds:[POINTERS], PAE_DIRECTORY + 1
	mov dword ptr ds:[PAE_DIRECTORY], PAE_TABLE + 7
	mov edi, PAE_TABLE
	mov ecx, 512
	mov eax, 7
1:	mov [edi], eax
	mov dword ptr [edi + 4], 0
	add edi, 8
	add eax, 0x1000
	loop 1b
	mov eax, POINTERS
	mov cr3, eax
	mov eax, cr4
	or eax, 0x20
	mov cr4, eax
	mov ecx, 0xc0000080
	rdmsr
	or eax, 0x800
	wrmsr
	mov eax, cr0
	or eax, 0x80010000
	mov cr0, eax
	mov dword ptr ds:[PAGE], 0xc3
	CHECK "PAE: D", ds:[PAE_ENTRY(PAGE)], PAGE+0x67
	mov eax, PAGE
	NOFAULT "PAE: execute", call eax
	mov dword ptr ds:[PAE_ENTRY(PAGE) + 4], 0x80000000
	invlpg ds:[PAGE]
	NOFAULT "NX: read", mov eax, ds:[PAGE]
	RESUME_AT 1f
	mov eax, PAGE
	jmp eax
1:	CHECK "NX: vector", ds:[EXC_VECTOR], PF
	CHECK "NX: error", ds:[EXC_ERROR], 0x11
	CHECK "NX: cr2", ds:[EXC_CR2], PAGE
	RING3 user_fetch
	CHECK "NX in ring 3: error", ds:[EXC_ERROR], 0x15
	/* Bits above the physical address width are reserved. */
	mov dword ptr ds:[PAE_ENTRY(PAGE) + 4], 0x40000000
	invlpg ds:[PAGE]
	PAGE_FAULT "PAE: reserved bit", 9, PAGE, mov eax, ds:[PAGE]
	/* A 2 MiB page. */
	mov dword ptr ds:[PAE_DIRECTORY + 8], 0x83
	mov eax, ds:[0x200000 + OTHER]
	CHECK "a 2 MiB page", eax, 0x0fe40fe4
	PAGE_FAULT "no directory", 0, 0x40000000, mov eax, ds:[0x40000000]
	FINISH

	.code32
user_read:
	mov ax, DATA32_3
	mov ds, ax
	mov eax, ds:[PAGE]
	int 0x80
user_write:
	mov ax, DATA32_3
	mov ds, ax
	mov dword ptr ds:[PAGE], 1
	int 0x80
user_fetch:
	mov eax, PAGE
	jmp eax
