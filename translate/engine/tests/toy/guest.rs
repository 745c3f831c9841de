//! The toy processor: eight 64-bit registers, instructions of eight bytes at any address.
//!
//! Byte 0 is the operation, bytes 1 to 3 name registers (or a size), bytes 4 to 7 a signed immediate. Mode bit 0 makes
//! `ADDI` count double, so that translations of the two modes differ. Data goes through the MMU index of the mode.

use parking_lot::Mutex;
use rhea_engine::{Access, Guest, GuestLayout, Helper, Leave, Next, Translation, VcpuContext, request};
use rhea_ir::{Builder, Cond, Exit, HelperInfo, MemFlags, Rmw, Slot, SlotAccess, Target, Type, Val};
use std::collections::HashMap;
use std::mem::offset_of;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

pub const INSN: u64 = 8;
pub const LINK: u8 = 7;

/// Operations.
pub mod op {
    pub const TRAP: u8 = 0;
    pub const LI: u8 = 1;
    pub const ADD: u8 = 2;
    pub const ADDI: u8 = 3;
    pub const LD: u8 = 4;
    pub const ST: u8 = 5;
    pub const J: u8 = 6;
    pub const BNE: u8 = 7;
    pub const JR: u8 = 8;
    pub const CALL: u8 = 9;
    pub const RET: u8 = 10;
    pub const ATOMIC_ADD: u8 = 11;
    pub const HALT: u8 = 12;
    pub const TRIPLE: u8 = 13;
    pub const FLUSH_PAGE: u8 = 14;
    pub const MODE: u8 = 15;
    pub const EXIT: u8 = 16;
    pub const TIME: u8 = 17;
    pub const FLUSH: u8 = 18;
    pub const FLUSH_NONGLOBAL: u8 = 19;
    pub const REMAP: u8 = 20;
}

/// Reasons to leave.
mod reason {
    pub const TRAP: u32 = 1;
    pub const HALT: u32 = 2;
    pub const EXIT: u32 = 3;
    pub const FAULT: u32 = 4;
    pub const RESUME: u32 = 5;
}

#[repr(C)]
#[derive(Clone, Debug, Default)]
pub struct State {
    pub r: [u64; 8],
    pub pc: u64,
    pub mode: u64,
    pub halted: u64,
}

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    Exit,
    Trap,
    Fault(u64, Access),
    Unaligned(u64),
}

/// A page-table entry; what has none is mapped one to one.
#[derive(Clone, Copy)]
pub struct Entry {
    pub phys: u64,
    pub write: bool,
    pub global: bool,
    pub bits: u8,
    pub present: bool,
}

impl Entry {
    pub const fn to(phys: u64) -> Self {
        Entry { phys, write: true, global: false, bits: 12, present: true }
    }
    pub const ABSENT: Entry = Entry { phys: 0, write: false, global: false, bits: 12, present: false };
}

/// Page tables and what tests want to know of a vCPU.
pub struct Cpu {
    pub tables: Arc<Mutex<HashMap<u64, Entry>>>,
    pub irq: Arc<AtomicBool>,
    pub taken: Arc<AtomicU64>,
    pub end: Option<End>,
}

pub struct Toy;

const fn reg(i: usize) -> Slot {
    Slot::new(offset_of!(State, r) + 8 * i, Type::I64)
}
const PC: Slot = Slot::new(offset_of!(State, pc), Type::I64);
const MODE: Slot = Slot::new(offset_of!(State, mode), Type::I64);

static LAYOUT: GuestLayout = GuestLayout {
    name: "toy",
    pc: PC,
    hot: &[reg(0), reg(1), reg(2), reg(3), reg(4), reg(5), reg(6), reg(7)],
    longest_insn: INSN as u32,
    mmu_indices: 2,
};

const fn helper(name: &'static str, params: &'static [Type], result: Type, pure: bool) -> HelperInfo {
    let (reads, writes) = (SlotAccess::None, SlotAccess::None);
    HelperInfo { name, params, result, reads, writes, may_exit: false, pure }
}

extern "C" fn triple(_: &mut VcpuContext, v: u64, _: u64, _: u64, _: u64) -> u64 {
    v.wrapping_mul(3)
}
extern "C" fn flush_page(cx: &mut VcpuContext, vaddr: u64, _: u64, _: u64, _: u64) -> u64 {
    cx.env().flush_tlb_page(vaddr);
    0
}
extern "C" fn flush(cx: &mut VcpuContext, global: u64, _: u64, _: u64, _: u64) -> u64 {
    if global != 0 {
        cx.env().flush_tlb_all();
    } else {
        cx.env().flush_tlb_nonglobal();
    }
    0
}
extern "C" fn time(cx: &mut VcpuContext, _: u64, _: u64, _: u64, _: u64) -> u64 {
    cx.env().clock_ns()
}
extern "C" fn remap(cx: &mut VcpuContext, vpage: u64, phys: u64, _: u64, _: u64) -> u64 {
    cx.data::<Cpu>().tables.lock().insert(vpage >> 12, Entry::to(phys));
    0
}

