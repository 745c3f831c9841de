//! The device tree: what firmware and kernels learn of the machine.
//!
//! Source: Devicetree specification 0.4; bindings of the Linux kernel (riscv/cpus, riscv/extensions, cpu/cpu-topology,
//! numa, and those of each device by its `compatible`).

use crate::TIMEBASE;
use crate::config::{BuildError, NumaConfig, VirtConfig};
use crate::memory_map as map;
use rhea_device_tree::Node;
use rhea_firmware_devices::fw_cfg::MMIO_SIZE as FW_CFG_SIZE;
use rhea_pci::SwizzledIntx;
use rhea_riscv_state::extension::Extension;

/// Property in `/chosen` that holds random bytes.
pub(crate) const RNG_SEED: &str = "rng-seed";
/// Path of the serial port.
const SERIAL: &str = "/soc/serial@10000000";

/// Interrupts of a hart, by their cause numbers.
mod cause {
    pub const SUPERVISOR_SOFTWARE: u32 = 1;
    pub const MACHINE_SOFTWARE: u32 = 3;
    pub const MACHINE_TIMER: u32 = 7;
    pub const SUPERVISOR_EXTERNAL: u32 = 9;
    pub const MACHINE_EXTERNAL: u32 = 11;
}

/// Phandles: two for each hart, then the devices that others refer to.
struct Phandles {
    harts: u32,
}

impl Phandles {
    fn cpu(&self, hart: u32) -> u32 {
        2 * hart + 1
    }
    fn intc(&self, hart: u32) -> u32 {
        2 * hart + 2
    }
    fn plic(&self) -> u32 {
        2 * self.harts + 1
    }
    fn test(&self) -> u32 {
        2 * self.harts + 2
    }
}

/// The board's own tree, without what is booted.
pub(crate) fn board(config: &VirtConfig) -> Node {
    let phandles = Phandles { harts: config.topology.harts };
    let mut root = Node::new("");
    root.cell("#address-cells", 2).cell("#size-cells", 2);
    root.text("compatible", "riscv-virtio").text("model", "riscv-virtio,qemu");
    root.push(syscon("poweroff", "syscon-poweroff", rhea_chipset::sifive_test::FINISHER_PASS, &phandles));
    root.push(syscon("reboot", "syscon-reboot", rhea_chipset::sifive_test::FINISHER_RESET, &phandles));
    add_memory(&mut root, config);
    root.push(cpus(config, &phandles));
    let mut fw_cfg = device("fw-cfg", map::FW_CFG, FW_CFG_SIZE, &["qemu,fw-cfg-mmio"]);
    fw_cfg.flag("dma-coherent");
    root.push(fw_cfg);
    let mut flash = device("flash", map::FLASH, 0, &["cfi-flash"]);
    flash.reg([0, 1].map(|bank| (map::FLASH + bank * map::FLASH_SIZE, map::FLASH_SIZE)));
    flash.cell("bank-width", 4);
    root.push(flash);
    root.child("aliases").text("serial0", SERIAL);
    root.child("chosen").text("stdout-path", SERIAL);
    root.push(soc(config, &phandles));
    root
}

fn syscon(name: &str, compatible: &str, value: u32, phandles: &Phandles) -> Node {
    let mut node = Node::new(name);
    node.text("compatible", compatible)
        .cell("regmap", phandles.test())
        .cell("offset", 0)
        .cell("value", value);
    node
}

fn add_memory(root: &mut Node, config: &VirtConfig) {
    let memory = |start: u64, size: u64| {
        let mut node = Node::new(format!("memory@{start:x}"));
        node.text("device_type", "memory").reg([(start, size)]);
        node
    };
    let Some(numa) = &config.numa else {
        root.push(memory(map::DRAM, config.ram_size));
        return;
    };
    let mut start = map::DRAM;
    for (id, node) in numa.nodes.iter().enumerate().filter(|(_, node)| node.memory > 0) {
        let mut memory = memory(start, node.memory);
        memory.cell("numa-node-id", id as u32);
        root.push(memory);
        start = start.saturating_add(node.memory);
    }
    let count = numa.nodes.len();
    if let Some(distances) = &numa.distances {
        let triples = distances.iter().enumerate().flat_map(|(index, distance)| {
            [(index / count) as u32, (index % count) as u32, u32::from(*distance)]
        });
        let map = root.child("distance-map");
        map.text("compatible", "numa-distance-map-v1").cells("distance-matrix", triples);
    }
}

fn numa_node(numa: &Option<NumaConfig>, hart: u32) -> Option<u32> {
    let nodes = &numa.as_ref()?.nodes;
    nodes.iter().position(|node| node.cpus.contains(&hart)).map(|id| id as u32)
}

