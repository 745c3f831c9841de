//! The hart as a debugger sees it: the target description and its registers (GDB manual, "RISC-V Features").
//!
//! CSRs are listed by whoever knows which there are (`rhea-riscv-system`); their values are read and written there too.

use std::fmt::Write;

use crate::RiscvState;
use crate::extension::Extension;
use crate::state::{HartConfig, Privilege};

/// Where a register's value is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    X(usize),
    Pc,
    F(usize),
    V(usize),
    Csr(u16),
    Privilege,
}

/// One register of the description; its number is its index in [`registers`].
#[derive(Clone, Debug)]
pub struct GdbRegister {
    /// Name in the description.
    pub name: String,
    /// Width in bits: 32, 64, or VLEN.
    pub bits: u32,
    kind: &'static str,
    feature: &'static str,
    place: Place,
}

const CPU: &str = "org.gnu.gdb.riscv.cpu";
const FPU: &str = "org.gnu.gdb.riscv.fpu";
const VECTOR: &str = "org.gnu.gdb.riscv.vector";
const CSR: &str = "org.gnu.gdb.riscv.csr";
const VIRTUAL: &str = "org.gnu.gdb.riscv.virtual";

const X_NAMES: [&str; 32] = [
    "zero", "ra", "sp", "gp", "tp", "t0", "t1", "t2", "fp", "s1", "a0", "a1", "a2", "a3", "a4", "a5", "a6",
    "a7", "s2", "s3", "s4", "s5", "s6", "s7", "s8", "s9", "s10", "s11", "t3", "t4", "t5", "t6",
];
const F_NAMES: [&str; 32] = [
    "ft0", "ft1", "ft2", "ft3", "ft4", "ft5", "ft6", "ft7", "fs0", "fs1", "fa0", "fa1", "fa2", "fa3", "fa4",
    "fa5", "fa6", "fa7", "fs2", "fs3", "fs4", "fs5", "fs6", "fs7", "fs8", "fs9", "fs10", "fs11", "ft8",
    "ft9", "ft10", "ft11",
];
/// CSRs that belong to the feature of the floating-point registers.
const FP_CSRS: [(&str, u16); 3] = [("fflags", 1), ("frm", 2), ("fcsr", 3)];

/// The registers of a hart, in the debugger's numbering. `csrs` are the names and numbers of its CSRs.
pub fn registers(config: &HartConfig, csrs: impl IntoIterator<Item = (String, u16)>) -> Vec<GdbRegister> {
    let mut list = Vec::new();
    let mut add = |name: &str, bits, kind, feature, place| {
        list.push(GdbRegister { name: name.into(), bits, kind, feature, place });
    };
    for (i, name) in X_NAMES.iter().enumerate() {
        let kind = match i {
            1 => "code_ptr",
            2..=4 | 8 => "data_ptr",
            _ => "int",
        };
        add(name, config.xlen, kind, CPU, Place::X(i));
    }
    add("pc", config.xlen, "code_ptr", CPU, Place::Pc);
    let fp = config.has(Extension::F);
    if fp {
        let (bits, kind) = if config.has(Extension::D) { (64, "riscv_double") } else { (32, "ieee_single") };
        for (i, name) in F_NAMES.iter().enumerate() {
            add(name, bits, kind, FPU, Place::F(i));
        }
        for (name, number) in FP_CSRS {
            add(name, 32, "int", FPU, Place::Csr(number));
        }
    }
    if config.has(Extension::Zve32x) {
        for i in 0..32 {
            add(&format!("v{i}"), config.vlen, "riscv_vector", VECTOR, Place::V(i));
        }
    }
    for (name, number) in csrs {
        if !fp || FP_CSRS.iter().all(|(_, n)| *n != number) {
            add(&name, config.xlen, "int", CSR, Place::Csr(number));
        }
    }
    add("priv", config.xlen, "int", VIRTUAL, Place::Privilege);
    list
}

/// The description of `list` that GDB asks for as `target.xml`.
pub fn target_xml(config: &HartConfig, list: &[GdbRegister]) -> String {
    let mut xml = String::from("<?xml version=\"1.0\"?>\n<!DOCTYPE target SYSTEM \"gdb-target.dtd\">\n");
    let _ = writeln!(xml, "<target version=\"1.0\">\n<architecture>riscv:rv{}</architecture>", config.xlen);
    let mut open = "";
    for (number, r) in list.iter().enumerate() {
        if r.feature != open {
            if !open.is_empty() {
                xml.push_str("</feature>\n");
            }
            open = r.feature;
            let _ = writeln!(xml, "<feature name=\"{open}\">");
            types(&mut xml, config, open);
        }
        let _ = writeln!(
            xml,
            "<reg name=\"{}\" bitsize=\"{}\" regnum=\"{number}\" type=\"{}\"/>",
            r.name, r.bits, r.kind
        );
    }
    xml.push_str("</feature>\n</target>\n");
    xml
}

