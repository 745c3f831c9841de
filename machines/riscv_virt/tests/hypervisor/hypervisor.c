// The hypervisor extension: traps from and into each mode, two-stage translation, the hypervisor's accesses, interrupts.
#include "program.h"

u64 user_offset = 0x40000000;

// ---- page tables ----

#define V 1ul
#define R 2ul
#define W 4ul
#define X 8ul
#define PU 16ul
#define G 32ul
#define A 64ul
#define D 128ul
#define LEAF(address, bits) ((u64)(address) >> 12 << 10 | (bits) | V)
#define TABLE(address) ((u64)(address) >> 12 << 10 | V)

u64 g_root[2048] __attribute__((aligned(16384)));
u64 g_middle[512] __attribute__((aligned(4096)));
u64 g_pages[512] __attribute__((aligned(4096)));
u64 vs_root[512] __attribute__((aligned(4096)));
u64 vs_middle[512] __attribute__((aligned(4096)));
u64 vs_pages[512] __attribute__((aligned(4096)));
// Tables of the first stage that the second does not map, or maps for reading only.
u64 vs_hidden[512] __attribute__((aligned(4096)));
u64 vs_fixed[512] __attribute__((aligned(4096)));
u64 data[512] __attribute__((aligned(4096)));

#define GPA(page) (0x200000ul + (page) * 0x1000ul)
#define ALL (R | W | X | A | D)

static void g_page(u64 page, u64 target, u64 bits) { g_pages[page] = bits ? LEAF(target, bits) : 0; }
static void vs_page(u64 page, u64 gpa, u64 bits) { vs_pages[page] = bits ? LEAF(gpa, bits) : 0; }

static void make_tables(void) {
    g_root[2] = LEAF(0x80000000, ALL | PU);
    g_root[0] = TABLE(g_middle);
    g_middle[1] = TABLE(g_pages);
    g_page(0, (u64)data, ALL | PU);
    g_page(1, 0, 0);
    g_page(2, (u64)data, R | A | PU);
    g_page(3, (u64)data, ALL);
    g_page(4, (u64)data, X | A | PU);
    g_page(5, (u64)data, R | W | PU);
    g_page(6, (u64)data, R | W | A | PU);
    g_page(7, (u64)vs_fixed, R | A | PU);
    g_page(8, (u64)data, W | A | D | PU);
    vs_root[2] = LEAF(0x80000000, ALL);
    vs_root[3] = LEAF(0x80000000, ALL | PU);
    vs_root[0] = TABLE(vs_middle);
    vs_root[1] = TABLE(GPA(1));
    vs_root[4] = TABLE(vs_hidden);
    vs_middle[1] = TABLE(vs_pages);
    for (u64 i = 0; i < 9; i++)
        vs_page(i, GPA(i), ALL);
    vs_page(16, GPA(0), ALL | PU);
    vs_page(17, GPA(0), R | A);
    vs_page(18, 0, 0);
    vs_page(19, GPA(0), R | W);
    vs_page(20, GPA(0), X | A);
    vs_page(21, GPA(0), R | W | A);
    vs_page(22, 1ul << 41, R | W | A | D);
    vs_page(23, GPA(4), X | A | PU);
    vs_middle[2] = TABLE(GPA(7));
    vs_fixed[0] = LEAF(GPA(0), R | W | X);
}

// ---- snippets; what is not here although it could be is what QEMU 10 does otherwise than the specification says ----

