//! Device trees: a tree of nodes in memory, written as a flattened device tree blob and read from one.
//!
//! Source: Devicetree specification 0.4, chapters 2 (the tree) and 5 (the blob).
//!
//! Boards build a [`Node`]; a blob that the user gives is read into one, so that the command line and the initial RAM disk
//! can be added to it. A blob is untrusted: whatever it holds, reading ends, and takes memory in proportion to its size.

#![forbid(unsafe_code)]

mod read;

use vm_fdt::FdtWriter;

/// A node: properties, and nodes below it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Node {
    /// Name with unit address; empty for the root.
    pub name: String,
    /// Names and values in order.
    pub properties: Vec<(String, Vec<u8>)>,
    /// Nodes below.
    pub children: Vec<Node>,
}

/// Why a blob is refused, or a tree cannot be written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DeviceTreeError {
    /// The magic number is another.
    #[error("it does not start with the magic number of a device tree blob")]
    Magic,
    /// The format is too new or too old.
    #[error("it has format version {version}, compatible down to {compatible}: version 17 is understood")]
    Version {
        /// Version.
        version: u32,
        /// Last version it is compatible with.
        compatible: u32,
    },
    /// Something points outside the blob or does not fit together.
    #[error("it is malformed: {0}")]
    Malformed(&'static str),
    /// Nested deeper than [`DEPTH_MAX`].
    #[error("it is nested deeper than {DEPTH_MAX} nodes")]
    Depth,
    /// A name or value that cannot be written.
    #[error("device tree cannot be written: {0}")]
    Write(String),
}

/// Deepest nesting that is read.
pub const DEPTH_MAX: usize = 64;
/// Largest blob that is read, in bytes.
pub const SIZE_MAX: u64 = 16 << 20;

impl Node {
    /// A node without anything in it.
    pub fn new(name: impl Into<String>) -> Self {
        Self { name: name.into(), ..Self::default() }
    }

    /// Sets a property, in place of one of that name if there is one.
    pub fn set(&mut self, name: &str, value: impl Into<Vec<u8>>) -> &mut Self {
        let value = value.into();
        match self.properties.iter_mut().find(|(known, _)| known == name) {
            Some((_, old)) => *old = value,
            None => self.properties.push((name.to_owned(), value)),
        }
        self
    }

    /// Sets a property without value.
    pub fn flag(&mut self, name: &str) -> &mut Self {
        self.set(name, [])
    }

    /// Sets a property to a string.
    pub fn text(&mut self, name: &str, value: &str) -> &mut Self {
        self.texts(name, [value])
    }

    /// Sets a property to a list of strings.
    pub fn texts<'a>(&mut self, name: &str, values: impl IntoIterator<Item = &'a str>) -> &mut Self {
        let mut bytes = Vec::new();
        for value in values {
            bytes.extend_from_slice(value.as_bytes());
            bytes.push(0);
        }
        self.set(name, bytes)
    }

    /// Sets a property to 32-bit cells.
    pub fn cells(&mut self, name: &str, values: impl IntoIterator<Item = u32>) -> &mut Self {
        let bytes: Vec<u8> = values.into_iter().flat_map(u32::to_be_bytes).collect();
        self.set(name, bytes)
    }

    /// Sets a property to one 32-bit cell.
    pub fn cell(&mut self, name: &str, value: u32) -> &mut Self {
        self.cells(name, [value])
    }

    /// Sets a property to 64-bit numbers of two cells each.
    pub fn wide_cells(&mut self, name: &str, values: impl IntoIterator<Item = u64>) -> &mut Self {
        let bytes: Vec<u8> = values.into_iter().flat_map(u64::to_be_bytes).collect();
        self.set(name, bytes)
    }

    /// Sets `reg` to addresses and sizes of two cells each.
    pub fn reg(&mut self, ranges: impl IntoIterator<Item = (u64, u64)>) -> &mut Self {
        self.wide_cells("reg", ranges.into_iter().flat_map(|(start, size)| [start, size]))
    }

    /// The value of a property.
    pub fn get(&self, name: &str) -> Option<&[u8]> {
        self.properties.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_slice())
    }

    /// Adds a node below.
    pub fn push(&mut self, child: Node) -> &mut Self {
        self.children.push(child);
        self
    }

    /// The node below of this name, which is made if it is not there.
    pub fn child(&mut self, name: &str) -> &mut Node {
        let found = self.children.iter().position(|child| child.name == name);
        let index = found.unwrap_or_else(|| {
            self.children.push(Node::new(name));
            self.children.len() - 1
        });
        &mut self.children[index]
    }

    /// The node at a path such as `/soc/serial@10000000`; the root for `/`.
    pub fn find(&self, path: &str) -> Option<&Node> {
        path.split('/')
            .filter(|part| !part.is_empty())
            .try_fold(self, |node, part| node.children.iter().find(|child| child.name == part))
    }

    /// Writes the tree as a blob.
    ///
    /// # Errors
    /// A name is one that the specification does not allow.
    pub fn to_blob(&self) -> Result<Vec<u8>, DeviceTreeError> {
        let failed = |error: vm_fdt::Error| DeviceTreeError::Write(error.to_string());
        let mut writer = FdtWriter::new().map_err(failed)?;
        self.write(&mut writer).map_err(failed)?;
        writer.finish().map_err(failed)
    }

    fn write(&self, writer: &mut FdtWriter) -> Result<(), vm_fdt::Error> {
        let node = writer.begin_node(&self.name)?;
        for (name, value) in &self.properties {
            writer.property(name, value)?;
        }
        for child in &self.children {
            child.write(writer)?;
        }
        writer.end_node(node)
    }

    /// Reads a blob. Its memory reservations are dropped; [`reservations`] tells them.
    ///
    /// # Errors
    /// It is not a device tree blob of version 17, or malformed.
    pub fn from_blob(blob: &[u8]) -> Result<Self, DeviceTreeError> {
        read::tree(blob)
    }
}

/// The memory reservations of a blob: addresses and sizes.
///
/// # Errors
/// As [`Node::from_blob`].
pub fn reservations(blob: &[u8]) -> Result<Vec<(u64, u64)>, DeviceTreeError> {
    read::reservations(blob)
}

#[cfg(test)]
mod tests;
