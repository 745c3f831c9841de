//! The smallest ELF file that tells objdump which extensions to know: a text section and the attributes section.

const TEXT: &str = ".text";
const ATTRIBUTES: &str = ".riscv.attributes";
const NAMES: &str = ".shstrtab";

/// A section: its name, type, flags and content.
struct Section<'a> {
    name: &'a str,
    kind: u32,
    flags: u64,
    content: Vec<u8>,
}

/// A relocatable file with this code, for an architecture string such as `rv64imac`.
pub fn object(bits: u32, architecture: &str, code: Vec<u8>) -> Vec<u8> {
    let names = format!("\0{TEXT}\0{ATTRIBUTES}\0{NAMES}\0");
    let sections = [
        Section { name: TEXT, kind: 1, flags: 6, content: code },
        Section { name: ATTRIBUTES, kind: 0x7000_0003, flags: 0, content: attributes(architecture) },
        Section { name: NAMES, kind: 3, flags: 0, content: names.clone().into_bytes() },
    ];
    let header_size = if bits == 64 { 64 } else { 52 };
    let mut contents = Vec::new();
    let mut headers = vec![0; if bits == 64 { 64 } else { 40 }];
    for section in &sections {
        let name =
            names.find(&format!("\0{}\0", section.name)).expect("every name is in the table") as u32 + 1;
        let offset = header_size + contents.len() as u64;
        contents.extend(&section.content);
        contents.resize(contents.len().next_multiple_of(16), 0);
        let mut header = Fields { bits, bytes: Vec::new() };
        header.word(name).word(section.kind).long(section.flags).long(0).long(offset);
        header.long(section.content.len() as u64).word(0).word(0).long(2).long(0);
        headers.extend(header.bytes);
    }
    let mut file = Fields { bits, bytes: vec![0x7f, b'E', b'L', b'F', if bits == 64 { 2 } else { 1 }, 1, 1] };
    file.bytes.resize(16, 0);
    // Relocatable, RISC-V; flag 1 says that there are compressed instructions.
    file.half(1).half(243).word(1).long(0).long(0).long(header_size + contents.len() as u64).word(1);
    let section_size = if bits == 64 { 64 } else { 40 };
    file.half(header_size as u16).half(0).half(0).half(section_size).half(4).half(3);
    let mut bytes = file.bytes;
    bytes.extend(contents);
    bytes.extend(headers);
    bytes
}

/// Format version, vendor, and the architecture under tag 5 of the file's attributes.
fn attributes(architecture: &str) -> Vec<u8> {
    let mut tagged = vec![5];
    tagged.extend(architecture.bytes());
    tagged.push(0);
    let mut file = vec![1];
    file.extend((tagged.len() as u32 + 5).to_le_bytes());
    file.extend(tagged);
    let mut all = vec![b'A'];
    all.extend((file.len() as u32 + 10).to_le_bytes());
    all.extend(b"riscv\0");
    all.extend(file);
    all
}

/// Numbers one after another; longs are as wide as the file's class.
struct Fields {
    bits: u32,
    bytes: Vec<u8>,
}

impl Fields {
    fn half(&mut self, value: u16) -> &mut Self {
        self.bytes.extend(value.to_le_bytes());
        self
    }

    fn word(&mut self, value: u32) -> &mut Self {
        self.bytes.extend(value.to_le_bytes());
        self
    }

    fn long(&mut self, value: u64) -> &mut Self {
        if self.bits == 64 {
            self.bytes.extend(value.to_le_bytes())
        } else {
            self.bytes.extend((value as u32).to_le_bytes())
        }
        self
    }
}
