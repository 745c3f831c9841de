//! The FXSAVE area and the XSAVE area (SDM vol. 1, 10.5.1 and 13.4).

use rhea_x86_state::X86State;
use rhea_x86_state::state::X87Register;

use crate::save::{LONG, SaveKind, WIDE_POINTERS};
use crate::x87::execute::{set_control_word, set_status_word, status_word};

/// Bytes of the legacy region.
pub const LEGACY: usize = 512;
/// Bytes of the area with every component: legacy region, header, upper halves of YMM0..=YMM15.
pub const WHOLE: usize = 832;
/// Offset of the header.
pub const HEADER: usize = 512;
/// Offset of what follows the header.
pub const EXTENDED: usize = 576;
/// x87, SSE and AVX in XCR0 and the feature bitmaps.
const X87: u64 = 1;
const SSE: u64 = 2;
const AVX: u64 = 4;
/// MXCSR bits that exist.
pub const MXCSR_MASK: u32 = 0xffff;
const MXCSR_INITIAL: u32 = 0x1f80;
const EFER_FFXSR: u64 = 1 << 14;

/// The area as bytes.
pub struct Area(pub [u8; WHOLE]);

/// The area does not describe a state: #GP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed;

impl Area {
    fn get(&self, at: usize, size: usize) -> u64 {
        let mut b = [0; 8];
        b[..size].copy_from_slice(&self.0[at..at + size]);
        u64::from_le_bytes(b)
    }

    fn put(&mut self, at: usize, size: usize, value: u64) {
        self.0[at..at + size].copy_from_slice(&value.to_le_bytes()[..size]);
    }

    // ---- components ----

    fn save_x87(&mut self, st: &X86State, wide: bool) {
        self.put(0, 2, u64::from(st.x87_cw));
        self.put(2, 2, u64::from(status_word(st)));
        self.put(4, 2, u64::from(!st.x87_empty & 0xff));
        let [cs, ds, op, _] = st.x87_cs_ds_op.map(u64::from);
        self.put(6, 2, op);
        if wide {
            self.put(8, 8, st.x87_ip);
            self.put(16, 8, st.x87_dp);
        } else {
            self.put(8, 4, st.x87_ip);
            self.put(12, 4, cs);
            self.put(16, 4, st.x87_dp);
            self.put(20, 4, ds);
        }
        for i in 0..8 {
            let r = &st.x87[(st.x87_top as usize + i) & 7];
            self.put(32 + 16 * i, 8, r.significand);
            self.put(40 + 16 * i, 8, u64::from(r.sign_exponent));
        }
    }

    fn restore_x87(&self, st: &mut X86State, wide: bool) {
        set_status_word(st, self.get(2, 2) as u16);
        st.x87_empty = !self.get(4, 1) as u32 & 0xff;
        let op = self.get(6, 2) as u32 & 0x7ff;
        if wide {
            (st.x87_ip, st.x87_dp) = (self.get(8, 8), self.get(16, 8));
            st.x87_cs_ds_op = [0, 0, op, 0];
        } else {
            (st.x87_ip, st.x87_dp) = (self.get(8, 4), self.get(16, 4));
            st.x87_cs_ds_op = [self.get(12, 2) as u32, self.get(20, 2) as u32, op, 0];
        }
        for i in 0..8 {
            st.x87[(st.x87_top as usize + i) & 7] = X87Register {
                significand: self.get(32 + 16 * i, 8),
                sign_exponent: self.get(40 + 16 * i, 2) as u16,
                ..X87Register::default()
            };
        }
        set_control_word(st, self.get(0, 2) as u16);
    }

    fn save_mxcsr(&mut self, st: &X86State) {
        self.put(24, 4, u64::from(st.mxcsr));
        self.put(28, 4, u64::from(MXCSR_MASK));
    }

    fn save_sse(&mut self, st: &X86State, registers: usize) {
        for (i, r) in st.vec.iter().enumerate().take(registers) {
            self.put(160 + 16 * i, 8, r[0]);
            self.put(168 + 16 * i, 8, r[1]);
        }
    }

    fn restore_sse(&self, st: &mut X86State, registers: usize) {
        for (i, r) in st.vec.iter_mut().enumerate().take(registers) {
            r[0] = self.get(160 + 16 * i, 8);
            r[1] = self.get(168 + 16 * i, 8);
        }
    }

    fn save_avx(&mut self, st: &X86State, registers: usize) {
        for (i, r) in st.vec.iter().enumerate().take(registers) {
            self.put(EXTENDED + 16 * i, 8, r[2]);
            self.put(EXTENDED + 8 + 16 * i, 8, r[3]);
        }
    }

