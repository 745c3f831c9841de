/* Address translation: levels and page sizes, permissions, SUM and MXR, accessed and dirty bits, MPRV, what is cached and what
 * SFENCE.VMA ends, in every mode of satp that the hart has. */

#include "bare.h"

#define PTE_V 1
#define PTE_R 2
#define PTE_W 4
#define PTE_X 8
#define PTE_U 16
#define PTE_G 32
#define PTE_A 64
#define PTE_D 128
#define RWX (PTE_V | PTE_R | PTE_W | PTE_X | PTE_A | PTE_D)
#define RW (PTE_V | PTE_R | PTE_W | PTE_A | PTE_D)
#define RX (PTE_V | PTE_R | PTE_X | PTE_A)

#if XLEN == 64
#define INDEX_BITS 9
#define SATP(mode) ((uword)(mode) << 60)
#define ASID(n) ((uword)(n) << 44)
#else
#define INDEX_BITS 10
#define SATP(mode) ((uword)(mode) << 31)
#define ASID(n) ((uword)(n) << 22)
#endif
#define ENTRIES (1 << INDEX_BITS)

/* tables[0] is the root. The code is mapped as it is physically; everything else on purpose. */
static uword tables[24][ENTRIES] __attribute__((aligned(4096)));
static u32 used;
static int levels;
static uword mode_bits_of_satp;
/* Pages to be mapped. */
static u8 pages[4][4096] __attribute__((aligned(4096)));

static uword *new_table(void)
{
    uword *table = tables[used++];
    for (int i = 0; i < ENTRIES; i++)
        table[i] = 0;
    return table;
}

/* The entry for `va` at `level` (0 has pages of 4 KiB), with the tables above made. */
static uword *entry(uword va, int level)
{
    uword *table = tables[0];
    for (int l = levels - 1;; l--) {
        uword *e = &table[va >> (12 + INDEX_BITS * l) & (ENTRIES - 1)];
        if (l == level)
            return e;
        if (!(*e & PTE_V))
            *e = (uword)new_table() >> 2 | PTE_V;
        table = (uword *)((*e >> 10) << 12);
    }
}

static void map(uword va, const void *page, uword bits)
{
    *entry(va, 0) = ((uword)page >> 12) << 10 | bits;
    sfence();
}

/* Everything from 0x80000000 to its own place, for both modes' code. */
static void begin(int mode, int number_of_levels)
{
    levels = number_of_levels;
    used = 0;
    new_table();
    mode_bits_of_satp = SATP(mode);
    for (uword page = 0x80000000; page < 0x80000000 + (96 << 12); page += 4096)
        map(page, (void *)page, RWX);
    csr_write(satp, mode_bits_of_satp | (uword)tables[0] >> 12);
    sfence();
}

/* An address that has nothing in common with the code's. */
#define VA ((uword)0x40201000)

SNIPPET(load, LREG " a0, 0(a0)");
SNIPPET(load_byte, "lbu a0, 0(a0)");
SNIPPET(store, SREG " a1, 0(a0)");
SNIPPET(amo, "amoadd.w a0, a1, (a0)");
SNIPPET(jump, "jalr a1, 0(a0)");
SNIPPET(return_here, "li a0, 77");
SNIPPET(lr, "lr.w a0, (a0)");
SNIPPET(sc, "sc.w a0, a1, (a0)");
SNIPPET(float_load, "fld fa0, 0(a0)");

static void fault(const char *name, struct trap *t, uword cause, uword tval)
{
    check(name, t->cause == cause && t->tval == tval);
}

