/* Branches and jumps: when they are taken, how far they go, what they leave in the link register. */

#include "bare.h"

/* Operands that are the same, next to each other, and on both sides of zero. */
static const uword OPERANDS[] = { 0, 1, 2, (uword)-1, (uword)-2, TOP, TOP + 1, TOP - 1, 0x7fffffff, 0x80000000, 0xffffffff };
#define OPERAND_COUNT (sizeof OPERANDS / sizeof *OPERANDS)

/* Forward over an instruction, and backward to one that ends. */
#define BRANCH(op) \
    SNIPPET(op##_forward, #op " a0, a1, 1f\nli a0, 0\necall\n1: li a0, 1"); \
    SNIPPET(op##_backward, "j 2f\n1: li a0, 1\necall\n2: " #op " a0, a1, 1b\nli a0, 0")
BRANCH(beq);
BRANCH(bne);
BRANCH(blt);
BRANCH(bge);
BRANCH(bltu);
BRANCH(bgeu);

#define SAME(op) SNIPPET(op##_same, #op " a0, a0, 1f\nli a0, 0\necall\n1: li a0, 1")
SAME(beq);
SAME(bne);
SAME(blt);
SAME(bge);
SAME(bltu);
SAME(bgeu);

static int eq(uword a, uword b) { return a == b; }
static int ne(uword a, uword b) { return a != b; }
static int lt(uword a, uword b) { return (long)a < (long)b; }
static int ge(uword a, uword b) { return (long)a >= (long)b; }
static int ltu(uword a, uword b) { return a < b; }
static int geu(uword a, uword b) { return a >= b; }

static void branch(const char *name, snippet *forward, snippet *backward, snippet *same, int (*taken)(uword, uword))
{
    int holds = 1;
    for (u32 i = 0; i < OPERAND_COUNT; i++)
        for (u32 j = 0; j < OPERAND_COUNT; j++)
            for (int way = 0; way < 2; way++) {
                uword a = OPERANDS[i], b = OPERANDS[j];
                struct trap *t = run(M, way ? backward : forward, a, b);
                if (t->cause != ECALL_M || t->x[10] != (uword)taken(a, b))
                    holds = 0;
            }
    check(name, holds);
    expect_value(name, run(M, same, 5, 0), M, taken(5, 5));
}

SNIPPET_C(c_beqz, "c.beqz a0, 1f\nli a0, 0\nj 2f\n1: li a0, 1\n2:");
SNIPPET_C(c_bnez, "c.bnez a0, 1f\nli a0, 0\nj 2f\n1: li a0, 1\n2:");

static void compressed_branches(void)
{
    int holds = 1;
    for (u32 i = 0; i < OPERAND_COUNT; i++) {
        holds &= run(M, c_beqz, OPERANDS[i], 0)->x[10] == (OPERANDS[i] == 0);
        holds &= run(M, c_bnez, OPERANDS[i], 0)->x[10] == (OPERANDS[i] != 0);
    }
    check("c.beqz c.bnez", holds);
}

/* The ends of each range. The encodings are written by hand where the assembler would take another. */
SNIPPET(far_branch, "j 2f\n1: li a0, 7\necall\n.space 4096 - 8\n2: beq zero, zero, 1b\nli a0, 0");
SNIPPET(far_branch_forward, "beq zero, zero, 1f\nli a0, 0\necall\n.space 4094 - 12\n.option rvc\nc.nop\n.option norvc\n1: li a0, 0\n");
SNIPPET(far_jal, "la t0, 2f\njr t0\n1: li a0, 7\necall\n.space 1048576 - 8\n2: jal a1, 1b\nli a0, 0");
SNIPPET(far_jal_forward, "jal a1, 1f\nli a0, 0\necall\n.space 1048572 - 12\n1: li a0, 7");
SNIPPET_C(far_c_j, "la t0, 2f\njr t0\n1: li a0, 7\nc.j 3f\n.space 2048 - 4\n2: c.j 1b\nli a0, 0\n3:");
SNIPPET_C(far_c_beqz, "li a0, 0\nj 2f\n1: li a0, 7\nj 3f\n.space 256 - 4\n2: c.beqz a0, 1b\nli a0, 1\n3:");

SNIPPET(jal_link, "jal a0, 1f\n1:");
SNIPPET(jal_x0, "jal zero, 1f\n1: mv a0, zero");
SNIPPET(jalr_odd, "la a1, 1f\njalr a0, 1(a1)\nli a0, 0\necall\n1:");
SNIPPET(jalr_negative, "la a1, 1f\naddi a1, a1, 2047\njalr a0, -2047(a1)\nli a0, 0\necall\n1:");
SNIPPET(jalr_same, "la a0, 1f\njalr a0, 0(a0)\nli a0, 0\necall\n1:");
SNIPPET(jalr_wraps, "la a1, 1f\nli a0, -4\nsub a1, a1, a0\njalr a0, -4(a1)\necall\n1:");
SNIPPET_C(c_jalr, "la a1, 1f\nmv ra, zero\nc.jalr a1\n1: mv a0, ra");
SNIPPET_C(c_jr, "la a1, 1f\nc.jr a1\nli a0, 0\n1: nop");
#if XLEN == 32
SNIPPET_C(c_jal, "mv ra, zero\nc.jal 1f\n1: mv a0, ra");
#endif

static void links(void)
{
    expect_value("jal links", run(M, jal_link, 0, 0), M, (uword)jal_link + 4);
    expect_value("jal to x0", run(M, jal_x0, 5, 0), M, 0);
    expect_value("jalr clears bit 0", run(M, jalr_odd, 0, 0), M, (uword)jalr_odd + 12);
    expect_value("jalr with a negative offset", run(M, jalr_negative, 0, 0), M, (uword)jalr_negative + 16);
    expect_value("jalr with one register", run(M, jalr_same, 0, 0), M, (uword)jalr_same + 12);
    expect_value("jalr wraps", run(M, jalr_wraps, 0, 0), M, (uword)jalr_wraps + 20);
    struct trap *t = run(M, c_jalr, 0, 0);
    expect_value("c.jalr links behind its two bytes", t, M, t->x[11]);
    expect_value("c.jr", run(M, c_jr, 9, 0), M, 9);
#if XLEN == 32
    t = run(M, c_jal, 0, 0);
    check("c.jal links behind its two bytes", t->x[10] - (uword)c_jal == 4 || t->x[10] - (uword)c_jal == 6);
#endif
}

static void ranges(void)
{
    expect_value("branch to -4096", run(M, far_branch, 0, 0), M, 7);
    expect_value("branch to 4094", run(M, far_branch_forward, 3, 0), M, 0);
    expect_value("jal to -1 MiB", run(M, far_jal, 0, 0), M, 7);
    expect_value("jal to 1 MiB - 4", run(M, far_jal_forward, 0, 0), M, 7);
    expect_value("c.j to -2048", run(M, far_c_j, 0, 0), M, 7);
    expect_value("c.beqz to -256", run(M, far_c_beqz, 0, 0), M, 7);
}

/* A loop whose body is entered from two sides, and a computed jump among sixteen places. */
SNIPPET(two_entries, "li a1, 0\nj 2f\n1: addi a1, a1, 1\n2: addi a1, a1, 2\naddi a0, a0, -1\nbnez a0, 1b\nmv a0, a1");
SNIPPET(computed,
        "li a1, 0\nli t2, 0\n1: andi t0, a0, 15\nslli t0, t0, 3\nla t1, 2f\nadd t0, t0, t1\njr t0\n"
        "2: .rept 16\naddi t2, t2, 1\nj 3f\n.endr\n"
        "3: add a1, a1, t0\nsub a1, a1, t1\naddi a0, a0, -1\nbgez a0, 1b\nmv a0, a1");
/* Returns that do not match their calls. */
SNIPPET(mismatched,
        "li a0, 0\ncall 1f\naddi a0, a0, 1\ncall 2f\naddi a0, a0, 4\nj 9f\n"
        "1: mv t3, ra\nla ra, 3f\nret\n3: addi a0, a0, 16\njr t3\n"
        "2: mv t4, ra\ncall 1b\naddi a0, a0, 64\njr t4\n9:");
/* Calls deeper than any stack of return addresses. */
SNIPPET(deep, "mv t0, a0\nmv t1, a1\nli a0, 0\ncall 1f\nj 9f\n"
        "1: addi t1, t1, -8\n" SREG " ra, 0(t1)\naddi a0, a0, 1\nbge a0, t0, 2f\ncall 1b\n"
        "2: " LREG " ra, 0(t1)\naddi t1, t1, 8\naddi a0, a0, 1\nret\n9:");

static void flows(void)
{
    static uword stack[2 * 1000];
    expect_value("a loop with two entries", run(M, two_entries, 1000, 0), M, 2999);
    expect_value("computed jumps", run(M, computed, 1599, 0), M, 100 * 8 * 120);
    expect_value("returns elsewhere", run(M, mismatched, 0, 0), M, 16 + 1 + 16 + 64 + 4);
    expect_value("deep calls", run(M, deep, 1000, (uword)(stack + sizeof stack / sizeof *stack)), M, 2000);
}

void program(void)
{
#define BOTH(op, f) branch(#op, op##_forward, op##_backward, op##_same, f)
    BOTH(beq, eq);
    BOTH(bne, ne);
    BOTH(blt, lt);
    BOTH(bge, ge);
    BOTH(bltu, ltu);
    BOTH(bgeu, geu);
    compressed_branches();
    ranges();
    links();
    flows();
}
