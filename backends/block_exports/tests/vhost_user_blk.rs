//! A machine's side of vhost-user-blk, by hand: rings in shared memory, requests of all kinds, wrong ones too.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use rhea_async_io::block_on;
use rhea_block::{BlockNode, MemoryNode, OpenFlags};
use rhea_block_exports::{VhostUserBlkExport, VhostUserBlkOptions, VhostUserSocket};
use vhost::vhost_user::message::{VhostUserConfigFlags, VhostUserProtocolFeatures, VhostUserVirtioFeatures};
use vhost::vhost_user::{Frontend, VhostUserFrontend};
use vhost::{VhostBackend, VhostUserMemoryRegionInfo, VringConfigData};
use vm_memory::{Bytes, FileOffset, GuestAddress, GuestMemoryBackend, GuestMemoryMmap};
use vmm_sys_util::eventfd::EventFd;

const MEMORY: usize = 4 << 20;
const QUEUE: u16 = 16;
const DESCRIPTORS: u64 = 0x1000;
const AVAILABLE: u64 = 0x2000;
const USED: u64 = 0x3000;
const BUFFERS: u64 = 0x1_0000;
const F_NEXT: u16 = 1;
const F_WRITE: u16 = 2;

const VERSION_1: u64 = 1 << 32;
const FLUSH: u64 = 1 << 9;

fn temporary(name: &str) -> PathBuf {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    std::env::temp_dir().join(format!("rhea-vhost-{}-{number}-{name}", std::process::id()))
}

/// The machine: memory, one queue, and the connection.
struct Machine {
    memory: GuestMemoryMmap,
    frontend: Frontend,
    kick: EventFd,
    call: EventFd,
    available: u16,
    used: u16,
}