/// The types that a feature's registers use.
fn types(xml: &mut String, config: &HartConfig, feature: &str) {
    match feature {
        FPU if config.has(Extension::D) => xml.push_str(
            "<union id=\"riscv_double\"><field name=\"float\" type=\"ieee_single\"/>\
             <field name=\"double\" type=\"ieee_double\"/></union>\n",
        ),
        VECTOR => {
            let elements = [
                ("bytes", "uint8", 8),
                ("shorts", "uint16", 16),
                ("words", "uint32", 32),
                ("longs", "uint64", 64),
            ];
            for (name, kind, bits) in elements {
                let _ =
                    writeln!(xml, "<vector id=\"{name}\" type=\"{kind}\" count=\"{}\"/>", config.vlen / bits);
            }
            xml.push_str("<union id=\"riscv_vector\">");
            for (name, _, bits) in elements.iter().rev() {
                let letter = match bits {
                    8 => "b",
                    16 => "s",
                    32 => "w",
                    _ => "l",
                };
                let _ = write!(xml, "<field name=\"{letter}\" type=\"{name}\"/>");
            }
            xml.push_str("</union>\n");
        }
        _ => (),
    }
}

impl GdbRegister {
    /// The CSR this is, which `rhea-riscv-system` reads and writes.
    pub const fn csr(&self) -> Option<u16> {
        match self.place {
            Place::Csr(number) => Some(number),
            _ => None,
        }
    }

    /// Length of the value in bytes.
    pub const fn bytes(&self) -> usize {
        self.bits as usize / 8
    }

    /// The value, little endian, [`GdbRegister::bytes`] long. Nothing for a CSR.
    pub fn read(&self, st: &RiscvState) -> Option<Vec<u8>> {
        let word = match self.place {
            Place::X(i) => st.x[i],
            Place::Pc => st.pc & !1,
            Place::F(i) => st.f[i],
            Place::Privilege => u64::from(st.privilege_bits),
            Place::V(i) => return Some(st.vector(i).to_vec()),
            Place::Csr(_) => return None,
        };
        Some(word.to_le_bytes()[..self.bytes()].to_vec())
    }

    /// Sets the value. False: the length is wrong, the register is read-only, or it is a CSR; nothing changed.
    pub fn write(&self, st: &mut RiscvState, bytes: &[u8]) -> bool {
        if bytes.len() != self.bytes() {
            return false;
        }
        if let Place::V(i) = self.place {
            st.vector_mut(i).copy_from_slice(bytes);
            return true;
        }
        let word = bytes.iter().rev().fold(0, |word, byte| word << 8 | u64::from(*byte));
        match self.place {
            Place::X(i) => {
                st.set_x(i, word);
                i != 0
            }
            Place::Pc => {
                st.pc = word & !1;
                true
            }
            Place::F(i) => {
                st.f[i] = if self.bits == 32 { word | 0xffff_ffff_0000_0000 } else { word };
                true
            }
            Place::Privilege => set_privilege(st, word),
            Place::V(_) | Place::Csr(_) => false,
        }
    }
}

fn set_privilege(st: &mut RiscvState, word: u64) -> bool {
    let exists = match Privilege::from_bits(word) {
        Some(Privilege::User) => st.has(Extension::U),
        Some(Privilege::Supervisor) => st.has(Extension::S),
        Some(Privilege::Machine) => true,
        None => false,
    };
    if exists {
        st.privilege_bits = word as u32;
        if st.privilege() == Privilege::Machine {
            st.virtualization = 0;
        }
        st.mode = st.compute_mode();
    }
    exists
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::CpuModel;

    fn find<'a>(list: &'a [GdbRegister], name: &str) -> &'a GdbRegister {
        list.iter().find(|r| r.name == name).unwrap()
    }

    #[test]
    fn the_description_has_the_features_that_gdb_looks_for() {
        let model = CpuModel::parse("rv64,v=on,vlen=256").unwrap();
        let list = registers(model.config(), [("fcsr".into(), 3), ("mstatus".into(), 0x300)]);
        let xml = target_xml(model.config(), &list);
        for text in [CPU, FPU, VECTOR, CSR, "riscv:rv64", "id=\"bytes\" type=\"uint8\" count=\"32\""] {
            assert!(xml.contains(text), "{text}");
        }
        assert_eq!(xml.matches("<feature ").count(), xml.matches("</feature>").count());
        assert_eq!(xml.matches("name=\"fcsr\"").count(), 1, "once, with the floating-point registers");
        assert_eq!((list[0].name.as_str(), list[32].name.as_str()), ("zero", "pc"));
        assert_eq!(find(&list, "mstatus").csr(), Some(0x300));
    }

    #[test]
    fn registers_that_the_hart_lacks_are_not_described() {
        let model = CpuModel::parse("rv32,f=off,d=off").unwrap();
        let xml = target_xml(model.config(), &registers(model.config(), []));
        assert!(xml.contains("riscv:rv32") && !xml.contains(FPU) && !xml.contains(VECTOR));
    }

    #[test]
    fn what_is_written_is_read_and_nonsense_is_refused() {
        let model = CpuModel::parse("max").unwrap();
        let mut st = model.reset_state(0, 0);
        let list = registers(model.config(), [("mstatus".into(), 0x300)]);
        for r in list.iter().filter(|r| r.csr().is_none() && !matches!(r.name.as_str(), "zero" | "priv")) {
            let value = vec![0x42; r.bytes()];
            assert!(r.write(&mut st, &value), "{}", r.name);
            assert_eq!(r.read(&st).unwrap(), value, "{}", r.name);
            assert!(!r.write(&mut st, &value[1..]));
        }
        let privilege = find(&list, "priv");
        assert!(privilege.write(&mut st, &1u64.to_le_bytes()));
        assert!(!privilege.write(&mut st, &2u64.to_le_bytes()));
        assert_eq!(st.privilege(), Privilege::Supervisor);
        assert!(!find(&list, "zero").write(&mut st, &[1; 8]));
        assert_eq!(find(&list, "mstatus").read(&st), None);
    }
}
