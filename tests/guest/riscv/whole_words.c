/* A hart without C: targets that are not a multiple of four. Built without compressed instructions. */

#include "bare.h"

SNIPPET(jal_half, ".word 0x0060056f"); /* jal a0, +6 */
SNIPPET(taken_half, ".word 0x00050363\nli a0, 1"); /* beq a0, x0, +6 */
SNIPPET(jalr_half, "jalr a1, 2(a0)");
SNIPPET(jalr_odd, "jalr a1, 1(a0)");
SNIPPET(here, "li a0, 44");
SNIPPET(compressed, ".half 0x4505\n.half 0x4505"); /* c.li a0, 1 */
SNIPPET(epc_bits, "csrw mepc, a0\ncsrr a0, mepc");
SNIPPET(loop, "li a1, 0\n1: addi a1, a1, 3\naddi a0, a0, -1\nbnez a0, 1b\nmv a0, a1");

void program(void)
{
    static const enum mode all[] = { U, S, M };
    for (int i = 0; i < 3; i++) {
        enum mode m = all[i];
        struct trap *t = run(m, jal_half, 5, 0);
        expect("jal", t, jal_half, FETCH_MISALIGNED, 0, (uword)jal_half + 6);
        check("does not link", t->x[10] == 5);
        expect("a branch", run(m, taken_half, 0, 0), taken_half, FETCH_MISALIGNED, 0, (uword)taken_half + 6);
        expect_value("one that is not taken", run(m, taken_half, 1, 0), m, 1);
        t = run(m, jalr_half, (uword)here, 7);
        expect("jalr", t, jalr_half, FETCH_MISALIGNED, 0, (uword)here + 2);
        check("does not link either", t->x[11] == 7);
        expect_value("jalr clears bit 0", run(m, jalr_odd, (uword)here, 0), m, 44);
        expect("a compressed instruction is illegal", run(m, compressed, 0, 0), compressed, ILLEGAL, 0, 0x4505);
    }
    expect_value("mepc has no bit 1", run(M, epc_bits, (uword)here + 2, 0), M, (uword)here);
    expect_value("a loop", run(M, loop, 1000, 0), M, 3000);
    check("misa has no c", !(csr_read(misa) & 4));
}