/* One page with each combination of bits. */
static void permissions(void)
{
    uword *words = (uword *)pages[0];
    words[0] = 1234;
    /* The code of user mode is in pages that have U; S cannot execute these. */
    for (uword page = 0x80000000; page < 0x80000000 + (96 << 12); page += 4096)
        map(page, (void *)page, RWX | PTE_U);
    map(VA, pages[0], RW | PTE_U);
    expect_value("U loads", run(U, load, VA, 0), U, 1234);
    check("U stores", run(U, store, VA, 99)->cause == ECALL_U && words[0] == 99);
    fault("U does not execute a page without X", run(U, jump, VA, 0), FETCH_PAGE, VA);
    map(VA, pages[0], PTE_V | PTE_R | PTE_A | PTE_D | PTE_U);
    expect_value("U loads, read only", run(U, load, VA, 0), U, 99);
    fault("U does not store, read only", run(U, store, VA, 0), STORE_PAGE, VA);
    fault("U has no atomics, read only", run(U, amo, VA, 0), STORE_PAGE, VA);
    check("U has lr, read only", run(U, lr, VA, 0)->cause == ECALL_U);
    fault("U has no sc, read only", run(U, sc, VA, 0), STORE_PAGE, VA);
    map(VA, pages[0], RW);
    fault("U does not load S's", run(U, load, VA, 0), LOAD_PAGE, VA);
    fault("U does not store to S's", run(U, store, VA, 0), STORE_PAGE, VA);
    fault("U does not execute S's", run(U, jump, VA, 0), FETCH_PAGE, VA);
    *entry(VA, 0) = 0;
    sfence();
    fault("load, not valid", run(U, load, VA, 0), LOAD_PAGE, VA);
    csr_set(mstatus, FS_FIELD);
    fault("floating load, not valid", run(U, float_load, VA + 8, 0), LOAD_PAGE, VA + 8);
    fault("store, not valid", run(U, store, VA + 8, 0), STORE_PAGE, VA + 8);
    fault("fetch, not valid", run(U, jump, VA + 4, 0), FETCH_PAGE, VA + 4);
    fault("S does not execute U's", run(S, return_here, 0, 0), FETCH_PAGE, (uword)return_here);
    for (uword page = 0x80000000; page < 0x80000000 + (96 << 12); page += 4096)
        map(page, (void *)page, RWX);
    fault("U does not execute the code of S", run(U, return_here, 0, 0), FETCH_PAGE, (uword)return_here);
    expect_value("S does", run(S, return_here, 0, 0), S, 77);
    map(VA, pages[0], PTE_V | PTE_W | PTE_A | PTE_D);
    fault("W without R is reserved", run(S, load, VA, 0), LOAD_PAGE, VA);
}

static void sum_and_mxr(void)
{
    uword *words = (uword *)pages[0];
    words[0] = 5;
    map(VA, pages[0], RW | PTE_U);
    fault("S does not load U's", run(S, load, VA, 0), LOAD_PAGE, VA);
    fault("S does not store to U's", run(S, store, VA, 0), STORE_PAGE, VA);
    csr_set(mstatus, SUM);
    expect_value("with sum it loads", run(S, load, VA, 0), S, 5);
    check("and stores", run(S, store, VA, 6)->cause == ECALL_S && words[0] == 6);
    map(VA, pages[0], RWX | PTE_U);
    fault("and still does not execute", run(S, jump, VA, 0), FETCH_PAGE, VA);
    csr_clear(mstatus, SUM);
    fault("without it no more", run(S, load, VA, 0), LOAD_PAGE, VA);
    map(VA, pages[0], PTE_V | PTE_X | PTE_A);
    fault("executable is not readable", run(S, load, VA, 0), LOAD_PAGE, VA);
    csr_set(mstatus, MXR);
    expect_value("with mxr it is", run(S, load, VA, 0), S, 6);
    fault("but not writable", run(S, store, VA, 0), STORE_PAGE, VA);
    csr_clear(mstatus, MXR);
    fault("without it no more", run(S, load, VA, 0), LOAD_PAGE, VA);
}

static void mprv(void)
{
    uword *words = (uword *)pages[0];
    words[0] = 8;
    map(VA, pages[0], RW);
    mode_bits((uword)S << 11, MPP);
    /* `run` sets MPP to M, so the snippet sets what it wants itself. */
    extern snippet load_as, store_as, load_after;
    expect_value("as S", run(M, load_as, VA, MPRV | (uword)S << 11), M, 8);
    check("as U it is a page fault", run(M, load_as, VA, MPRV)->cause == LOAD_PAGE);
    check("stores too", run(M, store_as, VA, MPRV)->cause == STORE_PAGE);
    csr_set(mstatus, MXR);
    map(VA, pages[0], PTE_V | PTE_X | PTE_A);
    expect_value("mxr holds for it", run(M, load_as, VA, MPRV | (uword)S << 11), M, 8);
    csr_clear(mstatus, MXR);
    map(VA, pages[0], RW);
    expect_value("off again, the address is physical", run(M, load_after, (uword)words, VA), M, 8);
}
SNIPPET(load_as, "li t0, 0x1800\ncsrc mstatus, t0\ncsrs mstatus, a1\n" LREG " a0, 0(a0)");
SNIPPET(store_as, "li t0, 0x1800\ncsrc mstatus, t0\ncsrs mstatus, a1\n" SREG " a1, 0(a0)");
SNIPPET(load_after,
        "li t0, 0x1800\ncsrc mstatus, t0\nli t0, 0x20800\ncsrs mstatus, t0\n" LREG " a1, 0(a1)\nli t0, 0x20000\ncsrc mstatus, t0\n"
        LREG " a0, 0(a0)");