    fn restore_avx(&self, st: &mut X86State, registers: usize) {
        for (i, r) in st.vec.iter_mut().enumerate().take(registers) {
            r[2] = self.get(EXTENDED + 16 * i, 8);
            r[3] = self.get(EXTENDED + 8 + 16 * i, 8);
        }
    }

    /// The new MXCSR, if it has no reserved bit.
    fn mxcsr(&self) -> Result<u32, Malformed> {
        let v = self.get(24, 4) as u32;
        if v & !MXCSR_MASK != 0 { Err(Malformed) } else { Ok(v) }
    }
}

/// Vector registers that an area of the current mode has.
fn registers(control: u64) -> usize {
    if control & LONG != 0 { 16 } else { 8 }
}

/// Fast FXSAVE leaves the XMM registers out at CPL 0 in 64-bit mode (APM vol. 2, 11.4.4).
fn is_fast(st: &X86State, control: u64) -> bool {
    st.efer & EFER_FFXSR != 0 && st.cpl() == 0 && control & LONG != 0
}

/// FXSAVE into the first 512 bytes of `area`. The last 48 bytes stay as they are.
pub fn fxsave(st: &X86State, control: u64, area: &mut Area) {
    area.save_x87(st, control & WIDE_POINTERS != 0);
    area.save_mxcsr(st);
    if !is_fast(st, control) {
        area.save_sse(st, registers(control));
    }
}

/// FXRSTOR.
///
/// # Errors
/// A reserved bit of MXCSR is set; nothing was loaded.
pub fn fxrstor(st: &mut X86State, control: u64, area: &Area) -> Result<(), Malformed> {
    st.mxcsr = area.mxcsr()?;
    area.restore_x87(st, control & WIDE_POINTERS != 0);
    if !is_fast(st, control) {
        area.restore_sse(st, registers(control));
    }
    Ok(())
}

/// State components that are not in their initial configuration (SDM vol. 1, 13.6).
fn in_use(st: &X86State, control: u64) -> u64 {
    let vec = &st.vec[..registers(control)];
    let x87 = st.x87_cw != 0x37f
        || status_word(st) != 0
        || st.x87_empty != 0xff
        || st.x87_ip | st.x87_dp != 0
        || st.x87_cs_ds_op != [0; 4]
        || st.x87.iter().any(|r| *r != X87Register::default());
    let sse = vec.iter().any(|r| r[0] | r[1] != 0);
    let avx = vec.iter().any(|r| r[2] | r[3] != 0);
    u64::from(x87) | u64::from(sse) << 1 | u64::from(avx) << 2
}

/// XSAVE, XSAVEOPT or XSAVEC of the components in `requested` (EDX:EAX) into `area`, which holds the old contents;
/// returns how many bytes of it may have changed:
/// the legacy region and the header (which must hold the old contents), and what follows if that was saved.
pub fn xsave(st: &X86State, control: u64, requested: u64, area: &mut Area) -> usize {
    let kind = SaveKind::from_control(control);
    let requested = requested & st.xcr0;
    let mut used = in_use(st, control);
    if kind == SaveKind::Compacted && st.mxcsr != MXCSR_INITIAL {
        used |= SSE;
    }
    let saved = if kind == SaveKind::Standard { requested } else { requested & used };
    if saved & X87 != 0 {
        area.save_x87(st, control & WIDE_POINTERS != 0);
    }
    let mxcsr = if kind == SaveKind::Compacted { saved & SSE } else { requested & (SSE | AVX) };
    if mxcsr != 0 {
        area.save_mxcsr(st);
    }
    if saved & SSE != 0 {
        area.save_sse(st, registers(control));
    }
    if saved & AVX != 0 {
        area.save_avx(st, registers(control));
    }
    if kind == SaveKind::Compacted {
        area.put(HEADER, 8, requested & used);
        area.put(HEADER + 8, 8, requested | 1 << 63);
    } else {
        let old = area.get(HEADER, 8);
        area.put(HEADER, 8, old & !requested | requested & used);
    }
    if saved & AVX != 0 { EXTENDED + 16 * registers(control) } else { EXTENDED }
}

/// Bytes beyond legacy region and header that XRSTOR reads, given those.
pub fn extended_bytes(st: &X86State, control: u64, requested: u64, area: &Area) -> usize {
    let avx = requested & st.xcr0 & area.get(HEADER, 8) & AVX != 0;
    if avx { 16 * registers(control) } else { 0 }
}

