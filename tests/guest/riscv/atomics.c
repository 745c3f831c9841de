/* LR and SC on one hart; then every atomic operation under contention of all harts, and what ordering the harts see. */

#include "bare.h"

#define ROUNDS 20000

static volatile u64 cell __attribute__((aligned(64)));
static volatile u64 far_cell __attribute__((aligned(4096)));

SNIPPET(plain, "lr.w t0, (a0)\nsc.w a0, a1, (a0)");
SNIPPET(without, "sc.w t0, a1, (a0)\nsc.w a0, a1, (a0)");
SNIPPET(once_only, "lr.w t0, (a0)\nsc.w t1, a1, (a0)\nsc.w a0, a1, (a0)");
SNIPPET(elsewhere, "lr.w t0, (a0)\nsc.w a0, zero, (a1)");
SNIPPET(sign, "lr.w a0, (a0)");
SNIPPET(into_source, "lr.w t0, (a0)\nmv t1, a0\nsc.w a1, a1, (t1)\nmv a0, a1");
SNIPPET(into_nothing, "lr.w t0, (a0)\nsc.w zero, a1, (a0)\nlw a0, 0(a0)");
SNIPPET(reserve, "lr.w t0, (a0)");
SNIPPET(conditional, "sc.w a0, a1, (a0)");
#if XLEN == 64
SNIPPET(wide, "lr.d t0, (a0)\nsc.d t1, a1, (a0)\nld a0, 0(a0)");
#endif

static void reservations(void)
{
    uword at = (uword)&cell, other = (uword)&far_cell;
    cell = 0xffffffff80000000;
    expect_value("lr.w extends the sign", run(M, sign, at, 0), M, (uword)(long)(int)0x80000000);
    expect_value("sc after lr", run(M, plain, at, 7), M, 0);
    check("has stored", (u32)cell == 7);
    check("four bytes", cell >> 32 == 0xffffffff);
    expect_value("sc without lr", run(M, without, at, 8), M, 1);
    expect_value("a second sc", run(M, once_only, at, 9), M, 1);
    check("the first has stored", (u32)cell == 9);
    expect_value("sc elsewhere", run(M, elsewhere, at, other), M, 1);
    expect_value("the result in the source", run(M, into_source, at, 11), M, 0);
    check("which was stored before", (u32)cell == 11);
    expect_value("the result nowhere", run(M, into_nothing, at, 12), M, 12);
#if XLEN == 64
    expect_value("lr.d sc.d", run(M, wide, at, 0x123456789abcdef), M, 0x123456789abcdef);
#endif
    /* Another hart's store between the two. */
    run(M, reserve, at, 0);
    run_on(1, M, plain, at, 99);
    expect_value("sc after another hart's sc", run(M, conditional, at, 13), M, 1);
    check("has not stored", (u32)cell == 99);
}

