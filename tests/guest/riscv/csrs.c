/* Control and status registers: what the six instructions read and write, who may, and which bits there are. */

#include "bare.h"

/* Each form on mscratch's sibling in S mode, which no one else uses. */
SNIPPET(rw, "csrrw a0, sscratch, a1");
SNIPPET(rs, "csrrs a0, sscratch, a1");
SNIPPET(rc, "csrrc a0, sscratch, a1");
SNIPPET(rwi, "csrrwi a0, sscratch, 21");
SNIPPET(rsi, "csrrsi a0, sscratch, 21");
SNIPPET(rci, "csrrci a0, sscratch, 21");
SNIPPET(rs_same, "csrrs a1, sscratch, a1\nmv a0, a1");
SNIPPET(rw_same, "csrrw a1, sscratch, a1\nmv a0, a1");
SNIPPET(rw_x0, "csrrw zero, sscratch, a1\nli a0, 1");

static void forms(enum mode m)
{
    const uword old = (uword)0xf0f0f0f0f0f0f0f0, new = (uword)0x123456789abcdef0;
#define FORM(code, want) \
    csr_write(sscratch, old); \
    expect_value(#code, run(m, code, 0, new), m, old); \
    check(#code " writes", csr_read(sscratch) == (want))
    FORM(rw, new);
    FORM(rs, old | new);
    FORM(rc, old & ~new);
    FORM(rwi, 21);
    FORM(rsi, old | 21);
    FORM(rci, old & ~(uword)21);
    FORM(rs_same, old | new);
    FORM(rw_same, new);
    csr_write(sscratch, old);
    run(m, rw_x0, 0, new);
    check("csrrw to x0 writes", csr_read(sscratch) == new);
}

/* Reading with x0 or 0 is allowed where writing is not. */
SNIPPET(read_only_rs, "csrrs a0, mvendorid, zero");
SNIPPET(read_only_rsi, "csrrsi a0, mhartid, 0");
SNIPPET(read_only_rw, "csrrw a0, mhartid, zero");
SNIPPET(read_only_rs_x, "csrrs a0, mhartid, a1");
SNIPPET(read_only_rci, "csrrci a0, mhartid, 1");
SNIPPET(no_such, "csrr a0, 0x5c0");
SNIPPET(machine_from_below, "csrr a0, mscratch");
SNIPPET(supervisor_from_below, "csrr a0, sscratch");

static void access(void)
{
    check("csrrs x0 of a read-only one", run(M, read_only_rs, 0, 0)->cause == ECALL_M);
    expect_value("csrrsi 0 of a read-only one", run(M, read_only_rsi, 0, 0), M, 0);
    expect_illegal("csrrw x0 of a read-only one", run(M, read_only_rw, 0, 0), read_only_rw);
    expect_illegal("csrrs of a read-only one, though it sets nothing", run(M, read_only_rs_x, 0, 0), read_only_rs_x);
    expect_illegal("csrrci of a read-only one", run(M, read_only_rci, 0, 0), read_only_rci);
    expect_illegal("one that is not there", run(M, no_such, 0, 0), no_such);
    expect_illegal("machine's in S", run(S, machine_from_below, 0, 0), machine_from_below);
    expect_illegal("machine's in U", run(U, machine_from_below, 0, 0), machine_from_below);
    expect_illegal("supervisor's in U", run(U, supervisor_from_below, 0, 0), supervisor_from_below);
}

SNIPPET(read_cycle, "rdcycle a0\nrdcycle a1\nsub a0, a1, a0");
SNIPPET(read_instret, "rdinstret a0\nrdinstret a1\nsub a0, a1, a0");
SNIPPET(read_time, "rdtime a0");
SNIPPET(write_cycle, "csrw cycle, a0");
SNIPPET(read_hpm, "csrr a0, hpmcounter3");

static void counters(void)
{
    csr_write(mcounteren, 0);
    csr_write(scounteren, 0);
    expect_illegal("cycle in S without mcounteren", run(S, read_cycle, 0, 0), read_cycle);
    expect_illegal("time in U without mcounteren", run(U, read_time, 0, 0), read_time);
    csr_write(mcounteren, -1);
    check("cycle in S with it", run(S, read_cycle, 0, 0)->cause == ECALL_S);
    expect_illegal("cycle in U without scounteren", run(U, read_cycle, 0, 0), read_cycle);
    csr_write(scounteren, 1);
    check("cycle in U with it", run(U, read_cycle, 0, 0)->cause == ECALL_U);
    expect_illegal("instret has its own bit", run(U, read_instret, 0, 0), read_instret);
    csr_write(scounteren, -1);
    check("time in U", run(U, read_time, 0, 0)->cause == ECALL_U);
    check("a performance counter in U", run(U, read_hpm, 0, 0)->cause == ECALL_U);
    expect_illegal("cycle is not written", run(M, write_cycle, 0, 0), write_cycle);
    u64 before = *MTIME;
    uword now = run(M, read_time, 0, 0)->x[10];
    check("time is mtime", (uword)before <= now && now <= (uword)*MTIME);
    csr_write(mcountinhibit, 5);
    uword c = csr_read(mcycle), i = csr_read(minstret);
    check("inhibited counters stand", csr_read(mcycle) == c && csr_read(minstret) == i);
    csr_write(mcycle, 1234);
    check("and are written", csr_read(mcycle) == 1234);
    csr_write(mcountinhibit, 0);
    c = csr_read(mcycle);
    for (int n = 0; n < 100; n++)
        asm volatile("nop");
    check("and run again", csr_read(mcycle) > c);
}

/* cycle, time, instret, and the 16 counters that the models have. */
#define COUNTERS 0x7ffff

/* What stays of a write of ones and of zeroes. */
#define FIELDS(csr, ones, zeroes) \
    do { \
        uword kept_ = csr_read(csr); \
        csr_write(csr, -1); \
        uword after_ = csr_read(csr); \
        csr_write(csr, 0); \
        uword cleared_ = csr_read(csr); \
        csr_write(csr, kept_); \
        int holds_ = after_ == (uword)(ones) && cleared_ == (uword)(zeroes); \
        check(#csr, holds_); \
        if (!holds_) { \
            print("  has "); \
            print_hex(after_); \
            print(" and "); \
            print_hex(cleared_); \
            print("\n"); \
        } \
    } while (0)

static void fields(void)
{
    FIELDS(mscratch, -1, 0);
    FIELDS(mepc, ~(uword)1, 0);
    FIELDS(sepc, ~(uword)1, 0);
    FIELDS(mtval, -1, 0);
    FIELDS(stval, -1, 0);
    FIELDS(mcounteren, COUNTERS, 0);
    FIELDS(scounteren, COUNTERS, 0);
    FIELDS(sie, 0, 0);
    csr_write(mideleg, -1);
    FIELDS(sie, SSI | STI | SEI | (uword)1 << 13, 0);
    csr_write(mideleg, 0);
    csr_write(stvec, 0x1000);
    csr_write(stvec, 0x2003);
    check("a reserved mode of stvec", (csr_read(stvec) & 2) == 0);
    csr_write(stvec, 0x2001);
    check("the vectored mode of stvec", csr_read(stvec) == 0x2001);
    mode_bits((uword)S << 11, MPP);
    csr_set(mstatus, (uword)2 << 11 & ~((uword)S << 11));
    check("mpp has no mode 2", (csr_read(mstatus) & MPP) != (uword)2 << 11);
    uword s = csr_read(sstatus);
    check("sstatus hides machine's fields", !(s & (MPP | MIE | MPIE | MPRV | TVM | TW | TSR)));
    csr_write(misa, 0);
    check("misa has i", csr_read(misa) >> 8 & 1);
    check("misa's width", csr_read(misa) >> (XLEN - 2) == XLEN / 32);
}

/* fflags and frm are parts of fcsr. */
SNIPPET(flags_parts, "csrwi fcsr, 0\ncsrwi fflags, 31\ncsrwi frm, 5\nfrcsr a0\nfrflags a1\nfrrm a2");
SNIPPET(flags_whole, "li a0, -1\nfscsr a0\nfrcsr a0\nfrflags a1\nfrrm a2");
SNIPPET(flags_swap, "csrwi fcsr, 0\nfsrmi a0, 3\nfsrmi a0, 1\nfsflagsi a1, 9\nfsflagsi a1, 0");

static void floating(void)
{
    csr_set(mstatus, FS_FIELD);
    struct trap *t = run(U, flags_parts, 0, 0);
    check("fflags and frm written", t->x[10] == (5 << 5 | 31) && t->x[11] == 31 && t->x[12] == 5);
    t = run(U, flags_whole, 0, 0);
    check("fcsr has eight bits", t->x[10] == 255 && t->x[11] == 31 && t->x[12] == 7);
    t = run(U, flags_swap, 0, 0);
    check("swapped", t->x[10] == 3 && t->x[11] == 9);
}

void program(void)
{
    forms(M);
    forms(S);
    access();
    counters();
    fields();
    floating();
}
