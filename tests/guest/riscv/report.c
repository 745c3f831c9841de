/* Text, checks and the harts' work; see bare.h. */

#include "bare.h"

struct hart harts[MAX_HARTS];
volatile u32 hart_count;
static u32 checks, failures;
static void (*volatile work)(uword id);
static volatile u32 round, finished;

uword hart_id(void)
{
    return csr_read(mhartid);
}

static void put(char c)
{
    while (!(UART[5] & 0x20))
        ;
    UART[0] = c;
}

void print(const char *text)
{
    for (; *text; text++)
        put(*text);
}

void print_hex(uword value)
{
    print("0x");
    int shift = XLEN - 4;
    while (shift && !(value >> shift))
        shift -= 4;
    for (; shift >= 0; shift -= 4)
        put("0123456789abcdef"[value >> shift & 15]);
}

static void show(const char *name, uword value)
{
    print(name);
    print_hex(value);
}

static void show_trap(struct trap *trap)
{
    show(" cause=", trap->cause);
    show(" epc=", trap->epc);
    show(" tval=", trap->tval);
    show(" status=", trap->status);
    show(" a0=", trap->x[10]);
    show(" a1=", trap->x[11]);
}

void check(const char *name, int holds)
{
    checks++;
    print(holds ? "ok " : "FAIL ");
    print(name);
    if (!holds) {
        failures++;
        show_trap(&harts[hart_id()].trap);
    }
    print("\n");
}

void expect(const char *name, struct trap *trap, snippet *code, uword cause, uword offset, uword tval)
{
    int holds = trap->cause == cause && trap->epc - (uword)code == offset && trap->tval == tval;
    check(name, holds);
    if (!holds) {
        show("  wanted cause=", cause);
        show(" epc=", (uword)code + offset);
        show(" tval=", tval);
        print("\n");
    }
}

void expect_value(const char *name, struct trap *trap, enum mode mode, uword a0)
{
    int holds = trap->cause == ECALL_U + mode && trap->x[10] == a0;
    check(name, holds);
    if (!holds) {
        show("  wanted a0=", a0);
        print("\n");
    }
}

void expect_illegal(const char *name, struct trap *trap, snippet *code)
{
    expect(name, trap, code, ILLEGAL, 0, *(u32 *)code);
}

struct trap *run(enum mode mode, snippet *code, uword a0, uword a1)
{
    struct hart *hart = &harts[hart_id()];
    enter(hart, mode, code, a0, a1);
    return &hart->trap;
}

/* A trap that no snippet made. */
void stray_trap(struct hart *hart)
{
    print("FAIL stray trap");
    show_trap(&hart->trap);
    print("\n");
    failures++;
    done();
}

void done(void)
{
    show("", checks);
    show(" checks, failed: ", failures);
    print("\n");
    *TEST_DEVICE = failures ? 0x13333 : 0x5555;
    for (;;)
        ;
}

static struct {
    enum mode mode;
    snippet *code;
    uword id, a0, a1;
} job;

void wait_for_work(void)
{
    static volatile u32 seen[MAX_HARTS];
    uword id = hart_id();
    while (round == seen[id])
        ;
    seen[id] = round;
    __sync_synchronize();
    work(id);
    __sync_fetch_and_add(&finished, 1);
}

static void start(void (*what)(uword id))
{
    work = what;
    finished = 0;
    __sync_fetch_and_add(&round, 1);
}

static void finish(void)
{
    while (finished != hart_count - 1)
        ;
    __sync_synchronize();
}

void on_all(void (*what)(uword id))
{
    start(what);
    what(0);
    finish();
}

static void do_job(uword id)
{
    if (id == job.id)
        run(job.mode, job.code, job.a0, job.a1);
}

struct trap *run_on(uword id, enum mode mode, snippet *code, uword a0, uword a1)
{
    job.id = id;
    job.mode = mode;
    job.code = code;
    job.a0 = a0;
    job.a1 = a1;
    start(do_job);
    finish();
    return &harts[id].trap;
}