/// XRSTOR of the components in `requested` (EDX:EAX).
///
/// # Errors
/// The header or MXCSR is malformed; nothing was loaded.
pub fn xrstor(st: &mut X86State, control: u64, requested: u64, area: &Area) -> Result<(), Malformed> {
    let requested = requested & st.xcr0;
    let present = area.get(HEADER, 8);
    let layout = area.get(HEADER + 8, 8);
    let compacted = layout >> 63 != 0;
    let reserved_from = if compacted { HEADER + 16 } else { HEADER + 8 };
    let reserved_to = if compacted { HEADER + 64 } else { HEADER + 24 };
    let reserved = area.0[reserved_from..reserved_to].iter().any(|&b| b != 0);
    let allowed = if compacted { layout & !(1 << 63) } else { st.xcr0 };
    let outside = present & !allowed | if compacted { allowed & !st.xcr0 } else { 0 };
    if reserved || outside != 0 {
        return Err(Malformed);
    }
    let wanted_mxcsr = if compacted { requested & present & SSE } else { requested & (SSE | AVX) };
    let mxcsr = if wanted_mxcsr != 0 { Some(area.mxcsr()?) } else { None };
    if requested & X87 != 0 {
        if present & X87 != 0 {
            area.restore_x87(st, control & WIDE_POINTERS != 0);
        } else {
            crate::x87::execute::initialize(st);
            st.x87 = [X87Register::default(); 8];
        }
    }
    match mxcsr {
        Some(v) => st.mxcsr = v,
        None if compacted && requested & SSE != 0 => st.mxcsr = MXCSR_INITIAL,
        None => {}
    }
    let n = registers(control);
    let zero = Area([0; WHOLE]);
    if requested & SSE != 0 {
        if present & SSE != 0 { area } else { &zero }.restore_sse(st, n);
    }
    if requested & AVX != 0 {
        if present & AVX != 0 { area } else { &zero }.restore_avx(st, n);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn busy() -> X86State {
        let mut st = X86State::reset();
        st.xcr0 = 7;
        crate::x87::execute::initialize(&mut st);
        st.x87_top = 5;
        st.x87_empty = 0x1f;
        for (i, r) in st.x87.iter_mut().enumerate() {
            *r = X87Register { significand: i as u64 | 1 << 63, sign_exponent: 0x3fff, ..Default::default() };
        }
        for (i, r) in st.vec.iter_mut().enumerate() {
            *r = [i as u64, 1, 2, 3 + i as u64];
        }
        st.mxcsr = 0x9fc1;
        st
    }

    fn same(a: &X86State, b: &X86State) {
        assert_eq!(
            (a.x87, a.x87_top, a.x87_empty, a.x87_cw, a.mxcsr),
            (b.x87, b.x87_top, b.x87_empty, b.x87_cw, b.mxcsr)
        );
        assert_eq!(a.vec, b.vec);
    }

    #[test]
    fn every_kind_of_save_restores_the_same_state() {
        for kind in [SaveKind::Standard, SaveKind::Optimized, SaveKind::Compacted] {
            let st = busy();
            let mut area = Area([0; WHOLE]);
            let control = kind as u64 | LONG | WIDE_POINTERS;
            assert_eq!(xsave(&st, control, u64::MAX, &mut area), WHOLE);
            let mut back = X86State::reset();
            back.xcr0 = 7;
            xrstor(&mut back, SaveKind::Standard as u64 | LONG | WIDE_POINTERS, u64::MAX, &area).unwrap();
            same(&st, &back);
        }
    }

    #[test]
    fn fxsave_orders_registers_from_the_top() {
        let st = busy();
        let mut area = Area([0; WHOLE]);
        fxsave(&st, LONG, &mut area);
        assert_eq!(area.get(32, 8), st.x87[5].significand);
        assert_eq!(area.get(2, 2) >> 11 & 7, 5);
        assert_eq!(area.get(4, 1), 0xe0);
    }

    #[test]
    fn components_that_are_absent_become_initial() {
        let mut st = busy();
        let area = Area([0; WHOLE]);
        xrstor(&mut st, LONG, 6, &area).unwrap();
        assert!(st.vec.iter().all(|r| *r == [0; 4]));
        assert_eq!(st.x87_top, 5, "x87 was not requested");
    }

    #[test]
    fn malformed_headers_are_refused() {
        let mut st = busy();
        let mut area = Area([0; WHOLE]);
        area.put(HEADER, 8, 8);
        assert_eq!(xrstor(&mut st, LONG, 7, &area), Err(Malformed));
        area.put(HEADER, 8, 0);
        area.put(HEADER + 16, 8, 1);
        assert_eq!(xrstor(&mut st, LONG, 7, &area), Err(Malformed));
        area.put(HEADER + 16, 8, 0);
        area.put(24, 4, 1 << 16);
        assert_eq!(xrstor(&mut st, LONG, 7, &area), Err(Malformed));
    }
}
