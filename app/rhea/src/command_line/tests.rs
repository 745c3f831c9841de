//! Whole command lines to configurations, and refusals to their one line.

use super::*;
use crate::config::{LogItem, Threading, Tier, Topology};
use crate::targets::x86::X86_64;
use crate::targets::{BoardSpec, MachineConfig, TargetSpec};

fn words(line: &str) -> Vec<String> {
    line.split_whitespace().map(str::to_owned).collect()
}

fn config(line: &str) -> SystemConfig {
    match parse("rhea", &X86_64, &words(line)) {
        Ok(Outcome::Run(config)) => *config,
        other => panic!("{line}: {other:?}"),
    }
}

fn cpu_name(config: &SystemConfig) -> &str {
    match &config.cpu {
        CpuConfig::X86(model) => model.name(),
        CpuConfig::Riscv(model) => model.name(),
    }
}

/// A target that boots without any media and has a board with NUMA nodes.
static WITH_NUMA: TargetSpec = TargetSpec {
    name: "test",
    default_cpu: "max",
    boards: &[BoardSpec {
        name: "virt",
        about: "for tests",
        max_cpus: 8,
        has_dies: false,
        has_pci: true,
        has_numa: true,
        flash_banks: 0,
        take: |_| Ok(MachineConfig::Pc(rhea_pc::PcKind::Microvm)),
        help: String::new,
    }],
    default_board: None,
    board_not_yet: |_| false,
    check_boot: |_| Ok(()),
    parse_cpu: X86_64.parse_cpu,
    cpu_help: X86_64.cpu_help,
    build: X86_64.build,
};

pub fn numa_config(line: &str) -> SystemConfig {
    match parse("rhea", &WITH_NUMA, &words(line)) {
        Ok(Outcome::Run(config)) => *config,
        other => panic!("{line}: {other:?}"),
    }
}

pub fn numa_refusal(line: &str) -> String {
    match parse("rhea", &WITH_NUMA, &words(line)) {
        Err(error) => format!("{error:#}"),
        other => panic!("{line}: {other:?}"),
    }
}

fn refusal(line: &str) -> String {
    match parse("rhea", &X86_64, &words(line)) {
        Err(error) => format!("{error:#}"),
        other => panic!("{line}: {other:?}"),
    }
}

fn said(line: &str) -> String {
    match parse("rhea", &X86_64, &words(line)) {
        Ok(Outcome::Say(text)) => text,
        other => panic!("{line}: {other:?}"),
    }
}

#[test]
fn a_kernel_and_nothing_else() {
    let c = config("-kernel k");
    assert_eq!(c.machine, MachineConfig::Pc(rhea_pc::PcKind::Q35));
    assert_eq!(cpu_name(&c), "qemu64");
    assert_eq!(c.ram_size, 128 << 20);
    assert_eq!(c.topology, Topology { cpus: 1, maxcpus: 1, sockets: 1, dies: 1, cores: 1, threads: 1 });
    assert_eq!(c.serials, [CharConfig::MonitorAndStdio]);
    assert_eq!(c.accel.tier, Tier::Baseline);
}

#[test]
fn a_usual_command_line() {
    let c = config(
        "-M q35,accel=tcg -m 1G -smp 4,sockets=2 -kernel k -initrd i -append console=ttyS0 -serial stdio -display none \
         -no-reboot -S -name test -uuid 12345678-9abc-def0-1234-56789abcdef0 -d in_asm,int -D log -dfilter 0x0+0x1000",
    );
    assert_eq!(c.ram_size, 1 << 30);
    assert_eq!((c.topology.cpus, c.topology.sockets, c.topology.cores), (4, 2, 2));
    assert_eq!(c.serials, [CharConfig::Stdio { signal: true, mux: false }]);
    assert!(c.run.no_reboot && c.run.start_stopped && !c.run.no_shutdown);
    assert_eq!(c.name.as_deref(), Some("test"));
    assert_eq!(c.uuid.unwrap()[..3], [0x12, 0x34, 0x56]);
    assert_eq!(c.log.items, [LogItem::InAsm, LogItem::Int]);
    assert_eq!(c.log.ranges, [(0, 0xfff)]);
}

