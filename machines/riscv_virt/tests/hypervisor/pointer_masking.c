// Pointer masking below machine mode (of scalars: QEMU 10 shifts the addresses of vectors): which bits are ignored, what they become, and what a fault tells.
#include "program.h"

u64 user_offset = 0;

#define PMM(n) ((u64)(n) << 32)
#define R 2ul
#define W 4ul
#define X 8ul
#define PU 16ul
#define AD 0xc0ul
#define LEAF(address, bits) ((u64)(address) >> 12 << 10 | (bits) | 1)

u64 g_root[2048] __attribute__((aligned(16384)));
u64 user_root[512] __attribute__((aligned(4096)));
u64 supervisor_root[512] __attribute__((aligned(4096)));
u64 data[8] __attribute__((aligned(64))) = {0x1111, 0x2222};

SNIPPET(load, "ld a0, 8(a0)");
SNIPPET(store, "sd a1, 0(a0)\n li a0, 0");
SNIPPET(add, "amoadd.w a0, a1, (a0)");
SNIPPET(reserve, "lr.d a1, (a0)\n sc.d a0, a1, (a0)");
SNIPPET(jump, "jr a0");
SNIPPET(float_load, "fld f0, 8(a0)\n fmv.x.d a0, f0");
SNIPPET(zero_block, ".word 0x0045200f\n li a0, 0");
SNIPPET(hlv_d, ".word 0x6c054573");
SNIPPET(hsv_d, ".word 0x6eb54073\n li a0, 0");

// The tagged addresses of the data.
static const u64 tags[] = {0, 0x7ful << 57, 0x2aul << 57, 0xfffful << 48, 0x1234ul << 48, 1ul << 47};

static void addresses(enum mode mode) {
    for (u64 t = 0; t < sizeof tags / sizeof *tags; t++) {
        u64 at = (u64)data ^ tags[t];
        data[0] = 0x1111;
        data[1] = 0x2222;
        run(mode, load, at, 0);
        run(mode, store, at, 0x3333);
        value("stored", data[0]);
        put('\n');
        run(mode, add, at, 1);
        run(mode, reserve, at, 0);
        run(mode, float_load, at, 0);
        run(mode, zero_block, at, 0);
        value("zeroed", data[0]);
        put('\n');
    }
    run(mode, jump, tags[2], 0);
}

static void show(const char *name, u64 v) {
    value(name, v);
    put('\n');
}

static void all_off(void) {
    clear_csr(0x30a, PMM(3));
    clear_csr(senvcfg, PMM(3));
    clear_csr(0x60a, PMM(3));
    clear_csr(0x600, 3ul << 48);
}

void program(void) {
    write_csr(stvec, (u64)supervisor_trap);
    write_csr(medeleg, 0);
    set_csr(mstatus, 3ul << 13);
    write_csr(0x30a, 0xf0);
    write_csr(senvcfg, 0xf0);
    write_csr(0x60a, 0xf0);
    write_csr(0x200, 3ul << 13);
    for (u64 i = 0; i < 512; i++)
        user_root[i] = supervisor_root[i] = 0;
    user_root[2] = LEAF(0x80000000, R | W | X | PU | AD);
    supervisor_root[2] = LEAF(0x80000000, R | W | X | AD);
    g_root[2] = LEAF(0x80000000, R | W | X | PU | AD);
    text("-- the fields\n");
    // Not the reserved value: QEMU ends over it.
    for (u64 n = 0; n < 4; n += n ? 1 : 2) {
        all_off();
        set_csr(0x30a, PMM(n));
        set_csr(senvcfg, PMM(n));
        set_csr(0x60a, PMM(n));
        set_csr(0x600, n << 48);
        show("menvcfg", read_csr(0x30a) >> 32 & 3);
        show("senvcfg", read_csr(senvcfg) >> 32);
        show("henvcfg", read_csr(0x60a) >> 32 & 3);
        show("hstatus", read_csr(0x600) >> 48);
    }
    for (u64 n = 0; n < 4; n += n ? 1 : 2) {
        all_off();
        show("-- supervisor mode", n);
        set_csr(0x30a, PMM(n));
        addresses(HS);
        write_csr(satp, 8ul << 60 | (u64)supervisor_root >> 12);
        asm volatile("sfence.vma");
        addresses(HS);
        clear_csr(0x30a, PMM(3));
        write_csr(satp, 0);
        asm volatile("sfence.vma");
        show("-- user mode", n);
        set_csr(senvcfg, PMM(n));
        addresses(U);
        write_csr(satp, 8ul << 60 | (u64)user_root >> 12);
        asm volatile("sfence.vma");
        addresses(U);
        write_csr(satp, 0);
        asm volatile("sfence.vma");
        show("-- virtual user mode", n);
        write_csr(0x680, 8ul << 60 | (u64)g_root >> 12);
        addresses(VU);
        write_csr(0x280, 8ul << 60 | (u64)user_root >> 12);
        addresses(VU);
        clear_csr(senvcfg, PMM(3));
        write_csr(0x280, 0);
        write_csr(0x680, 0);
    }
#ifdef ALONE
    text("alone\n");
    // QEMU 10 does otherwise: it does not mask in virtual supervisor mode, nor looks at MXR, and shifts the addresses of
    // the hypervisor's accesses.
    write_csr(0x680, 8ul << 60 | (u64)g_root >> 12);
    for (u64 n = 2; n < 4; n++) {
        show("-- virtual supervisor mode", n);
        set_csr(0x60a, PMM(n));
        run(VS, load, (u64)data | tags[2], 0);
        write_csr(0x280, 8ul << 60 | (u64)supervisor_root >> 12);
        run(VS, load, (u64)data | tags[2], 0);
        write_csr(0x600, 1ul << 8);
        data[0] = 0x1111;
        run(HS, hlv_d, (u64)data ^ tags[2], 0);
        run(HS, hsv_d, (u64)data ^ tags[3], 5);
        write_csr(0x600, 0);
        set_csr(mstatus, 1ul << 19);
        run(VS, load, (u64)data ^ tags[2], 0);
        clear_csr(mstatus, 1ul << 19);
        clear_csr(0x60a, PMM(3));
        write_csr(0x280, 0);
    }
#endif
    text("end\n");
    end();
}
