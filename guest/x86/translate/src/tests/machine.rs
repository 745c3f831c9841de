//! Small programs run whole: exceptions, debug traps and interrupts reach their handlers, on both tiers.

use crate::{Board, X86Cpu, X86CpuConfig, X86Guest};
use parking_lot::Mutex;
use rhea_engine::context::VcpuParts;
use rhea_engine::{Engine, EngineConfig, Tier, VcpuContext, VcpuHandle, request};
use rhea_memory::{AddressSpace, MmioHandler, RamBlock, Region, Topology};
use rhea_x86_state::X86State;
use rhea_x86_state::model::CpuModel;
use rhea_x86_state::platform::{ApicFault, LocalApicPort, Pending};
use rhea_x86_state::state::{gpr, seg};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// A local APIC with one interrupt, vector 20h, that a write to port F5h requests.
#[derive(Default)]
struct OneInterrupt(AtomicBool);

impl LocalApicPort for OneInterrupt {
    fn pending(&self) -> Pending {
        if self.0.load(Ordering::SeqCst) { Pending::INTERRUPT } else { Pending::empty() }
    }
    fn acknowledge_interrupt(&self) -> Option<u8> {
        self.0.swap(false, Ordering::SeqCst).then_some(0x20)
    }
    fn take_nmi(&self) -> bool {
        false
    }
    fn take_smi(&self) -> bool {
        false
    }
    fn take_init(&self) -> bool {
        false
    }
    fn take_sipi(&self) -> Option<u8> {
        None
    }
    fn tpr(&self) -> u8 {
        0
    }
    fn set_tpr(&self, _: u8) {}
    fn apic_base(&self) -> u64 {
        0xfee0_0900
    }
    fn set_apic_base(&self, _: u64) -> Result<(), ApicFault> {
        Ok(())
    }
    fn read_x2apic(&self, _: u32) -> Result<u64, ApicFault> {
        Err(ApicFault)
    }
    fn write_x2apic(&self, _: u32, _: u64) -> Result<(), ApicFault> {
        Err(ApicFault)
    }
    fn tsc_deadline(&self) -> u64 {
        0
    }
    fn set_tsc_deadline(&self, _: u64, _: u64, _: u64) {}
    fn init_reset(&self) {}
    fn apic_id(&self) -> u32 {
        0
    }
    fn is_bsp(&self) -> bool {
        true
    }
}

type Handle = Arc<Mutex<Option<VcpuHandle>>>;

/// Ports F4h (stop) and F5h (interrupt), and the board.
struct Ports {
    handle: Handle,
    apic: Arc<OneInterrupt>,
}

impl Ports {
    fn stop(&self) {
        if let Some(h) = &*self.handle.lock() {
            h.request(request::STOP);
        }
    }
}

impl MmioHandler for Ports {
    fn read(&self, _: u64, _: usize) -> u64 {
        0
    }
    fn write(&self, offset: u64, _: usize, _: u64) {
        if offset == 0 {
            return self.stop();
        }
        self.apic.0.store(true, Ordering::SeqCst);
        if let Some(h) = &*self.handle.lock() {
            h.kick();
        }
    }
}

impl Board for Ports {
    fn triple_fault(&self, _: u32) {
        self.stop();
    }
    fn smm_changed(&self, _: u32, _: bool) {}
    fn signal_ferr(&self, _: u32) {}
}

const CODE: u64 = 0x1000;
const HANDLER: u64 = 0x2000;

/// Runs `code` in real mode with a handler for every vector that stores its number in the order of arrival at DS:8000h
/// and returns; the final state, and the vectors.
fn run(tier: Tier, code: &[u8]) -> (X86State, Vec<u8>) {
    let model = Arc::new(CpuModel::named("max").expect("model"));
    let guest: &'static X86Guest = Box::leak(Box::new(X86Guest::new("x86_64", &model)));
    let engine = Engine::new(guest, EngineConfig { tier, ..EngineConfig::default() }).expect("engine");
    let topology = Topology::new();
    let root = Region::container(&topology, "memory", 1 << 32);
    let ram = Arc::new(RamBlock::new("ram", 1 << 20).expect("memory"));
    root.add(0, &Region::ram(&topology, ram.clone()));
    let memory = AddressSpace::new("memory", root);
    let handle = Handle::default();
    let apic = Arc::new(OneInterrupt::default());
    let ports = Arc::new(Ports { handle: handle.clone(), apic: apic.clone() });
    let io_root = Region::container(&topology, "io", 0x1_0000);
    io_root.add(0xf4, &Region::mmio(&topology, "ports", 2, ports.clone()));
    let io = AddressSpace::new("io", io_root);
    memory.set_write_observer(engine.clone());
    for n in 0..0x40u64 {
        // push di; mov di,[7ffeh]; mov byte [di+8000h],n; inc word [7ffeh]; pop di; iret
        let at = HANDLER + n * 0x20;
        ram.write(4 * n, 4, at);
        let mut h = vec![0x57, 0x8b, 0x3e, 0xfe, 0x7f, 0xc6, 0x85, 0x00, 0x80, n as u8];
        h.extend([0xff, 0x06, 0xfe, 0x7f, 0x5f, 0xcf]);
        ram.write_bytes(at, &h);
    }
    let mut program = code.to_vec();
    program.extend([0xe6, 0xf4, 0xeb, 0xfe]);
    ram.write_bytes(CODE, &program);
    let mut st = model.reset_state(true);
    st.seg[seg::CS].selector = 0;
    st.seg[seg::CS].base = 0;
    st.rip = CODE;
    st.gpr[gpr::RSP] = 0x7000;
    st.mode = st.compute_mode();
    let data = X86Cpu::new(X86CpuConfig { model, apic, board: ports, tsc_hz: 1_000_000_000, random_seed: 1 });
    let parts = VcpuParts { index: 0, memory, io, clock: Arc::new(|| 0), data: Box::new(data) };
    let mut cx = VcpuContext::new(&engine, parts, st).expect("vCPU");
    *handle.lock() = Some(cx.handle());
    cx.run();
    let count = ram.read(0x7ffe, 2);
    let vectors = (0..count.min(64)).map(|i| ram.read(0x8000 + i, 1) as u8).collect();
    (cx.state::<X86State>().clone(), vectors)
}