impl Machine {
    fn connect(socket: &PathBuf, features: u64) -> Self {
        let path = temporary("memory");
        let file = File::options().read(true).write(true).create_new(true).open(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        file.set_len(MEMORY as u64).unwrap();
        let handle = file.as_raw_fd();
        let ranges = [(GuestAddress(0), MEMORY, Some(FileOffset::new(file.try_clone().unwrap(), 0)))];
        let memory = GuestMemoryMmap::from_ranges_with_files(ranges).unwrap();
        let mut frontend = Frontend::connect(socket, 1).unwrap();
        frontend.set_owner().unwrap();
        let offered = frontend.get_features().unwrap();
        assert_eq!(offered & features, features, "{offered:x}");
        frontend.set_features(features | VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits()).unwrap();
        let protocol = frontend.get_protocol_features().unwrap();
        frontend.set_protocol_features(protocol & VhostUserProtocolFeatures::CONFIG).unwrap();
        let address = memory.get_host_address(GuestAddress(0)).unwrap() as u64;
        frontend
            .set_mem_table(&[VhostUserMemoryRegionInfo {
                guest_phys_addr: 0,
                memory_size: MEMORY as u64,
                userspace_addr: address,
                mmap_offset: 0,
                mmap_handle: handle,
            }])
            .unwrap();
        let (kick, call) = (EventFd::new(0).unwrap(), EventFd::new(0).unwrap());
        frontend.set_vring_num(0, QUEUE).unwrap();
        frontend
            .set_vring_addr(
                0,
                &VringConfigData {
                    queue_max_size: QUEUE,
                    queue_size: QUEUE,
                    flags: 0,
                    desc_table_addr: address + DESCRIPTORS,
                    used_ring_addr: address + USED,
                    avail_ring_addr: address + AVAILABLE,
                    log_addr: None,
                },
            )
            .unwrap();
        frontend.set_vring_base(0, 0).unwrap();
        frontend.set_vring_call(0, &call).unwrap();
        frontend.set_vring_kick(0, &kick).unwrap();
        frontend.set_vring_enable(0, true).unwrap();
        Self { memory, frontend, kick, call, available: 0, used: 0 }
    }

    /// Writes a chain of descriptors, each an address, a length and whether the device writes it.
    fn chain(&self, first: u16, parts: &[(u64, u32, bool)]) {
        for (index, &(address, length, write)) in parts.iter().enumerate() {
            let at = first + index as u16;
            let mut flags = if write { F_WRITE } else { 0 };
            if index + 1 < parts.len() {
                flags |= F_NEXT;
            }
            let entry = GuestAddress(DESCRIPTORS + u64::from(at) * 16);
            self.memory.write_obj(address, entry).unwrap();
            self.memory.write_obj(length, GuestAddress(entry.0 + 8)).unwrap();
            self.memory.write_obj(flags, GuestAddress(entry.0 + 12)).unwrap();
            self.memory.write_obj(at + 1, GuestAddress(entry.0 + 14)).unwrap();
        }
    }

    fn offer(&mut self, head: u16) {
        let slot = AVAILABLE + 4 + u64::from(self.available % QUEUE) * 2;
        self.memory.write_obj(head, GuestAddress(slot)).unwrap();
        self.available = self.available.wrapping_add(1);
        std::sync::atomic::fence(Ordering::SeqCst);
        self.memory.store(self.available, GuestAddress(AVAILABLE + 2), Ordering::Release).unwrap();
    }

    /// Tells the device, and waits until it has used so many chains; their heads and lengths.
    fn run(&mut self, count: u16) -> Vec<(u32, u32)> {
        self.kick.write(1).unwrap();
        let begun = Instant::now();
        let mut used = Vec::new();
        while used.len() < usize::from(count) {
            let index: u16 = self.memory.load(GuestAddress(USED + 2), Ordering::Acquire).unwrap();
            while self.used != index {
                let entry = USED + 4 + u64::from(self.used % QUEUE) * 8;
                let read = |at| self.memory.read_obj::<u32>(GuestAddress(at)).unwrap();
                used.push((read(entry), read(entry + 4)));
                self.used = self.used.wrapping_add(1);
            }
            assert!(begun.elapsed() < Duration::from_secs(20), "no answer");
            std::thread::sleep(Duration::from_micros(200));
        }
        used
    }

    fn header(&self, at: u64, kind: u32, sector: u64) {
        self.memory.write_obj(kind, GuestAddress(at)).unwrap();
        self.memory.write_obj(0_u32, GuestAddress(at + 4)).unwrap();
        self.memory.write_obj(sector, GuestAddress(at + 8)).unwrap();
    }

    /// One request: its status, and what the device wrote.
    fn request(&mut self, kind: u32, sector: u64, output: &[u8], input: u32) -> (u8, Vec<u8>) {
        let (head, data, room, status) = (BUFFERS, BUFFERS + 0x100, BUFFERS + 0x10_0000, BUFFERS + 0x20_0000);
        self.header(head, kind, sector);
        self.memory.write_slice(output, GuestAddress(data)).unwrap();
        self.memory.write_obj(0xff_u8, GuestAddress(status)).unwrap();
        let mut parts = vec![(head, 16, false)];
        if !output.is_empty() {
            // In two pieces, as a machine's pages come.
            let half = output.len() as u32 / 2;
            parts.push((data, half, false));
            parts.push((data + u64::from(half), output.len() as u32 - half, false));
        }
        if input > 0 {
            parts.push((room, input, true));
        }
        parts.push((status, 1, true));
        self.chain(0, &parts);
        self.offer(0);
        let used = self.run(1);
        assert_eq!(used[0].0, 0);
        let mut bytes = vec![0; input as usize];
        self.memory.read_slice(&mut bytes, GuestAddress(room)).unwrap();
        (self.memory.read_obj(GuestAddress(status)).unwrap(), bytes)
    }
}

fn contents(len: usize) -> Vec<u8> {
    (0..len as u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect()
}

fn start(bytes: Vec<u8>, writable: bool, block: u32) -> (VhostUserBlkExport, Arc<BlockNode>, PathBuf) {
    let node = BlockNode::anonymous("memory", Box::new(MemoryNode::new(bytes)), OpenFlags::UNMAP);
    let path = temporary("socket");
    let options = VhostUserBlkOptions {
        id: "disk0".into(),
        socket: VhostUserSocket::Path(path.clone()),
        writable,
        logical_block_size: block,
        queues: 1,
        writethrough: false,
    };
    (block_on(VhostUserBlkExport::start(node.clone(), options)).unwrap(), node, path)
}

fn bytes_of(node: &Arc<BlockNode>) -> Vec<u8> {
    let mut bytes = vec![0; node.length() as usize];
    block_on(node.read_bytes(0, &mut bytes)).unwrap();
    bytes
}

#[test]
fn a_machine_reads_and_writes_its_disk() {
    let mut expected = contents(1 << 20);
    let (export, node, path) = start(expected.clone(), true, 512);
    let mut machine = Machine::connect(&path, VERSION_1 | FLUSH);
    let (_, config) = machine.frontend.get_config(0, 60, VhostUserConfigFlags::empty(), &[0; 60]).unwrap();
    assert_eq!(config[..8], 2048_u64.to_le_bytes());
    assert_eq!(config[20..24], 512_u32.to_le_bytes());
    for (sector, length) in [(0, 512), (1, 65536), (2047, 512), (100, 900 * 1024)] {
        let (status, bytes) = machine.request(0, sector, &[], length);
        let at = sector as usize * 512;
        assert_eq!(status, 0);
        assert!(bytes == expected[at..at + length as usize]);
    }
    for (sector, length) in [(7, 512), (64, 300 * 512), (2040, 8 * 512)] {
        let data: Vec<u8> = (0..length).map(|i| (i as u8).wrapping_add(sector as u8)).collect();
        assert_eq!(machine.request(1, sector, &data, 0).0, 0);
        let at = sector as usize * 512;
        expected[at..at + length].copy_from_slice(&data);
    }
    let effect = |sector: u64, sectors: u32, flags: u32| {
        [&sector.to_le_bytes()[..], &sectors.to_le_bytes(), &flags.to_le_bytes()].concat()
    };
    assert_eq!(machine.request(13, 0, &effect(500, 10, 1), 0).0, 0);
    expected[500 * 512..510 * 512].fill(0);
    assert_eq!(machine.request(11, 0, &effect(600, 10, 0), 0).0, 0);
    assert_eq!(machine.request(4, 0, &[], 0).0, 0);
    let (status, id) = machine.request(8, 0, &[], 20);
    assert_eq!((status, &id[..6]), (0, &b"disk0\0"[..]));
    assert!(bytes_of(&node) == expected);
    // Beyond the end, in odd pieces, unknown, or with flags nobody knows.
    assert_eq!(machine.request(0, 2048, &[], 512).0, 1);
    assert_eq!(machine.request(0, u64::MAX, &[], 512).0, 1);
    assert_eq!(machine.request(1, 2047, &[0; 1024], 0).0, 1);
    assert_eq!(machine.request(1, 0, &[0; 100], 0).0, 1);
    assert_eq!(machine.request(99, 0, &[], 0).0, 2);
    assert_eq!(machine.request(11, 0, &effect(0, 1, 1), 0).0, 2);
    assert_eq!(machine.request(13, 0, &effect(0, 1, 2), 0).0, 2);
    assert_eq!(machine.request(13, 0, &effect(u64::MAX, u32::MAX, 0), 0).0, 1);
    assert_eq!(machine.request(13, 0, &[0; 15], 0).0, 2);
    assert!(bytes_of(&node) == expected);
    // The queue stops where it stands.
    assert_eq!(machine.frontend.get_vring_base(0).unwrap(), u32::from(machine.available));
    drop(machine);
    block_on(export.stop()).unwrap();
    assert!(!path.exists());
}

#[test]
fn one_machine_after_the_other() {
    let (export, node, path) = start(contents(65536), true, 4096);
    for round in 0..3_u8 {
        let mut machine = Machine::connect(&path, VERSION_1 | FLUSH);
        assert_eq!(machine.request(1, 8, &[round; 4096], 0).0, 0);
        // Less than a block.
        assert_eq!(machine.request(1, 8, &[round; 512], 0).0, 1);
        assert_eq!(machine.request(0, 1, &[], 4096).0, 1);
        assert_eq!(bytes_of(&node)[4096..8192], [round; 4096]);
    }
    block_on(export.stop()).unwrap();
}

#[test]
fn several_requests_at_once() {
    let expected = contents(1 << 20);
    let (export, _node, path) = start(expected.clone(), false, 512);
    let mut machine = Machine::connect(&path, VERSION_1);
    for i in 0..5_u16 {
        let base = BUFFERS + u64::from(i) * 0x2_0000;
        machine.header(base, 0, u64::from(i) * 64);
        machine.chain(i * 3, &[(base, 16, false), (base + 0x1000, 32768, true), (base + 0x100, 1, true)]);
        machine.offer(i * 3);
    }
    let mut heads: Vec<u32> = machine
        .run(5)
        .into_iter()
        .map(|(head, length)| {
            assert_eq!(length, 32769);
            head
        })
        .collect();
    heads.sort_unstable();
    assert_eq!(heads, [0, 3, 6, 9, 12]);
    for i in 0..5_usize {
        let mut bytes = vec![0; 32768];
        machine.memory.read_slice(&mut bytes, GuestAddress(BUFFERS + i as u64 * 0x2_0000 + 0x1000)).unwrap();
        assert!(bytes == expected[i * 32768..(i + 1) * 32768]);
    }
    // Read-only.
    assert_eq!(machine.request(1, 0, &[0; 512], 0).0, 1);
    drop(machine);
    block_on(export.stop()).unwrap();
}

#[test]
fn wrong_chains_are_answered_and_hurt_nobody() {
    let expected = contents(65536);
    let (export, node, path) = start(expected.clone(), true, 512);
    let mut machine = Machine::connect(&path, VERSION_1);
    let (head, status) = (BUFFERS, BUFFERS + 0x1000);
    machine.header(head, 1, 0);
    for parts in [
        // No status.
        vec![(head, 16, false)],
        // Half a header.
        vec![(head, 7, false), (status, 1, true)],
        // Memory that is not there, or only half.
        vec![(head, 16, false), (0xffff_ffff_0000, 512, false), (status, 1, true)],
        vec![(head, 16, false), (MEMORY as u64 - 100, 512, false), (status, 1, true)],
        vec![(u64::MAX - 3, 16, false), (status, 1, true)],
        // The answer before the question.
        vec![(status, 1, true), (head, 16, false)],
        // An enormous length.
        vec![(head, 16, false), (BUFFERS, u32::MAX, false), (status, 1, true)],
    ] {
        machine.chain(0, &parts);
        machine.offer(0);
        assert_eq!(machine.run(1)[0].0, 0);
    }
    assert!(bytes_of(&node) == expected);
    let (status, bytes) = machine.request(0, 3, &[], 512);
    assert_eq!(status, 0);
    assert!(bytes == expected[1536..2048]);
    let _ = machine.call;
    drop(machine.frontend);
    block_on(export.stop()).unwrap();
}

#[test]
fn options_are_checked() {
    let node = BlockNode::anonymous("memory", Box::new(MemoryNode::new(vec![0; 512])), OpenFlags::empty());
    let start = |block, queues| {
        let options = VhostUserBlkOptions {
            id: "e".into(),
            socket: VhostUserSocket::Path(temporary("socket")),
            writable: false,
            logical_block_size: block,
            queues,
            writethrough: false,
        };
        block_on(VhostUserBlkExport::start(node.clone(), options)).unwrap_err().to_string()
    };
    assert_eq!(start(100, 1), "parameter logical-block-size must be a power of 2 between 512 and 2097152");
    assert_eq!(start(512, 0), "num-queues must be greater than 0");
}