SNIPPET(nothing, "");
SNIPPET(call, "ecall");
SNIPPET(breakpoint, "ebreak");
SNIPPET(load, "ld a0, 0(a0)");
SNIPPET(load_word, "lw a3, 16(a0)\n mv a0, a3");
SNIPPET(load_compressed, ".option push\n.option arch, +c\n c.ld a0, 8(a0)\n nop\n .option pop");
SNIPPET(store, "sd a1, 0(a0)");
SNIPPET(store_byte, "sb a1, 5(a0)");
SNIPPET(store_compressed, ".option push\n.option arch, +c\n c.sw a1, 4(a0)\n nop\n .option pop");
SNIPPET(load_misaligned, "ld a0, -4(a0)");
SNIPPET(add_atomic, "amoadd.d a0, a1, (a0)");
SNIPPET(reserve, "lr.w a0, (a0)");
SNIPPET(jump, "jr a0");
SNIPPET(wait, "wfi");
SNIPPET(return_s, "la t0, 1f\n csrw sepc, t0\n sret\n1:");
SNIPPET(return_plain, "sret");
SNIPPET(fence, "sfence.vma");
SNIPPET(fence_h, ".word 0x22000073");
SNIPPET(fence_g, ".word 0x62000073");
SNIPPET(hlv_d, ".word 0x6c054573");    // hlv.d a0, (a0)
SNIPPET(hlv_b, ".word 0x60054573");    // hlv.b a0, (a0)
SNIPPET(hlv_bu, ".word 0x60154573");   // hlv.bu a0, (a0)
SNIPPET(hlv_w, ".word 0x68054573");    // hlv.w a0, (a0)
SNIPPET(hlvx_hu, ".word 0x64354573");  // hlvx.hu a0, (a0)
SNIPPET(hlvx_wu, ".word 0x68354573");  // hlvx.wu a0, (a0)
SNIPPET(hsv_d, ".word 0x6eb54073");    // hsv.d a1, (a0)
SNIPPET(hsv_b, ".word 0x62b54073");    // hsv.b a1, (a0)
SNIPPET(float_move, "fmv.d.x f0, a0");
SNIPPET(float_read, "csrr a0, fcsr");
SNIPPET(get_sstatus, "csrr a0, sstatus");
SNIPPET(get_sie, "csrr a0, sie");
SNIPPET(get_sip, "csrr a0, sip");
SNIPPET(set_sip, "csrw sip, a0\n csrr a0, sip");
SNIPPET(set_sie, "csrw sie, a0\n csrr a0, sie");
SNIPPET(get_satp, "csrr a0, satp");
SNIPPET(set_sscratch, "csrw sscratch, a0\n csrr a0, sscratch");
SNIPPET(get_senvcfg, "csrr a0, senvcfg");
SNIPPET(get_scounteren, "csrr a0, scounteren");
SNIPPET(get_hstatus, "csrr a0, 0x600");
SNIPPET(set_hgeip, "csrw 0xe12, a0");
SNIPPET(get_hgatp, "csrr a0, 0x680");
SNIPPET(get_vsatp, "csrr a0, 0x280");
SNIPPET(get_vsstatus, "csrr a0, 0x200");
SNIPPET(get_mstatus, "csrr a0, mstatus");
SNIPPET(get_unknown, "csrr a0, 0x5c0");
SNIPPET(get_cycle, "csrr a0, cycle\n li a0, 1");
SNIPPET(get_time, "csrr a0, time\n srl a0, a0, 56");
SNIPPET(get_stimecmp, "csrr a0, 0x14d");
SNIPPET(illegal, ".word 0");
SNIPPET(open_interrupts, "csrs sstatus, 2\n nop\n nop\n nop\n li a0, 7");
SNIPPET(timer, "csrw 0x14d, a0\n csrs sstatus, 2\n li t0, 100000\n1: addi t0, t0, -1\n bnez t0, 1b\n li a0, 7");
SNIPPET(timer_wait, "csrr t0, time\n add t0, t0, a0\n csrw 0x14d, t0\n wfi\n csrs sstatus, 2\n nop\n li a0, 7");
SNIPPET(zero_block, ".word 0x0045200f"); // cbo.zero (a0)
SNIPPET(flush_block, ".word 0x0025200f"); // cbo.flush (a0)

