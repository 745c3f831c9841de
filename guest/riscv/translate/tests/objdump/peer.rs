//! Running objdump and reading what it says.

use std::process::Command;

use rhea_riscv_translate::{Feature, Features, Xlen};

use crate::elf::object;

const PROGRAM: &str = "riscv64-linux-gnu-objdump";

/// Bytes from one word to the next, whatever its length: the rest is filled, so that none runs into another.
const STEP: usize = 4;

/// A 16-bit no-operation, behind 16-bit words.
const FILL: u16 = 0x0001;

/// An instruction's bits.
#[derive(Clone, Copy, Debug)]
pub enum Word {
    Half(u16),
    Full(u32),
}

/// The name in an architecture string, the binutils version (times 100) that knows it, and our features.
const EXTENSIONS: &[(&str, u32, &[Feature])] = &[
    ("m", 240, &[Feature::M, Feature::Zmmul]),
    ("a", 240, &[Feature::Zaamo, Feature::Zalrsc]),
    ("f", 240, &[Feature::F]),
    ("d", 240, &[Feature::D]),
    ("c", 240, &[Feature::Zca, Feature::Zcf, Feature::Zcd]),
    ("v", 240, &[Feature::Zve32x, Feature::Zve64x, Feature::Zve32f]),
    ("h", 240, &[Feature::H, Feature::S]),
    ("zicbom", 240, &[Feature::Zicbom]),
    ("zicbop", 240, &[Feature::Zicbop]),
    ("zicboz", 240, &[Feature::Zicboz]),
    ("zicond", 241, &[Feature::Zicond]),
    ("zicsr", 240, &[Feature::Zicsr]),
    ("zifencei", 240, &[Feature::Zifencei]),
    ("zihintntl", 241, &[Feature::Zihintntl]),
    ("zihintpause", 240, &[Feature::Zihintpause]),
    ("zimop", 243, &[Feature::Zimop]),
    ("zabha", 243, &[Feature::Zabha]),
    ("zacas", 242, &[Feature::Zacas]),
    ("zawrs", 240, &[Feature::Zawrs]),
    ("zfa", 241, &[Feature::Zfa]),
    ("zfh", 240, &[Feature::Zfh, Feature::Zfhmin]),
    ("zcb", 242, &[Feature::Zcb]),
    ("zcmop", 243, &[Feature::Zcmop]),
    ("zba", 240, &[Feature::Zba]),
    ("zbb", 240, &[Feature::Zbb]),
    ("zbc", 240, &[Feature::Zbc]),
    ("zbkb", 240, &[Feature::Zbkb]),
    ("zbkc", 240, &[Feature::Zbkc]),
    ("zbkx", 240, &[Feature::Zbkx]),
    ("zbs", 240, &[Feature::Zbs]),
    ("zknd", 240, &[Feature::Zknd]),
    ("zkne", 240, &[Feature::Zkne]),
    ("zknh", 240, &[Feature::Zknh]),
    ("zksed", 240, &[Feature::Zksed]),
    ("zksh", 240, &[Feature::Zksh]),
    ("zvbb", 241, &[Feature::Zvbb, Feature::Zvkb]),
    ("zvbc", 241, &[Feature::Zvbc]),
    ("zvkg", 241, &[Feature::Zvkg]),
    ("zvkned", 241, &[Feature::Zvkned]),
    ("zvknhb", 241, &[Feature::Zvknha, Feature::Zvknhb]),
    ("zvksed", 241, &[Feature::Zvksed]),
    ("zvksh", 241, &[Feature::Zvksh]),
    ("svinval", 240, &[Feature::Svinval]),
];

/// An installed objdump.
pub struct Peer {
    /// Times 100.
    version: u32,
}

impl Peer {
    /// None, with a line that says so, if the package is not installed.
    pub fn find() -> Option<Self> {
        let Ok(output) = Command::new(PROGRAM).arg("--version").output() else {
            println!("skipped: {PROGRAM} is missing; install Debian's package binutils-riscv64-linux-gnu");
            return None;
        };
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let number = text.lines().next()?.split_whitespace().next_back()?.to_owned();
        let mut parts = number.split('.').map(|part| part.parse::<u32>().unwrap_or(0));
        let version = parts.next()? * 100 + parts.next()?;
        Some(Self { version })
    }

    pub fn version(&self) -> String {
        format!("objdump {}.{}", self.version / 100, self.version % 100)
    }

    /// The features that this version knows, and the architecture string that asks for them.
    pub fn known(&self, xlen: Xlen) -> (Features, String) {
        let mut features = Features::base(xlen);
        let (mut single, mut long) = (String::new(), String::new());
        for (name, since, ours) in EXTENSIONS {
            if self.version < *since {
                continue;
            }
            if name.len() == 1 {
                single.push_str(name)
            } else {
                long.push_str(&format!("_{name}"))
            }
            features = ours.iter().fold(features, |features, feature| features.with(*feature));
        }
        (features, format!("rv{}i{single}{long}", xlen.bits()))
    }

    /// The text of each word, or None where it is no instruction.
    pub fn disassemble(&self, xlen: Xlen, architecture: &str, words: &[Word]) -> Vec<Option<String>> {
        let mut code = Vec::new();
        for word in words {
            match word {
                Word::Half(half) => code.extend([half.to_le_bytes(), FILL.to_le_bytes()].concat()),
                Word::Full(full) => code.extend(full.to_le_bytes()),
            }
        }
        let path = std::env::temp_dir().join(format!(
            "rhea-riscv-{}-{}-{xlen:?}.o",
            std::process::id(),
            words.len()
        ));
        std::fs::write(&path, object(xlen.bits(), architecture, code))
            .expect("the temporary folder can be written");
        let output = Command::new(PROGRAM)
            .args(["-D", "-z", "-j", ".text", "-M", "no-aliases"])
            .arg(&path)
            .output()
            .expect("objdump runs");
        std::fs::remove_file(&path).expect("the file is there");
        assert!(
            output.status.success() && output.stderr.is_empty(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        let mut texts = vec![None; words.len()];
        let mut seen = vec![false; words.len()];
        for line in String::from_utf8_lossy(&output.stdout).lines() {
            let Some((address, text)) = instruction(line) else { continue };
            if address % STEP == 0 {
                seen[address / STEP] = true;
                texts[address / STEP] = text;
            }
        }
        assert!(seen.iter().all(|seen| *seen), "objdump says something about every word");
        texts
    }
}

/// Where the word of this index stands.
pub fn address(index: usize) -> u64 {
    (index * STEP) as u64
}

/// Address and text of a line: the address and a colon, the word, the mnemonic and the operands, with tabs between.
fn instruction(line: &str) -> Option<(usize, Option<String>)> {
    let (address, rest) = line.split_once(":\t")?;
    let address = usize::from_str_radix(address.trim(), 16).ok()?;
    let (_, text) = rest.split_once('\t')?;
    let text = text.split(" <").next()?.split(" #").next()?.trim().replace('\t', " ");
    Some((address, Some(text).filter(|text| !text.starts_with('.'))))
}
