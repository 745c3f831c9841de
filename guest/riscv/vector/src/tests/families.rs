//! One of each family, with results from the specification's definitions.

use super::*;

#[test]
fn vl_is_the_smaller_of_avl_and_vlmax_and_an_unsupported_vtype_is_vill() {
    let mut st = CpuModel::parse("max,vlen=256").unwrap().reset_state(0, 0);
    assert_eq!(set_vl(&mut st, Avl::Elements(1000), E8 | 3), 256);
    assert_eq!(set_vl(&mut st, Avl::Max, E64), 4);
    assert_eq!(set_vl(&mut st, Avl::Keep, E32), 4);
    assert_eq!(set_vl(&mut st, Avl::Elements(3), E32 | 0xc0 | 7), 3);
    for reserved in [4, E64 | 4 << 3, 1 << 8, 1 << 63, E64 | 5 | 1 << 62] {
        st.vstart = 1;
        assert_eq!(set_vl(&mut st, Avl::Elements(1), reserved), 0, "{reserved:#x}");
        assert_eq!((st.vtype >> 63, st.vl, st.vstart), (1, 0, 0));
        assert!(refused(&mut st, vv(Op::Vadd)));
    }
    let small = CpuModel::parse("rv64,zve32x=on").unwrap().reset_state(0, 0);
    assert!(crate::Vtype::parse(&small.config, E64).is_none(), "ELEN is 32");
}

#[test]
fn sums_leave_tail_masked_and_early_elements_alone() {
    let mut st = hart(E16, 6);
    put16(&mut st, 2, &[1, 2, 3, 4, 5, 6, 7, 8]);
    put16(&mut st, 1, &[10, 20, 30, 40, 50, 60, 70, 80]);
    put16(&mut st, 3, &[9; 8]);
    st.vector_mut(0)[0] = 0b1111_1011;
    st.vstart = 1;
    run(&mut st, Operation { masked: true, ..vv(Op::Vadd) });
    assert_eq!(get16(&st, 3), [9, 22, 9, 44, 55, 66, 9, 9]);
    assert_eq!(st.vstart, 0);
    run_with(&mut st, vx(Op::Vrsub), 100);
    assert_eq!(get16(&st, 3)[..6], [99, 98, 97, 96, 95, 94]);
}

#[test]
fn division_has_its_results_for_zero_and_overflow() {
    let mut st = hart(E16, 4);
    put16(&mut st, 2, &[7, 0x8000, 7, 0xfff9]);
    put16(&mut st, 1, &[0, 0xffff, 2, 2]);
    run(&mut st, vv(Op::Vdiv));
    assert_eq!(get16(&st, 3)[..4], [0xffff, 0x8000, 3, 0xfffd]);
    run(&mut st, vv(Op::Vrem));
    assert_eq!(get16(&st, 3)[..4], [7, 0, 1, 0xffff]);
}

#[test]
fn groups_widths_and_overlaps_that_are_reserved_are_refused() {
    let mut st = hart(E16 | 1, 16);
    assert!(refused(&mut st, vv(Op::Vadd)), "odd registers of a group of two");
    let even = Operation { op: Op::Vadd, vd: 4, vs1: 2, vs2: 6, masked: false, scalar: false };
    run(&mut st, even);
    assert!(refused(&mut st, Operation { vd: 0, masked: true, ..even }), "the mask as result");
    run(&mut st, Operation { op: Op::Vmseq, vd: 0, masked: true, ..even });
    let wide = Operation { op: Op::Vwadd, vd: 4, vs1: 2, vs2: 6, masked: false, scalar: false };
    run(&mut st, wide);
    assert!(refused(&mut st, Operation { vs2: 4, ..wide }), "in the lower half of the result");
    run(&mut st, Operation { op: Op::Vnsrl, vd: 4, vs2: 4, vs1: 2, ..wide });
    assert!(refused(&mut st, Operation { op: Op::Vnsrl, vd: 6, vs2: 4, vs1: 2, ..wide }));
    assert!(refused(&mut st, Operation { op: Op::Vrgather, vd: 2, vs1: 2, ..even }));
    let mut st = hart(E64, 2);
    assert!(refused(&mut st, vv(Op::Vwadd)), "128 bits");
    st.vstart = 1;
    assert!(refused(&mut st, vv(Op::Vredsum)), "from the first element only");
    st.frm = 5;
    st.vstart = 0;
    assert!(refused(&mut st, vv(Op::Vfsgnj)), "a reserved rounding mode");
}