#define IN_VIRTUAL(name, a0, a1) (run(VS, name, a0, a1), run(VU, name, a0, a1))
// Not in VU, where QEMU calls accesses to supervisor registers illegal instructions.
#define BUT_VU(name, a0, a1) (run(HS, name, a0, a1), run(U, name, a0, a1), run(VS, name, a0, a1))
#define EVERYWHERE(name, a0, a1) (run(HS, name, a0, a1), run(U, name, a0, a1), IN_VIRTUAL(name, a0, a1))

static void registers(void) {
    text("-- registers\n");
    static const u64 ones = -1;
// Bits beyond those that the specification names may differ between implementations.
#define SHOW(number, name, mask)                  \
    do {                                          \
        write_csr(number, ones);                  \
        value(name, read_csr(number) & (mask));   \
        write_csr(number, 0);                     \
        value("0", read_csr(number) & (mask));    \
        put('\n');                                \
    } while (0)
    SHOW(0x602, "hedeleg", 0xb1ff);
    SHOW(0x603, "hideleg", 0x444);
    SHOW(0x604, "hie", ones);
    SHOW(0x607, "hgeie", ones);
    SHOW(0x605, "htimedelta", ones);
    SHOW(0x645, "hvip", 0x444);
    SHOW(0x643, "htval", ones);
    SHOW(0x303, "mideleg", 0x1666);
    write_csr(0x200, 0xc6122);
    value("vsstatus", read_csr(0x200) << 1);
    write_csr(0x200, 0);
    put('\n');
    SHOW(0x240, "vsscratch", ones);
    SHOW(0x243, "vstval", ones);
    write_csr(0x603, 0x444);
    SHOW(0x204, "vsie", ones);
    SHOW(0x244, "vsip", 0x202);
    write_csr(0x603, 0);
    SHOW(0x204, "vsie", ones);
    write_csr(0x680, 8ul << 60 | 0x3ffful << 44 | ((1ul << 44) - 1));
    value("hgatp", read_csr(0x680) & ~(0xffful << 32 | 3));
    write_csr(0x680, 0);
    write_csr(0x280, 8ul << 60 | 0xfffful << 44 | 0x80000);
    value("vsatp", read_csr(0x280));
    write_csr(0x280, 0);
    put('\n');
    value("hstatus", read_csr(0x600));
    value("misa", read_csr(misa) >> 7 & 1);
    value("hgeip", read_csr(0xe12));
    put('\n');
    write_csr(0x645, 0x444);
    value("mip", read_csr(mip) & 0x444);
    value("hip", read_csr(0x644));
    write_csr(mip, 0);
    value("mip", read_csr(mip) & 4);
    value("hvip", read_csr(0x645) & 4);
    write_csr(0x645, 0);
    write_csr(0x644, 4);
    value("hvip", read_csr(0x645) & 4);
    write_csr(0x645, 0);
    put('\n');
}

// With an interrupt that waits and cannot be taken where waiting is allowed.
static void waits(void) {
    write_csr(0x645, 4);
    write_csr(0x604, 4);
    write_csr(0x603, 4);
    run(HS, wait, 0, 0);
    run(VS, wait, 0, 0);
    write_csr(0x604, 0);
    run(U, wait, 0, 0);
    run(VU, wait, 0, 0);
    write_csr(0x603, 0);
    write_csr(0x645, 0);
}

