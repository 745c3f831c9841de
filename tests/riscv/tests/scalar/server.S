# Executes one scalar instruction per request, for comparison. A request on standard input is the instruction word, fcsr,
# 32 integer and 32 floating-point registers, and a page of memory at 0x80080000. The answer is the signal or 0, fcsr,
# the registers and the page. Register x31 cannot be compared: it holds the buffer's address. Registers take 8 bytes on RV32
# too (--defsym RV32=1), of which the lower four count.

        .option norvc
        .equ    PAGE, 0x80080000
        .equ    SIZE, 66 * 8 + 4096

        .ifdef  RV32
        .macro  get register, at:vararg
        lw      \register, \at
        .endm
        .macro  put register, at:vararg
        sw      \register, \at
        .endm
        .macro  pointer to
        .word   \to
        .endm
        .else
        .macro  get register, at:vararg
        ld      \register, \at
        .endm
        .macro  put register, at:vararg
        sd      \register, \at
        .endm
        .macro  pointer to
        .dword  \to
        .endm
        .endif

        .section .text
        .globl  _start
_start: la      a0, stack
        li      a1, 0
        li      a7, 132                 # sigaltstack: the stack pointer is an operand like any other
        ecall
        li      s1, 4                   # SIGILL
        call    catch
        li      s1, 11                  # SIGSEGV
        call    catch
        li      s1, 7                   # SIGBUS
        call    catch
        li      s1, 5                   # SIGTRAP
        call    catch

request:
        la      s3, buffer
        li      s5, SIZE
1:      li      a0, 0
        mv      a1, s3
        mv      a2, s5
        li      a7, 63                  # read
        ecall
        blez    a0, finish
        add     s3, s3, a0
        sub     s5, s5, a0
        bnez    s5, 1b

        la      t0, buffer + 66 * 8
        li      t2, PAGE
        li      t3, PAGE + 4096
2:      lw      t4, 0(t0)
        sw      t4, 0(t2)
        addi    t0, t0, 4
        addi    t2, t2, 4
        bne     t2, t3, 2b

        la      x31, buffer
        lui     t1, %hi(slot)
        lw      t0, 0(x31)
        sw      t0, %lo(slot)(t1)
        fence.i
        get     t0, 8(x31)
        csrw    fcsr, t0
        .irp n, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31
        fld     f\n, 8 * (34 + \n)(x31)
        .endr
        .irp n, 1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30
        get     x\n, 8 * (2 + \n)(x31)
        .endr
        j       slot

handler:
        mv      s2, a0
        la      sp, stack_top
        la      x31, buffer
        put     s2, 0(x31)
        j       answer

collect:                                # x31 is also the upper half of a pair at x30
        la      x31, buffer
        .irp n, 1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30
        put     x\n, 8 * (2 + \n)(x31)
        .endr
        .irp n, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31
        fsd     f\n, 8 * (34 + \n)(x31)
        .endr
        csrr    t0, fcsr
        put     t0, 8(x31)
        put     zero, 0(x31)

answer:
        addi    t0, x31, 66 * 8
        li      t2, PAGE
        li      t3, PAGE + 4096
3:      lw      t4, 0(t2)
        sw      t4, 0(t0)
        addi    t0, t0, 4
        addi    t2, t2, 4
        bne     t2, t3, 3b
        mv      s3, x31
        li      s5, SIZE
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
action: pointer handler
        pointer 0x48000004              # SA_NODEFER, SA_ONSTACK, SA_SIGINFO
        .dword  0

stack:  pointer signals
        pointer 0
        pointer 65536

        .section .slot, "awx"
        .balign 4096
slot:   .word   0
        j       collect
        .zero   4096 - 8

        .section .page, "aw"
        .zero   4096

        .section .bss
        .balign 64
buffer: .zero   SIZE
        .zero   16384
stack_top:
signals:
        .zero   65536
