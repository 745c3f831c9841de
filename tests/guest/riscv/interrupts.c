/* Interrupts: which is taken when, in which mode, by which entry; what WFI waits for; timers and software interrupts. */

#include "bare.h"

#define INTERRUPT TOP

SNIPPET(spin, "1: j 1b");
SNIPPET(spin_calls, "1: la t0, 2f\njr t0\n.balign 4\n2: j 1b");
SNIPPET(count_down, "1: addi a0, a0, -1\nbnez a0, 1b");
SNIPPET(wait, "wfi\nli a0, 3");
SNIPPET(vectored_handler,
        ".balign 256\n1: j 8f\nj 9f\n.rept 3\nj 9f\n.endr\nli a0, 5\necall\n.rept 2\nj 9f\n.endr\nli a0, 9\necall\n"
        "8: li a0, 100\necall\n9: csrr a0, scause\nli a1, 1");
SNIPPET(supervisor_handler, "csrr a0, scause\ncsrr a1, sepc\ncsrr a2, sip\ncsrr a3, sstatus\ncsrr a4, sie");
SNIPPET(open_supervisor, "csrsi sstatus, 2\n1: j 1b");
SNIPPET(enable_in_handler, "csrw sie, a0\ncsrsi sstatus, 2\n1: j 1b");

static void quiet(void)
{
    csr_write(mie, 0);
    csr_write(mideleg, 0);
    csr_clear(mip, SSI | STI | SEI);
    MSIP[0] = 0;
    MTIMECMP[0] = ~(u64)0;
    mode_bits(0, SIE | MIE | MPIE | SPIE | TW);
}

static void taken(const char *name, struct trap *t, uword number)
{
    check(name, t->cause == (INTERRUPT | number));
}

/* A software interrupt that is there already, or comes from a timer later. */
static void machine(void)
{
    quiet();
    csr_write(mie, MSI);
    MSIP[0] = 1;
    struct trap *t = run(U, spin, 0, 0);
    taken("msi in U", t, 3);
    check("nothing has been executed", t->epc == (uword)spin);
    taken("msi in S", run(S, spin, 0, 0), 3);
    expect_value("msi in M without mie waits", run(M, count_down, 1000, 0), M, 0);
    csr_set(mstatus, MPIE);
    taken("msi in M with mie", run(M, spin, 0, 0), 3);
    check("mip shows it", csr_read(mip) & MSI);
    MSIP[0] = 0;
    check("and its end", !(csr_read(mip) & MSI));

    quiet();
    csr_write(mie, MTI);
    MTIMECMP[0] = *MTIME + 20000;
    taken("timer interrupts a jump to itself", run(U, spin, 0, 0), 7);
    check("not before its time", *MTIME >= MTIMECMP[0]);
    MTIMECMP[0] = *MTIME + 20000;
    taken("timer interrupts indirect jumps", run(S, spin_calls, 0, 0), 7);
    MTIMECMP[0] = *MTIME + 20000;
    csr_set(mstatus, MPIE);
    taken("timer interrupts M", run(M, spin, 0, 0), 7);
    MTIMECMP[0] = ~(u64)0;
    check("a later compare takes it back", !(csr_read(mip) & MTI));
}

static void priorities(void)
{
    quiet();
    MSIP[0] = 1;
    MTIMECMP[0] = 0;
    csr_set(mip, SSI | STI | SEI);
    static const u8 order[] = { 3, 7, 9, 1, 5 };
    uword enabled = MSI | MTI | SSI | STI | SEI;
    for (u32 i = 0; i < sizeof order; i++) {
        csr_write(mie, enabled);
        taken("next in order of priority", run(U, spin, 0, 0), order[i]);
        enabled &= ~((uword)1 << order[i]);
    }
}

static void vectored(void)
{
    quiet();
    csr_write(stvec, (uword)vectored_handler | 1);
    csr_write(mideleg, SSI | STI | SEI);
    csr_write(mie, SSI | STI | SEI);
    /* The table is at the first multiple of 256 from the snippet on. */
    uword table = ((uword)vectored_handler + 255) & ~(uword)255;
    csr_write(stvec, table | 1);
    csr_set(mip, STI);
    struct trap *t = run(U, spin, 0, 0);
    check("vectored timer", t->cause == ECALL_S && t->x[10] == 5);
    csr_clear(mip, STI);
    csr_set(mip, SEI);
    t = run(U, spin, 0, 0);
    check("vectored external", t->cause == ECALL_S && t->x[10] == 9);
    csr_clear(mip, SEI);
    csr_set(mip, SSI);
    t = run(U, spin, 0, 0);
    check("vectored software", t->cause == ECALL_S && t->x[10] == (INTERRUPT | 1));
}

static void supervisor(void)
{
    quiet();
    csr_write(stvec, supervisor_handler);
    csr_write(mideleg, SSI | STI | SEI);
    csr_write(mie, SSI);
    csr_set(mip, SSI);
    struct trap *t = run(U, spin, 0, 0);
    check("delegated, in U", t->cause == ECALL_S && t->x[10] == (INTERRUPT | 1) && t->x[11] == (uword)spin);
    check("sip and sie show what is delegated", t->x[12] == SSI && t->x[14] == SSI);
    expect_value("in S without sie it waits", run(S, count_down, 1000, 0), S, 0);
    t = run(S, open_supervisor, 0, 0);
    check("in S when sie is set", t->cause == ECALL_S && t->x[10] == (INTERRUPT | 1) && t->x[11] == (uword)open_supervisor + 4);
    csr_clear(mstatus, SIE | SPIE);
    csr_set(mstatus, MPIE);
    expect_value("in M never", run(M, count_down, 1000, 0), M, 0);
    csr_write(mie, 0);
    t = run(S, enable_in_handler, SSI, 0);
    check("enabled by sie, in S", t->cause == ECALL_S && t->x[10] == (INTERRUPT | 1));
    csr_clear(mstatus, SIE | SPIE);
    csr_write(mideleg, 0);
    csr_write(mie, SSI);
    taken("not delegated it goes to M", run(S, spin, 0, 0), 1);
}

