//! The device tree against QEMU's own for the same machine: every node we have must be there with the same registers,
//! interrupts and names. Phandles and what depends on the CPU model may differ. Without `qemu-system-riscv64` (package
//! qemu-system-misc) the test says so and ends.

use rhea_device::{ClockSource, VirtualClock};
use rhea_device_tree::Node;
use rhea_riscv_state::CpuModel;
use rhea_riscv_virt::{Aia, Firmware, HartTopology, NumaConfig, NumaNode, VirtConfig, build};
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

struct Stopped;

impl ClockSource for Stopped {
    fn now_ns(&self) -> u64 {
        0
    }
    fn deadline_changed(&self, _: Option<u64>) {}
}

/// Values that name other nodes by number, random ones, and those of the CPU model.
const DIFFERENT: &[&str] = &[
    "phandle",
    "interrupt-parent",
    "interrupts-extended",
    "interrupt-map",
    "regmap",
    "cpu",
    "msi-parent",
    "riscv,children",
    "riscv,delegate",
    "riscv,delegation",
    "rng-seed",
    "riscv,isa",
    "riscv,isa-extensions",
];

/// Nodes that QEMU arranges otherwise: it has no level for sockets, whatever `-smp` says.
const SKIPPED: &[&str] = &["/cpus/cpu-map"];

/// A name for a file, another one at each call.
fn temporary(what: &str) -> PathBuf {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    std::env::temp_dir().join(format!("rhea-virt-{what}-{}-{number}", std::process::id()))
}

fn peer(program: &str, arguments: &[&str]) -> Option<Node> {
    let blob = temporary("peer");
    let mut arguments: Vec<String> = arguments.iter().map(ToString::to_string).collect();
    arguments[1] += &format!(",dumpdtb={}", blob.display());
    let status = Command::new(program).args(&arguments).args(["-display", "none"]).output();
    let Ok(output) = status else {
        eprintln!("skipped: {program} is not installed (package qemu-system-misc)");
        return None;
    };
    let bytes =
        std::fs::read(&blob).unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&output.stderr)));
    let _ = std::fs::remove_file(&blob);
    Some(Node::from_blob(&bytes).unwrap())
}

fn ours(change: impl FnOnce(&mut VirtConfig)) -> Node {
    let kernel = temporary("kernel");
    std::fs::write(&kernel, b"kernel").unwrap();
    let mut config = VirtConfig::new(512 << 20);
    config.firmware = Firmware::None;
    config.kernel = Some(kernel.clone());
    change(&mut config);
    let machine = build(&config, VirtualClock::driven(Arc::new(Stopped))).unwrap();
    let _ = std::fs::remove_file(&kernel);
    Node::from_blob(&machine.device_tree()).unwrap()
}

/// Collects where `ours` says something else than `theirs`.
fn compare(ours: &Node, theirs: &Node, path: &str, differences: &mut Vec<String>) {
    for (name, value) in ours.properties.iter().filter(|(name, _)| !DIFFERENT.contains(&name.as_str())) {
        if theirs.get(name) != Some(value.as_slice()) {
            differences.push(format!("{path} {name}: {value:02x?}, the peer {:02x?}", theirs.get(name)));
        }
    }
    for child in &ours.children {
        let path = format!("{path}/{}", child.name);
        match theirs.children.iter().find(|node| node.name == child.name) {
            _ if SKIPPED.contains(&path.as_str()) => {}
            Some(node) => compare(child, node, &path, differences),
            None => differences.push(format!("{path}: the peer has no such node")),
        }
    }
}

fn check(ours: &Node, theirs: &Node) {
    let mut differences = Vec::new();
    compare(ours, theirs, "", &mut differences);
    assert!(differences.is_empty(), "{}", differences.join("\n"));
}

#[test]
fn a_plain_machine() {
    let Some(theirs) = peer("qemu-system-riscv64", &["-M", "virt", "-m", "512", "-smp", "3"]) else { return };
    check(&ours(|config| config.topology = HartTopology::flat(3)), &theirs);
}

#[test]
fn aclint() {
    let Some(theirs) = peer("qemu-system-riscv64", &["-M", "virt,aclint=on", "-m", "512"]) else { return };
    check(&ours(|config| config.aclint = true), &theirs);
}

#[test]
fn a_32_bit_machine() {
    let Some(theirs) = peer("qemu-system-riscv32", &["-M", "virt", "-m", "512"]) else { return };
    check(&ours(|config| config.cpu = CpuModel::parse("rv32").unwrap()), &theirs);
}

#[test]
fn numa() {
    let nodes = "-M virt -m 512 -smp 2 -object memory-backend-ram,id=a,size=256M -object memory-backend-ram,id=b,size=256M \
                 -numa node,memdev=a -numa node,memdev=b -numa dist,src=0,dst=1,val=30";
    let arguments: Vec<&str> = nodes.split_whitespace().collect();
    let Some(theirs) = peer("qemu-system-riscv64", &arguments) else { return };
    let ours = ours(|config| {
        config.topology = HartTopology::flat(2);
        let node = |hart| NumaNode { memory: 256 << 20, cpus: vec![hart] };
        let distances = Some(vec![10, 30, 30, 10]);
        config.numa = Some(NumaConfig { nodes: vec![node(0), node(1)], distances });
    });
    check(&ours, &theirs);
}

#[test]
fn advanced_interrupts() {
    for (option, aia, aclint) in [
        ("virt,aia=aplic", Aia::Aplic, false),
        ("virt,aia=aplic-imsic", Aia::AplicImsic, false),
        ("virt,aia=aplic-imsic,aclint=on", Aia::AplicImsic, true),
    ] {
        let Some(theirs) = peer("qemu-system-riscv64", &["-M", option, "-m", "512", "-smp", "2"]) else {
            return;
        };
        let ours = ours(|config| {
            (config.aia, config.aclint) = (aia, aclint);
            config.topology = HartTopology::flat(2);
        });
        check(&ours, &theirs);
    }
}

/// The names in the CPU node's list of extensions, sorted: the order is each implementation's own.
fn extensions(tree: &Node) -> Vec<String> {
    let cpus = tree.children.iter().find(|node| node.name == "cpus").unwrap();
    let cpu = cpus.children.iter().find(|node| node.name.starts_with("cpu@")).unwrap();
    let list = String::from_utf8(cpu.get("riscv,isa-extensions").unwrap().to_vec()).unwrap();
    let mut names: Vec<_> = list.split_terminator('\0').map(String::from).collect();
    names.sort();
    names
}

#[test]
fn the_rva23s64_profile_is_whole() {
    let Some(theirs) = peer("qemu-system-riscv64", &["-M", "virt", "-m", "512", "-cpu", "rva23s64"]) else {
        return;
    };
    let ours = ours(|config| config.cpu = CpuModel::parse("rva23s64").unwrap());
    assert_eq!(extensions(&ours), extensions(&theirs));
}