#[test]
fn options_of_the_translator() {
    let a = config("-kernel k -accel tcg,thread=single,tb-size=256,one-insn-per-tb=on,lockstep=on").accel;
    assert_eq!(a.thread, Some(Threading::Single));
    assert_eq!(a.tb_size, Some(256 << 20));
    assert!(a.one_insn_per_tb && a.lockstep);
    assert_eq!(config("-kernel k -accel tcg,tier=interpreter").accel.tier, Tier::Interpreter);
    assert_eq!(config("-kernel k -accel kvm -accel tcg").accel.tier, Tier::Baseline);
    assert_eq!(config("-kernel k -machine accel=kvm:tcg").accel.tier, Tier::Baseline);
}

#[test]
fn bare_metal_devices() {
    let c = config(
        "-bios rom -device isa-debug-exit,iobase=0xf4,iosize=4 -chardev file,id=out,path=x -device \
         isa-debugcon,iobase=0xe9,chardev=out -device loader,file=f,addr=0x100000 -display none",
    );
    assert_eq!(c.debug_exit.unwrap().iobase, 0xf4);
    assert_eq!(c.debugcon.unwrap().chardev, CharConfig::Named("out".into()));
    assert_eq!(c.loaders[0].addr, 0x10_0000);
    assert!(c.serials.is_empty());
    assert!(config("-bios r -device {\"driver\":\"isa-debug-exit\",\"iobase\":244}").debug_exit.is_some());
}

#[test]
fn clocks() {
    let c = config("-kernel k -rtc base=2006-06-17T16:01:21,clock=vm -icount shift=3,sleep=off");
    assert_eq!(c.rtc, RtcConfig { base: RtcBase::DateTime(1_150_560_081), clock: RtcClock::Vm });
    assert_eq!(c.icount, Some(IcountConfig { shift: 3, sleep: false }));
    assert!(refusal("-icount auto").contains("shift=auto is not implemented"));
    assert!(refusal("-icount 11").contains("0 to 10"));
    assert!(refusal("-rtc base=yesterday").contains("expects 'utc'"));
    assert!(refusal("-rtc driftfix=slew").contains("not implemented"));
}

#[test]
fn unknown_options_are_refused_by_name_with_a_hint() {
    assert_eq!(refusal("-kernal k"), "-kernal: invalid option; did you mean '-kernel'?");
    assert_eq!(refusal("-foobarbaz"), "-foobarbaz: invalid option; see -help");
    assert!(refusal("-hda x").starts_with("-hda: not implemented yet (IDE disks; use -drive"));
    assert_eq!(
        refusal("-enable-kvm"),
        "-enable-kvm: not implemented yet (the KVM accelerator; -accel tcg is there)"
    );
    assert!(refusal("disk.img").contains("-drive file=disk.img,if=virtio"));
    assert_eq!(refusal("-kernel"), "-kernel: requires an argument");
}

#[test]
fn wrong_values_name_option_and_parameter() {
    assert_eq!(
        refusal("-m 1X"),
        "-m 1X: parameter 'size' expects a size (such as 512M or 4G; a plain number counts MiB), not '1X'"
    );
    assert!(refusal("-m 1G,slots=2").contains("unknown parameter 'slots'"));
    assert!(refusal("-M pc").contains("machine 'pc' is not implemented yet"));
    assert!(refusal("-M q53").contains("did you mean 'q35'?"));
    assert!(refusal("-M q35,usb=on").contains("unknown parameter 'usb'"));
    assert!(refusal("-accel kvm -kernel k").contains("not implemented yet"));
    assert!(refusal("-accel tgc").contains("did you mean 'tcg'?"));
    assert!(refusal("-accel tcg,tb-size=0").contains("tb-size"));
    assert!(refusal("-serial pty").contains("'pty' is not implemented yet"));
    assert!(refusal("-serial tcp::4444").contains("'tcp' is not implemented yet"));
    assert!(refusal("-device e1000").contains("device 'e1000' is not implemented yet"));
    assert!(refusal("-d in_asn").contains("did you mean 'in_asm'?"));
    assert!(refusal("-display gtk").contains("display 'gtk' is not implemented"));
    assert!(refusal("-uuid 12").contains("hexadecimal"));
    assert!(refusal("-smp 4,cores=3 -kernel k").contains("-smp: invalid CPU topology"));
}