static void superpages(void)
{
    uword va = (uword)0x40400000, page = 0x80000000;
    *entry(va & ~(((uword)1 << (12 + INDEX_BITS)) - 1), 1) = (page >> 12) << 10 | RWX;
    sfence();
    va &= ~(((uword)1 << (12 + INDEX_BITS)) - 1);
    uword word = *(uword *)(page + 0x100);
    expect_value("a large page", run(S, load, va + 0x100, 0), S, word);
    struct trap *t = run(S, jump, va + ((uword)return_here - page), 0);
    check("code in it", t->cause == ECALL_S && t->x[10] == 77 && t->epc == va + ((uword)return_here - page) + 4);
    *entry(va, 1) = ((page >> 12) + 1) << 10 | RWX;
    sfence();
    fault("not on its boundary", run(S, load, va, 0), LOAD_PAGE, va);
    *entry(va, 1) = 0;
    sfence();
}

#if XLEN == 64
#define ADUE(op) csr_##op(menvcfg, (uword)1 << 61)
#else
#define ADUE(op) csr_##op(menvcfgh, (uword)1 << 29)
#endif

static void accessed_and_dirty(void)
{
    uword plain = PTE_V | PTE_R | PTE_W | PTE_X;
    ADUE(set);
    map(VA, pages[0], plain);
    run(S, load, VA, 0);
    check("a load sets A", (*entry(VA, 0) & (PTE_A | PTE_D)) == PTE_A);
    run(S, store, VA, 1);
    check("a store sets D", (*entry(VA, 0) & (PTE_A | PTE_D)) == (PTE_A | PTE_D));
    map(VA, return_here - ((uword)return_here & 4095), plain);
    run(S, jump, VA + ((uword)return_here & 4095), 0);
    check("a fetch sets A", (*entry(VA, 0) & (PTE_A | PTE_D)) == PTE_A);
    map(VA, pages[0], plain);
    run(S, amo, VA, 1);
    check("an atomic operation sets D", (*entry(VA, 0) & (PTE_A | PTE_D)) == (PTE_A | PTE_D));
    map(VA, pages[0], PTE_V | PTE_R);
    run(S, store, VA, 1);
    check("a refused store sets nothing", !(*entry(VA, 0) & PTE_D));
    ADUE(clear);
    map(VA, pages[0], plain);
    fault("without adue a load faults", run(S, load, VA, 0), LOAD_PAGE, VA);
    map(VA, pages[0], plain | PTE_A);
    check("with A it loads", run(S, load, VA, 0)->cause == ECALL_S);
    fault("and a store faults", run(S, store, VA, 0), STORE_PAGE, VA);
    check("nothing was set", !(*entry(VA, 0) & PTE_D));
    ADUE(set);
}

SNIPPET(load_twice, LREG " t0, 0(a0)\nsfence.vma a0, zero\n" LREG " a0, 0(a0)");
SNIPPET(change_satp, "csrw satp, a1\nsfence.vma\n" LREG " a0, 0(a0)");
SNIPPET(change_asid, "csrw satp, a1\n" LREG " a0, 0(a0)");
SNIPPET(fence_address, "sfence.vma a0, zero\n" LREG " a0, 0(a0)");
SNIPPET(fence_asid, "sfence.vma zero, a1\n" LREG " a0, 0(a0)");
SNIPPET(fence_both, "sfence.vma a0, a1\n" LREG " a0, 0(a0)");
SNIPPET(loop_loads, "1: " LREG " t0, 0(a0)\nbeqz t0, 1b\nmv a0, t0");