/* Each body adds one to a counter, in its own way. */
#define COUNTER(name, type, body) \
    static volatile type counter_##name __attribute__((aligned(64))); \
    static void count_##name(uword id) \
    { \
        (void)id; \
        volatile type *at = &counter_##name; \
        for (u32 i = 0; i < ROUNDS; i++) { body; } \
    } \
    static void test_##name(void) \
    { \
        counter_##name = 0; \
        on_all(count_##name); \
        check(#name, counter_##name == (type)(ROUNDS * hart_count)); \
    }

#define ADD(suffix, order) asm volatile("amoadd." #suffix order " zero, %0, (%1)" ::"r"((uword)1), "r"(at) : "memory")
#define LR_SC(suffix, order) \
    asm volatile("1: lr." #suffix order " t0, (%0)\naddi t0, t0, 1\nsc." #suffix order " t1, t0, (%0)\nbnez t1, 1b" ::"r"(at) : "t0", "t1", "memory")
/* The memory operand of CAS is written as a word: Debian's assembler does not know it. amocas rd, rs2, (rs1): funct5 00101. */
#define CAS(funct3) \
    asm volatile("mv a2, %0\n" CAS_LOAD "1: mv a4, a3\naddi a5, a3, 1\n.insn r 0x2f, " #funct3 ", 0x14, a3, a2, a5\nbne a3, a4, 1b" \
                 ::"r"(at) : "a2", "a3", "a4", "a5", "memory")

COUNTER(amoadd_w, u32, ADD(w, ""))
COUNTER(amoadd_w_aqrl, u32, ADD(w, ".aqrl"))
COUNTER(lr_sc_w, u32, LR_SC(w, ""))
COUNTER(lr_sc_w_aqrl, u32, LR_SC(w, ".aqrl"))
#define CAS_LOAD "lw a3, 0(a2)\n"
COUNTER(amocas_w, u32, CAS(2))
#undef CAS_LOAD
/* Zabha: amoadd.b and amoadd.h, next to each other. */
#define ADD_SMALL(funct3) asm volatile("mv a2, %0\nli a3, 1\n.insn r 0x2f, " #funct3 ", 0, zero, a2, a3" ::"r"(at) : "a2", "a3", "memory")
COUNTER(amoadd_b, u8, ADD_SMALL(0))
COUNTER(amoadd_h, u16, ADD_SMALL(1))
#define CAS_LOAD "lb a3, 0(a2)\n"
COUNTER(amocas_b, u8, CAS(0))
#undef CAS_LOAD
#define CAS_LOAD "lh a3, 0(a2)\n"
COUNTER(amocas_h, u16, CAS(1))
#undef CAS_LOAD
#if XLEN == 64
COUNTER(amoadd_d, u64, ADD(d, ""))
COUNTER(lr_sc_d, u64, LR_SC(d, ""))
#define CAS_LOAD "ld a3, 0(a2)\n"
COUNTER(amocas_d, u64, CAS(3))
#undef CAS_LOAD
#endif

/* A pair of words that is only ever changed whole: amocas.q (amocas.d on RV32), in pairs of registers. */
static volatile uword pair[2] __attribute__((aligned(64)));
#if XLEN == 64
#define PAIR_FUNCT3 "4"
#define PAIR_WORD "8"
#else
#define PAIR_FUNCT3 "3"
#define PAIR_WORD "4"
#endif

static void count_pair(uword id)
{
    (void)id;
    for (u32 i = 0; i < ROUNDS; i++)
        asm volatile("mv t2, %0\n" LREG " a2, 0(t2)\n" LREG " a3, " PAIR_WORD "(t2)\n"
                     "1: mv t0, a2\nmv t1, a3\naddi a4, a2, 1\naddi a5, a3, -1\n"
                     ".insn r 0x2f, " PAIR_FUNCT3 ", 0x14, a2, t2, a4\n"
                     "bne a2, t0, 1b\nbne a3, t1, 1b" ::"r"(pair)
                     : "a2", "a3", "a4", "a5", "t0", "t1", "t2", "memory");
}

/* A lock of one word, taken by amoswap, around what is not atomic. */
static volatile u32 lock __attribute__((aligned(64)));
static volatile uword guarded[3];

static void with_lock(uword id)
{
    for (u32 i = 0; i < ROUNDS / 4; i++) {
        asm volatile("li t0, 1\n1: amoswap.w.aq t1, t0, (%0)\nbnez t1, 1b" ::"r"(&lock) : "t0", "t1", "memory");
        guarded[0] += 1;
        guarded[1] += id;
        guarded[2] = guarded[0] * 2;
        asm volatile("amoswap.w.rl zero, zero, (%0)" ::"r"(&lock) : "memory");
    }
}

/* Tickets, and waiting by WRS where another hart's store ends it. */
static volatile u32 next_ticket, serving __attribute__((aligned(64)));
static volatile uword ticketed;

static void with_ticket(uword id)
{
    (void)id;
    for (u32 i = 0; i < 500; i++) {
        u32 mine;
        asm volatile("amoadd.w.aq %0, %1, (%2)" : "=r"(mine) : "r"((uword)1), "r"(&next_ticket) : "memory");
        for (;;) {
            u32 now;
            asm volatile("lr.w.aq %0, (%1)" : "=r"(now) : "r"(&serving) : "memory");
            if (now == mine)
                break;
            asm volatile(".word 0x01d00073" ::: "memory"); /* wrs.sto */
        }
        ticketed += 1;
        asm volatile("fence rw, w" ::: "memory");
        serving = mine + 1;
    }
}

/* Each hart sets and clears its own bit, and looks whether anyone else's operation took it away. */
static volatile u32 bits __attribute__((aligned(64)));
static volatile u32 lost;

static void own_bit(uword id)
{
    u32 mine = 1u << id;
    for (u32 i = 0; i < ROUNDS; i++) {
        u32 old;
        asm volatile("amoor.w %0, %1, (%2)" : "=r"(old) : "r"(mine), "r"(&bits) : "memory");
        lost |= old & mine;
        asm volatile("amoand.w %0, %1, (%2)" : "=r"(old) : "r"(~mine), "r"(&bits) : "memory");
        lost |= ~old & mine;
        asm volatile("amoxor.w %0, %1, (%2)" : "=r"(old) : "r"(mine), "r"(&bits) : "memory");
        asm volatile("amoxor.w %0, %1, (%2)" : "=r"(old) : "r"(mine), "r"(&bits) : "memory");
        lost |= ~old & mine;
    }
}

/* The greatest and least of what all harts offer. */
static volatile u32 extremes[4] __attribute__((aligned(64)));

static void offer(uword id)
{
    for (u32 i = 0; i < ROUNDS; i++) {
        u32 x = (i * 2654435761u) ^ (u32)id << 30;
        asm volatile("amomax.w zero, %0, (%1)" ::"r"((long)(int)x), "r"(&extremes[0]) : "memory");
        asm volatile("amomin.w zero, %0, (%1)" ::"r"((long)(int)x), "r"(&extremes[1]) : "memory");
        asm volatile("amomaxu.w zero, %0, (%1)" ::"r"((long)(int)x), "r"(&extremes[2]) : "memory");
        asm volatile("amominu.w zero, %0, (%1)" ::"r"((long)(int)x), "r"(&extremes[3]) : "memory");
    }
}

static void extremes_hold(void)
{
    u32 want[4] = { 0x80000000, 0x7fffffff, 0, ~0u };
    for (int i = 0; i < 4; i++)
        extremes[i] = want[i];
    on_all(offer);
    for (u32 id = 0; id < hart_count; id++)
        for (u32 i = 0; i < ROUNDS; i++) {
            u32 x = (i * 2654435761u) ^ id << 30;
            want[0] = (int)x > (int)want[0] ? x : want[0];
            want[1] = (int)x < (int)want[1] ? x : want[1];
            want[2] = x > want[2] ? x : want[2];
            want[3] = x < want[3] ? x : want[3];
        }
    check("amomax amomin amomaxu amominu",
          extremes[0] == want[0] && extremes[1] == want[1] && extremes[2] == want[2] && extremes[3] == want[3]);
}

/* Message passing: the flag is never seen before the data. Store buffering: with full fences, not both see nothing. */
static volatile u32 data __attribute__((aligned(64))), flag __attribute__((aligned(64)));
static volatile u32 x __attribute__((aligned(64))), y __attribute__((aligned(64)));
static volatile u32 seen_x[ROUNDS], seen_y[ROUNDS], turn[2], early;

static void pass_messages(uword id)
{
    for (u32 i = 1; i <= ROUNDS; i++)
        if (id == 0) {
            data = i;
            asm volatile("fence w, w" ::: "memory");
            flag = i;
        } else if (id == 1) {
            u32 f = flag;
            asm volatile("fence r, r" ::: "memory");
            if (data < f)
                early = 1;
        }
}

static void meet(uword id, u32 round)
{
    turn[id] = round;
    asm volatile("fence rw, rw" ::: "memory");
    while (turn[!id] < round)
        ;
}

static void buffer_stores(uword id)
{
    if (id > 1)
        return;
    for (u32 i = 0; i < ROUNDS / 100; i++) {
        meet(id, 3 * i + 1);
        if (id)
            y = 1;
        else
            x = 1;
        asm volatile("fence rw, rw" ::: "memory");
        if (id)
            seen_x[i] = x;
        else
            seen_y[i] = y;
        meet(id, 3 * i + 2);
        if (id == 0)
            x = y = 0;
        meet(id, 3 * i + 3);
    }
}

static void ordering(void)
{
    early = 0;
    on_all(pass_messages);
    check("message passing", !early);
    on_all(buffer_stores);
    int both = 0;
    for (u32 i = 0; i < ROUNDS / 100; i++)
        both |= !seen_x[i] && !seen_y[i];
    check("store buffering", !both);
}

void program(void)
{
    while (hart_count < 4)
        ;
    reservations();
    test_amoadd_w();
    test_amoadd_w_aqrl();
    test_lr_sc_w();
    test_lr_sc_w_aqrl();
    test_amocas_w();
    test_amoadd_b();
    test_amoadd_h();
    test_amocas_b();
    test_amocas_h();
#if XLEN == 64
    test_amoadd_d();
    test_lr_sc_d();
    test_amocas_d();
#endif
    on_all(count_pair);
    check("amocas of a pair", pair[0] == ROUNDS * hart_count && pair[1] == -(uword)(ROUNDS * hart_count));
    on_all(with_lock);
    check("a lock", guarded[0] == ROUNDS / 4 * hart_count && guarded[1] == ROUNDS / 4 * 6 && guarded[2] == guarded[0] * 2);
    on_all(with_ticket);
    check("tickets", ticketed == 500 * hart_count);
    on_all(own_bit);
    check("amoor amoand amoxor", !lost && !bits);
    extremes_hold();
    ordering();
}
