/* mstatus.FS and VS: what is illegal while they are Off, and what makes them Dirty. */

#include "bare.h"

#define INITIAL 1
#define CLEAN 2
#define DIRTY 3
#define FS(n) ((uword)(n) << 13)
#define VS(n) ((uword)(n) << 9)

static double memory[2] __attribute__((aligned(16)));

/* Each touches the unit; the second group also changes its state. */
SNIPPET(f_store, "fsd fa0, 0(a0)");
SNIPPET(f_to_integer, "fmv.x.w a0, fa0");
SNIPPET(f_compare, "feq.d a0, fa0, fa0");
SNIPPET(f_read_flags, "frcsr a0");
SNIPPET(f_load, "fld fa0, 0(a0)");
SNIPPET(f_add, "fadd.d fa0, fa0, fa0");
SNIPPET(f_from_integer, "fmv.w.x fa0, a0");
SNIPPET(f_write_flags, "fscsr a0");
SNIPPET(f_round, "fsrmi a0, 0");
SNIPPET(f_invalid, "fcvt.w.d a0, fa1");
SNIPPET(f_read_rm, "csrr a0, frm");

#define CASE(code) { #code, code }
static const struct {
    const char *name;
    snippet *code;
} READERS[] = { CASE(f_store), CASE(f_to_integer), CASE(f_read_flags), CASE(f_read_rm) },
  WRITERS[] = { CASE(f_load), CASE(f_add), CASE(f_from_integer), CASE(f_write_flags), CASE(f_round) };

#define COUNT(list) (sizeof(list) / sizeof *(list))

static void set_unit(uword field, uword value)
{
    csr_clear(mstatus, field);
    csr_set(mstatus, value);
}

static void off(enum mode m)
{
    set_unit(FS_FIELD, 0);
    for (u32 i = 0; i < COUNT(READERS); i++)
        expect_illegal(READERS[i].name, run(m, READERS[i].code, (uword)memory, 0), READERS[i].code);
    for (u32 i = 0; i < COUNT(WRITERS); i++)
        expect_illegal(WRITERS[i].name, run(m, WRITERS[i].code, (uword)memory, 0), WRITERS[i].code);
}

static void dirty(enum mode m, uword from)
{
    for (u32 i = 0; i < COUNT(READERS); i++) {
        set_unit(FS_FIELD, FS(from));
        struct trap *t = run(m, READERS[i].code, (uword)memory, 0);
        check(READERS[i].name, t->cause == ECALL_U + m && (t->status & FS_FIELD) == FS(from) && !(t->status & SD));
    }
    for (u32 i = 0; i < COUNT(WRITERS); i++) {
        set_unit(FS_FIELD, FS(from));
        struct trap *t = run(m, WRITERS[i].code, (uword)memory, 0);
        check(WRITERS[i].name, t->cause == ECALL_U + m && (t->status & FS_FIELD) == FS(DIRTY) && t->status & SD);
    }
    /* Only a flag changes. */
    set_unit(FS_FIELD, FS(DIRTY));
    csr_write(fcsr, 0);
    asm volatile("fld fa1, 0(%0)" ::"r"(memory + 1));
    set_unit(FS_FIELD, FS(from));
    struct trap *t = run(m, f_invalid, 0, 0);
    check("a new flag", (t->status & FS_FIELD) == FS(DIRTY) && (csr_read(fflags) & 16));
}

/* Dirty within a loop, and off again before the next time: translations of one state do not serve another. */
SNIPPET(toggling,
        "li a2, 0\nli t2, 0x6000\n1: csrc mstatus, t2\nli t0, 0x4000\ncsrs mstatus, t0\nfadd.d fa0, fa0, fa0\ncsrr t0, mstatus\n"
        "and t0, t0, t2\nadd a2, a2, t0\naddi a0, a0, -1\nbnez a0, 1b\nmv a0, a2");

#define V(text) ".option push\n.option arch, +v\n" text "\n.option pop"
SNIPPET(v_set, V("vsetvli a0, zero, e8, m1, ta, ma"));
SNIPPET(v_read_length, V("csrr a0, vlenb"));
SNIPPET(v_move, V("vmv.v.i v1, 3"));
SNIPPET(v_load, V("vle8.v v1, (a0)"));
SNIPPET(v_store, V("vse8.v v1, (a0)"));
SNIPPET(v_add, V("vadd.vv v1, v1, v1"));
SNIPPET(v_mask_in, V("vcpop.m a0, v1"));
SNIPPET(v_round, V("csrwi vxrm, 1"));
SNIPPET(v_float, V("vfadd.vv v1, v1, v1"));

static void vectors(enum mode m)
{
    static u8 bytes[256] __attribute__((aligned(64)));
    static const struct {
        const char *name;
        snippet *code;
    } ALL[] = { CASE(v_set), CASE(v_read_length), CASE(v_move), CASE(v_load), CASE(v_store), CASE(v_add), CASE(v_mask_in),
                CASE(v_round) };
    set_unit(FS_FIELD | VS_FIELD, 0);
    for (u32 i = 0; i < COUNT(ALL); i++)
        expect_illegal(ALL[i].name, run(m, ALL[i].code, (uword)bytes, 0), ALL[i].code);
    set_unit(VS_FIELD, VS(DIRTY));
    expect_illegal("v_float without fs", run(m, v_float, 0, 0), v_float);
    for (u32 i = 0; i < COUNT(ALL); i++) {
        set_unit(VS_FIELD, VS(DIRTY));
        run(m, v_set, 0, 0);
        set_unit(VS_FIELD, VS(CLEAN));
        struct trap *t = run(m, ALL[i].code, (uword)bytes, 0);
        /* Reading a register of the unit leaves it clean. */
        int reads = ALL[i].code == v_read_length || ALL[i].code == v_store || ALL[i].code == v_mask_in;
        int is_dirty = (t->status & VS_FIELD) == VS(DIRTY);
        check(ALL[i].name, t->cause == ECALL_U + m && (reads || is_dirty));
    }
    set_unit(FS_FIELD, FS(CLEAN));
    csr_clear(mstatus, VS_FIELD);
    expect_illegal("v_float without vs", run(m, v_float, 0, 0), v_float);
}

void program(void)
{
    ((u64 *)memory)[1] = 0x7ff8000000000000;
    off(U);
    off(S);
    off(M);
    dirty(U, CLEAN);
    dirty(S, INITIAL);
    dirty(M, CLEAN);
    expect_value("each time", run(M, toggling, 100, 0), M, 100 * 0x6000);
    vectors(U);
    vectors(S);
    vectors(M);
}
