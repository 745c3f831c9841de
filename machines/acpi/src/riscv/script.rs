//! The script that places tables: commands of 128 bytes each.

/// Bytes of a command.
const COMMAND: usize = 128;
/// Bytes of a file name.
const NAME: usize = 56;

/// Commands so far.
#[derive(Default)]
pub(super) struct Script(Vec<u8>);

fn name(file: &str) -> [u8; NAME] {
    let mut field = [0; NAME];
    field.iter_mut().zip(file.bytes()).for_each(|(to, from)| *to = from);
    field
}

impl Script {
    fn command(&mut self, number: u32, fields: &[&[u8]]) {
        let end = self.0.len() + COMMAND;
        self.0.extend(number.to_le_bytes());
        fields.iter().for_each(|field| self.0.extend_from_slice(field));
        self.0.resize(end, 0);
    }

    /// Takes memory for a file; `low` where legacy software would look for it.
    pub fn allocate(&mut self, file: &str, align: u32, low: bool) {
        self.command(1, &[&name(file), &align.to_le_bytes(), &[if low { 2 } else { 1 }]]);
    }

    /// Adds the address of `target` to a field of `size` bytes in another file.
    pub fn add_pointer(&mut self, (file, offset): (&str, u32), target: &str, size: u8) {
        self.command(2, &[&name(file), &name(target), &offset.to_le_bytes(), &[size]]);
    }

    /// Makes the sum of a range zero through the byte at `offset`.
    pub fn add_checksum(&mut self, file: &str, offset: u32, start: u32, len: u32) {
        let fields = [offset, start, len].map(u32::to_le_bytes);
        let [offset, start, len] = &fields;
        self.command(3, &[&name(file), offset, start, len]);
    }

    pub fn finish(self) -> Vec<u8> {
        self.0
    }
}
