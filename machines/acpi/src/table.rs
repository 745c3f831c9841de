//! A system description table being written: header, fields, checksum (ACPI specification, 5.2.6).

/// Bytes of the header.
pub(crate) const HEADER_SIZE: usize = 36;
const CREATOR: &[u8; 4] = b"RHEA";
const OEM_ID: &[u8; 6] = b"RHEA  ";
const OEM_TABLE_ID: &[u8; 8] = b"RHEAPC  ";

/// A table.
pub(crate) struct Table(Vec<u8>);

impl Table {
    pub(crate) fn new(signature: &[u8; 4], revision: u8) -> Self {
        let mut bytes = Vec::with_capacity(256);
        bytes.extend_from_slice(signature);
        bytes.extend_from_slice(&[0; 4]);
        bytes.extend_from_slice(&[revision, 0]);
        bytes.extend_from_slice(OEM_ID);
        bytes.extend_from_slice(OEM_TABLE_ID);
        bytes.extend_from_slice(&1u32.to_le_bytes());
        bytes.extend_from_slice(CREATOR);
        bytes.extend_from_slice(&1u32.to_le_bytes());
        Self(bytes)
    }

    pub(crate) fn put(&mut self, bytes: &[u8]) -> &mut Self {
        self.0.extend_from_slice(bytes);
        self
    }

    pub(crate) fn u8(&mut self, value: u8) -> &mut Self {
        self.put(&[value])
    }

    pub(crate) fn u16(&mut self, value: u16) -> &mut Self {
        self.put(&value.to_le_bytes())
    }

    pub(crate) fn u32(&mut self, value: u32) -> &mut Self {
        self.put(&value.to_le_bytes())
    }

    pub(crate) fn u64(&mut self, value: u64) -> &mut Self {
        self.put(&value.to_le_bytes())
    }

    /// A generic address structure for an I/O port register of `bits` bits; all zero for port 0.
    pub(crate) fn port(&mut self, port: u16, bits: u8) -> &mut Self {
        if port == 0 {
            return self.put(&[0; 12]);
        }
        let access = match bits {
            8 => 1,
            16 => 2,
            32 => 3,
            _ => 0,
        };
        self.put(&[1, bits, 0, access]).u64(port.into())
    }

    /// Bytes so far.
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// The finished table.
    pub(crate) fn finish(mut self) -> Vec<u8> {
        let len = self.0.len() as u32;
        self.0[4..8].copy_from_slice(&len.to_le_bytes());
        self.0[9] = checksum(&self.0);
        self.0
    }
}

/// The byte that makes the sum of all bytes zero.
pub(crate) fn checksum(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0u8, |sum, byte| sum.wrapping_sub(*byte))
}
