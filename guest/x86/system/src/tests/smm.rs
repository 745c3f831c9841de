use rhea_x86_state::flags;
use rhea_x86_state::state::{gpr, seg};

use crate::exception::Exception;
use crate::smm::{enter, rsm};
use crate::test_bus::{long, protected};

#[test]
fn rsm_restores_what_smi_saved() {
    for model in ["max", "pentium3"] {
        let (mut st, mut bus) = if model == "max" { long(model, 3) } else { protected(model, 3) };
        for i in 0..8 {
            st.gpr[i] = 0x1111_1111 * (i as u64 + 1);
        }
        st.set_rflags(flags::IF | flags::DF | flags::CF | 2);
        st.halted = 1;
        st.mode = st.compute_mode();
        let before = st.clone();
        enter(&mut st, &mut bus);
        assert_eq!((st.rip, st.seg[seg::CS].base, st.cpl(), st.smm), (0x8000, 0x3_0000, 0, 1));
        assert_eq!(st.seg[seg::CS].selector, 0x3000);
        assert_eq!(st.halted, 0);
        st.gpr[gpr::RAX] = 0;
        rsm(&mut st, &mut bus).unwrap();
        assert_eq!((st.rip, st.gpr, st.seg), (before.rip, before.gpr, before.seg), "{model}");
        assert_eq!((st.cr, st.efer, st.rflags()), (before.cr, before.efer, before.rflags()));
        assert_eq!((st.gdtr, st.idtr, st.tr, st.ldtr), (before.gdtr, before.idtr, before.tr, before.ldtr));
        assert_eq!((st.mode, st.halted, st.smm), (before.mode, 1, 0));
        assert_eq!(rsm(&mut st, &mut bus), Err(Exception::ud()));
    }
}

#[test]
fn smbase_moves_and_nonsense_shuts_down() {
    let (mut st, mut bus) = long("max", 0);
    enter(&mut st, &mut bus);
    bus.put(0x3_ff00, 4, 0xa_0000);
    rsm(&mut st, &mut bus).unwrap();
    assert_eq!(st.smbase, 0xa_0000);
    enter(&mut st, &mut bus);
    assert_eq!(st.seg[seg::CS].selector, 0xa000);
    // PG without PE.
    bus.put(0xa_ff58, 8, 0x8000_0000);
    rsm(&mut st, &mut bus).unwrap();
    assert_eq!((st.shutdown, bus.shutdowns), (1, 1));
}