static void instructions(void) {
    EVERYWHERE(nothing, 1, 0);
    EVERYWHERE(call, 0, 0);
    EVERYWHERE(illegal, 0, 0);
    waits();
    BUT_VU(return_s, 0, 0);
    EVERYWHERE(fence, 0, 0);
    EVERYWHERE(fence_h, 0, 0);
    EVERYWHERE(fence_g, 0, 0);
    BUT_VU(get_sstatus, 0, 0);
    BUT_VU(get_sie, 0, 0);
    BUT_VU(get_satp, 0, 0);
    BUT_VU(set_sscratch, 0x77, 0);
    BUT_VU(get_senvcfg, 0, 0);
    BUT_VU(get_scounteren, 0, 0);
    EVERYWHERE(get_hstatus, 0, 0);
    EVERYWHERE(set_hgeip, 0, 0);
    EVERYWHERE(get_hgatp, 0, 0);
    EVERYWHERE(get_vsatp, 0, 0);
    EVERYWHERE(get_vsstatus, 0, 0);
    EVERYWHERE(get_mstatus, 0, 0);
    EVERYWHERE(get_unknown, 0, 0);
    EVERYWHERE(get_cycle, 0, 0);
    EVERYWHERE(get_time, 0, 0);
    BUT_VU(get_stimecmp, 0, 0);
}

static void trapped(void) {
    text("-- what traps on request\n");
    write_csr(0x600, 1ul << 20 | 1ul << 21 | 1ul << 22);
    waits();
    run(VS, return_plain, 0, 0);
    IN_VIRTUAL(fence, 0, 0);
    run(VS, get_satp, 0, 0);
    write_csr(0x600, 0);
    set_csr(mstatus, 1ul << 20 | 1ul << 21 | 1ul << 22);
    run(HS, wait, 0, 0);
    run(VS, wait, 0, 0);
    run(U, wait, 0, 0);
    run(HS, return_plain, 0, 0);
    run(U, return_plain, 0, 0);
    EVERYWHERE(fence, 0, 0);
    EVERYWHERE(fence_h, 0, 0);
    EVERYWHERE(fence_g, 0, 0);
    BUT_VU(get_satp, 0, 0);
    EVERYWHERE(get_hgatp, 0, 0);
    EVERYWHERE(get_vsatp, 0, 0);
    clear_csr(mstatus, 1ul << 20 | 1ul << 21 | 1ul << 22);
    write_csr(0x600, 0);
    text("-- counters\n");
    for (u64 i = 0; i < 8; i++) {
        write_csr(mcounteren, i & 1 ? 7 : 0);
        write_csr(0x606, i & 2 ? 7 : 0);
        write_csr(scounteren, i & 4 ? 7 : 0);
        EVERYWHERE(get_cycle, i, 0);
        EVERYWHERE(get_time, i, 0);
        BUT_VU(get_stimecmp, i, 0);
    }
    write_csr(0x605, 0xaaul << 56);
    run(VS, get_time, 0, 0);
    write_csr(0x605, 0);
    text("-- environment\n");
    for (u64 i = 0; i < 8; i++) {
        u64 menv = read_csr(0x30a);
        write_csr(0x30a, i & 1 ? menv | 0xf0 : menv & ~0xf0ul);
        write_csr(0x60a, i & 2 ? 0xf0 : 0);
        write_csr(senvcfg, i & 4 ? 0xf0 : 0);
        IN_VIRTUAL(zero_block, 0x210000, 0);
        IN_VIRTUAL(flush_block, 0x210000, 0);
    }
    write_csr(0x60a, 0);
    text("-- floating point\n");
    for (u64 i = 0; i < 16; i++) {
        clear_csr(mstatus, 3ul << 13);
        set_csr(mstatus, (i & 3) << 13);
        write_csr(0x200, (i >> 2) << 13);
        run(VS, float_read, i, 0);
        run(VS, float_move, i, 0);
        value("mstatus", read_csr(mstatus) >> 13 & 3);
        value("vsstatus", read_csr(0x200) >> 13 & 3);
        put('\n');
    }
    clear_csr(mstatus, 3ul << 13);
    write_csr(0x200, 0);
}