fn cpus(config: &VirtConfig, phandles: &Phandles) -> Node {
    let mut cpus = Node::new("cpus");
    cpus.cell("#address-cells", 1).cell("#size-cells", 0).cell("timebase-frequency", TIMEBASE as u32);
    for hart in 0..config.topology.harts {
        cpus.push(cpu(config, phandles, hart));
    }
    let topology = config.topology;
    let tree = cpus.child("cpu-map");
    for hart in 0..topology.harts {
        let place = topology.place(hart);
        let cluster =
            tree.child(&format!("socket{}", place.socket)).child(&format!("cluster{}", place.cluster));
        let core = cluster.child(&format!("core{}", place.core));
        let leaf = if topology.threads > 1 { core.child(&format!("thread{}", place.thread)) } else { core };
        leaf.cell("cpu", phandles.cpu(hart));
    }
    cpus
}

fn cpu(config: &VirtConfig, phandles: &Phandles, hart: u32) -> Node {
    let model = &config.cpu;
    let (extensions, settings) = (model.extensions(), model.config());
    let mut cpu = Node::new(format!("cpu@{hart:x}"));
    cpu.cell("phandle", phandles.cpu(hart)).text("device_type", "cpu").cell("reg", hart);
    cpu.text("status", "okay").text("compatible", "riscv");
    cpu.text("riscv,isa", &model.isa_string()).text("riscv,isa-base", model.isa_base());
    cpu.texts("riscv,isa-extensions", model.isa_extensions());
    if let Some(mmu) = model.mmu_type() {
        cpu.text("mmu-type", &mmu);
    }
    let blocks = [
        (Extension::Zicbom, "riscv,cbom-block-size", settings.cbom_block),
        (Extension::Zicboz, "riscv,cboz-block-size", settings.cboz_block),
        (Extension::Zicbop, "riscv,cbop-block-size", settings.cbop_block),
    ];
    for (_, name, size) in blocks.iter().filter(|(extension, ..)| extensions.has(*extension)) {
        cpu.cell(name, *size);
    }
    if let Some(node) = numa_node(&config.numa, hart) {
        cpu.cell("numa-node-id", node);
    }
    let intc = cpu.child("interrupt-controller");
    intc.cell("phandle", phandles.intc(hart)).text("compatible", "riscv,cpu-intc");
    intc.flag("interrupt-controller").cell("#interrupt-cells", 1);
    cpu
}

fn soc(config: &VirtConfig, phandles: &Phandles) -> Node {
    let mut soc = Node::new("soc");
    soc.cell("#address-cells", 2).cell("#size-cells", 2).text("compatible", "simple-bus").flag("ranges");
    add_local_interrupts(&mut soc, config, phandles);
    soc.push(plic(phandles));
    let mut test = device("test", map::TEST, 0x1000, &[]);
    test.texts("compatible", ["sifive,test1", "sifive,test0", "syscon"]).cell("phandle", phandles.test());
    soc.push(test);
    soc.push(with_irq(device("rtc", map::RTC, 0x1000, &["google,goldfish-rtc"]), map::RTC_IRQ, phandles));
    let mut uart = device("serial", map::UART, map::UART_SIZE, &["ns16550a"]);
    uart.cell("clock-frequency", 3_686_400);
    soc.push(with_irq(uart, map::UART_IRQ, phandles));
    for slot in 0..map::VIRTIO_SLOTS as u32 {
        let address = map::VIRTIO + u64::from(slot) * map::VIRTIO_STRIDE;
        let node = device("virtio_mmio", address, map::VIRTIO_STRIDE, &["virtio,mmio"]);
        soc.push(with_irq(node, map::VIRTIO_IRQ + slot, phandles));
    }
    soc.push(pci(config, phandles));
    soc
}

/// The PCI host (bindings "pci-host-generic" and IEEE 1275's for PCI).
fn pci(config: &VirtConfig, phandles: &Phandles) -> Node {
    /// Space codes in the first cell of a PCI address.
    const IO: u32 = 0x100_0000;
    const MEMORY32: u32 = 0x200_0000;
    const MEMORY64: u32 = 0x300_0000;
    let mut pci = device("pci", map::PCI_ECAM, map::PCI_ECAM_SIZE, &["pci-host-ecam-generic"]);
    pci.text("device_type", "pci").flag("dma-coherent");
    pci.cell("#address-cells", 3).cell("#size-cells", 2).cell("#interrupt-cells", 1);
    pci.cells("bus-range", [0, 255]).cell("linux,pci-domain", 0);
    let (high, high_size) = map::pci_high_memory(config.cpu.config().xlen, config.ram_size);
    let windows = [
        (IO, 0, map::PCI_IO, map::PCI_IO_SIZE),
        (MEMORY32, map::PCI_MEMORY, map::PCI_MEMORY, map::PCI_MEMORY_SIZE),
        (MEMORY64, high, high, high_size),
    ];
    let halves = |value: u64| [(value >> 32) as u32, value as u32];
    let ranges = windows.into_iter().flat_map(|(space, bus, cpu, size)| {
        std::iter::once(space).chain([bus, cpu, size].into_iter().flat_map(halves))
    });
    pci.cells("ranges", ranges);
    // Device number modulo four, and the pin.
    pci.cells("interrupt-map-mask", [3 << 11, 0, 0, 7]);
    let mut interrupts = Vec::new();
    for device in 0..4u8 {
        for pin in 1..=4u8 {
            let irq = map::PCI_IRQ + SwizzledIntx::index(device, pin) as u32;
            interrupts.extend([u32::from(device) << 11, 0, 0, pin.into(), phandles.plic(), irq]);
        }
    }
    pci.cells("interrupt-map", interrupts);
    pci
}

