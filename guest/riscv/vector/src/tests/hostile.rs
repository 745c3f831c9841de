//! Any instruction in any state, legal or not: no panic, and vl and registers stay within their bounds.

use proptest::prelude::*;

use super::*;
use crate::memory::{Legality, Memory, Transfer, load, store};

/// Takes every other page.
struct Pages<'a>(&'a mut RiscvState);

impl Memory for Pages<'_> {
    type Fault = ();

    fn state(&mut self) -> &mut RiscvState {
        self.0
    }

    fn load(&mut self, address: u64, _: u32) -> Result<u64, ()> {
        if address & 0x1000 == 0 { Ok(address) } else { Err(()) }
    }

    fn store(&mut self, address: u64, _: u32, _: u64) -> Result<(), ()> {
        if address & 0x1000 == 0 { Ok(()) } else { Err(()) }
    }

    fn can_load(&mut self, address: u64, _: u32) -> bool {
        address & 0x1000 == 0
    }
}

fn state(vlen: u32, words: [u64; 6]) -> RiscvState {
    let [seed, vtype, vl, vstart, fcsr, vcsr] = words;
    let mut st = CpuModel::parse(&format!("max,vlen={vlen}")).unwrap().reset_state(0, 0);
    for (i, byte) in st.v.0.iter_mut().enumerate() {
        *byte = (seed.rotate_left(i as u32) ^ i as u64) as u8;
    }
    // What a snapshot may hold, not only what instructions can set.
    (st.vtype, st.vl, st.vstart) = (vtype, vl, vstart);
    (st.frm, st.fflags, st.vxrm) = (fcsr as u32 & 7, 0, vcsr as u32);
    st
}

/// Numbers of all sizes.
fn number() -> impl Strategy<Value = u64> {
    prop_oneof![0..4u64, 0..300u64, any::<u64>()]
}

/// A seed of registers, vtype, vl, vstart, frm and vcsr.
fn words() -> impl Strategy<Value = [u64; 6]> {
    (any::<u64>(), prop_oneof![0..256u64, any::<u64>()], number(), number(), 0..8u64, any::<u64>())
        .prop_map(|(seed, vtype, vl, vstart, frm, vcsr)| [seed, vtype, vl, vstart, frm, vcsr])
}

proptest! {
    #[test]
    fn any_operation(
        vlen in prop::sample::select(vec![128u32, 256, 1024]),
        words in words(),
        op in 0..Op::ALL.len() as u64,
        operands in any::<u64>(),
        scalar in number(),
    ) {
        let mut st = state(vlen, words);
        let o = Operation::from_bits(operands & !0xffff | op).unwrap();
        let before = st.clone();
        if execute(&mut st, o, scalar).is_err() {
            prop_assert_eq!((st.vstart, st.v.0, st.fflags), (before.vstart, before.v.0, before.fflags));
        } else {
            prop_assert_eq!(st.vstart, 0);
            let used = 4 * vlen as usize;
            prop_assert!(st.v.0[used..] == before.v.0[used..], "behind the registers");
        }
    }

    #[test]
    fn any_transfer(
        vlen in prop::sample::select(vec![128u32, 256, 1024]),
        words in words(),
        bits in any::<u64>(),
        base in number(),
        stride in number(),
    ) {
        let mut st = state(vlen, words);
        let before = st.clone();
        let t = Transfer::from_bits(bits);
        let _ = load(&mut Pages(&mut st), t, base, stride, Legality::Unknown);
        let used = 4 * vlen as usize;
        prop_assert!(st.v.0[used..] == before.v.0[used..], "behind the registers");
        let _ = store(&mut Pages(&mut st), t, base, stride, Legality::Unknown);
        prop_assert!(st.vl <= before.vl);
    }
}
