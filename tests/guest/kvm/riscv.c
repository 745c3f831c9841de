// A virtual machine under KVM in a RISC-V guest: it computes, talks to a device that this program plays, turns its address
// translation on, waits for its timer, and runs again after each of this program's answers.
#include <fcntl.h>
#include <linux/kvm.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>

#define RAM 0x80000000ul
#define SIZE 0x200000ul

// Device registers at 0x10000000: what is written there ends up below. Its own tables map both gigabytes to themselves.
extern char code[], code_end[];
asm(".pushsection .rodata\n"
    ".option push\n.option norvc\n.option norelax\n"
    "code:\n"
    "    li s1, 0x10000000\n"
    // The sum of 1 to 1000.
    "    li t0, 0\n    li t1, 1000\n"
    "1:  add t0, t0, t1\n    addi t1, t1, -1\n    bnez t1, 1b\n"
    "    sw t0, 0(s1)\n"
    // What the device says, and one more.
    "    lw t0, 8(s1)\n    addi t0, t0, 1\n    sd t0, 0(s1)\n"
    // Sv39: a root table with leaves of a gigabyte for 0 and 0x80000000.
    "    li t0, 0x80100000\n    li t1, 0xcf\n    sd t1, 0(t0)\n"
    "    li t1, 0x200000cf\n    sd t1, 16(t0)\n"
    "    srli t0, t0, 12\n    li t1, 8\n    slli t1, t1, 60\n    or t0, t0, t1\n"
    "    csrw satp, t0\n    sfence.vma\n"
    "    li t0, 2\n    sw t0, 0(s1)\n"
    // A page that no table maps: the guest's own fault.
    "    la t0, 2f\n    csrw stvec, t0\n"
    "    li t0, 0x40000000\n    ld t0, 0(t0)\n"
    "    .balign 4\n"
    "2:  csrr t0, scause\n    sw t0, 0(s1)\n"
    // The timer, by the call that the host's kernel answers.
    "    la t0, 3f\n    csrw stvec, t0\n"
    "    rdtime a0\n    li t1, 10000\n    add a0, a0, t1\n    li a7, 0x54494d45\n    li a6, 0\n    ecall\n"
    "    li t0, 0x20\n    csrs sie, t0\n    csrsi sstatus, 2\n"
    "4:  wfi\n    j 4b\n"
    "    .balign 4\n"
    "3:  csrr t0, scause\n    slli t0, t0, 1\n    srli t0, t0, 1\n    sb t0, 4(s1)\n"
    "5:  j 5b\n"
    "code_end:\n"
    ".option pop\n"
    ".popsection\n");

static int failed(const char *what) {
    perror(what);
    return 1;
}

int main(void) {
    int kvm = open("/dev/kvm", O_RDWR);
    if (kvm < 0)
        return failed("/dev/kvm");
    int vm = ioctl(kvm, KVM_CREATE_VM, 0);
    char *ram = mmap(0, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    memcpy(ram, code, code_end - code);
    struct kvm_userspace_memory_region region = {
        .guest_phys_addr = RAM, .memory_size = SIZE, .userspace_addr = (uint64_t)ram};
    if (vm < 0 || ioctl(vm, KVM_SET_USER_MEMORY_REGION, &region))
        return failed("a virtual machine");
    int vcpu = ioctl(vm, KVM_CREATE_VCPU, 0);
    struct kvm_run *run = mmap(0, ioctl(kvm, KVM_GET_VCPU_MMAP_SIZE, 0), PROT_READ | PROT_WRITE, MAP_SHARED, vcpu, 0);
    uint64_t pc = RAM;
    // The first of the core registers is pc.
    struct kvm_one_reg start = {KVM_REG_RISCV | KVM_REG_SIZE_U64 | KVM_REG_RISCV_CORE, (uint64_t)&pc};
    if (vcpu < 0 || ioctl(vcpu, KVM_SET_ONE_REG, &start))
        return failed("a processor");
    for (int exits = 0; exits < 20; exits++) {
        if (ioctl(vcpu, KVM_RUN, 0))
            return failed("running");
        if (run->exit_reason != KVM_EXIT_MMIO) {
            printf("exit %u\n", run->exit_reason);
            return 1;
        }
        uint64_t value = 4710;
        if (!run->mmio.is_write) {
            memcpy(run->mmio.data, &value, run->mmio.len);
            continue;
        }
        value = 0;
        memcpy(&value, run->mmio.data, run->mmio.len);
        printf("%llx: %llu in %u\n", (unsigned long long)run->mmio.phys_addr, (unsigned long long)value, run->mmio.len);
        if (run->mmio.len == 1)
            return 0;
    }
    return 1;
}