static void caching(void)
{
    uword *a = (uword *)pages[0], *b = (uword *)pages[1];
    a[0] = 10;
    b[0] = 20;
    map(VA, a, RW);
    expect_value("the first page", run(S, load, VA, 0), S, 10);
    *entry(VA, 0) = ((uword)b >> 12) << 10 | RW;
    expect_value("after sfence.vma of the address", run(S, fence_address, VA, 0), S, 20);
    *entry(VA, 0) = ((uword)a >> 12) << 10 | RW;
    expect_value("of the asid", run(S, fence_asid, VA, 0), S, 10);
    *entry(VA, 0) = ((uword)b >> 12) << 10 | RW;
    expect_value("of both", run(S, fence_both, VA, 0), S, 20);
    *entry(VA, 0) = ((uword)a >> 12) << 10 | RW | PTE_G;
    expect_value("of all, then global", run(S, load_twice, VA, 0), S, 10);
    *entry(VA, 0) = ((uword)b >> 12) << 10 | RW;
    expect_value("a global one by its address", run(S, fence_address, VA, 0), S, 20);
    *entry(VA, 0) = 0;
    fault("not valid any more", run(S, fence_address, VA, 0), LOAD_PAGE, VA);
    map(VA, a, RW);
    /* Code. The second page has the same snippet but for what it loads. */
    u32 *from = (u32 *)return_here;
    for (int i = 0; i < 2; i++) {
        u32 *to = (u32 *)pages[2 + i];
        to[0] = 0x00100513u + ((u32)i << 20); /* li a0, i + 1 */
        to[1] = from[1];
    }
    fence_i();
    map(VA, pages[2], RX);
    expect_value("code of one page", run(S, jump, VA, 0), S, 1);
    map(VA, pages[3], RX);
    expect_value("and of another in its place", run(S, jump, VA, 0), S, 2);
    map(VA, pages[2], RX);
    expect_value("and of the first", run(S, jump, VA, 0), S, 1);
}

/* A second address space, in which another page has the same address. */
static void address_spaces(void)
{
    uword *a = (uword *)pages[0], *b = (uword *)pages[1];
    a[0] = 11;
    b[0] = 22;
    map(VA, a, RW);
    uword first = csr_read(satp);
    uword *root = tables[0], *other = new_table(), *middle = new_table(), *leaf = 0;
    for (int i = 0; i < ENTRIES; i++)
        other[i] = root[i];
    /* Copies of the tables on the way to VA. */
    uword *to = other;
    for (int l = levels - 1; l > 0; l--) {
        uword *e = &to[VA >> (12 + INDEX_BITS * l) & (ENTRIES - 1)];
        uword *old = (uword *)((*e >> 10) << 12);
        leaf = l == levels - 1 ? middle : new_table();
        for (int i = 0; i < ENTRIES; i++)
            leaf[i] = old[i];
        *e = (uword)leaf >> 2 | PTE_V;
        to = leaf;
    }
    leaf[VA >> 12 & (ENTRIES - 1)] = ((uword)b >> 12) << 10 | RW;
    uword second = (mode_bits_of_satp | (uword)other >> 12);
    expect_value("another root", run(S, change_satp, VA, second), S, 22);
    expect_value("back", run(S, change_satp, VA, first), S, 11);
    int holds = 1;
    for (int i = 0; i < 50; i++) {
        holds &= run(S, change_asid, VA, first | ASID(1))->x[10] == 11;
        holds &= run(S, change_asid, VA, second | ASID(2))->x[10] == 22;
    }
    check("two asids", holds);
    csr_write(satp, first);
    sfence();
}

/* Accesses over the end of a page: the second page's fault has the address of its first byte. */
static void crossing(void)
{
    map(VA, pages[0], RW);
    map(VA + 4096, pages[2], RW);
    uword *end = (uword *)(pages[0] + 4096 - sizeof(uword));
    *end = (uword)0x8877665544332211;
    *(uword *)pages[2] = (uword)0x1234567890abcdef;
    uword bits = 16;
    uword want = *end >> bits | *(uword *)pages[2] << (XLEN - bits);
    uword va = VA + 4096 - sizeof(uword) + 2;
    expect_value("a load over two pages", run(S, load, va, 0), S, want);
    run(S, store, va, (uword)-1);
    check("a store over two pages", *end == ((uword)0x2211 | (uword)-1 << 16) && (*(uword *)pages[2] & 0xffff) == 0xffff);
    *entry(VA + 4096, 0) = 0;
    sfence();
    fault("a load into no page", run(S, load, va, 0), LOAD_PAGE, VA + 4096);
    uword before = *end;
    fault("a store into no page", run(S, store, va, 0), STORE_PAGE, VA + 4096);
    check("has stored nothing", *end == before);
    /* An instruction of four bytes, two in each page. */
    u16 *code = (u16 *)(pages[0] + 4094), *rest = (u16 *)pages[2];
    *code = 0x0513;
    rest[0] = 0x0550; /* li a0, 0x55 */
    rest[1] = 0x0073;
    rest[2] = 0x0000; /* ecall */
    fence_i();
    map(VA, pages[0], RX);
    map(VA + 4096, pages[2], RX);
    expect_value("an instruction in two pages", run(S, jump, VA + 4094, 0), S, 0x55);
    *entry(VA + 4096, 0) = 0;
    sfence();
    struct trap *t = run(S, jump, VA + 4094, 0);
    check("its second half missing", t->cause == FETCH_PAGE && t->epc == VA + 4094 && t->tval == VA + 4096);
    map(VA + 4096, pages[3], RX);
    u16 *other = (u16 *)pages[3];
    other[0] = 0x0660;
    other[1] = 0x0073;
    other[2] = 0;
    fence_i();
    expect_value("another second half", run(S, jump, VA + 4094, 0), S, 0x66);
}