static HELPERS: [Helper; 5] = [
    Helper { info: helper("triple", &[Type::I64], Type::I64, true), function: triple },
    Helper { info: helper("flush_page", &[Type::I64], Type::Void, false), function: flush_page },
    Helper { info: helper("flush", &[Type::I64], Type::Void, false), function: flush },
    Helper { info: helper("time", &[], Type::I64, false), function: time },
    Helper { info: helper("remap", &[Type::I64, Type::I64], Type::Void, false), function: remap },
];

fn leave(reason: u32, pc: u64) -> Exit {
    Exit::Leave { reason, pc: Some(pc) }
}

fn address(b: &mut Builder, base: u8, imm: i64) -> Val {
    let base = b.get(reg(usize::from(base & 7)));
    b.add_imm(base, imm as u64)
}

/// One instruction; true if it ends the unit.
fn instruction(b: &mut Builder, pc: u64, mode: u64, bytes: [u8; 8]) -> bool {
    let [o, d, a, s, ..] = bytes;
    let imm = i64::from(i32::from_le_bytes([bytes[4], bytes[5], bytes[6], bytes[7]]));
    let target = pc.wrapping_add_signed(imm);
    let next = pc + INSN;
    let r = |i: u8| reg(usize::from(i & 7));
    let flags = MemFlags::new((mode & 1) as u8);
    let size = Type::int(1 << (s & 3));
    match o {
        op::LI => {
            let v = b.iconst(Type::I64, imm as u64);
            b.put(r(d), v);
        }
        op::ADD => {
            let (x, y) = (b.get(r(a)), b.get(r(s)));
            let v = b.add(x, y);
            b.put(r(d), v);
        }
        op::ADDI => {
            let v = address(b, a, if mode & 1 != 0 { 2 * imm } else { imm });
            b.put(r(d), v);
        }
        op::LD => {
            let at = address(b, a, imm);
            let v = b.load(size, at, flags);
            let v = b.zext(Type::I64, v);
            b.put(r(d), v);
        }
        op::ST => {
            let at = address(b, a, imm);
            let v = b.get(r(d));
            let v = b.zext(size, v);
            b.store(at, v, flags);
        }
        op::ATOMIC_ADD => {
            let at = address(b, a, imm);
            let v = b.get(r(s));
            let old = b.atomic_rmw(Rmw::Add, at, v, flags);
            b.put(r(d), old);
        }
        op::TRIPLE => {
            let v = b.get(r(a));
            let v = b.call(0, &HELPERS[0].info, &[v]);
            b.put(r(d), v);
        }
        op::TIME => {
            let v = b.call(3, &HELPERS[3].info, &[]);
            b.put(r(d), v);
        }
        op::REMAP => {
            let (v, p) = (b.get(r(d)), b.get(r(a)));
            b.call(4, &HELPERS[4].info, &[v, p]);
        }
        op::BNE => {
            let (x, y) = (b.get(r(a)), b.get(r(s)));
            let c = b.icmp(Cond::Ne, x, y);
            b.exit_if(c, Exit::Jump(Target::Static(target)));
        }
        _ => {
            ending(b, o, r(d), r(a), (pc, next, target), imm);
            return true;
        }
    }
    false
}

fn ending(b: &mut Builder, o: u8, d: Slot, a: Slot, (pc, next, target): (u64, u64, u64), imm: i64) {
    let exit = match o {
        op::J => Exit::Jump(Target::Static(target)),
        op::JR => Exit::Jump(Target::Dynamic(b.get(a))),
        op::CALL => {
            let back = b.iconst(Type::I64, next);
            b.put(reg(usize::from(LINK)), back);
            Exit::Call { target: Target::Static(target), return_pc: next }
        }
        op::RET => Exit::Return(b.get(reg(usize::from(LINK)))),
        op::MODE => {
            let v = b.iconst(Type::I64, imm as u64);
            b.put(MODE, v);
            leave(reason::RESUME, next)
        }
        op::FLUSH_PAGE => {
            let v = b.get(d);
            b.call(1, &HELPERS[1].info, &[v]);
            leave(reason::RESUME, next)
        }
        op::FLUSH | op::FLUSH_NONGLOBAL => {
            let v = b.iconst(Type::I64, u64::from(o == op::FLUSH));
            b.call(2, &HELPERS[2].info, &[v]);
            leave(reason::RESUME, next)
        }
        op::HALT => leave(reason::HALT, next),
        op::EXIT => leave(reason::EXIT, next),
        _ => leave(reason::TRAP, pc),
    };
    b.exit(exit);
}

