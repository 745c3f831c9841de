//! The descriptor: a text that tells the disk's content ID, its parent and its extents ("Virtual Disk Format 5.0", The
//! Descriptor File). It is a file of its own, or lies in the extent of a monolithic disk.

use rhea_block::{BlockError, Result};

/// The parent content ID of a disk without a parent.
pub(crate) const NO_PARENT: u32 = 0xffff_ffff;
/// Bytes of the longest descriptor that is read.
pub(crate) const MAX_LEN: u64 = 1 << 20;
/// Extents of a disk, at most.
const MAX_EXTENTS: usize = 4096;

/// What may be done with an extent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Access {
    ReadWrite,
    ReadOnly,
}

/// How an extent keeps its data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ExtentType {
    Flat,
    Sparse,
    Zero,
    Vmfs,
    VmfsSparse,
    SeSparse,
}

impl ExtentType {
    /// The word in the descriptor.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Flat => "FLAT",
            Self::Sparse => "SPARSE",
            Self::Zero => "ZERO",
            Self::Vmfs => "VMFS",
            Self::VmfsSparse => "VMFSSPARSE",
            Self::SeSparse => "SESPARSE",
        }
    }
}

/// A line of the extent description.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ExtentLine {
    pub(crate) access: Access,
    pub(crate) sectors: u64,
    pub(crate) kind: ExtentType,
    /// Empty for `ZERO`.
    pub(crate) filename: String,
    /// Where in the file a flat extent starts, in sectors.
    pub(crate) offset: u64,
}

impl ExtentLine {
    fn parse(line: &str) -> Result<Self> {
        let invalid = || BlockError::malformed(format!("Invalid extent line: {line}"));
        let (access, rest) = line.split_once(char::is_whitespace).ok_or_else(invalid)?;
        let access = match access {
            "RW" => Access::ReadWrite,
            "RDONLY" => Access::ReadOnly,
            _ => {
                return Err(BlockError::unsupported(format!("Extents that may not be accessed: {line}")));
            }
        };
        let (sectors, rest) = rest.trim_start().split_once(char::is_whitespace).ok_or_else(invalid)?;
        let sectors: u64 = sectors.parse().map_err(|_| invalid())?;
        let rest = rest.trim();
        let (kind, rest) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
        let kinds = [
            ExtentType::Flat,
            ExtentType::Sparse,
            ExtentType::Zero,
            ExtentType::Vmfs,
            ExtentType::VmfsSparse,
            ExtentType::SeSparse,
        ];
        let kind = kinds.into_iter().find(|k| k.word() == kind).ok_or_else(invalid)?;
        let (filename, offset) = match kind {
            ExtentType::Zero => ("", ""),
            _ => {
                let quoted = rest.trim_start().strip_prefix('"').ok_or_else(invalid)?;
                let (name, offset) = quoted.split_once('"').ok_or_else(invalid)?;
                (name, offset.trim())
            }
        };
        // Flat extents have an offset, all others have none.
        let offset = match (kind, offset) {
            (ExtentType::Flat, text) => text.parse().map_err(|_| invalid())?,
            (_, "") => 0,
            _ => return Err(invalid()),
        };
        let named = kind == ExtentType::Zero || !filename.is_empty() && !filename.contains('\0');
        if sectors == 0
            || sectors > rhea_block::MAX_LENGTH / 512
            || offset > rhea_block::MAX_LENGTH / 512
            || !named
        {
            return Err(invalid());
        }
        Ok(Self { access, sectors, kind, filename: filename.to_owned(), offset })
    }
}

/// What a descriptor says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Descriptor {
    pub(crate) cid: u32,
    pub(crate) parent_cid: u32,
    pub(crate) create_type: String,
    pub(crate) parent: Option<String>,
    pub(crate) extents: Vec<ExtentLine>,
}

fn unquote(value: &str) -> &str {
    let value = value.trim();
    value.strip_prefix('"').and_then(|v| v.strip_suffix('"')).unwrap_or(value)
}

fn parse_cid(name: &str, value: &str) -> Result<u32> {
    u32::from_str_radix(value.trim(), 16)
        .map_err(|_| BlockError::malformed(format!("vmdk descriptor: {name} is not a number: {value}")))
}

impl Descriptor {
    /// From the text, which zeroes may follow. The extents' lines are only looked at if `with_extents`.
    pub(crate) fn parse(bytes: &[u8], with_extents: bool) -> Result<Self> {
        let end = bytes.iter().position(|b| *b == 0).unwrap_or(bytes.len());
        let text = String::from_utf8_lossy(&bytes[..end]);
        let (mut cid, mut parent_cid, mut create_type, mut parent) = (None, None, None, None);
        let mut extents = vec![];
        for line in text.lines().map(str::trim) {
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let access = line.split(char::is_whitespace).next().unwrap_or_default();
            if matches!(access, "RW" | "RDONLY" | "NOACCESS") {
                if with_extents {
                    extents.push(ExtentLine::parse(line)?);
                    if extents.len() > MAX_EXTENTS {
                        return Err(BlockError::malformed("vmdk descriptor: too many extents"));
                    }
                }
                continue;
            }
            let Some((key, value)) = line.split_once('=') else { continue };
            match key.trim() {
                "CID" => cid = cid.or(Some(parse_cid("CID", value)?)),
                "parentCID" => parent_cid = parent_cid.or(Some(parse_cid("parentCID", value)?)),
                "createType" => create_type = create_type.or(Some(unquote(value).to_owned())),
                "parentFileNameHint" => parent = parent.or(Some(unquote(value).to_owned())),
                _ => {}
            }
        }
        let create_type =
            create_type.ok_or_else(|| BlockError::malformed("invalid VMDK image descriptor"))?;
        let cid = cid.ok_or_else(|| BlockError::malformed("vmdk descriptor: no CID"))?;
        Ok(Self { cid, parent_cid: parent_cid.unwrap_or(NO_PARENT), create_type, parent, extents })
    }
}

