// Pointer masking of machine mode, by mseccfg, and by MPRV of a lower one.
#include "program.h"

u64 user_offset = 0;
u64 data[2] = {0x1111, 0x2222};

SNIPPET(load, "ld a0, 8(a0)");
SNIPPET(vector_load, ".word 0xcd817057\n .word 0x02057087\n .word 0x42102557");

void program(void) {
    set_csr(mstatus, 3ul << 9);
    for (u64 n = 0; n < 4; n++) {
        clear_csr(0x747, 3ul << 32);
        set_csr(0x747, n << 32);
        value("mseccfg", read_csr(0x747) >> 32);
        for (u64 tag = 1ul << 47; tag; tag = tag < 1ul << 50 ? 1ul << 57 : 0) {
            u64 at = (u64)data | tag;
            set_mode(M);
            enter((u64)load, at, 0);
            value(taken_by == 3 ? "loaded" : "fault", taken_by == 3 ? result : read_csr(mtval) >> 40);
            set_mode(M);
            enter((u64)vector_load, at, 0);
            value(taken_by == 3 ? "vector" : "fault", taken_by == 3 ? result : read_csr(mtval) >> 40);
        }
        put('\n');
    }
    // MPRV with user mode in MPP: senvcfg's setting, not mseccfg's.
    write_csr(senvcfg, 3ul << 32);
    clear_csr(0x747, 3ul << 32);
    clear_csr(mstatus, 3ul << 11);
    u64 loaded;
    asm volatile("li t0, 1 << 17\n csrs mstatus, t0\n ld %0, 8(%1)\n csrc mstatus, t0" : "=&r"(loaded) : "r"((u64)data | 0xfffful << 48) : "t0");
    value("lower", loaded);
    text("\nend\n");
    end();
}