#if XLEN == 64
static void canonical(int bits)
{
    uword bad = (uword)1 << bits;
    fault("a load of an address that is not canonical", run(S, load_byte, bad, 0), LOAD_PAGE, bad);
    fault("one with all upper bits but one", run(S, load_byte, ~(uword)0 << bits, 0), LOAD_PAGE, ~(uword)0 << bits);
    struct trap *t = run(S, jump, bad, 0);
    check("a fetch of one", t->cause == FETCH_PAGE && t->tval == bad && t->epc == bad);
    uword high = ~(uword)0 << (bits - 1);
    map(high, pages[0], RW);
    *(uword *)pages[0] = 33;
    expect_value("the upper half", run(S, load, high, 0), S, 33);
    *entry(high, 0) = 0;
    sfence();
}

static void page_bits(void)
{
    map(VA, pages[0], RW | (uword)1 << 54);
    fault("a reserved bit", run(S, load, VA, 0), LOAD_PAGE, VA);
    map(VA, pages[0], RW | (uword)1 << 61);
    fault("memory type without menvcfg.pbmte", run(S, load, VA, 0), LOAD_PAGE, VA);
    csr_set(menvcfg, (uword)1 << 62);
    sfence();
    check("and with it", run(S, load, VA, 0)->cause == ECALL_S);
    map(VA, pages[0], RW | (uword)3 << 61);
    fault("the reserved memory type", run(S, load, VA, 0), LOAD_PAGE, VA);
    csr_clear(menvcfg, (uword)1 << 62);
    sfence();
    /* Sixteen pages of 4 KiB as one. */
    uword at = (uword)0x40210000, page = 0x80000000;
    for (int i = 0; i < 16; i++)
        *entry(at + 4096 * i, 0) = ((page >> 12) + 8) << 10 | RW | (uword)1 << 63;
    sfence();
    int holds = 1;
    for (int i = 0; i < 16; i++)
        holds &= run(S, load, at + 4096 * i + 8, 0)->x[10] == *(uword *)(page + 4096 * i + 8);
    check("a contiguous range of 64 KiB", holds);
    *entry(at, 0) = ((page >> 12) + 4) << 10 | RW | (uword)1 << 63;
    sfence();
    fault("a range of another size is reserved", run(S, load, at, 0), LOAD_PAGE, at);
}
#endif

static void satp_modes(void)
{
    csr_write(satp, 0);
    uword before = csr_read(satp);
#if XLEN == 64
    for (uword mode = 1; mode < 8; mode++) {
        csr_write(satp, SATP(mode) | 0x1234);
        check("satp keeps what a reserved mode would replace", csr_read(satp) == before);
    }
#endif
    csr_write(satp, 0x1234);
    csr_write(satp, before);
    expect_value("bare: S sees physical memory", run(S, return_here, 0, 0), S, 77);
}

static void all_of(int mode, int number_of_levels)
{
    print("   levels: ");
    print_hex(number_of_levels);
    print("\n");
    begin(mode, number_of_levels);
    ADUE(set);
    permissions();
    sum_and_mxr();
    mprv();
    superpages();
    accessed_and_dirty();
    caching();
    address_spaces();
    crossing();
#if XLEN == 64
    canonical(12 + 9 * number_of_levels);
    page_bits();
#endif
}

void program(void)
{
#if XLEN == 64
    all_of(8, 3);
    all_of(9, 4);
    all_of(10, 5);
#else
    all_of(1, 2);
#endif
    satp_modes();
}