static void memory(void) {
    data[0] = 0x8877665544332211;
    for (u64 page = 0; page < 24; page++) {
        if (page > 8 && page < 16)
            continue;
        data[1] = page;
        u64 at = 0x200000 + page * 0x1000;
        run(VS, load, at, 0);
        run(VS, store, at, data[0]);
        run(VS, jump, at, 0);
        run(VU, load, at, 0);
        run(HS, hlv_d, at, 0);
        run(HS, hsv_d, at, data[0]);
    }
    run(VS, load_word, GPA(1), 0);
    run(VS, load_compressed, GPA(1), 0);
    run(VS, store_byte, GPA(1), 0);
    run(VS, store_compressed, GPA(2), 0);
    run(VS, load_misaligned, GPA(1), 0);
    run(VS, add_atomic, GPA(1), 0);
    run(VS, reserve, GPA(1), 0);
    run(VS, zero_block, GPA(1), 0);
    text("-- implicit accesses\n");
    run(VS, load, 0x40000000, 0);
    run(VS, store, 0x40000000, 0);
    run(VS, jump, 0x40000000, 0);
    run(HS, hlv_d, 0x40000000, 0);
    // With updates by hardware this is a write that the second stage does not allow, which QEMU does anyway.
    if (!(read_csr(0x60a) >> 61 & 1)) {
        run(VS, load, 0x400000, 0);
        run(VS, store, 0x400000, 0);
    }
    text("-- beyond the address space\n");
    run(VS, load, 1ul << 40, 0);
    run(VS, load, 1ul << 62, 0);
    run(VS, jump, 1ul << 62, 0);
}

static void hypervisor_accesses(void) {
    text("-- hypervisor accesses\n");
    EVERYWHERE(hlv_b, 0x210000, 0);
    EVERYWHERE(hlv_bu, 0x210007, 0);
    EVERYWHERE(hlv_w, 0x210004, 0);
    EVERYWHERE(hlvx_hu, 0x210000, 0);
    EVERYWHERE(hsv_b, 0x210000, 0x55);
    run(HS, hlv_d, 0x210001, 0);
    write_csr(0x600, 1ul << 9);
    EVERYWHERE(hlv_b, 0x210000, 0);
    EVERYWHERE(hsv_b, 0x210000, 0x11);
    write_csr(0x600, 0);
    run(HS, hlvx_wu, 0x217000, 0);
    run(HS, hlv_w, 0x217000, 0);
    text("-- as virtual supervisor\n");
    write_csr(0x600, 1ul << 8);
    run(HS, hlv_d, 0x200000, 0);
    run(HS, hlv_d, 0x210000, 0);
    run(HS, hlvx_wu, 0x214000, 0);
    write_csr(0x200, 1ul << 18);
    run(HS, hlv_d, 0x210000, 0);
    run(VS, load, 0x210000, 0);
    write_csr(0x200, 1ul << 19);
    run(VS, load, 0x214000, 0);
    run(VS, load, 0x204000, 0);
    write_csr(0x200, 0);
    set_csr(mstatus, 1ul << 19);
    run(VS, load, 0x214000, 0);
    run(VS, load, 0x204000, 0);
    clear_csr(mstatus, 1ul << 19);
    write_csr(0x600, 0);
    text("-- MPRV\n");
    for (u64 i = 0; i < 2; i++) {
        u64 loaded;
        set_mode(i ? VS : VU);
        set_csr(mstatus, 1ul << 17);
        asm volatile("ld %0, 0(%1)" : "=r"(loaded) : "r"(i ? GPA(0) : 0x210000ul) : "memory");
        clear_csr(mstatus, 1ul << 17);
        value("loaded", loaded);
        put('\n');
    }
}