/// Where in a descriptor the content ID's digits are.
pub(crate) fn cid_digits(bytes: &[u8]) -> Option<std::ops::Range<usize>> {
    let mut at = 0;
    for line in bytes.split(|b| *b == b'\n') {
        if let Some(value) = line.strip_prefix(b"CID=") {
            let digits = value.iter().take_while(|b| b.is_ascii_hexdigit()).count();
            return (digits > 0).then_some(at + 4..at + 4 + digits);
        }
        at += line.len() + 1;
    }
    None
}

/// Whether an image that starts so is a descriptor: comments, then a version that is known.
pub(crate) fn looks_like_one(start: &[u8]) -> bool {
    for line in start.split(|b| *b == b'\n') {
        let line = line.trim_ascii();
        if line.is_empty() || line.starts_with(b"#") {
            continue;
        }
        return matches!(line, b"version=1" | b"version=2" | b"version=3");
    }
    false
}

/// What the text of a new disk is made of.
pub(crate) struct NewDescriptor<'a> {
    pub(crate) cid: u32,
    pub(crate) parent_cid: u32,
    pub(crate) create_type: &'a str,
    pub(crate) parent: Option<&'a str>,
    pub(crate) extents: &'a [ExtentLine],
    pub(crate) hw_version: &'a str,
    pub(crate) tools_version: &'a str,
    pub(crate) adapter_type: &'a str,
    /// Bytes of the disk, for its geometry.
    pub(crate) size: u64,
}

impl NewDescriptor<'_> {
    pub(crate) fn text(&self) -> String {
        let parent = self.parent.map(|p| format!("parentFileNameHint=\"{p}\"")).unwrap_or_default();
        let mut extents = String::new();
        for extent in self.extents {
            let offset = if extent.kind == ExtentType::Flat { " 0" } else { "" };
            let (kind, name) = (extent.kind.word(), &extent.filename);
            extents.push_str(&format!("RW {} {kind} \"{name}\"{offset}\n", extent.sectors));
        }
        // IDE disks are told with fewer heads than SCSI disks.
        let heads = if self.adapter_type == "ide" { 16 } else { 255 };
        let cylinders = self.size / (63 * heads * 512);
        format!(
            "# Disk DescriptorFile\nversion=1\nCID={:08x}\nparentCID={:08x}\ncreateType=\"{}\"\n{parent}\n\
             # Extent description\n{extents}\n\
             # The Disk Data Base\n#DDB\n\n\
             ddb.virtualHWVersion = \"{}\"\n\
             ddb.geometry.cylinders = \"{cylinders}\"\n\
             ddb.geometry.heads = \"{heads}\"\n\
             ddb.geometry.sectors = \"63\"\n\
             ddb.adapterType = \"{}\"\n\
             ddb.toolsVersion = \"{}\"\n",
            self.cid,
            self.parent_cid,
            self.create_type,
            self.hw_version,
            self.adapter_type,
            self.tools_version
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "# Disk DescriptorFile\nversion=1\nCID=0a1b2c3d\nparentCID=ffffffff\n\
        createType=\"twoGbMaxExtentFlat\"\n\n# Extent description\nRW 4194304 FLAT \"a b.vmdk\" 128\n\
        RDONLY 63 ZERO\nRW 1 VMFS \"c\"\n";

    #[test]
    fn a_text_is_read() {
        let d = Descriptor::parse(TEXT.as_bytes(), true).unwrap();
        assert_eq!(
            (d.cid, d.parent_cid, d.create_type.as_str()),
            (0x0a1b_2c3d, NO_PARENT, "twoGbMaxExtentFlat")
        );
        assert_eq!(d.extents.len(), 3);
        assert_eq!((d.extents[0].filename.as_str(), d.extents[0].offset), ("a b.vmdk", 128));
        assert_eq!((d.extents[1].kind, d.extents[1].access), (ExtentType::Zero, Access::ReadOnly));
        assert!(looks_like_one(TEXT.as_bytes()));
        assert_eq!(&TEXT.as_bytes()[cid_digits(TEXT.as_bytes()).unwrap()], b"0a1b2c3d");
    }

    #[test]
    fn extent_lines_that_are_not_whole_are_refused() {
        for line in [
            "RW 2048 FLAT \"f\"",
            "RW 2048 VMFS \"f\" 0",
            "RW 2048 FLAT f 0",
            "RW 0 FLAT \"f\" 0",
            "RW -1 FLAT \"f\" 0",
            "RW 2048 FLAT \"f\" -1",
            "RW 2048 FOO \"f\"",
            "RW 2048 SPARSE \"\"",
            "RW 2048 SPARSE \"f",
            "RW 99999999999999999999 SPARSE \"f\"",
            "NOACCESS 1 ZERO",
            "RW",
        ] {
            assert!(ExtentLine::parse(line).is_err(), "{line}");
        }
    }
}