fn both(code: &[u8]) -> (X86State, Vec<u8>) {
    let (st, vectors) = run(Tier::Interpreter, code);
    let (other, other_vectors) = run(Tier::Baseline, code);
    assert_eq!((st.gpr, st.rflags(), &vectors), (other.gpr, other.rflags(), &other_vectors));
    (st, vectors)
}

#[test]
fn software_interrupts_return_behind_the_instruction() {
    // int 21h; int3; mov ax,1234h
    let (st, vectors) = both(&[0xcd, 0x21, 0xcc, 0xb8, 0x34, 0x12]);
    assert_eq!(vectors, [0x21, 3]);
    assert_eq!(st.gpr[gpr::RAX] & 0xffff, 0x1234);
}

#[test]
fn undefined_opcodes_fault_at_the_instruction() {
    // IRET returns to UD2 itself, so this handler skips it. mov word [18h],1100h; ud2; mov ax,1
    let mut code = vec![0xc7, 0x06, 0x18, 0x00, 0x00, 0x11, 0x0f, 0x0b, 0xb8, 0x01, 0x00];
    code.resize(0x80, 0x90);
    code.extend([0xe6, 0xf4, 0xeb, 0xfe]);
    code.resize(0x100, 0x90);
    // At 1100h: mov bp,sp; add word [bp],2; inc cx; iret
    code.extend([0x89, 0xe5, 0x83, 0x46, 0x00, 0x02, 0x41, 0xcf]);
    let (st, _) = both(&code);
    assert_eq!((st.gpr[gpr::RAX] & 0xffff, st.gpr[gpr::RCX]), (1, 1));
}

#[test]
fn single_step_traps_after_each_instruction() {
    // push 102h; popf (TF on); nop; nop; push 2; popf (TF off)
    let (st, vectors) = both(&[0x68, 0x02, 0x01, 0x9d, 0x90, 0x90, 0x6a, 0x02, 0x9d, 0x90]);
    // After each NOP, after PUSH, and after the POPF that clears TF, which began with it set.
    assert_eq!(vectors, [1, 1, 1, 1]);
    assert_eq!(st.rflags & 0x100, 0);
}

#[test]
fn a_pending_interrupt_is_taken_once_it_is_let_through() {
    // cli; out f5h,al; cmp word [7ffeh],0; sti; inc cx; l: cmp word [7ffeh],0; je l
    let (st, vectors) = both(&[
        0xfa, 0xe6, 0xf5, 0x83, 0x3e, 0xfe, 0x7f, 0x00, 0xfb, 0x41, 0x83, 0x3e, 0xfe, 0x7f, 0x00, 0x74, 0xf9,
    ]);
    assert_eq!(vectors, [0x20]);
    assert_eq!(st.gpr[gpr::RCX], 1);
}

#[test]
fn halt_ends_with_an_interrupt() {
    // out f5h,al with interrupts off; sti; hlt
    let (_, vectors) = both(&[0xe6, 0xf5, 0xfb, 0xf4]);
    assert_eq!(vectors, [0x20]);
}

#[test]
fn accesses_beyond_a_real_mode_segment_fault() {
    // The handler of #GP is the program's end. mov word [34h],1080h; mov bx,ffffh; mov ax,[bx]
    let mut code = vec![0xc7, 0x06, 0x34, 0x00, 0x80, 0x10, 0xbb, 0xff, 0xff, 0x8b, 0x07];
    code.resize(0x80, 0x90);
    // At 1080h: inc cx; out f4h,al
    code.extend([0x41, 0xe6, 0xf4, 0xeb, 0xfe]);
    let (st, _) = both(&code);
    assert_eq!(st.gpr[gpr::RCX], 1);
}

#[test]
fn repeated_moves_cross_pages_and_overlap() {
    // mov al,5ah; mov di,4ff0h; mov cx,100h; rep stosb; mov si,4ff0h; mov di,4ff1h; mov cx,50; rep movsb
    let code = [
        0xb0, 0x5a, 0xbf, 0xf0, 0x4f, 0xb9, 0x00, 0x01, 0xf3, 0xaa, 0xbe, 0xf0, 0x4f, 0xbf, 0xf1, 0x4f, 0xb9,
        0x32, 0x00, 0xf3, 0xa4,
    ];
    let (st, vectors) = both(&code);
    assert_eq!((st.gpr[gpr::RCX], st.gpr[gpr::RDI]), (0, 0x5023));
    assert!(vectors.is_empty());
}
