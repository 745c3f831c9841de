/* What every bare-metal RISC-V program starts from. It runs in machine mode on the board `virt` with `-bios none`, built for 32
 * or 64 bits, and works by snippets: a few instructions that `run` enters in the mode asked for, with a0 and a1 given, and that
 * end with the first trap to machine mode, which is noted whole. A snippet without an exception ends with its own ECALL.
 *
 * Text goes to the serial port, one line a check: "ok NAME" or "FAIL NAME" with what was noted. `done` powers the machine off
 * with status 0 (all checks held) or 1. */

#ifndef BARE_H
#define BARE_H

typedef __UINT8_TYPE__ u8;
typedef __UINT16_TYPE__ u16;
typedef __UINT32_TYPE__ u32;
typedef __UINT64_TYPE__ u64;
/* XLEN bits. */
typedef unsigned long uword;

#define XLEN __riscv_xlen
#define MAX_HARTS 4
/* The highest bit of a register. */
#define TOP ((uword)1 << (XLEN - 1))

enum mode { U = 0, S = 1, M = 3 };

enum cause {
    FETCH_MISALIGNED, FETCH_FAULT, ILLEGAL, BREAKPOINT, LOAD_MISALIGNED, LOAD_FAULT, STORE_MISALIGNED, STORE_FAULT,
    ECALL_U, ECALL_S, ECALL_M = 11, FETCH_PAGE, LOAD_PAGE, STORE_PAGE = 15,
};

/* Fields of mstatus. */
#define SIE ((uword)1 << 1)
#define MIE ((uword)1 << 3)
#define SPIE ((uword)1 << 5)
#define MPIE ((uword)1 << 7)
#define SPP ((uword)1 << 8)
#define VS_FIELD ((uword)3 << 9)
#define MPP ((uword)3 << 11)
#define FS_FIELD ((uword)3 << 13)
#define MPRV ((uword)1 << 17)
#define SUM ((uword)1 << 18)
#define MXR ((uword)1 << 19)
#define TVM ((uword)1 << 20)
#define TW ((uword)1 << 21)
#define TSR ((uword)1 << 22)
#define SD TOP

/* Interrupts, as bits of mie and mip. */
#define SSI ((uword)1 << 1)
#define MSI ((uword)1 << 3)
#define STI ((uword)1 << 5)
#define MTI ((uword)1 << 7)
#define SEI ((uword)1 << 9)
#define MEI ((uword)1 << 11)

/* Devices. */
#define TEST_DEVICE ((volatile u32 *)0x100000)
#define MSIP ((volatile u32 *)0x2000000)
#define MTIMECMP ((volatile u64 *)0x2004000)
#define MTIME ((volatile u64 *)0x200bff8)
#define UART ((volatile u8 *)0x10000000)
/* No device is here, nor RAM. */
#define HOLE ((uword)0x08000000)

/* What `run` noted. */
struct trap {
    uword x[32]; /* x0 stands for nothing. */
    uword cause, epc, tval, status;
};

struct hart {
    uword saved[14]; /* ra, sp, s0 to s11 of the caller of `enter`. */
    struct trap trap;
    uword armed; /* True between `enter` and the trap. */
    uword id;
};

extern struct hart harts[MAX_HARTS];

typedef void snippet(void);

/* start.S */
void enter(struct hart *hart, uword mode, snippet *code, uword a0, uword a1);
/* Interrupts that mie admits are taken before the first instruction if the MPIE bit of mstatus is set when `run` is called. */
struct trap *run(enum mode mode, snippet *code, uword a0, uword a1);
/* The same on the hart of this number, which is not hart 0. */
struct trap *run_on(uword id, enum mode mode, snippet *code, uword a0, uword a1);
uword hart_id(void);

void print(const char *text);
void print_hex(uword value);
/* One check; what was last noted on this hart is shown if it does not hold. */
void check(const char *name, int holds);
/* The cause, mepc as an offset from the snippet, and mtval. */
void expect(const char *name, struct trap *trap, snippet *code, uword cause, uword offset, uword tval);
/* The snippet came to its end in this mode, with this in a0. */
void expect_value(const char *name, struct trap *trap, enum mode mode, uword a0);
/* The snippet's first instruction of 4 bytes is illegal. */
void expect_illegal(const char *name, struct trap *trap, snippet *code);
void done(void) __attribute__((noreturn));

/* Each program's own; on hart 0. */
void program(void);
/* Runs `work` on every hart at once, with the hart's number, and waits for all. */
void on_all(void (*work)(uword id));
extern volatile u32 hart_count;

#define STRING(x) #x
#define TEXT(x) STRING(x)

#define csr_read(csr) ({ uword value_; asm volatile("csrr %0, " TEXT(csr) : "=r"(value_)::"memory"); value_; })
#define csr_write(csr, v) asm volatile("csrw " TEXT(csr) ", %0" ::"r"((uword)(v)) : "memory")
#define csr_set(csr, v) asm volatile("csrs " TEXT(csr) ", %0" ::"r"((uword)(v)) : "memory")
#define csr_clear(csr, v) asm volatile("csrc " TEXT(csr) ", %0" ::"r"((uword)(v)) : "memory")
#define csr_swap(csr, v) ({ uword old_; asm volatile("csrrw %0, " TEXT(csr) ", %1" : "=r"(old_) : "r"((uword)(v)) : "memory"); old_; })

/* Instructions at top level, named; only what is 4 bytes long, and an ECALL at the end. */
#define SNIPPET(name, text) \
    extern snippet name; \
    asm(".text\n.balign 8\n.option push\n.option norvc\n.globl " #name "\n" #name ":\n" text "\necall\n.option pop\n")
/* The same with compressed instructions where the text says so. */
#define SNIPPET_C(name, text) \
    extern snippet name; \
    asm(".text\n.balign 8\n.option push\n.option rvc\n.globl " #name "\n" #name ":\n" text "\n.option norvc\necall\n.option pop\n")

#if XLEN == 64
#define LREG "ld"
#define SREG "sd"
#else
#define LREG "lw"
#define SREG "sw"
#endif

static inline void mode_bits(uword set, uword clear)
{
    csr_clear(mstatus, clear);
    csr_set(mstatus, set);
}

static inline void fence_i(void)
{
    asm volatile("fence.i" ::: "memory");
}

static inline void sfence(void)
{
    asm volatile("sfence.vma" ::: "memory");
}

#endif
