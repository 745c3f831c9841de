// What the test programs of this folder share: they run in machine mode without firmware, print through the UART and end
// through the test device. Snippets of assembly run in a mode of choice; how each ends is printed in one line.

// The start of RAM, where a hart without firmware begins.
asm(".pushsection .text\n"
    ".globl _start\n"
    "_start:\n"
    "    la sp, stack\n"
    "    li t0, 0x4000\n"
    "    add sp, sp, t0\n"
    "    la t0, machine_trap; csrw mtvec, t0\n"
    "    li t0, -1; csrw pmpaddr0, t0\n"
    "    li t0, 0x1f; csrw pmpcfg0, t0\n"
    "    call program\n"
    "1:  j 1b\n"
    ".popsection\n");

// As wide as a register.
typedef unsigned long u64;
typedef unsigned int u32;

#if __riscv_xlen == 32
#define STORE "sw"
#define LOAD "lw"
// MPV and GVA are in mstatush.
#define MPV_CSR 0x310
#define MPV_BIT 7
#else
#define STORE "sd"
#define LOAD "ld"
#define MPV_CSR mstatus
#define MPV_BIT 39
#endif

#define UART ((volatile unsigned char *)0x10000000)
#define TEST_DEVICE ((volatile u32 *)0x100000)

#define NAME(name) #name
#define read_csr(number) ({ u64 v_; asm volatile("csrr %0, " NAME(number) : "=r"(v_)); v_; })
#define write_csr(number, value) asm volatile("csrw " NAME(number) ", %0" ::"r"((u64)(value)) : "memory")
#define set_csr(number, value) asm volatile("csrs " NAME(number) ", %0" ::"r"((u64)(value)) : "memory")
#define clear_csr(number, value) asm volatile("csrc " NAME(number) ", %0" ::"r"((u64)(value)) : "memory")

static void put(char c) {
    while (!(UART[5] & 0x20))
        ;
    *UART = c;
}

static void text(const char *s) {
    while (*s)
        put(*s++);
}

static void hex(u64 v) {
    int shift = 8 * sizeof v - 4;
    while (shift > 0 && !(v >> shift))
        shift -= 4;
    for (; shift >= 0; shift -= 4)
        put("0123456789abcdef"[v >> shift & 15]);
}

static void value(const char *name, u64 v) {
    put(' ');
    text(name);
    put('=');
    hex(v);
}

static void end(void) {
    *TEST_DEVICE = 0x5555;
    for (;;)
        ;
}

enum mode { U, HS, VU, VS, M };
static const char *const mode_names[] = {"U", "HS", "VU", "VS", "M"};

// What the trap handlers find: who took the trap (0: machine mode itself; 1, 2: the stubs of HS and VS; 3: the snippet came
// to its end), and a0 then.
u64 taken_by, result;

// Runs code in the mode that mstatus.MPP and MPV say; comes back by whatever trap.
void enter(u64 code, u64 a0, u64 a1);
asm(".pushsection .text\n"
    "enter:\n"
    "    addi sp, sp, -128\n"
    "    " STORE " ra, 0(sp); " STORE " s0, 8(sp); " STORE " s1, 16(sp); " STORE " s2, 24(sp); " STORE " s3, 32(sp); " STORE " s4, 40(sp); " STORE " s5, 48(sp)\n"
    "    " STORE " s6, 56(sp); " STORE " s7, 64(sp); " STORE " s8, 72(sp); " STORE " s9, 80(sp); " STORE " s10, 88(sp); " STORE " s11, 96(sp)\n"
    "    csrw mscratch, sp\n"
    "    csrw mepc, a0\n"
    "    mv a0, a1\n"
    "    mv a1, a2\n"
    "    li s10, 0\n"
    "    li t6, 0\n"
    "    mret\n"
    "    .balign 4\n"
    "machine_trap:\n"
    "    csrr sp, mscratch\n"
    "    la t0, taken_by; " STORE " s10, 0(t0)\n"
    "    la t0, result; " STORE " a0, 0(t0)\n"
    "    " LOAD " ra, 0(sp); " LOAD " s0, 8(sp); " LOAD " s1, 16(sp); " LOAD " s2, 24(sp); " LOAD " s3, 32(sp); " LOAD " s4, 40(sp); " LOAD " s5, 48(sp)\n"
    "    " LOAD " s6, 56(sp); " LOAD " s7, 64(sp); " LOAD " s8, 72(sp); " LOAD " s9, 80(sp); " LOAD " s10, 88(sp); " LOAD " s11, 96(sp)\n"
    "    addi sp, sp, 128\n"
    "    ret\n"
    "    .balign 4\n"
    "supervisor_trap:\n"
    "    li s10, 1\n"
    "    ecall\n"
    "    .balign 4\n"
    "virtual_trap:\n"
    "    li s10, 2\n"
    "    ecall\n"
    ".popsection\n");
