/* Zicboz, Zicbom, Zicbop: what they do to memory, whom menvcfg and senvcfg let, and the exceptions of their addresses. */

#include "bare.h"

static u8 block[256] __attribute__((aligned(256)));

#define CBO(name, op) SNIPPET(name, ".option push\n.option arch, +zicbom, +zicboz, +zicbop\n" op "\n.option pop")
CBO(zero, "cbo.zero (a0)");
CBO(clean, "cbo.clean (a0)");
CBO(flush, "cbo.flush (a0)");
CBO(inval, "cbo.inval (a0)");
CBO(prefetch, "prefetch.r 0(a0)\nprefetch.w 32(a0)\nprefetch.i 64(a0)\nli a0, 5");

#define CBIE_FLUSH ((uword)1 << 4)
#define CBIE_INVAL ((uword)3 << 4)
#define CBIE ((uword)3 << 4)
#define CBCFE ((uword)1 << 6)
#define CBZE ((uword)1 << 7)

static void fill(void)
{
    for (u32 i = 0; i < sizeof block; i++)
        block[i] = (u8)(i + 1);
}

static int is_zero_from_64_to_128(void)
{
    int holds = 1;
    for (u32 i = 0; i < sizeof block; i++)
        holds &= block[i] == (i / 64 == 1 ? 0 : (u8)(i + 1));
    return holds;
}

static int is_as_it_was(void)
{
    int holds = 1;
    for (u32 i = 0; i < sizeof block; i++)
        holds &= block[i] == (u8)(i + 1);
    return holds;
}

static void allowed(const char *name, enum mode m, snippet *code)
{
    check(name, run(m, code, (uword)block + 70, 0)->cause == ECALL_U + m);
}

static void refused(const char *name, enum mode m, snippet *code)
{
    expect_illegal(name, run(m, code, (uword)block + 70, 0), code);
}

void program(void)
{
    fill();
    allowed("zero in M", M, zero);
    check("zeroes its 64 bytes", is_zero_from_64_to_128());
    fill();
    allowed("clean in M", M, clean);
    allowed("flush in M", M, flush);
    allowed("inval in M", M, inval);
    expect_value("prefetch", run(U, prefetch, (uword)block, 0), U, 5);
    expect_value("prefetch from a hole", run(U, prefetch, HOLE, 0), U, 5);
    check("nothing has changed", is_as_it_was());

    csr_write(menvcfg, 0);
    csr_write(senvcfg, 0);
    refused("zero in S", S, zero);
    refused("clean in S", S, clean);
    refused("inval in S", S, inval);
    csr_write(senvcfg, CBZE | CBCFE | CBIE_FLUSH);
    refused("zero in U without menvcfg", U, zero);
    csr_write(senvcfg, 0);
    csr_set(menvcfg, CBZE | CBCFE | CBIE_FLUSH);
    allowed("zero in S with menvcfg", S, zero);
    check("zeroes too", is_zero_from_64_to_128());
    fill();
    allowed("flush in S with menvcfg", S, flush);
    allowed("inval in S with menvcfg", S, inval);
    refused("zero in U without senvcfg", U, zero);
    refused("clean in U without senvcfg", U, clean);
    refused("inval in U without senvcfg", U, inval);
    csr_write(senvcfg, CBZE);
    allowed("zero in U with senvcfg", U, zero);
    refused("flush in U still", U, flush);
    csr_write(senvcfg, CBCFE);
    allowed("flush in U with senvcfg", U, flush);
    refused("zero in U no more", U, zero);
    csr_write(senvcfg, CBIE_INVAL);
    allowed("inval in U", U, inval);
    csr_write(menvcfg, (csr_read(menvcfg) & ~CBIE) | (uword)2 << 4);
    check("the reserved value of cbie", (csr_read(menvcfg) & CBIE) != (uword)2 << 4);

    struct trap *t = run(M, zero, HOLE + 70, 0);
    check("zero in a hole", t->cause == STORE_FAULT && t->epc == (uword)zero);
    check("its address, or the block's", t->tval == HOLE + 70 || t->tval == HOLE + 64);
    t = run(M, clean, HOLE + 70, 0);
    check("clean in a hole", t->cause == STORE_FAULT && t->epc == (uword)clean);
}