#[test]
fn fixed_point_rounds_and_saturates() {
    let mut st = hart(E16, 4);
    put16(&mut st, 2, &[0x7fff, 0x8000, 5, 3]);
    put16(&mut st, 1, &[1, 0xffff, 0, 0]);
    run(&mut st, vv(Op::Vsadd));
    assert_eq!((get16(&st, 3)[..2].to_vec(), st.vxsat), (vec![0x7fff, 0x8000], 1));
    st.vxsat = 0;
    for (vxrm, wanted) in [(0, [3, 2]), (1, [2, 2]), (2, [2, 1]), (3, [3, 1])] {
        st.vxrm = vxrm;
        run(&mut st, vv(Op::Vaadd));
        assert_eq!(get16(&st, 3)[2..4], wanted, "{vxrm}");
    }
    assert_eq!(st.vxsat, 0);
    put16(&mut st, 1, &[0x8000; 4]);
    put16(&mut st, 2, &[0x8000; 4]);
    run(&mut st, vv(Op::Vsmul));
    assert_eq!((get16(&st, 3)[0], st.vxsat), (0x7fff, 1));
}

#[test]
fn reductions_start_from_element_zero_of_vs1() {
    let mut st = hart(E16, 3);
    put16(&mut st, 2, &[1, 2, 0xffff, 100]);
    put16(&mut st, 1, &[1000, 7]);
    put16(&mut st, 3, &[5, 5]);
    run(&mut st, vv(Op::Vredsum));
    assert_eq!(get16(&st, 3)[..2], [1002, 5]);
    run(&mut st, vv(Op::Vredmin));
    assert_eq!(get16(&st, 3)[0], 0xffff);
    put32(&mut st, 1, &[0x1_0000]);
    run(&mut st, vv(Op::Vwredsumu));
    assert_eq!(get32(&st, 3)[0], 0x1_0000 + 0x1_0002);
}

#[test]
fn masks_are_counted_searched_and_combined() {
    let mut st = hart(E8, 16);
    st.vector_mut(2)[..2].copy_from_slice(&[0b0101_0000, 0b1000_0001]);
    st.vector_mut(1)[..2].copy_from_slice(&[0xff, 0]);
    assert_eq!(run(&mut st, vv(Op::VcpopM)), 4);
    assert_eq!(run(&mut st, vv(Op::VfirstM)), 4);
    run(&mut st, vv(Op::Vmandn));
    assert_eq!(st.vector(3)[..2], [0, 0b1000_0001]);
    for (op, wanted) in [(Op::Vmsbf, 0x0f), (Op::Vmsof, 0x10), (Op::Vmsif, 0x1f)] {
        run(&mut st, vv(op));
        assert_eq!(st.vector(3)[..2], [wanted, 0], "{op:?}");
    }
    run(&mut st, vv(Op::Viota));
    assert_eq!(st.vector(3)[..10], [0, 0, 0, 0, 0, 1, 1, 2, 2, 3]);
    st.vector_mut(2).fill(0);
    assert_eq!(run(&mut st, vv(Op::VfirstM)), u64::MAX);
}

#[test]
fn elements_slide_gather_and_compress() {
    let mut st = hart(E16, 8);
    put16(&mut st, 2, &[10, 11, 12, 13, 14, 15, 16, 17]);
    run_with(&mut st, vx(Op::Vslidedown), 6);
    assert_eq!(get16(&st, 3), [16, 17, 0, 0, 0, 0, 0, 0]);
    run_with(&mut st, vx(Op::Vslideup), 6);
    assert_eq!(get16(&st, 3), [16, 17, 0, 0, 0, 0, 10, 11]);
    run_with(&mut st, vx(Op::Vslidedown), u64::MAX);
    assert_eq!(get16(&st, 3), [0; 8]);
    run_with(&mut st, vx(Op::Vslide1down), 99);
    assert_eq!(get16(&st, 3), [11, 12, 13, 14, 15, 16, 17, 99]);
    put16(&mut st, 1, &[7, 8, 0xffff, 0, 1, 2, 3, 4]);
    run(&mut st, vv(Op::Vrgather));
    assert_eq!(get16(&st, 3), [17, 0, 0, 10, 11, 12, 13, 14]);
    st.vector_mut(1)[0] = 0b1000_0101;
    run(&mut st, vv(Op::Vcompress));
    assert_eq!(get16(&st, 3)[..4], [10, 12, 17, 10]);
}