SNIPPET(sstc_spin, "rdtime t0\nadd a0, a0, t0\ncsrw stimecmp, a0\ncsrsi sstatus, 2\n1: j 1b");
SNIPPET(sstc_wait, "rdtime t0\nadd a0, a0, t0\ncsrw stimecmp, a0\nwfi\ncsrr a0, sip\nrdtime a1\ncsrr a2, stimecmp");
SNIPPET(stimecmp_read, "csrr a0, stimecmp");
#if XLEN == 64
#define MENVCFG_STCE(op) csr_##op(menvcfg, (uword)1 << 63)
#else
#define MENVCFG_STCE(op) csr_##op(menvcfgh, (uword)1 << 31)
#define STIMECMP_HIGH csr_write(stimecmph, 0)
#endif

static void sstc(void)
{
    quiet();
    csr_write(mcounteren, 7);
    MENVCFG_STCE(set);
#if XLEN == 32
    STIMECMP_HIGH;
#endif
    csr_write(stvec, supervisor_handler);
    csr_write(mideleg, STI);
    csr_write(mie, STI);
    csr_write(stimecmp, -1);
    struct trap *t = run(S, sstc_spin, 20000, 0);
    check("stimecmp interrupts S", t->cause == ECALL_S && t->x[10] == (INTERRUPT | 5) && t->x[12] & STI);
    check("stip in mip", csr_read(mip) & STI);
    csr_clear(mip, STI);
    check("which is not written", csr_read(mip) & STI);
    csr_write(stimecmp, -1);
    check("a later compare takes it back", !(csr_read(mip) & STI));
    csr_clear(mstatus, SIE | SPIE);
    t = run(S, sstc_wait, 50000, 0);
    check("wfi waits for it without sie", t->cause == ECALL_S && t->x[10] & STI && t->x[11] >= t->x[12]);
    csr_clear(mcounteren, 2);
    expect_illegal("stimecmp without mcounteren.tm", run(S, stimecmp_read, 0, 0), stimecmp_read);
    csr_set(mcounteren, 2);
    MENVCFG_STCE(clear);
    expect_illegal("stimecmp without menvcfg.stce", run(S, stimecmp_read, 0, 0), stimecmp_read);
    csr_set(mip, STI);
    check("then stip is written", csr_read(mip) & STI);
    csr_clear(mip, STI);
}

static void waiting(void)
{
    quiet();
    csr_write(mie, MTI);
    u64 start = *MTIME;
    MTIMECMP[0] = start + 50000;
    struct trap *t = run(M, wait, 0, 0);
    check("wfi goes on without mie", t->cause == ECALL_M && t->x[10] == 3);
    check("and not before the timer", *MTIME >= start + 50000);
    /* On a busy host the time may have come before the WFI. */
    for (u32 ticks = 50000; ticks < 50000 << 8; ticks *= 2) {
        MTIMECMP[0] = *MTIME + ticks;
        csr_set(mstatus, MPIE);
        t = run(M, wait, 0, 0);
        if (t->epc != (uword)wait)
            break;
    }
    taken("wfi with mie is interrupted", t, 7);
    check("behind it", t->epc == (uword)wait + 4);
    MTIMECMP[0] = *MTIME + 50000;
    t = run(S, wait, 0, 0);
    taken("wfi in S", t, 7);
    MTIMECMP[0] = 0;
    expect_value("wfi with an interrupt there goes on", run(M, wait, 0, 0), M, 3);
    MTIMECMP[0] = ~(u64)0;
}

/* Every hart sleeps until hart 0 sends it an interrupt, and sends one back. */
static volatile u32 answers[MAX_HARTS];

static void ping(uword id)
{
    for (int round = 0; round < 200; round++)
        if (id == 0) {
            for (u32 other = 1; other < hart_count; other++)
                MSIP[other] = 1;
            for (u32 other = 1; other < hart_count; other++)
                while (answers[other] != (u32)round + 1)
                    ;
        } else {
            while (!(csr_read(mip) & MSI))
                asm volatile("wfi");
            MSIP[id] = 0;
            answers[id]++;
        }
}

static void enable_software(uword id)
{
    (void)id;
    csr_write(mie, MSI);
}

static void between_harts(void)
{
    quiet();
    on_all(enable_software);
    on_all(ping);
    int holds = 1;
    for (u32 id = 1; id < hart_count; id++)
        holds &= answers[id] == 200;
    check("interrupts between harts", holds);
    MSIP[0] = 0;
    for (u32 id = 1; id < hart_count; id++) {
        MSIP[id] = 1;
        taken("on another hart", run_on(id, U, spin, 0, 0), 3);
        MSIP[id] = 0;
    }
}

void program(void)
{
    machine();
    priorities();
    vectored();
    supervisor();
    sstc();
    waiting();
    between_harts();
}
