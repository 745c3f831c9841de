/* Exceptions: what each leaves in mcause, mepc, mtval and mstatus, from each mode and when delegated, and the ways back. */

#include "bare.h"

#define HOLE_TEXT "0x08000000"

SNIPPET(nothing, "nop");
SNIPPET(zero_word, ".word 0");
SNIPPET(ones_word, ".word 0xffffffff");
SNIPPET_C(zero_half, ".half 0\n.balign 4");
SNIPPET(call_break, "nop\nebreak");
SNIPPET_C(call_c_break, "c.nop\nc.ebreak\n");
SNIPPET(load_hole, "li a0, " HOLE_TEXT "\nlw a1, 8(a0)");
SNIPPET(store_hole, "li a0, " HOLE_TEXT "\nsw a1, 12(a0)");
SNIPPET(amo_hole, "li a0, " HOLE_TEXT "\namoadd.w a1, a1, (a0)");
SNIPPET(lr_hole, "li a0, " HOLE_TEXT "\nlr.w a1, (a0)");
SNIPPET(sc_hole, "li a0, " HOLE_TEXT "\nsc.w a1, a1, (a0)");
SNIPPET(fetch_hole, "li a0, " HOLE_TEXT "\njalr a1, 0(a0)");
SNIPPET(load_float_hole, "li a0, " HOLE_TEXT "\nfld fa0, 16(a0)");
SNIPPET(load_same, "li a0, " HOLE_TEXT "\nlw a0, 0(a0)");
SNIPPET(amo_odd, "amoadd.w a1, a1, (a0)");
SNIPPET(lr_odd, "lr.w a1, (a0)");
SNIPPET(sc_odd, "sc.w a1, a1, (a0)");
SNIPPET(load_odd, LREG " a0, 0(a0)");
SNIPPET(store_odd, SREG " a1, 0(a0)");

static uword words[4] __attribute__((aligned(64)));

static const char *const MODES[4] = { "U: ", "S: ", "", "M: " };

static void in_mode(enum mode m, const char *name)
{
    print("   in ");
    print(MODES[m]);
    print(name);
    print("\n");
}

static void causes(enum mode m)
{
    in_mode(m, "causes");
    expect("ecall", run(m, nothing, 0, 0), nothing, ECALL_U + m, 4, 0);
    expect("illegal word of zeroes", run(m, zero_word, 0, 0), zero_word, ILLEGAL, 0, 0);
    expect("illegal word of ones", run(m, ones_word, 0, 0), ones_word, ILLEGAL, 0, 0xffffffff);
    expect("illegal half word", run(m, zero_half, 0, 0), zero_half, ILLEGAL, 0, 0);
    expect("ebreak", run(m, call_break, 0, 0), call_break, BREAKPOINT, 4, (uword)call_break + 4);
    expect("c.ebreak", run(m, call_c_break, 0, 0), call_c_break, BREAKPOINT, 2, (uword)call_c_break + 2);
    expect("load from a hole", run(m, load_hole, 0, 0), load_hole, LOAD_FAULT, 4, HOLE + 8);
    expect("store to a hole", run(m, store_hole, 0, 0), store_hole, STORE_FAULT, 4, HOLE + 12);
    expect("amo on a hole", run(m, amo_hole, 0, 0), amo_hole, STORE_FAULT, 4, HOLE);
    expect("lr from a hole", run(m, lr_hole, 0, 0), lr_hole, LOAD_FAULT, 4, HOLE);
    struct trap *t = run(m, fetch_hole, 0, 0);
    check("fetch from a hole", t->cause == FETCH_FAULT && t->epc == HOLE && t->tval == HOLE);
    check("the jump there has linked", t->x[11] == (uword)fetch_hole + 8);
    t = run(m, load_same, 0, 0);
    check("a faulting load leaves its register", t->cause == LOAD_FAULT && t->x[10] == HOLE);
    check("mpp is the mode", (t->status & MPP) == (uword)m << 11);
}

static void misaligned(enum mode m)
{
    uword at = (uword)words + 2;
    in_mode(m, "misaligned");
    expect("amo", run(m, amo_odd, at, 0), amo_odd, STORE_MISALIGNED, 0, at);
    expect("lr", run(m, lr_odd, at, 0), lr_odd, LOAD_MISALIGNED, 0, at);
    expect("sc", run(m, sc_odd, at, 0), sc_odd, STORE_MISALIGNED, 0, at);
    words[0] = (uword)0x8877665544332211;
    words[1] = (uword)0x1100ffeeddccbbaa;
    expect_value("load", run(m, load_odd, at, 0), m, words[0] >> 16 | words[1] << (XLEN - 16));
    run(m, store_odd, at, 0x5a5a);
    check("store", words[0] == ((uword)0x5a5a << 16 | 0x2211) && words[1] >> 16 == (uword)0x1100ffeeddccbbaa >> 16);
}

/* Supervisor mode's handler: what it finds comes back in a0 to a5, by an ECALL. */
SNIPPET(supervisor_handler,
        "csrr a0, scause\ncsrr a1, sepc\ncsrr a2, stval\ncsrr a3, sstatus\nnop\nnop");
SNIPPET(enter_with_sie, "csrsi sstatus, 2\n.word 0");
SNIPPET(break_now, "ebreak");

