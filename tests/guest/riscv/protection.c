/* Physical memory protection: each mode of matching, permissions, priority, locked entries, and whom it holds for. */

#include "bare.h"

#define R 1
#define W 2
#define X 4
#define TOR (1 << 3)
#define NA4 (2 << 3)
#define NAPOT (3 << 3)
#define L (1 << 7)

static uword page[1024] __attribute__((aligned(4096)));

SNIPPET(load, LREG " a0, 0(a0)");
SNIPPET(store, SREG " a1, 0(a0)");
SNIPPET(amo, "amoadd.w a0, a1, (a0)");
SNIPPET(jump, "jalr a1, 0(a0)");
SNIPPET(load_byte, "lbu a0, 0(a0)");
SNIPPET(sfence_load, "sfence.vma\n" LREG " a0, 0(a0)");

/* Entry 0 is the one under test, or 0 and 1; entry 2 lets everything else through. */
static void entries(uword address0, u8 config0, uword address1, u8 config1)
{
    csr_write(pmpcfg0, 0);
    csr_write(pmpaddr0, address0);
    csr_write(pmpaddr1, address1);
    csr_write(pmpaddr2, -1);
    csr_write(pmpcfg0, (u32)config0 | (u32)config1 << 8 | (u32)(NAPOT | R | W | X) << 16);
    sfence();
}

static uword napot(const void *at, uword size)
{
    return (uword)at >> 2 | (size / 8 - 1);
}

static void fault(const char *name, struct trap *t, uword cause, uword tval)
{
    check(name, t->cause == cause && t->tval == tval);
}

static void permissions(enum mode m)
{
    uword at = (uword)page;
    page[0] = 5;
    entries(napot(page, 4096), NAPOT | R, 0, 0);
    expect_value("R loads", run(m, load, at, 0), m, 5);
    fault("R does not store", run(m, store, at, 0), STORE_FAULT, at);
    fault("R has no atomics", run(m, amo, at, 0), STORE_FAULT, at);
    fault("R does not execute", run(m, jump, at, 0), FETCH_FAULT, at);
    entries(napot(page, 4096), NAPOT | R | W, 0, 0);
    check("RW stores", run(m, store, at, 6)->cause == ECALL_U + m && page[0] == 6);
    entries(napot(page, 4096), NAPOT | X, 0, 0);
    fault("X does not load", run(m, load, at, 0), LOAD_FAULT, at);
    ((u32 *)page)[0] = 0x00900513; /* li a0, 9 */
    ((u32 *)page)[1] = 0x00000073;
    fence_i();
    expect_value("X executes", run(m, jump, at, 0), m, 9);
    entries(napot(page, 4096), NAPOT, 0, 0);
    fault("nothing at all", run(m, load, at, 0), LOAD_FAULT, at);
    expect_value("does not hold for M", run(M, load, at, 0), M, page[0]);
}

static void matching(void)
{
    uword at = (uword)page;
    page[0] = 1;
    page[512 / sizeof(uword)] = 2;
    page[4096 / sizeof(uword) - 1] = 3;
    entries(napot((char *)page + 512, 512), NAPOT, 0, 0);
    expect_value("below a range of 512", run(U, load, at, 0), U, 1);
    fault("in it", run(U, load, at + 512, 0), LOAD_FAULT, at + 512);
    fault("at its end", run(U, load_byte, at + 1023, 0), LOAD_FAULT, at + 1023);
    check("above it", run(U, load, at + 1024, 0)->cause == ECALL_U);
    fault("again in it", run(U, store, at + 512, 0), STORE_FAULT, at + 512);
    entries((at + 16) >> 2, NA4, 0, 0);
    check("before a word", run(U, load_byte, at + 15, 0)->cause == ECALL_U);
    fault("a word", run(U, load_byte, at + 16, 0), LOAD_FAULT, at + 16);
    fault("its last byte", run(U, load_byte, at + 19, 0), LOAD_FAULT, at + 19);
    check("behind it", run(U, load_byte, at + 20, 0)->cause == ECALL_U);
    entries((at + 64) >> 2, 0, (at + 128) >> 2, TOR);
    check("below a top-of-range", run(U, load_byte, at + 63, 0)->cause == ECALL_U);
    fault("its first byte", run(U, load_byte, at + 64, 0), LOAD_FAULT, at + 64);
    fault("its last", run(U, load_byte, at + 127, 0), LOAD_FAULT, at + 127);
    check("above", run(U, load_byte, at + 128, 0)->cause == ECALL_U);
    entries((at + 128) >> 2, 0, (at + 64) >> 2, TOR);
    check("an empty range", run(U, load_byte, at + 100, 0)->cause == ECALL_U);
    entries(napot(page, 64), NAPOT | R, napot(page, 4096), NAPOT);
    expect_value("the first that matches", run(U, load, at, 0), U, 1);
    fault("then the second", run(U, load, at + 64, 0), LOAD_FAULT, at + 64);
    csr_write(pmpcfg0, 0);
    sfence();
    fault("no entry: nothing for U", run(U, load, at, 0), FETCH_FAULT, (uword)load);
}

SNIPPET(load_as_user, "li t0, 0x1800\ncsrc mstatus, t0\nli t0, 0x20000\ncsrs mstatus, t0\n" LREG " a0, 0(a0)");

static void modified(void)
{
    uword at = (uword)page;
    entries(napot(page, 4096), NAPOT, 0, 0);
    check("mprv: as U", run(M, load_as_user, at, 0)->cause == LOAD_FAULT);
}

static void locked(void)
{
    uword at = (uword)page;
    page[0] = 4;
    entries(napot(page, 4096), NAPOT | R | L, 0, 0);
    expect_value("locked R loads in M", run(M, load, at, 0), M, 4);
    fault("and does not store", run(M, store, at, 1), STORE_FAULT, at);
    csr_write(pmpaddr0, 0);
    csr_write(pmpcfg0, (u32)(NAPOT | R | W | X) << 16);
    check("its configuration stays", (csr_read(pmpcfg0) & 0xff) == (NAPOT | R | L));
    check("its address stays", csr_read(pmpaddr0) == napot(page, 4096));
    fault("and it holds", run(M, store, at, 1), STORE_FAULT, at);
}

void program(void)
{
    permissions(U);
    permissions(S);
    matching();
    modified();
    locked();
}
