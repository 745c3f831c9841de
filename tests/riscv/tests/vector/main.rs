//! Every vector instruction with random operands, against `qemu-riscv64` (package `qemu-user`): all registers, flags and
//! memory must be the same, and what is reserved here must be illegal there. Without the package the tests are skipped.
//!
//! `RHEA_VECTOR_CASES` sets how many requests each instruction gets (40 if not set).

mod cases;
mod ours;
mod server;

use rhea_riscv_translate::{ENCODINGS, Features, Xlen, decode32};

use cases::Random;
use ours::Ours;
use server::{Answer, Request, Server};

/// Vector instructions are those of the opcodes OP-V and OP-VE, and those of LOAD-FP and STORE-FP with vector widths.
fn is_vector(value: u64) -> bool {
    match value & 0x7f {
        0x57 | 0x77 => true,
        0x07 | 0x27 => matches!(value >> 12 & 7, 0 | 5 | 6 | 7),
        _ => false,
    }
}

/// Whether the peer is known to differ: it takes some words that the specification reserves, and refuses one kind that
/// it does not.
fn is_excused(name: &str, r: &Request, ours: &Answer, theirs: &Answer) -> bool {
    if ours.signal == 0 && theirs.signal == 4 {
        // SHA-2 with groups of less than a register, which hold a group of elements where VLEN is large.
        return name.starts_with("vsha2") && r.vtype & 4 != 0;
    }
    if name.contains("ff.") && r.word >> 29 != 0 && theirs.signal == 11 {
        // A segment that crosses into a page that is not there cuts vl, unless it is the first.
        return ours.signal == 0 && ours.vl < theirs.vl;
    }
    if ours.signal != 4 || theirs.signal == 4 {
        return false;
    }
    // Extensions from fractions below an eighth.
    if name.starts_with("vzext") || name.starts_with("vsext") {
        return r.vtype & 4 != 0;
    }
    // A register that is read with two widths ("Vector Operands"), one of them perhaps that of a mask: as far as can be
    // seen without groups.
    let field = |at: u32| (r.word >> at & 31) as u8;
    let near = |a: u8, b: u8| a.abs_diff(b) < 8;
    let (vd, vs1, vs2) = (field(7), field(15), field(20));
    let mask = r.word >> 25 & 1 == 0;
    match r.word & 0x7f {
        0x27 => (mask && near(vd, 0)) || (r.word >> 26 & 1 != 0 && (near(vd, vs2) || (mask && near(vs2, 0)))),
        _ if name.starts_with("vwred") || name.starts_with("vfwred") || name == "vcompress.vm" => {
            near(vs1, vs2) || (mask && (near(vs1, 0) || near(vs2, 0)))
        }
        _ => mask && (near(vs1, 0) || near(vs2, 0)),
    }
}

fn differences(r: &Request, ours: &Answer, theirs: &Answer, vlen: u32) -> Vec<String> {
    let mut all = Vec::new();
    let mut note = |what: &str, a: u64, b: u64| {
        if a != b {
            all.push(format!("{what}: {a:#x}, not {b:#x}"));
        }
    };
    note("signal", ours.signal, theirs.signal);
    if ours.signal == theirs.signal {
        note("vtype", ours.vtype, theirs.vtype);
        note("vl", ours.vl, theirs.vl);
        note("vstart", ours.vstart, theirs.vstart);
        note("vcsr", ours.vcsr, theirs.vcsr);
        note("fcsr", ours.fcsr, theirs.fcsr);
        note("a2", ours.a2, theirs.a2);
        note("fa2", ours.fa2, theirs.fa2);
        let bytes = vlen as usize / 8;
        for (i, (a, b)) in ours.registers.chunks(bytes).zip(theirs.registers.chunks(bytes)).enumerate() {
            if a != b {
                let before = &r.registers[i * bytes..][..bytes];
                all.push(format!("v{i}: {}\n     not {}\n     was {}", hex(a), hex(b), hex(before)));
            }
        }
        if let Some(at) = ours.page.iter().zip(&theirs.page).position(|(a, b)| a != b) {
            all.push(format!("memory from {at:#x}"));
        }
    }
    all
}

/// Highest byte first, as numbers are written.
fn hex(bytes: &[u8]) -> String {
    bytes.iter().rev().map(|b| format!("{b:02x}")).collect()
}

fn compare(vlen: u32) {
    let Some(mut server) = Server::start(vlen) else { return };
    let ours = Ours::new(vlen);
    let features = Features::everything(Xlen::Rv64);
    let count = std::env::var("RHEA_VECTOR_CASES").ok().and_then(|n| n.parse().ok()).unwrap_or(40);
    let mut failures = Vec::new();
    let mut compared = 0;
    for (number, encoding) in ENCODINGS.iter().filter(|e| is_vector(e.value)).enumerate() {
        let mut random = Random::new(number as u64 * 1000 + u64::from(vlen));
        let (mut failed, mut legal) = (0, 0);
        for _ in 0..count {
            let r = cases::request(&mut random, encoding, vlen);
            let a = ours.ask(&r);
            let Some(b) = server.ask(&r) else {
                // QEMU 10.0 has assertions that fail when an element of a fault-only-first load crosses a page, and
                // when a transfer of whole registers begins behind its end.
                let whole = matches!(encoding.value & 0x1f0_0000, 0x80_0000) && r.vstart != 0;
                assert!(
                    encoding.name.contains("ff.") || whole,
                    "{}: the peer is gone: {r:x?}",
                    encoding.name
                );
                server = Server::start(vlen).unwrap();
                continue;
            };
            let all = differences(&r, &a, &b, vlen);
            legal += u32::from(a.signal == 0);
            compared += 1;
            if !all.is_empty() && !is_excused(encoding.name, &r, &a, &b) {
                failed += 1;
                if failed == 1 {
                    let text = decode32(r.word, &features).map(|i| i.display(0, 64).to_string());
                    failures.push(format!(
                        "{} ({:?}, vtype {:#x}, vl {}, vstart {}, a0 {:#x}, a1 {:#x}, fa0 {:#x}, fcsr {:#x})\n  {}",
                        encoding.name,
                        text.unwrap_or_default(),
                        r.vtype,
                        b.vl,
                        r.vstart,
                        r.a0,
                        r.a1,
                        r.fa0,
                        r.fcsr,
                        all.join("\n  ")
                    ));
                }
            }
        }
        if failed > 1 {
            failures.push(format!("  {failed} of {count}"));
        }
        if count >= 40 && legal == 0 {
            failures.push(format!("{}: no request was legal", encoding.name));
        }
    }
    eprintln!("VLEN {vlen}: {compared} requests compared");
    assert!(failures.is_empty(), "VLEN {vlen}:\n{}", failures.join("\n"));
}

#[test]
fn vector_instructions_do_what_qemu_does_with_128_bits() {
    compare(128);
}

#[test]
fn vector_instructions_do_what_qemu_does_with_256_bits() {
    compare(256);
}

#[test]
fn vector_instructions_do_what_qemu_does_with_512_bits() {
    compare(512);
}
