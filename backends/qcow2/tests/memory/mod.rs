//! Images over files in memory.
#![allow(dead_code, reason = "each test program uses a part")]

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use rhea_async_io::{IoVector, IoView, block_on};
use rhea_block::{
    BackingSlot, BlockNode, BlockStatus, Limits, MemoryNode, Node, NodeParts, OpenFlags, Progress, Registry,
    Result, Truncate, WriteFlags,
};
use rhea_block_filters::BlkdebugDriver;
use rhea_options::Options;
use rhea_qcow2::Qcow2Driver;

/// What the tests write in; half a small cluster.
pub const UNIT: u64 = 256;
/// Bytes of the backing file.
pub const BASE: u64 = 2 << 20;

/// A file in memory that notes the events it is told of.
#[derive(Clone, Default)]
pub struct Memory {
    pub file: Arc<MemoryNode>,
    pub events: Arc<Mutex<BTreeMap<&'static str, u32>>>,
    /// Each request takes a few polls.
    pub slow: bool,
}

impl Memory {
    async fn wait(&self) {
        if self.slow {
            futures_lite::future::yield_now().await;
        }
    }
}

#[async_trait]
impl Node for Memory {
    fn limits(&self) -> Limits {
        self.file.limits()
    }

    fn length(&self) -> u64 {
        self.file.length()
    }

    async fn read(&self, offset: u64, data: &mut IoVector) -> Result<()> {
        self.wait().await;
        self.file.read(offset, data).await
    }

    async fn write(&self, offset: u64, data: IoView<'_>, flags: WriteFlags) -> Result<()> {
        self.wait().await;
        let result = self.file.write(offset, data, flags).await;
        self.wait().await;
        result
    }

    async fn write_zeroes(&self, offset: u64, len: u64, flags: WriteFlags) -> Result<()> {
        self.wait().await;
        self.file.write_zeroes(offset, len, flags).await
    }

    async fn flush(&self) -> Result<()> {
        self.wait().await;
        Ok(())
    }

    async fn block_status(&self, offset: u64, len: u64, want_zero: bool) -> Result<BlockStatus> {
        self.file.block_status(offset, len, want_zero).await
    }

    async fn truncate(&self, length: u64, how: Truncate) -> Result<()> {
        self.file.truncate(length, how).await
    }

    fn wants_debug_events(&self) -> bool {
        true
    }

    async fn debug_event(&self, event: &'static str) {
        *self.events.lock().unwrap().entry(event).or_default() += 1;
    }

    fn as_any(&self) -> &dyn std::any::Any {
        self
    }
}

static NEXT: AtomicU32 = AtomicU32::new(0);

/// Opens an image over `file`, and over a backing file whose units hold their numbers.
pub fn open(file: &Memory, rules: Option<&str>, flags: OpenFlags) -> Result<(Registry, Arc<BlockNode>)> {
    let mut registry = Registry::new();
    registry.add(Qcow2Driver);
    registry.add(BlkdebugDriver);
    let name = format!("m{}", NEXT.fetch_add(1, Relaxed));
    let place = |name: &str, node: Box<dyn Node>, flags| {
        let parts = NodeParts {
            name: name.into(),
            driver_name: "memory",
            filename: String::new(),
            flags,
            node,
            backing: Arc::<BackingSlot>::default(),
        };
        registry.remember(&BlockNode::new(parts)).unwrap();
    };
    place(&name, Box::new(file.clone()), OpenFlags::UNMAP);
    place(&format!("{name}b"), Box::new(MemoryNode::new(base())), OpenFlags::READ_ONLY);
    let mut options = Options::default();
    options.set("driver", "qcow2");
    options.set("backing", &format!("{name}b"));
    options.set("l2-cache-size", "2k");
    options.set("refcount-cache-size", "1k");
    match rules {
        None => options.set("file", &name),
        Some(rules) => {
            options.set("file.driver", "blkdebug");
            options.set("file.image", &name);
            for rule in rules.split(',') {
                let (key, value) = rule.split_once('=').unwrap();
                options.set(&format!("file.{key}"), value);
            }
        }
    }
    let node = block_on(registry.open_node(options, flags, false))?;
    Ok((registry, node))
}

fn base() -> Vec<u8> {
    (0..BASE / UNIT).flat_map(|unit| unit_of(0x4000_0000 + unit as u32)).collect()
}

pub fn unit_of(tag: u32) -> [u8; UNIT as usize] {
    let mut bytes = [0; UNIT as usize];
    bytes.chunks_exact_mut(4).for_each(|chunk| chunk.copy_from_slice(&tag.to_le_bytes()));
    bytes
}

/// What each unit holds; `None`: units of which a part was written.
pub fn contents(node: &BlockNode) -> Result<Vec<Option<u32>>> {
    let mut data = vec![0; node.length() as usize];
    for (index, part) in data.chunks_mut(32 << 10).enumerate() {
        block_on(node.read_bytes((index as u64) << 15, part))?;
    }
    Ok(data
        .chunks_exact(UNIT as usize)
        .map(|unit| {
            let tag = u32::from_le_bytes(unit[..4].try_into().unwrap());
            unit.chunks_exact(4).all(|c| c == tag.to_le_bytes()).then_some(tag)
        })
        .collect())
}

/// An empty image.
pub fn create(options: &str) -> Memory {
    let name = format!("rhea-qcow2-memory-{}-{}", std::process::id(), NEXT.fetch_add(1, Relaxed));
    let path = std::env::temp_dir().join(name);
    let mut registry = Registry::new();
    registry.add(rhea_block::FileDriver);
    registry.add(Qcow2Driver);
    let options = Options::parse(options, None).unwrap();
    block_on(registry.create("qcow2", path.to_str().unwrap(), options, &Progress::new())).unwrap();
    let bytes = std::fs::read(&path).unwrap();
    std::fs::remove_file(path).unwrap();
    Memory { file: Arc::new(MemoryNode::new(bytes)), ..Memory::default() }
}
