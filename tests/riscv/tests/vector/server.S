# Executes one vector instruction per request, for comparison. A request on standard input is eight doublewords
# (instruction word, vtype, AVL, vstart, vcsr, fcsr, a0 and a1), fa0 in a ninth, one unused; the 32 vector registers;
# and a page of memory at 0x200000, behind which nothing is mapped. The answer on standard output is ten doublewords
# (signal or 0, vtype, vl, vstart, vcsr, fcsr, a2, fa2, two unused), the registers, and the page.

        .option norvc
        .equ    PAGE, 0x200000
        .equ    HEAD, 80

        .section .text
        .globl  _start
_start:
        csrr    s0, vlenb
        slli    s0, s0, 5               # bytes of all registers
        li      s1, 4                   # SIGILL
        call    catch
        li      s1, 11                  # SIGSEGV
        call    catch
        li      s1, 7                   # SIGBUS
        call    catch

request:
        la      s3, buffer
        li      s4, 4096 + HEAD
        add     s4, s4, s0              # bytes of a request
        mv      s5, s4
1:      li      a0, 0
        mv      a1, s3
        mv      a2, s5
        li      a7, 63                  # read
        ecall
        blez    a0, finish
        add     s3, s3, a0
        sub     s5, s5, a0
        bnez    s5, 1b

        la      s3, buffer
        addi    t0, s3, HEAD
        vl8re8.v v0, (t0)
        srli    t1, s0, 2
        add     t0, t0, t1
        vl8re8.v v8, (t0)
        add     t0, t0, t1
        vl8re8.v v16, (t0)
        add     t0, t0, t1
        vl8re8.v v24, (t0)
        add     t0, t0, t1
        li      t2, PAGE
        li      t3, 4096
        add     t3, t3, t2
2:      ld      t4, 0(t0)
        sd      t4, 0(t2)
        addi    t0, t0, 8
        addi    t2, t2, 8
        bne     t2, t3, 2b

        la      t6, slot
        lw      t0, 0(s3)
        sw      t0, 0(t6)
        fence.i
        ld      t0, 8(s3)
        ld      t1, 16(s3)
        vsetvl  t2, t1, t0
        ld      t0, 32(s3)
        csrw    vcsr, t0
        ld      t0, 40(s3)
        csrw    fcsr, t0
        fld     fa0, 64(s3)
        fmv.d.x fa2, zero
        ld      a0, 48(s3)
        ld      a1, 56(s3)
        li      a2, 0
        li      s2, 0
        ld      t0, 24(s3)
        csrw    vstart, t0
        la      s6, stack_top
        jalr    ra, 0(t6)
        j       collect

handler:
        mv      s2, a0
        la      sp, stack_top
        li      a2, 0

collect:
        csrr    t0, vstart
        csrr    t1, vtype
        csrr    t2, vl
        csrr    t3, vcsr
        csrr    t4, fcsr
        la      s3, buffer
        sd      s2, 0(s3)
        sd      t1, 8(s3)
        sd      t2, 16(s3)
        sd      t0, 24(s3)
        sd      t3, 32(s3)
        sd      t4, 40(s3)
        sd      a2, 48(s3)
        fsd     fa2, 56(s3)
        csrw    vstart, zero
        addi    t0, s3, HEAD
        vs8r.v  v0, (t0)
        srli    t1, s0, 2
        add     t0, t0, t1
        vs8r.v  v8, (t0)
        add     t0, t0, t1
        vs8r.v  v16, (t0)
        add     t0, t0, t1
        vs8r.v  v24, (t0)
        add     t0, t0, t1
        li      t2, PAGE
        li      t3, 4096
        add     t3, t3, t2
3:      ld      t4, 0(t2)
        sd      t4, 0(t0)
        addi    t0, t0, 8
        addi    t2, t2, 8
        bne     t2, t3, 3b

        mv      s5, s4
4:      li      a0, 1
        mv      a1, s3
        mv      a2, s5
        li      a7, 64                  # write
        ecall
        blez    a0, finish
        add     s3, s3, a0
        sub     s5, s5, a0
        bnez    s5, 4b
        j       request

finish:
        li      a0, 0
        li      a7, 94                  # exit_group
        ecall

catch:
        mv      a0, s1
        la      a1, action
        li      a2, 0
        li      a3, 8
        li      a7, 134                 # rt_sigaction
        ecall
        ret

        .section .data
        .balign 8
action: .dword  handler
        .dword  0x40000004              # SA_NODEFER, SA_SIGINFO
        .dword  0

        .section .slot, "awx"
        .balign 4096
slot:   .word   0
        ret
        .zero   4096 - 8

        .section .page, "aw"
        .zero   4096

        .section .bss
        .balign 64
buffer: .zero   HEAD + 4096 + 32 * 128
        .zero   16384
stack_top:
