// The hypervisor extension of a 32-bit hart: Sv32 over Sv32x4, and registers in two halves.
#include "program.h"

u64 user_offset = 0x40000000;

#define R 2ul
#define W 4ul
#define X 8ul
#define PU 16ul
#define A 64ul
#define D 128ul
#define ALL (R | W | X | A | D)
#define LEAF(address, bits) ((u64)(address) >> 12 << 10 | (bits) | 1)
#define GPA(page) (0x400000ul + (page) * 0x1000ul)

u64 g_root[4096] __attribute__((aligned(16384)));
u64 g_pages[1024] __attribute__((aligned(4096)));
u64 vs_root[1024] __attribute__((aligned(4096)));
u64 vs_pages[1024] __attribute__((aligned(4096)));
u64 vs_fixed[1024] __attribute__((aligned(4096)));
u64 data[1024] __attribute__((aligned(4096)));

static void make_tables(void) {
    g_root[512] = LEAF(0x80000000, ALL | PU);
    g_root[1] = LEAF(g_pages, 0);
    g_pages[0] = LEAF(data, ALL | PU);
    g_pages[2] = LEAF(data, R | A | PU);
    g_pages[3] = LEAF(data, ALL);
    g_pages[4] = LEAF(data, X | A | PU);
    g_pages[5] = LEAF(data, R | W | PU);
    g_pages[7] = LEAF(vs_fixed, R | A | PU);
    vs_root[512] = LEAF(0x80000000, ALL);
    vs_root[768] = LEAF(0x80000000, ALL | PU);
    vs_root[1] = LEAF(vs_pages, 0);
    vs_root[2] = LEAF(GPA(1), 0);
    vs_root[3] = LEAF(GPA(7), 0);
    // Above 4 GiB of the guest's: an entry holds 22 bits of a page's number.
    vs_root[4] = 0xfffu << 20 | ALL | 1;
    for (u64 i = 0; i < 8; i++)
        vs_pages[i] = LEAF(GPA(i), ALL);
    vs_pages[16] = LEAF(GPA(0), ALL | PU);
    vs_pages[17] = LEAF(GPA(0), R | A);
    vs_pages[19] = LEAF(GPA(0), R | W);
    vs_fixed[0] = LEAF(GPA(0), R | W | X);
}

SNIPPET(nothing, "");
SNIPPET(call, "ecall");
SNIPPET(load, "lw a0, 0(a0)");
SNIPPET(store, "sw a1, 0(a0)");
SNIPPET(jump, "jr a0");
SNIPPET(hlv_w, ".word 0x68054573");
SNIPPET(hlv_bu, ".word 0x60154573");
SNIPPET(hsv_w, ".word 0x6ab54073");
SNIPPET(fence_h, ".word 0x22000073");
SNIPPET(get_satp, "csrr a0, satp");
SNIPPET(get_hgatp, "csrr a0, 0x680");
SNIPPET(get_hedelegh, "csrr a0, 0x612");
SNIPPET(get_htimedeltah, "csrr a0, 0x615");
SNIPPET(get_henvcfgh, "csrr a0, 0x61a");
SNIPPET(get_stimecmph, "csrr a0, 0x15d");
SNIPPET(get_timeh, "csrr a0, timeh");
SNIPPET(timer, "li t0, -1\n csrw 0x15d, t0\n csrw 0x14d, a0\n csrw 0x15d, x0\n csrs sstatus, 2\n li t0, 100000\n1: addi t0, t0, -1\n bnez t0, 1b\n li a0, 7");

#define IN_VIRTUAL(name, a0, a1) (run(VS, name, a0, a1), run(VU, name, a0, a1))
#define EVERYWHERE(name, a0, a1) (run(HS, name, a0, a1), run(U, name, a0, a1), IN_VIRTUAL(name, a0, a1))

static void everything(void) {
    EVERYWHERE(nothing, 1, 0);
    EVERYWHERE(call, 0, 0);
    EVERYWHERE(fence_h, 0, 0);
    run(VS, get_satp, 0, 0);
    EVERYWHERE(get_hgatp, 0, 0);
    EVERYWHERE(get_hedelegh, 0, 0);
    EVERYWHERE(get_htimedeltah, 0, 0);
    EVERYWHERE(get_henvcfgh, 0, 0);
    run(VS, get_stimecmph, 0, 0);
    run(VS, get_timeh, 0, 0);
    data[0] = 0x11223344;
    for (u64 page = 0; page < 20; page++) {
        if (page > 7 && page < 16)
            continue;
        u64 at = GPA(page);
        run(VS, load, at, 0);
        run(VS, store, at, data[0]);
        run(VS, jump, at, 0);
        run(VU, load, at, 0);
        run(HS, hlv_w, at, 0);
        run(HS, hsv_w, at, data[0]);
    }
    run(HS, hlv_bu, GPA(16) + 3, 0);
    text("-- implicit accesses\n");
    run(VS, load, 0x800000, 0);
    run(VS, store, 0x800000, 0);
    run(VS, jump, 0x800000, 0);
    if (!(read_csr(0x61a) >> 29 & 1))
        run(VS, load, 0xc00000, 0);
    text("-- above 4 GiB\n");
    run(VS, load, 0x1000000, 0);
    run(VS, store, 0x1234568, 0);
}

void program(void) {
    make_tables();
    write_csr(0x25d, -1ul);
    write_csr(stvec, (u64)supervisor_trap);
    write_csr(0x205, (u64)virtual_trap);
    write_csr(medeleg, 0);
    write_csr(0x680, 1ul << 31 | (u64)g_root >> 12);
    write_csr(0x280, 1ul << 31 | (u64)vs_root >> 12);
    write_csr(mcounteren, 7);
    write_csr(0x606, 7);
    write_csr(scounteren, 7);
    clear_csr(0x31a, 1ul << 29);
    everything();
    write_csr(medeleg, 0xf0b0ff);
    everything();
    write_csr(0x602, 0xb0ff);
    everything();
    text("-- the timer\n");
    set_csr(0x31a, 1ul << 31);
    write_csr(0x61a, 1ul << 31);
    value("henvcfgh", read_csr(0x61a));
    write_csr(0x603, 0x444);
    write_csr(0x604, 0x444);
    run(VS, timer, 0, 0);
    write_csr(0x200, 0);
    write_csr(0x25d, -1ul);
    write_csr(0x605, 0x12345678);
    write_csr(0x615, 0x9abc);
    value("htimedelta", read_csr(0x605));
    value("htimedeltah", read_csr(0x615));
    run(VS, get_timeh, 0, 0);
    write_csr(0x604, 0);
    text("-- hardware updates\n");
    set_csr(0x31a, 1ul << 29);
    write_csr(0x61a, 1ul << 29);
    everything();
    value("g", g_pages[5] & 0xff);
    value("vs", vs_pages[19] & 0xff);
    text("\nend\n");
    end();
}