#[test]
fn floats_round_as_frm_says_and_gather_flags() {
    let mut st = hart(E32, 4);
    let f = f32::to_bits;
    put32(&mut st, 2, &[f(1.0), f(f32::INFINITY), f(f32::MAX), f(0.0)]);
    put32(&mut st, 1, &[f(f32::EPSILON / 4.0), f(f32::NEG_INFINITY), f(f32::MAX), 0x7f80_0001]);
    st.frm = 3;
    run(&mut st, vv(Op::Vfadd));
    assert_eq!(get32(&st, 3), [f(1.0 + f32::EPSILON), 0x7fc0_0000, f(f32::INFINITY), 0x7fc0_0000]);
    assert_eq!(st.fflags, 0b10101, "NV, OF, NX");
    // A scalar that is not boxed is a NaN.
    run_with(&mut st, vx(Op::Vfmv), u64::from(f(1.0)));
    assert_eq!(get32(&st, 3), [0x7fc0_0000; 4]);
    st.fflags = 0;
    run_with(&mut st, vx(Op::Vmflt), u64::from(f(0.5)) | u64::MAX << 32);
    assert_eq!((st.vector(3)[0] & 15, st.fflags), (0b1000, 0));
}

#[test]
fn conversions_saturate_and_round_to_odd() {
    let mut st = hart(E16, 4);
    let f = f32::to_bits;
    let to4 = |op| Operation { vd: 4, ..vv(op) };
    put32(&mut st, 2, &[f(1e9), f(-5.5), f(f32::NAN), f(2.5)]);
    run(&mut st, to4(Op::VfncvtXF));
    assert_eq!(get16(&st, 4)[..4], [0x7fff, 0xfffa, 0x7fff, 2]);
    run(&mut st, to4(Op::VfncvtRodFF));
    assert_eq!(get16(&st, 4)[..2], [0x7bff, 0xc580]);
    put32(&mut st, 2, &[f(1.0) + 1, f(1.0) - 1]);
    run(&mut st, to4(Op::VfncvtRodFF));
    assert_eq!(get16(&st, 4)[..2], [0x3c01, 0x3bff]);
}

/// FIPS 197, appendix B: the first round, in two instructions (the key addition before it and the round).
#[test]
fn aes_does_the_round_of_the_standard() {
    let mut st = hart(E32, 4);
    let bytes = |hex: u128| hex.to_be_bytes();
    st.vector_mut(3).copy_from_slice(&bytes(0x3243f6a8_885a308d_313198a2_e0370734));
    st.vector_mut(2).copy_from_slice(&bytes(0x2b7e1516_28aed2a6_abf71588_09cf4f3c));
    run(&mut st, vv(Op::Vaesz));
    run(&mut st, Operation { vs1: 1, vs2: 2, vd: 4, ..vv(Op::Vaeskf1) });
    assert_eq!(st.vector(4), bytes(0xa0fafe17_88542cb1_23a33939_2a6c7605));
    run(&mut st, Operation { vs2: 4, ..vv(Op::VaesemVV) });
    assert_eq!(st.vector(3), bytes(0xa49c7ff2_689f352b_6b5bea43_026a5049));
    // Backwards: the round's key comes off before the columns are unmixed.
    let before = st.vector(3).to_vec();
    run(&mut st, Operation { vs2: 4, ..vv(Op::VaesdmVV) });
    assert_ne!(st.vector(3), before);
    st.vl = 3;
    assert!(refused(&mut st, vv(Op::VaesemVV)), "part of a group");
}

#[test]
fn operations_survive_being_numbers() {
    for op in Op::ALL {
        let o = Operation { op: *op, vd: 31, vs1: 17, vs2: 1, masked: true, scalar: false };
        assert_eq!(Operation::from_bits(o.to_bits()), Some(o));
        let o = Operation { scalar: true, masked: false, ..o };
        assert_eq!(Operation::from_bits(o.to_bits()), Some(o));
    }
    assert_eq!(Operation::from_bits(0xffff), None);
}