extern char machine_trap[], supervisor_trap[], virtual_trap[];

// A snippet that ends well with a call.
#define SNIPPET(name, code)                                                                      \
    extern char name[];                                                                          \
    asm(".pushsection .text\n.balign 4\n" #name ":\n" code "\n    li s10, 3\n    ecall\n.popsection\n")

// mstatus for a mode: MPP and MPV.
static void set_mode(enum mode mode) {
    clear_csr(mstatus, 3ul << 11);
    clear_csr(MPV_CSR, 1ul << MPV_BIT);
    set_csr(mstatus, mode == U || mode == VU ? 0 : mode == M ? 3ul << 11 : 1ul << 11);
    if (mode == VU || mode == VS)
        set_csr(MPV_CSR, 1ul << MPV_BIT);
}

// How far the snippets of virtual user mode lie above the others.
extern u64 user_offset;

// Whether a trap is of a guest's access, so that GVA and the transformed instruction count: QEMU leaves them as they were, or
// fills them, elsewhere.
static int of_guest(enum mode mode, const char *name, u64 cause) {
    int is_address = cause == 1 || (cause >= 4 && cause < 8) || (cause >= 12 && cause < 24 && cause != 22);
    return is_address && (mode == VS || mode == VU || name[0] == 'h');
}

// The trap value, but not of a cache-block instruction: QEMU has none.
static void trap_value(u64 v) {
    if (v && (v & 0x7f) != 0x0f)
        value("tval", v);
}

static void run_at(enum mode mode, const char *name, u64 code, u64 a0, u64 a1) {
    set_mode(mode);
    enter(code + (mode == VU ? user_offset : 0), a0, a1);
    u64 status = read_csr(mstatus), more = read_csr(MPV_CSR) >> (MPV_BIT - 1);
    text(mode_names[mode]);
    put(' ');
    text(name);
    value("a0", a0);
    put(':');
    if (taken_by == 3) {
        value("ok", result);
    } else if (taken_by == 0) {
        text(" M");
        value("cause", read_csr(mcause));
        value("epc", read_csr(mepc) - code);
        trap_value(read_csr(mtval));
        value("tval2", read_csr(0x34b));
        if (of_guest(mode, name, read_csr(mcause))) {
            value("tinst", read_csr(0x34a));
            value("gva", more & 1);
        }
        value("mpp", status >> 11 & 3);
        value("mpv", more >> 1 & 1);
    } else if (taken_by == 1) {
        u64 h = read_csr(0x600);
        text(" HS");
        value("cause", read_csr(scause));
        value("epc", read_csr(sepc) - code);
        trap_value(read_csr(stval));
        value("htval", read_csr(0x643));
        if (of_guest(mode, name, read_csr(scause))) {
            value("htinst", read_csr(0x64a));
            value("gva", h >> 6 & 1);
        }
        value("spp", status >> 8 & 1);
        value("spv", h >> 7 & 1);
        value("spvp", h >> 8 & 1);
    } else {
        u64 v = read_csr(0x200);
        text(" VS");
        value("cause", read_csr(0x242));
        value("epc", read_csr(0x241) - code);
        trap_value(read_csr(0x243));
        value("spp", v >> 8 & 1);
        value("sie", v >> 1 & 1);
        value("spie", v >> 5 & 1);
    }
    put('\n');
}

#define run(mode, name, a0, a1) run_at(mode, #name, (u64)(name), a0, a1)

void program(void);
char stack[0x4000] __attribute__((aligned(16)));
