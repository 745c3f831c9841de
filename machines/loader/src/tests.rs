use super::*;
use crate::blob::Fields;
use rhea_memory::{AddressSpace, RamBlock, Region, Topology};
use std::io::Write;
use std::sync::atomic::{AtomicU32, Ordering};

/// A file in the temporary folder, removed on drop.
pub(crate) struct TempFile(pub(crate) PathBuf);

impl TempFile {
    pub(crate) fn new(contents: &[u8]) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("rhea-loader-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        File::create(&path).unwrap().write_all(contents).unwrap();
        Self(path)
    }
}

impl Drop for TempFile {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

const MIB: u64 = 1 << 20;

fn layout(ram: u64) -> MemoryLayout {
    let entry = MemoryEntry { start: MIB, len: ram - MIB, kind: MemoryType::Ram };
    MemoryLayout { map: vec![entry], low_ram_end: ram, rsdp: 0xe_0000 }
}

/// A bzImage of protocol 2.15 with one setup sector and `payload` bytes.
fn bzimage(payload: usize) -> Vec<u8> {
    let mut image = vec![0u8; 1024 + payload];
    let mut put = |at: usize, bytes: &[u8]| image[at..at + bytes.len()].copy_from_slice(bytes);
    put(0x1f1, &[1]);
    put(0x1fe, &[0x55, 0xaa]);
    put(0x200, &[0xeb, 0x6a]);
    put(0x202, b"HdrS");
    put(0x206, &0x20fu16.to_le_bytes());
    put(0x211, &[1]);
    put(0x22c, &0x7fff_ffffu32.to_le_bytes());
    put(0x236, &1u16.to_le_bytes());
    put(0x238, &100u32.to_le_bytes());
    put(0x258, &(16 * MIB).to_le_bytes());
    put(0x260, &(8 * MIB as u32).to_le_bytes());
    image[1024..].fill(0x90);
    image
}

/// An ELF64 kernel at 16 MiB, with a PVH note if asked.
fn elf64(pvh: Option<u32>) -> Vec<u8> {
    let mut image = vec![0u8; 0x200];
    let mut put = |at: usize, bytes: &[u8]| image[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, b"\x7fELF\x02\x01\x01");
    put(18, &62u16.to_le_bytes());
    put(24, &(16 * MIB).to_le_bytes());
    put(32, &64u64.to_le_bytes());
    put(54, &56u16.to_le_bytes());
    put(56, &2u16.to_le_bytes());
    put(64, &1u32.to_le_bytes());
    for (at, value) in [(72, 0x180u64), (88, 16 * MIB), (96, 0x80), (104, 0x1000)] {
        put(at, &value.to_le_bytes());
    }
    if let Some(entry) = pvh {
        put(120, &4u32.to_le_bytes());
        put(128, &0x100u64.to_le_bytes());
        put(152, &20u64.to_le_bytes());
        for (at, value) in [(0x100, 4), (0x104, 4), (0x108, 18), (0x110, entry)] {
            put(at, &u32::to_le_bytes(value));
        }
        put(0x10c, b"Xen\0");
    }
    image
}

fn request(kernel: &TempFile) -> BootRequest {
    BootRequest {
        kernel: kernel.0.clone(),
        command_line: "console=ttyS0".into(),
        long_mode: true,
        ..BootRequest::default()
    }
}

fn blob<'a>(plan: &'a BootPlan, name: &str) -> &'a Blob {
    plan.blobs.iter().find(|blob| blob.name == name).unwrap()
}

fn contents<'a>(plan: &'a BootPlan, name: &str) -> &'a [u8] {
    match &blob(plan, name).source {
        BlobSource::Bytes(bytes) => bytes,
        _ => panic!("{name} is not made of bytes"),
    }
}

#[test]
fn a_bzimage_is_placed_with_its_initrd_and_zero_page() {
    let (kernel, initrd) = (TempFile::new(&bzimage(5000)), TempFile::new(&[7; 10_000]));
    let request = BootRequest { initrd: Some(initrd.0.clone()), ..request(&kernel) };
    let plan = plan(&request, &layout(64 * MIB)).unwrap();
    assert_eq!(plan.entry, Entry::Linux64 { entry: 0x10_0200, zero_page: 0x1_0000 });
    assert_eq!(blob(&plan, "kernel").segment(), Segment { start: MIB, len: 5000 });
    let at = blob(&plan, "initrd").segment().start;
    assert_eq!(at, 64 * MIB - 0x3000);
    let page = contents(&plan, "zero page");
    assert_eq!((page.u32_at(0x218), page.u32_at(0x21c)), (Some(at as u32), Some(10_000)));
    assert_eq!((page.u8_at(0x210), page.u32_at(0x228)), (Some(0xff), Some(0x2_0000)));
    assert_eq!((page.u64_at(0x70), page.u8_at(0x1e8)), (Some(0xe_0000), Some(1)));
    assert_eq!(
        (page.u64_at(0x2d0), page.u64_at(0x2d8), page.u32_at(0x2e0)),
        (Some(MIB), Some(63 * MIB), Some(1))
    );
    assert_eq!(page.get(0x202..0x206), Some(&b"HdrS"[..]));
    assert_eq!(contents(&plan, "command line"), b"console=ttyS0\0");
}

#[test]
fn a_32_bit_processor_or_kernel_gets_the_32_bit_entry() {
    let kernel = TempFile::new(&bzimage(100));
    let narrow = BootRequest { long_mode: false, ..request(&kernel) };
    let entry = Entry::Linux32 { entry: 0x10_0000, zero_page: 0x1_0000 };
    assert_eq!(plan(&narrow, &layout(64 * MIB)).unwrap().entry, entry);
    let mut image = bzimage(100);
    image[0x236] = 0;
    let kernel = TempFile::new(&image);
    assert_eq!(plan(&request(&kernel), &layout(64 * MIB)).unwrap().entry, entry);
}