static void interrupts(void) {
    text("-- interrupts\n");
    for (u64 i = 0; i < 8; i++) {
        write_csr(0x603, i & 1 ? 0x444 : 0);
        write_csr(0x604, i & 2 ? 0x444 : 0);
        write_csr(0x200, i & 4 ? 2 : 0);
        for (u64 n = 2; n <= 10; n += 4) {
            write_csr(0x645, 1ul << n);
            value("hip", read_csr(0x644));
            value("vsip", read_csr(0x244));
            value("vsie", read_csr(0x204));
            put('\n');
            IN_VIRTUAL(nothing, i, 0);
            run(HS, nothing, i, 0);
        }
    }
    write_csr(0x645, 0x444);
    write_csr(0x604, 0x444);
    write_csr(0x603, 0x444);
    write_csr(0x200, 0);
    // QEMU shows a guest those alone that machine mode delegates to supervisor mode.
    write_csr(mideleg, 0x222);
    run(VS, get_sip, 0, 0);
    run(VS, get_sie, 0, 0);
    run(VS, set_sip, 0, 0);
    run(VS, set_sie, 0x20, 0);
    value("hie", read_csr(0x604));
    value("hvip", read_csr(0x645) & 0x444);
    put('\n');
    run(VS, open_interrupts, 0, 0);
    // Vectored.
    u64 vector = read_csr(0x205);
    write_csr(0x205, vector - 4 * 5 + 1);
    run(VS, open_interrupts, 0, 0);
    write_csr(0x205, vector);
    write_csr(0x645, 0);
    text("-- vstimecmp\n");
    write_csr(0x604, 0x444);
    write_csr(mcounteren, 7);
    write_csr(0x606, 7);
    set_csr(0x30a, 1ul << 63);
    run(VS, timer, 0, 0);
    write_csr(0x60a, 1ul << 63);
    value("henvcfg", read_csr(0x60a) >> 63);
    put('\n');
    write_csr(0x24d, -1ul);
    run(VS, timer, 0, 0);
    write_csr(0x200, 0);
    value("hip", read_csr(0x644));
    put('\n');
    run(VS, timer, -1ul, 0);
    write_csr(0x200, 0);
    value("hip", read_csr(0x644));
    put('\n');
    run(VS, timer_wait, 20000, 0);
    write_csr(0x200, 0);
    // An hour ahead of the machine's time.
    write_csr(0x24d, -1ul);
    write_csr(0x605, 36000000000);
    run(VS, timer, 36000000000, 0);
    write_csr(0x200, 0);
    write_csr(0x24d, -1ul);
    run(VS, timer_wait, 20000, 0);
    write_csr(0x605, 0);
    write_csr(0x60a, 0);
    clear_csr(0x30a, 1ul << 63);
    value("henvcfg", read_csr(0x60a) >> 63);
    put('\n');
    write_csr(0x604, 0);
    write_csr(0x603, 0);
}

void program(void) {
    make_tables();
    write_csr(0x24d, -1ul);
    write_csr(stvec, (u64)supervisor_trap);
    write_csr(medeleg, 0);
    registers();
    write_csr(0x205, (u64)virtual_trap);
    write_csr(0x680, 8ul << 60 | (u64)g_root >> 12);
    write_csr(0x280, 8ul << 60 | (u64)vs_root >> 12);
    write_csr(mcounteren, 7);
    write_csr(0x606, 7);
    write_csr(scounteren, 7);
    clear_csr(0x30a, 1ul << 61);
    text("-- traps to machine mode\n");
    instructions();
    memory();
    text("-- traps to supervisor mode\n");
    write_csr(medeleg, 0xf0b0ff);
    instructions();
    memory();
    hypervisor_accesses();
    trapped();
    text("-- traps to virtual supervisor mode\n");
    write_csr(0x602, 0xb0ff);
    instructions();
    memory();
    write_csr(0x602, 0);
    interrupts();
    text("-- hardware updates\n");
    set_csr(0x30a, 1ul << 61);
    memory();
    write_csr(0x60a, 1ul << 61);
    memory();
    value("g", g_pages[5] & 0xff);
    value("g", g_pages[6] & 0xff);
    value("vs", vs_pages[19] & 0xff);
    value("vs", vs_pages[21] & 0xff);
    put('\n');
    text("end\n");
    end();
}