#[test]
fn what_does_not_fit_together_is_refused() {
    assert!(refusal("-append x -bios b").contains("-append: only allowed with -kernel"));
    assert!(refusal("-m 1G").contains("nothing to run"));
    assert!(refusal("-kernel k -serial stdio -serial mon:stdio").contains("stdio can be used once"));
    assert!(refusal("-kernel k -serial chardev:x").contains("no -chardev has the id 'x'"));
    assert!(refusal("-kernel k -chardev null,id=a -chardev null,id=a").contains("id 'a' is taken"));
}

#[test]
fn processor_models() {
    assert_eq!(cpu_name(&config("-kernel k -cpu max,-avx2,+x2apic")), "max");
    assert!(refusal("-cpu no-such-model").contains("unknown CPU model 'no-such-model'"));
    assert!(refusal("-cpu max,+no-such-feature").contains("'no-such-feature'"));
    assert!(refusal("-cpu host").contains("hardware accelerator"));
}

#[test]
fn what_a_board_does_not_have_is_refused() {
    assert!(numa_refusal("-M virt -smp 2,dies=2").contains("dies > 1 not supported by machine 'virt'"));
    assert!(numa_refusal("-M virt -smp 9").contains("machine 'virt' supports at most 8"));
    assert!(numa_refusal("-S").contains("no default machine yet: name one with -machine (virt)"));
    assert!(refusal("-kernel k -numa node").contains("NUMA is not implemented yet for machine 'q35'"));
    assert!(refusal("-object iothread,id=a").contains("object 'iothread' is not implemented yet"));
    assert!(refusal("-object memory-backend-rum,id=a").contains("did you mean 'memory-backend-ram'?"));
}

#[test]
fn help_texts() {
    for (line, part) in [
        ("-M help", "q35"),
        ("-machine q35,help", "accel="),
        ("-cpu help", "qemu64"),
        ("-accel help", "tcg"),
        ("-accel tcg,help", "tb-size="),
        ("-d help", "guest_errors"),
        ("-smp help", "maxcpus="),
        ("-device help", "isa-debug-exit"),
        ("-device loader,help", "addr="),
        ("-chardev help", "input-path="),
        ("-numa node,help", "memdev="),
        ("-object help", "memory-backend-ram"),
        ("-help", "-dfilter"),
        ("--version", "Rhea"),
    ] {
        assert!(said(line).contains(part), "{line}");
    }
}

#[test]
fn every_option_stands_once() {
    let mut names: Vec<&str> = table::OPTIONS.iter().flat_map(|o| o.names).copied().collect();
    names.extend(table::NOT_YET.iter().flat_map(|(names, _)| *names));
    let count = names.len();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), count);
}

#[test]
fn a_drive_is_the_block_layers_but_for_what_is_ours() {
    let config = config(
        "-bios r -drive file=a.img,if=virtio,format=raw,cache=none,discard=unmap \
         -drive if=none,id=d,file=b,readonly=on,cache=writethrough,snapshot=on,aio=threads",
    );
    let [first, second] = &config.disks.drives[..] else { panic!("two drives") };
    assert_eq!((first.id.as_str(), first.file.as_deref()), ("virtio0", Some("a.img")));
    let first = &first.options;
    let value = |key| first.get(key);
    assert_eq!(
        (value("driver"), value("discard"), value("cache.direct")),
        (Some("raw"), Some("unmap"), Some("on"))
    );
    assert!(
        second.snapshot && second.writethrough && second.flags.contains(rhea_block::OpenFlags::AIO_THREADS)
    );
    assert_eq!(second.options.get("read-only"), Some("on"));
    assert_eq!(config.virtio.len(), 1);
    assert_eq!(config.virtio[0].place, crate::config::VirtioPlace::Pci(None));
}

#[test]
fn a_virtio_disk_has_its_place_and_its_limits() {
    use crate::config::{VirtioKind, VirtioPlace};
    use rhea_virtio::MmioVersion;
    let config = config(
        "-bios r -M microvm -global virtio-mmio.force-legacy=off -blockdev driver=file,node-name=n,filename=x \
         -device virtio-blk-device,drive=n,serial=abc,num-queues=2,logical_block_size=4k -device virtio-blk-pci,drive=n,addr=1f.7",
    );
    assert_eq!(config.virtio[0].place, VirtioPlace::Mmio(MmioVersion::Modern));
    let VirtioKind::Blk(blk) = &config.virtio[0].kind else { panic!("a disk") };
    assert_eq!((blk.queues, blk.device.serial.as_str()), (Some(2), "abc"));
    assert_eq!((blk.device.logical_block_size, blk.device.physical_block_size), (4096, 4096));
    let address = rhea_pci::PciAddress { device: 31, function: 7 };
    assert_eq!(config.virtio[1].place, VirtioPlace::Pci(Some(address)));
    for (line, part) in [
        ("-device virtio-blk-pci", "'drive'"),
        ("-device virtio-blk-device,drive=n,addr=3", "name ends in -pci"),
        ("-device virtio-blk-pci,drive=n,addr=20", "up to 1f"),
        ("-device virtio-blk-pci,drive=n,bus=pci.0", "pcie.0"),
        ("-device virtio-blk-pci,drive=n,disable-legacy=off", "not implemented"),
        ("-device virtio-blk-pci,drive=n,werror=stop", "not implemented"),
        ("-device virtio-blk-pci,drive=n,bootindex=1", "bootindex"),
        ("-drive file=x", "if=virtio"),
        ("-drive file=x,if=ide", "if=ide is not implemented"),
        ("-drive if=virtio", "'file'"),
        ("-drive file=x,if=virtio,werror=enospc", "not implemented"),
        ("-drive file=x,if=virtio,cache=fast", "cache mode"),
        ("-drive file=x,if=none,id=a -drive file=y,if=none,id=a", "taken"),
        ("-device virtio-serial-pci", "no -device virtconsole"),
        ("-device virtio-serial-pci,max_ports=4", "max_ports=1"),
        ("-chardev null,id=c -device virtconsole,chardev=c", "virtio-serial-pci"),
        ("-device virtio-serial-pci -device virtconsole,chardev=c", "no -chardev"),
        ("-device virtio-rng-pci,rng=r", "rng"),
        ("-global virtio-blk-pci.disable-legacy=on", "not implemented"),
    ] {
        let text = refusal(&format!("-bios r {line}"));
        assert!(text.contains(part), "{line}: {text}");
    }
}

#[test]
fn banks_of_flash_memory_are_numbered_or_in_order() {
    let riscv = &crate::targets::riscv::RISCV64;
    let run = |line: &str| match parse("rhea", riscv, &words(line)) {
        Ok(Outcome::Run(config)) => Ok(config.disks.flash),
        Ok(_) => panic!("{line}: a text"),
        Err(error) => Err(format!("{error:#}")),
    };
    let bank = |number: u32, name: &str| (number, name.to_owned());
    assert_eq!(run("-M virt -pflash a -pflash b").unwrap(), [bank(0, "pflash0"), bank(1, "pflash1")]);
    assert_eq!(
        run("-M virt -drive if=pflash,file=a,unit=1,id=x -drive if=pflash,file=b,id=y").unwrap(),
        [bank(1, "x"), bank(0, "y")]
    );
    assert_eq!(run("-M virt,pflash1=n -pflash a").unwrap(), [bank(0, "pflash0"), bank(1, "n")]);
    for (line, part) in [
        ("-pflash a -pflash b -pflash c", "both banks"),
        ("-drive if=pflash,file=a,unit=2", "0 and 1"),
        ("-drive if=pflash,file=a,unit=0 -drive if=pflash,file=b,unit=0", "taken"),
        ("-drive if=virtio,file=a,unit=0", "if=pflash only"),
        ("-M virt,pflash0=n -pflash a", "taken by a -drive"),
    ] {
        let text = run(&format!("-M virt {line}")).unwrap_err();
        assert!(text.contains(part), "{line}: {text}");
    }
    assert!(refusal("-bios r -pflash a").contains("no flash memory yet"));
}
