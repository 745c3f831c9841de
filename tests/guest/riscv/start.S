/* The first instruction, the way into a snippet and the way out of it; see bare.h. */

#if __riscv_xlen == 64
#define LREG ld
#define SREG sd
#define WORD 8
#else
#define LREG lw
#define SREG sw
#define WORD 4
#endif

#define TRAP (14 * WORD)
#define CAUSE (TRAP + 32 * WORD)
#define EPC (TRAP + 33 * WORD)
#define TVAL (TRAP + 34 * WORD)
#define STATUS (TRAP + 35 * WORD)
#define ARMED (TRAP + 36 * WORD)
#define HART_SIZE (TRAP + 38 * WORD)

	.section .text.start, "ax"
	.globl _start
_start:
	csrr a0, mhartid
	la t0, trap_entry
	csrw mtvec, t0
	la sp, stacks
	slli t1, a0, 12
	add sp, sp, t1
	li t1, 4096
	add sp, sp, t1
	/* Lower modes may access everything. */
	li t0, -1
	csrw pmpaddr0, t0
	li t0, 0x1f
	csrw pmpcfg0, t0
	la t0, hart_count
	li t1, 1
	amoadd.w zero, t1, (t0)
	bnez a0, 1f
	call program
	call done
1:	call wait_for_work
	j 1b

/* enter(hart, mode, code, a0, a1) */
	.text
	.globl enter
enter:
	SREG ra, 0*WORD(a0)
	SREG sp, 1*WORD(a0)
	SREG s0, 2*WORD(a0)
	SREG s1, 3*WORD(a0)
	SREG s2, 4*WORD(a0)
	SREG s3, 5*WORD(a0)
	SREG s4, 6*WORD(a0)
	SREG s5, 7*WORD(a0)
	SREG s6, 8*WORD(a0)
	SREG s7, 9*WORD(a0)
	SREG s8, 10*WORD(a0)
	SREG s9, 11*WORD(a0)
	SREG s10, 12*WORD(a0)
	SREG s11, 13*WORD(a0)
	csrw mscratch, a0
	li t0, 1
	SREG t0, ARMED(a0)
	csrw mepc, a2
	li t0, 3 << 11
	csrc mstatus, t0
	slli a1, a1, 11
	csrs mstatus, a1
	mv a0, a3
	mv a1, a4
	mret

/* Machine mode's handler, which vectored interrupts come to also. */
	.balign 256
	.globl trap_entry
trap_entry:
	.option push
	.option norvc
	.rept 16
	j 1f
	.endr
	.option pop
1:	csrrw a0, mscratch, a0
	.irp n, 1,2,3,4,5,6,7,8,9,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31
	SREG x\n, TRAP+\n*WORD(a0)
	.endr
	csrr t0, mscratch
	SREG t0, TRAP+10*WORD(a0)
	csrr t0, mcause
	SREG t0, CAUSE(a0)
	csrr t0, mepc
	SREG t0, EPC(a0)
	csrr t0, mtval
	SREG t0, TVAL(a0)
	csrr t0, mstatus
	SREG t0, STATUS(a0)
	LREG t1, ARMED(a0)
	beqz t1, unexpected
	SREG zero, ARMED(a0)
	/* The program goes on without what it asked for the snippet. */
	li t0, (1 << 17) | (1 << 7) | (1 << 3)
	csrc mstatus, t0
	LREG ra, 0*WORD(a0)
	LREG sp, 1*WORD(a0)
	LREG s0, 2*WORD(a0)
	LREG s1, 3*WORD(a0)
	LREG s2, 4*WORD(a0)
	LREG s3, 5*WORD(a0)
	LREG s4, 6*WORD(a0)
	LREG s5, 7*WORD(a0)
	LREG s6, 8*WORD(a0)
	LREG s7, 9*WORD(a0)
	LREG s8, 10*WORD(a0)
	LREG s9, 11*WORD(a0)
	LREG s10, 12*WORD(a0)
	LREG s11, 13*WORD(a0)
	ret
unexpected:
	la sp, last_stack
	j stray_trap

	.bss
	.balign 4096
stacks:
	.space 4 * 4096
	.space 4096
last_stack:
