//! Reading a flattened device tree (Devicetree specification, chapter 5).

use crate::DeviceTreeError::{Depth, Magic, Malformed, Version};
use crate::{DEPTH_MAX, DeviceTreeError, Node, SIZE_MAX};

const MAGIC: u32 = 0xd00d_feed;
const BEGIN_NODE: u32 = 1;
const END_NODE: u32 = 2;
const PROP: u32 = 3;
const NOP: u32 = 4;
const END: u32 = 9;
/// Version that is read.
const VERSION: u32 = 17;
/// Version whose blobs can be read alike.
const COMPATIBLE: u32 = 16;

struct Header<'a> {
    structure: &'a [u8],
    strings: &'a [u8],
    reservations: &'a [u8],
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().copied().map(u32::from_be_bytes)
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    bytes.get(at..)?.first_chunk().copied().map(u64::from_be_bytes)
}

fn header(blob: &[u8]) -> Result<Header<'_>, DeviceTreeError> {
    if u32_at(blob, 0) != Some(MAGIC) {
        return Err(Magic);
    }
    let field = |index: usize| u32_at(blob, 4 * index).ok_or(Malformed("the header is cut short"));
    let total = u64::from(field(1)?);
    let (version, compatible) = (field(5)?, field(6)?);
    if version < VERSION || !(COMPATIBLE..=VERSION).contains(&compatible) {
        return Err(Version { version, compatible });
    }
    if total > SIZE_MAX {
        return Err(Malformed("it is larger than 16 MiB"));
    }
    let blob = blob.get(..total as usize).ok_or(Malformed("the file is shorter than the header says"))?;
    let block = |offset: u32, size: u32| {
        let start = offset as usize;
        start.checked_add(size as usize).and_then(|end| blob.get(start..end))
    };
    let structure = block(field(2)?, field(9)?).ok_or(Malformed("the structure block lies outside"))?;
    let strings = block(field(3)?, field(8)?).ok_or(Malformed("the strings block lies outside"))?;
    let reservations = blob.get(field(4)? as usize..).ok_or(Malformed("the reservations lie outside"))?;
    Ok(Header { structure, strings, reservations })
}

/// The string that ends with a zero byte at the start of `bytes`.
fn string(bytes: &[u8]) -> Option<&str> {
    let end = bytes.iter().position(|byte| *byte == 0)?;
    std::str::from_utf8(bytes.get(..end)?).ok()
}

pub(crate) fn tree(blob: &[u8]) -> Result<Node, DeviceTreeError> {
    let header = header(blob)?;
    let bytes = header.structure;
    let mut at = 0usize;
    let mut open: Vec<Node> = Vec::new();
    let mut root = None;
    loop {
        let token = u32_at(bytes, at).ok_or(Malformed("the structure block ends within the tree"))?;
        at += 4;
        match token {
            BEGIN_NODE => {
                let name = bytes.get(at..).and_then(string).ok_or(Malformed("a node has no proper name"))?;
                if open.len() >= DEPTH_MAX {
                    return Err(Depth);
                }
                if open.is_empty() && root.is_some() {
                    return Err(Malformed("there is a second root"));
                }
                open.push(Node::new(name));
                at = (at + name.len() + 1).next_multiple_of(4);
            }
            END_NODE => {
                let node = open.pop().ok_or(Malformed("a node ends that has not begun"))?;
                match open.last_mut() {
                    Some(parent) => parent.children.push(node),
                    None => root = Some(node),
                }
            }
            PROP => {
                let lengths = u32_at(bytes, at).zip(u32_at(bytes, at + 4));
                let (len, name_at) = lengths.ok_or(Malformed("a property is cut short"))?;
                let name = header.strings.get(name_at as usize..).and_then(string);
                let name = name.ok_or(Malformed("a property has no proper name"))?;
                let end = (at + 8).checked_add(len as usize);
                let value = end.and_then(|end| bytes.get(at + 8..end));
                let value = value.ok_or(Malformed("a property's value lies outside"))?;
                let node = open.last_mut().ok_or(Malformed("a property stands outside any node"))?;
                node.properties.push((name.to_owned(), value.to_vec()));
                at = (at + 8 + value.len()).next_multiple_of(4);
            }
            NOP => {}
            END if open.is_empty() => return root.ok_or(Malformed("there is no root")),
            _ => return Err(Malformed("an unknown or misplaced token")),
        }
    }
}

pub(crate) fn reservations(blob: &[u8]) -> Result<Vec<(u64, u64)>, DeviceTreeError> {
    let bytes = header(blob)?.reservations;
    let mut found = Vec::new();
    loop {
        let at = 16 * found.len();
        let entry = u64_at(bytes, at).zip(u64_at(bytes, at + 8));
        match entry.ok_or(Malformed("the reservations do not end"))? {
            (0, 0) => return Ok(found),
            entry => found.push(entry),
        }
    }
}