/// A device with one range of registers.
fn device(name: &str, address: u64, size: u64, compatible: &[&str]) -> Node {
    let mut node = Node::new(format!("{name}@{address:x}"));
    if !compatible.is_empty() {
        node.texts("compatible", compatible.iter().copied());
    }
    node.reg([(address, size)]);
    node
}

fn with_irq(mut node: Node, irq: u32, phandles: &Phandles) -> Node {
    node.cell("interrupt-parent", phandles.plic()).cell("interrupts", irq);
    node
}

/// `interrupts-extended` over all harts with the causes given.
fn to_harts(node: &mut Node, phandles: &Phandles, causes: &[u32]) {
    let cells = (0..phandles.harts)
        .flat_map(|hart| causes.iter().flat_map(move |cause| [2 * hart + 2, *cause]))
        .collect::<Vec<_>>();
    node.cells("interrupts-extended", cells);
}

/// The CLINT, or the devices of the ACLINT at the same place.
fn add_local_interrupts(soc: &mut Node, config: &VirtConfig, phandles: &Phandles) {
    if !config.aclint {
        let mut clint = device("clint", map::CLINT, map::CLINT_SIZE, &["sifive,clint0", "riscv,clint0"]);
        to_harts(&mut clint, phandles, &[cause::MACHINE_SOFTWARE, cause::MACHINE_TIMER]);
        soc.push(clint);
        return;
    }
    let swi = |name: &str, address: u64, compatible: &str, cause: u32| {
        let mut node = device(name, address, rhea_interrupt::aclint::SWI_SIZE, &[compatible]);
        node.flag("interrupt-controller").cell("#interrupt-cells", 0);
        to_harts(&mut node, phandles, &[cause]);
        node
    };
    soc.push(swi("mswi", map::CLINT, "riscv,aclint-mswi", cause::MACHINE_SOFTWARE));
    soc.push(swi("sswi", map::SSWI, "riscv,aclint-sswi", cause::SUPERVISOR_SOFTWARE));
    let time = map::MTIMER + rhea_timer::mtimer::MTIME;
    let mut timer = Node::new(format!("mtimer@{:x}", map::MTIMER));
    timer.text("compatible", "riscv,aclint-mtimer");
    // mtime has the rest of the window.
    timer.reg([(time, map::CLINT + map::CLINT_SIZE - time), (map::MTIMER, rhea_timer::mtimer::MTIME)]);
    to_harts(&mut timer, phandles, &[cause::MACHINE_TIMER]);
    soc.push(timer);
}

fn plic(phandles: &Phandles) -> Node {
    let mut plic = device("plic", map::PLIC, map::PLIC_SIZE, &["sifive,plic-1.0.0", "riscv,plic0"]);
    plic.cell("phandle", phandles.plic()).flag("interrupt-controller");
    plic.cell("#interrupt-cells", 1).cell("#address-cells", 0).cell("riscv,ndev", map::IRQS);
    to_harts(&mut plic, phandles, &[cause::MACHINE_EXTERNAL, cause::SUPERVISOR_EXTERNAL]);
    plic
}

/// The tree that a file holds.
pub(crate) fn from_file(path: &std::path::Path) -> Result<Node, BuildError> {
    use std::io::Read;
    let failed = |source| BuildError::DeviceTreeFile { path: path.to_owned(), source };
    let file = std::fs::File::open(path).map_err(failed)?;
    let mut blob = Vec::new();
    file.take(rhea_device_tree::SIZE_MAX + 1).read_to_end(&mut blob).map_err(failed)?;
    Node::from_blob(&blob).map_err(|source| BuildError::BadDeviceTree { path: path.to_owned(), source })
}

/// Puts the kernel's command line, initial RAM disk and random bytes into `/chosen`.
pub(crate) fn choose(root: &mut Node, append: Option<&str>, initrd: Option<(u64, u64)>, seed: &[u8; 32]) {
    let chosen = root.child("chosen");
    if let Some(append) = append {
        chosen.text("bootargs", append);
    }
    if let Some((start, end)) = initrd {
        chosen.wide_cells("linux,initrd-start", [start]).wide_cells("linux,initrd-end", [end]);
    }
    chosen.set(RNG_SEED, *seed);
}