static void delegated(void)
{
    in_mode(S, "delegated");
    csr_write(stvec, supervisor_handler);
    csr_write(medeleg, 1 << ILLEGAL | 1 << LOAD_FAULT | 1 << FETCH_FAULT | 1 << BREAKPOINT);
    for (enum mode m = U; m <= S; m++) {
        struct trap *t = run(m, zero_word, 0, 0);
        check("illegal goes to S", t->cause == ECALL_S && t->x[10] == ILLEGAL && t->x[11] == (uword)zero_word && !t->x[12]);
        check("spp is the mode", !!(t->x[13] & SPP) == (m == S));
        t = run(m, load_hole, 0, 0);
        check("load fault goes to S", t->cause == ECALL_S && t->x[10] == LOAD_FAULT && t->x[11] == (uword)load_hole + 4
                                          && t->x[12] == HOLE + 8);
        t = run(m, fetch_hole, 0, 0);
        check("fetch fault goes to S", t->cause == ECALL_S && t->x[10] == FETCH_FAULT && t->x[11] == HOLE && t->x[12] == HOLE);
        expect("store fault does not", run(m, store_hole, 0, 0), store_hole, STORE_FAULT, 4, HOLE + 12);
    }
    struct trap *t = run(S, enter_with_sie, 0, 0);
    check("spie keeps sie", (t->x[13] & (SIE | SPIE)) == SPIE);
    csr_clear(mstatus, SPIE | SIE);
    t = run(S, zero_word, 0, 0);
    check("spie is off where sie was", !(t->x[13] & (SIE | SPIE)));
    expect("from M nothing is delegated", run(M, zero_word, 0, 0), zero_word, ILLEGAL, 0, 0);
    csr_write(stvec, (uword)supervisor_handler | 1);
    t = run(U, break_now, 0, 0);
    check("vectored: exceptions go to the base", t->cause == ECALL_S && t->x[10] == BREAKPOINT);
    csr_write(medeleg, 0);
}

SNIPPET(do_mret, "la t0, 1f\ncsrw mepc, t0\ncsrw mstatus, a0\nmret\n1: nop");
SNIPPET(do_sret, "la t0, 1f\ncsrw sepc, t0\ncsrw sstatus, a0\nsret\n1: nop");
SNIPPET(mret_now, "mret");
SNIPPET(sret_now, "sret");
SNIPPET(wfi_now, "wfi");
SNIPPET(sfence_now, "sfence.vma");
SNIPPET(satp_read, "csrr a0, satp");
SNIPPET(odd_epc, "addi a0, a0, 1\ncsrw mepc, a0\ncsrr a0, mepc");

static void returns(void)
{
    in_mode(M, "returns");
    uword plain = csr_read(mstatus) & ~(MPP | MPIE | MIE | SPP | SPIE | SIE | MPRV);
    struct trap *t = run(M, do_mret, plain, 0);
    check("mret to U", t->cause == ECALL_U);
    t = run(M, do_mret, plain | (uword)S << 11, 0);
    check("mret to S", t->cause == ECALL_S);
    t = run(M, do_mret, plain | MPP | MPRV, 0);
    check("mret to M keeps mprv", t->cause == ECALL_M && t->status & MPRV);
    t = run(M, do_mret, plain | (uword)S << 11 | MPRV, 0);
    check("mret to S clears mprv", t->cause == ECALL_S && !(t->status & MPRV));
    t = run(M, do_mret, plain | MPP | MPIE, 0);
    check("mret takes mie from mpie", t->status & MPIE);
    t = run(M, do_mret, plain | MPP | MIE, 0);
    check("mret takes mie from mpie, clear", !(t->status & MPIE));
    uword supervisor = plain & ~(MPP | MPIE | MIE);
    t = run(S, do_sret, supervisor, 0);
    check("sret to U", t->cause == ECALL_U);
    t = run(S, do_sret, supervisor | SPP, 0);
    check("sret to S", t->cause == ECALL_S);
    check("sret leaves spp at U and spie set", !(t->status & SPP) && t->status & SPIE && !(t->status & SIE));
    t = run(S, do_sret, supervisor | SPP | SPIE, 0);
    check("sret takes sie from spie", t->status & SIE && t->status & SPIE);
    t = run(M, do_sret, supervisor | SPP | MPRV, 0);
    check("sret from M to S", t->cause == ECALL_S);
    csr_clear(mstatus, SIE | SPIE | SPP);
    expect_value("mepc has no bit 0", run(M, odd_epc, (uword)program, 0), M, (uword)program);
    expect_illegal("mret in S", run(S, mret_now, 0, 0), mret_now);
    expect_illegal("mret in U", run(U, mret_now, 0, 0), mret_now);
    expect_illegal("sret in U", run(U, sret_now, 0, 0), sret_now);
    expect_illegal("sfence.vma in U", run(U, sfence_now, 0, 0), sfence_now);
}

static void traps_of_supervisor(void)
{
    in_mode(S, "tvm, tsr, tw");
    expect_value("satp", run(S, satp_read, 0, 0), S, 0);
    check("sfence.vma", run(S, sfence_now, 0, 0)->cause == ECALL_S);
    csr_set(mstatus, TVM);
    expect_illegal("satp with tvm", run(S, satp_read, 0, 0), satp_read);
    expect_illegal("sfence.vma with tvm", run(S, sfence_now, 0, 0), sfence_now);
    expect_value("satp with tvm in M", run(M, satp_read, 0, 0), M, 0);
    csr_clear(mstatus, TVM);
    csr_set(mstatus, TSR);
    expect_illegal("sret with tsr", run(S, sret_now, 0, 0), sret_now);
    csr_clear(mstatus, TSR);
    csr_set(mstatus, TW);
    expect_illegal("wfi with tw", run(S, wfi_now, 0, 0), wfi_now);
    expect_illegal("wfi with tw in U", run(U, wfi_now, 0, 0), wfi_now);
    csr_clear(mstatus, TW);
}

void program(void)
{
    static const enum mode all[] = { U, S, M };
    for (int i = 0; i < 3; i++) {
        causes(all[i]);
        misaligned(all[i]);
    }
    delegated();
    returns();
    traps_of_supervisor();
}
