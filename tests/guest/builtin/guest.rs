//! The guest that `cargo xtask demo` boots when no Debian package is to be had: a ROM with a prompt on the first serial
//! port. It is assembled by rustc itself, so that a Rust toolchain is all it needs.
//!
//! 32-bit code without paging, linked at its address below 4 GiB: everything is position-independent or relative to
//! `rom`, whose address is known (0xFFFF0000, seen at 0xF0000 too).
#![no_std]

core::arch::global_asm!(
    r#"
    .section .rom, "ax"
    .set BASE, 0xffff0000
    .set COM1, 0x3f8
    .set LINE, 0x2000       /* the line being typed, at most 80 characters */
    .set STACK, 0x8000

rom:
    .code16
start16:
    cli
    cld
    xor %ax, %ax
    mov %ax, %ds
    lgdtl %cs:gdt_pointer-rom
    mov %cr0, %eax
    or $1, %al
    mov %eax, %cr0
    .byte 0x66, 0xea
    .long BASE + (start32 - rom)
    .word 8

    .balign 8
gdt:
    .quad 0
    .quad 0x00cf9b000000ffff
    .quad 0x00cf93000000ffff
gdt_pointer:
    .word 23
    .long BASE + (gdt - rom)

    .code32
start32:
    mov $16, %eax
    mov %eax, %ds
    mov %eax, %es
    mov %eax, %ss
    mov $STACK, %esp
    /* The UART: 115200 baud, 8 bits, no parity, FIFOs on. */
    mov $COM1 + 3, %edx
    mov $0x80, %al
    out %al, %dx
    mov $COM1, %edx
    mov $1, %al
    out %al, %dx
    mov $COM1 + 1, %edx
    xor %eax, %eax
    out %al, %dx
    mov $COM1 + 3, %edx
    mov $3, %al
    out %al, %dx
    mov $COM1 + 2, %edx
    mov $7, %al
    out %al, %dx
    mov $BASE + (text_hello - rom), %esi
    call print

prompt:
    mov $BASE + (text_prompt - rom), %esi
    call print
    mov $LINE, %edi
1:  call read_key
    cmp $13, %al
    je 3f
    cmp $10, %al
    je 3f
    cmp $127, %al
    je 2f
    cmp $8, %al
    je 2f
    cmp $32, %al
    jb 1b
    cmp $LINE + 80, %edi
    jae 1b
    stosb
    call put
    jmp 1b
2:  cmp $LINE, %edi
    je 1b
    dec %edi
    mov $BASE + (text_erase - rom), %esi
    call print
    jmp 1b
3:  movb $0, (%edi)
    mov $BASE + (text_newline - rom), %esi
    call print

    /* The line starts with a command? */
    mov $BASE + (commands - rom), %ebx
4:  mov (%ebx), %esi
    test %esi, %esi
    jz unknown
    mov $LINE, %edi
5:  mov (%esi), %al
    test %al, %al
    jz 6f
    cmp (%edi), %al
    jne 7f
    inc %esi
    inc %edi
    jmp 5b
6:  cmpb $32, (%edi)
    jbe 8f
7:  add $8, %ebx
    jmp 4b
8:  call *4(%ebx)
    jmp prompt
unknown:
    cmpb $0, LINE
    je prompt
    mov $BASE + (text_unknown - rom), %esi
    call print
    jmp prompt

    .balign 4
commands:
    .long BASE + (name_help - rom), BASE + (help - rom)
    .long BASE + (name_echo - rom), BASE + (echo - rom)
    .long BASE + (name_primes - rom), BASE + (primes - rom)
    .long BASE + (name_cpu - rom), BASE + (cpu - rom)
    .long BASE + (name_reboot - rom), BASE + (reboot - rom)
    .long BASE + (name_poweroff - rom), BASE + (poweroff - rom)
    .long 0
name_help: .asciz "help"
name_echo: .asciz "echo"
name_primes: .asciz "primes"
name_cpu: .asciz "cpu"
name_reboot: .asciz "reboot"
name_poweroff: .asciz "poweroff"

/* Each command finds the rest of its line at EDI. */
help:
    mov $BASE + (text_help - rom), %esi
    jmp print
echo:
    mov %edi, %esi
    cmpb $32, (%esi)
    jne 1f
    inc %esi
1:  call print
    mov $BASE + (text_newline - rom), %esi
    jmp print
cpu:
    xor %eax, %eax
    cpuid
    mov %ebx, LINE
    mov %edx, LINE+4
    mov %ecx, LINE+8
    movl $0x0a0d, LINE+12
    mov $LINE, %esi
    jmp print
primes:
    /* Counts the primes below 100000 with a sieve at 1 MiB. */
    mov $0x100000, %edi
    mov $100000, %ecx
    xor %eax, %eax
    rep stosb
    xor %ebp, %ebp
    mov $2, %ecx
1:  cmpb $0, 0x100000(%ecx)
    jne 3f
    inc %ebp
    mov %ecx, %edx
2:  add %ecx, %edx
    cmp $100000, %edx
    jae 3f
    movb $1, 0x100000(%edx)
    jmp 2b
3:  inc %ecx
    cmp $100000, %ecx
    jb 1b
    mov %ebp, %eax
    call print_number
    mov $BASE + (text_primes - rom), %esi
    jmp print
reboot:
    mov $0xcf9, %edx
    mov $6, %al
    out %al, %dx
1:  hlt
    jmp 1b
poweroff:
    /* ICH9's power management block is told its place, then S5 through PM1 control (port 0x604: 0x600 + 4). */
    mov $0xcf8, %edx
    mov $0x8000f840, %eax
    out %eax, %dx
    mov $0xcfc, %edx
    mov $0x601, %eax
    out %eax, %dx
    mov $0xcf8, %edx
    mov $0x8000f844, %eax
    out %eax, %dx
    mov $0xcfc, %edx
    mov $0x80, %eax
    out %eax, %dx
    mov $0x604, %edx
    mov $SLEEP_TYPE_S5 << 10 | 0x2000, %eax
    out %ax, %dx
1:  hlt
    jmp 1b
    .set SLEEP_TYPE_S5, 0

/* EAX in decimal. */
print_number:
    mov $10, %ecx
    mov $LINE + 100, %edi
    movb $0, (%edi)
1:  xor %edx, %edx
    div %ecx
    add $48, %dl
    dec %edi
    mov %dl, (%edi)
    test %eax, %eax
    jnz 1b
    mov %edi, %esi
    jmp print

print:
    lodsb
    test %al, %al
    jz 1f
    call put
    jmp print
1:  ret
put:
    push %eax
    mov $COM1 + 5, %edx
1:  in %dx, %al
    test $0x20, %al
    jz 1b
    pop %eax
    mov $COM1, %edx
    out %al, %dx
    ret
read_key:
    mov $COM1 + 5, %edx
1:  in %dx, %al
    test $1, %al
    jz 1b
    mov $COM1, %edx
    in %dx, %al
    ret

text_hello: .asciz "\r\nThis is Rhea's built-in guest. 'help' lists its commands.\r\n"
text_prompt: .asciz "builtin# "
text_newline: .asciz "\r\n"
text_erase: .asciz "\b \b"
text_unknown: .asciz "no such command; 'help' lists those there are\r\n"
text_primes: .asciz " primes below 100000\r\n"
text_help: .asciz "help, echo TEXT, primes, cpu, reboot, poweroff\r\n"

    /* The reset vector. */
    .org 0xfff0
    .byte 0xea
    .word start16 - rom, 0xf000
    .org 0x10000
"#,
    options(att_syntax)
);