#[test]
fn elf_kernels_boot_by_pvh_or_at_their_entry() {
    let kernel = TempFile::new(&elf64(Some(0x100_0040)));
    let boot = plan(&request(&kernel), &layout(64 * MIB)).unwrap();
    assert_eq!(boot.entry, Entry::Pvh { entry: 0x100_0040, start_info: 0x1_1000 });
    let info = contents(&boot, "start info");
    assert_eq!(
        (info.u32_at(0), info.u64_at(24), info.u64_at(32)),
        (Some(0x336e_c578), Some(0x2_0000), Some(0xe_0000))
    );
    let map = (info.u64_at(40).unwrap() - 0x1_1000) as usize;
    assert_eq!((info.u32_at(48), info.u64_at(map)), (Some(1), Some(MIB)));
    let segments: Vec<_> = boot.blobs.iter().filter(|b| b.name == "kernel").map(Blob::segment).collect();
    assert_eq!(segments[1], Segment { start: 16 * MIB + 0x80, len: 0xf80 });
    let kernel = TempFile::new(&elf64(None));
    let boot = plan(&request(&kernel), &layout(64 * MIB)).unwrap();
    assert_eq!(boot.entry, Entry::Linux64 { entry: 0x100_0000, zero_page: 0x1_0000 });
}

#[test]
fn a_device_tree_becomes_setup_data() {
    let mut tree = vec![0u8; 64];
    tree[..4].copy_from_slice(&[0xd0, 0x0d, 0xfe, 0xed]);
    tree[7] = 48;
    let (kernel, dtb) = (TempFile::new(&bzimage(100)), TempFile::new(&tree));
    let with = |dtb: &TempFile| BootRequest { dtb: Some(dtb.0.clone()), ..request(&kernel) };
    let boot = plan(&with(&dtb), &layout(64 * MIB)).unwrap();
    let node = contents(&boot, "device tree");
    assert_eq!(
        (node.u64_at(0), node.u32_at(8), node.u32_at(12), node.len()),
        (Some(0), Some(2), Some(48), 64)
    );
    assert_eq!(contents(&boot, "zero page").u64_at(0x250), Some(blob(&boot, "device tree").address));
    tree[7] = 200;
    let bad = TempFile::new(&tree);
    assert!(matches!(plan(&with(&bad), &layout(64 * MIB)), Err(LoadError::BadDeviceTree { .. })));
}

#[test]
fn what_is_wrong_is_said() {
    let missing = BootRequest { kernel: "/nonexistent/kernel".into(), ..BootRequest::default() };
    let text = plan(&missing, &layout(64 * MIB)).unwrap_err().to_string();
    assert!(text.starts_with("cannot read kernel '/nonexistent/kernel'"), "{text}");
    let garbage = TempFile::new(b"hello");
    assert!(matches!(plan(&request(&garbage), &layout(64 * MIB)), Err(LoadError::NotAKernel { .. })));
    let kernel = TempFile::new(&bzimage(100));
    let small = plan(&request(&kernel), &layout(16 * MIB)).unwrap_err().to_string();
    assert!(small.starts_with("too little guest memory: the kernel needs"), "{small}");
    let big = TempFile::new(&vec![0; 45 << 20]);
    let with_initrd = BootRequest { initrd: Some(big.0.clone()), ..request(&kernel) };
    let text = plan(&with_initrd, &layout(64 * MIB)).unwrap_err().to_string();
    assert!(text.contains("the initrd needs 0x2d00000 bytes"), "{text}");
    let long = BootRequest { command_line: "x".repeat(101), ..request(&kernel) };
    assert!(matches!(
        plan(&long, &layout(64 * MIB)),
        Err(LoadError::CommandLineTooLong { len: 101, max: 100 })
    ));
}

#[test]
fn a_file_cut_or_changed_anywhere_never_panics() {
    for image in [bzimage(600), elf64(Some(0x100_0040))] {
        for len in (0..image.len()).step_by(7) {
            let kernel = TempFile::new(&image[..len]);
            let _ = plan(&request(&kernel), &layout(64 * MIB));
        }
        let mut seed = 9u32;
        for _ in 0..400 {
            let mut image = image.clone();
            for _ in 0..4 {
                seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                let at = (seed >> 8) as usize % 0x270.min(image.len());
                image[at] = (seed >> 3) as u8;
            }
            let kernel = TempFile::new(&image);
            let _ = plan(&request(&kernel), &layout(64 * MIB));
        }
    }
}

#[test]
fn blobs_are_written_into_guest_memory() {
    let topology = Topology::new();
    let root = Region::container(&topology, "root", 1 << 32);
    let ram = std::sync::Arc::new(RamBlock::new("ram", 64 * MIB).unwrap());
    root.add(0, &Region::ram(&topology, ram.clone()));
    let memory = AddressSpace::new("test", root);
    let kernel = TempFile::new(&bzimage((2 << 20) + 3));
    let boot = plan(&request(&kernel), &layout(64 * MIB)).unwrap();
    boot.blobs.iter().for_each(|blob| blob.write(&memory).unwrap());
    assert_eq!(memory.read(MIB, 8), 0x9090_9090_9090_9090);
    assert_eq!(memory.read(3 * MIB, 4), 0x0090_9090);
    // The page tables map their own address one to one.
    let mut table = PAGE_TABLES;
    for shift in [39, 30] {
        table = memory.read(table + 8 * (0x1234_5678u64 >> shift & 511), 8) & !0xfff;
    }
    assert_eq!(memory.read(table + 8 * (0x1234_5678u64 >> 21 & 511), 8), 0x1220_00e3);
}
