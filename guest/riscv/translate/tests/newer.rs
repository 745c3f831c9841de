//! Extensions that objdump 2.40 does not know: a word of each, and its text as another assembler takes it.

use rhea_riscv_translate::{Feature, Features, Xlen, decode16, decode32};

/// Words and texts.
const WORDS: &[(u32, &str)] = &[
    (0xf01a0f53, "fli.s ft10,0x1p+1"),
    (0xf4138453, "fli.h fs0,0x1p-3"),
    (0x2b24a6d3, "fminm.d fa3,fs1,fs2"),
    (0x44412753, "fround.h fa4,ft2,rdn"),
    (0x425b4253, "froundnx.d ft4,fs6,rmm"),
    (0xc28393d3, "fcvtmod.w.d t2,ft7,rtz"),
    (0xa18b43d3, "fleq.s t2,fs6,fs8"),
    (0xf525033, "czero.eqz zero,tp,s5"),
    (0xeaefc33, "czero.nez s8,t4,a0"),
    (0x2ebfa72f, "amocas.w.aqrl a4,a1,(t6)"),
    (0x28f73e2f, "amocas.d t3,a5,(a4)"),
    (0x2b24c32f, "amocas.q.rl t1,s2,(s1)"),
    (0x2fb689af, "amocas.b.aqrl s3,s11,(a3)"),
    (0x6be922f, "amoadd.h.aqrl tp,a1,(t4)"),
    (0xe270092f, "amomaxu.b.rl s2,t2,(zero)"),
    (0x8338, "c.lbu a4,2(a4)"),
    (0x87ac, "c.lhu a1,2(a5)"),
    (0x8458, "c.lh a4,0(s0)"),
    (0x8ac4, "c.sb s1,1(a3)"),
    (0x8cac, "c.sh a1,2(s1)"),
    (0x9e61, "c.zext.b a2"),
    (0x9ef5, "c.not a3"),
    (0x9fd1, "c.mul a5,a2"),
    (0x9f71, "c.zext.w a4"),
    (0x6181, "c.mop.3"),
    (0xc1ec4af3, "mop.r.18 s5,s8"),
    (0xc39bcaf3, "mop.rr.4 s5,s7,s9"),
    (0x400033, "ntl.s1"),
    (0x606ce57, "vandn.vx v28,v0,a3"),
    (0x52e33057, "vror.vi v0,v14,6"),
    (0xd7ad3a57, "vwsll.vi v20,v26,26"),
    (0x4ad723d7, "vcpop.v v7,v13"),
    (0x321869d7, "vclmul.vx v19,v1,a6"),
    (0xb204a777, "vghsh.vv v14,v0,v9"),
    (0xa2c8a5f7, "vgmul.vv v11,v12"),
    (0xa6a3a777, "vaesz.vs v14,v10"),
    (0x8ad028f7, "vaeskf1.vi v17,v13,0"),
    (0xbe45a8f7, "vsha2cl.vv v17,v4,v11"),
    (0x8745a2f7, "vsm4k.vi v5,v20,11"),
    (0xa6482077, "vsm4r.vs v0,v4"),
    (0xae5e2f77, "vsm3c.vi v30,v5,28"),
    (0x8217ab77, "vsm3me.vv v22,v1,v15"),
];

fn text(word: u32, features: &Features) -> Option<String> {
    let instruction = if word & 3 == 3 { decode32(word, features) } else { decode16(word, features) };
    instruction.map(|instruction| instruction.display(0, 64).to_string())
}

#[test]
fn words_of_newer_extensions_have_their_texts() {
    let everything = Features::everything(Xlen::Rv64);
    for (word, wanted) in WORDS {
        assert_eq!(text(*word, &everything).as_deref(), Some(*wanted), "{word:#x}");
    }
}

#[test]
fn without_its_extension_a_word_is_no_instruction_or_a_base_one() {
    let base = Features::base(Xlen::Rv64);
    for (word, extended) in WORDS {
        let plain = text(*word, &base);
        // Hints are base instructions with nothing to do.
        assert!(plain.is_none() || extended.starts_with("ntl"), "{word:#x} is {plain:?}");
    }
}

#[test]
fn each_feature_matters() {
    let everything = Features::everything(Xlen::Rv64);
    assert_eq!(text(0x0ff0_000f, &everything).as_deref(), Some("fence iorw,iorw"));
    assert_eq!(text(0x0100_000f, &everything).as_deref(), Some("pause"));
    assert_eq!(text(0x0100_000f, &everything.without(Feature::Zihintpause)).as_deref(), Some("fence w,0"));
    assert_eq!(text(0x9002, &everything).as_deref(), Some("c.ebreak"));
    assert_eq!(text(0x9002, &everything.without(Feature::Zca)), None);
    assert_eq!(text(0, &everything), None, "sixteen zeros are never an instruction");
}