impl Guest for Toy {
    fn layout(&self) -> &GuestLayout {
        &LAYOUT
    }
    fn helpers(&self) -> &[Helper] {
        &HELPERS
    }
    fn pc(&self, cx: &mut VcpuContext) -> u64 {
        cx.state::<State>().pc
    }
    fn mode(&self, cx: &mut VcpuContext) -> u64 {
        cx.state::<State>().mode
    }
    fn fetch_address(&self, pc: u64, _: u64) -> u64 {
        pc
    }
    fn fetch_index(&self, _: u64) -> u8 {
        0
    }

    fn translate(
        &self,
        cx: &mut VcpuContext,
        b: &mut Builder,
        pc: u64,
        mode: u64,
        max_insns: u32,
    ) -> Result<(), Leave> {
        let mut at = pc;
        loop {
            let mut bytes = [0; 8];
            let n = cx.fetch_bytes(at, 0, &mut bytes)?;
            if n < 8 {
                if at != pc {
                    b.jump(at);
                    break;
                }
                let (_, rest) = bytes.split_at_mut(n);
                cx.fetch_bytes(at + n as u64, 0, rest)?;
            }
            b.insn(at, 8);
            let ended = instruction(b, at, mode, bytes);
            at += INSN;
            if ended {
                break;
            }
            if b.unit.insn_count >= max_insns || at >> 12 != pc >> 12 {
                b.jump(at);
                break;
            }
        }
        b.unit.len = (at - pc) as u32;
        Ok(())
    }

    fn tlb_fill(
        &self,
        cx: &mut VcpuContext,
        vaddr: u64,
        _: u32,
        access: Access,
        _: u8,
    ) -> Result<Translation, Leave> {
        let cpu = cx.data::<Cpu>();
        let entry = {
            let tables = cpu.tables.lock();
            // A larger page is entered under its first 4 KiB page.
            tables
                .get(&(vaddr >> 12))
                .or_else(|| tables.get(&(vaddr >> 21 << 9)).filter(|e| e.bits == 21))
                .copied()
                .unwrap_or(Entry::to(vaddr & !0xfff))
        };
        if !entry.present || access == Access::Write && !entry.write {
            cpu.end = Some(End::Fault(vaddr, access));
            return Err(Leave(reason::FAULT));
        }
        let phys = entry.phys + (vaddr & ((1 << entry.bits) - 1));
        Ok(Translation {
            phys,
            read: true,
            write: entry.write,
            fetch: true,
            global: entry.global,
            page_bits: entry.bits,
        })
    }

    fn unaligned(&self, cx: &mut VcpuContext, vaddr: u64, _: Access, _: u8) -> Leave {
        cx.data::<Cpu>().end = Some(End::Unaligned(vaddr));
        Leave(reason::FAULT)
    }

    fn handle_leave(&self, cx: &mut VcpuContext, reason: u32) -> Next {
        let end = match reason {
            reason::RESUME => return Next::Run,
            reason::HALT => {
                cx.state::<State>().halted = 1;
                return self.poll_events(cx);
            }
            reason::EXIT => Some(End::Exit),
            reason::TRAP => Some(End::Trap),
            _ => cx.data::<Cpu>().end,
        };
        cx.data::<Cpu>().end = end;
        cx.handle().request(request::STOP);
        Next::Run
    }

    fn poll_events(&self, cx: &mut VcpuContext) -> Next {
        let (state, cpu, _) = cx.parts::<State, Cpu>();
        if cpu.irq.swap(false, Ordering::SeqCst) {
            cpu.taken.fetch_add(1, Ordering::SeqCst);
            state.halted = 0;
        }
        if state.halted != 0 { Next::Wait } else { Next::Run }
    }

    fn dump(&self, cx: &mut VcpuContext) -> String {
        format!("{:x?}\n", cx.state::<State>())
    }

    fn has_events(&self, cx: &VcpuContext) -> bool {
        cx.data_ref::<Cpu>().is_some_and(|c| c.irq.load(Ordering::SeqCst))
    }
}
