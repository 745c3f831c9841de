/* Code that changes: FENCE.I on the hart itself and after another hart's message, stores into the running unit, code that is
 * written a byte at a time, run once and written again. */

#include "bare.h"

#define LI_A0(n) (0x00000513u | (u32)(n) << 20)
#define ECALL 0x00000073u

static u32 code[1024] __attribute__((aligned(4096)));

static uword call(void)
{
    return run(M, (snippet *)code, 0, 0)->x[10];
}

static void own(void)
{
    int holds = 1;
    for (u32 i = 0; i < 300; i++) {
        code[0] = LI_A0(i);
        code[1] = ECALL;
        fence_i();
        holds &= call() == i;
    }
    check("new code after fence.i", holds);
    holds = 1;
    for (u32 i = 0; i < 300; i++) {
        /* Another place in the same page, so that data and code of one page mix. */
        u32 *at = code + 16 + i;
        at[0] = LI_A0(i);
        at[1] = ECALL;
        fence_i();
        holds &= run(U, (snippet *)at, 0, 0)->x[10] == i;
        holds &= call() == 299;
    }
    check("code beside code", holds);
    holds = 1;
    for (u32 i = 0; i < 256; i++) {
        ((u8 *)code)[3] = (u8)(i >> 1); /* The immediate's upper bits. */
        fence_i();
        holds &= call() == ((uword)(i >> 1) << 4 | 11);
    }
    check("code written by bytes", holds);
}

/* The store is in the unit that it changes. */
SNIPPET(patch_self,
        "la t0, 1f\nli t1, 0x00700513\nli a0, 0\nsw t1, 0(t0)\nfence.i\n.balign 4\n1: li a0, 3");
SNIPPET(patch_loop,
        /* Every round adds what the instruction's immediate says, and counts it up in the instruction. */
        "mv t2, a0\nli a0, 0\nla t0, 1f\nli t3, 0x00100000\n2: fence.i\n1: addi a0, a0, 0\nlw t1, 0(t0)\nadd t1, t1, t3\nsw t1, 0(t0)\n"
        "addi t2, t2, -1\nbnez t2, 2b");

static void within(void)
{
    expect_value("a store into the next instruction", run(M, patch_self, 0, 0), M, 7);
    expect_value("a loop that counts in its own code", run(M, patch_loop, 100, 0), M, 99 * 100 / 2);
}

/* Hart 0 writes a routine, the others wait for its number, make it visible, and run it. */
static volatile u32 version, done_count, wrong;

static void follow(uword id)
{
    for (u32 i = 1; i <= 40; i++)
        if (id == 0) {
            code[0] = LI_A0(i);
            code[1] = ECALL;
            done_count = 0;
            asm volatile("fence w, w" ::: "memory");
            version = i;
            while (done_count < hart_count - 1)
                ;
        } else {
            while (version < i)
                ;
            asm volatile("fence r, r\nfence.i" ::: "memory");
            if (call() != i)
                wrong = 1;
            __sync_fetch_and_add(&done_count, 1);
        }
}

/* Written through one address, run through another is in the paging program. */
static void other_harts(void)
{
    version = 0;
    fence_i();
    on_all(follow);
    check("code for other harts", !wrong);
}

/* One routine, patched between two aligned instructions while the others run it: they see the old or the new one. */
static volatile u32 stop;

static void race(uword id)
{
    if (id == 0) {
        for (u32 i = 0; i < 2000; i++) {
            *(volatile u32 *)code = LI_A0(1 + (i & 1));
            fence_i();
        }
        stop = 1;
    } else
        while (!stop) {
            uword got = call();
            if (got != 1 && got != 2)
                wrong = 1;
            fence_i();
        }
}

void program(void)
{
    while (hart_count < 4)
        ;
    own();
    within();
    other_harts();
    code[0] = LI_A0(1);
    fence_i();
    on_all(race);
    check("code that changes under its harts", !wrong);
}
