//! The options that exist, and those of QEMU that do not yet.

use std::fmt::Write;

use super::{Builder, accelerator, device, drive, log, machine, numa, object, processor, virtio};

/// One option of the command line.
pub struct OptionSpec {
    /// Its names, without the dash.
    pub names: &'static [&'static str],
    /// What its argument is called; `None` for an option without one.
    pub argument: Option<&'static str>,
    /// One line of help.
    pub help: &'static str,
    /// Takes it into the builder.
    pub take: fn(&mut Builder, &str) -> anyhow::Result<()>,
}

const fn flag(
    names: &'static [&'static str],
    help: &'static str,
    take: fn(&mut Builder, &str) -> anyhow::Result<()>,
) -> OptionSpec {
    OptionSpec { names, argument: None, help, take }
}

const fn with(
    names: &'static [&'static str],
    argument: &'static str,
    help: &'static str,
    take: fn(&mut Builder, &str) -> anyhow::Result<()>,
) -> OptionSpec {
    OptionSpec { names, argument: Some(argument), help, take }
}

/// Every option that Rhea takes.
pub const OPTIONS: &[OptionSpec] = &[
    flag(&["h", "help"], "print this text", |b, _| {
        b.say = Some(help(&b.program));
        Ok(())
    }),
    flag(&["version"], "print the version", |b, _| {
        b.say = Some(format!("{} (system emulation for {})\n", super::version_line(), b.target.name));
        Ok(())
    }),
    with(&["M", "machine"], "[type=]name[,prop=value…]", "the board ('help' lists them)", machine::take),
    with(&["accel"], "[accel=]name[,prop=value…]", "the accelerator ('help' lists them)", accelerator::take),
    with(&["cpu"], "model[,+feature][,-feature]…", "the processor ('help' lists them)", processor::take),
    with(
        &["smp"],
        "[cpus=]n[,maxcpus=n][,sockets=n][,dies=n][,cores=n][,threads=n]",
        "the number of processors and how they are grouped",
        Builder::take_smp,
    ),
    with(&["m"], "[size=]size", "guest memory; a plain number counts MiB (128)", Builder::take_memory),
    with(
        &["numa"],
        "node|dist|cpu[,prop=value…]",
        "NUMA nodes, their distances and their processors",
        numa::take,
    ),
    with(
        &["object"],
        "type,id=id[,prop=value…]",
        "an object that others name ('help' lists them)",
        object::take,
    ),
    with(&["kernel"], "file", "start this kernel directly", |b, t| {
        b.boot.kernel = Some(t.into());
        Ok(())
    }),
    with(&["initrd"], "file", "the kernel's initial RAM disk", |b, t| {
        b.boot.initrd = Some(t.into());
        Ok(())
    }),
    with(&["append"], "text", "the kernel's command line", |b, t| {
        b.boot.append = Some(t.into());
        Ok(())
    }),
    with(&["dtb"], "file", "a device tree for the kernel", |b, t| {
        b.boot.dtb = Some(t.into());
        Ok(())
    }),
    with(
        &["bios"],
        "file",
        "firmware; on a PC a flat ROM that ends at 4 GiB and holds the reset vector",
        |b, t| {
            b.boot.bios = Some(t.into());
            Ok(())
        },
    ),
    with(
        &["drive"],
        "file=image,if=virtio|none[,format=format][,id=id][,prop=value…]",
        "a disk image, and with if=virtio a disk for the guest",
        drive::take,
    ),
    with(
        &["blockdev"],
        "[driver=]driver,node-name=name[,prop=value…]",
        "a node of the block layer, for -device",
        drive::take_blockdev,
    ),
    flag(&["snapshot"], "write to temporary files instead of the images of -drive", |b, _| {
        b.snapshot = true;
        Ok(())
    }),
    with(
        &["global"],
        "driver.property=value",
        "a device property's default ('help' lists them)",
        virtio::take_global,
    ),
    with(&["pflash"], "file", "an image of flash memory, one for each bank", drive::take_pflash),
    with(&["device"], "driver[,prop=value…]", "add a device ('help' lists them)", device::take),
    with(&["debugcon"], "chardev", "a debug console at I/O port 0xe9", device::take_debugcon),
    with(&["chardev"], "backend,id=id[,prop=value…]", "declare a character back end", Builder::take_chardev),
    with(
        &["serial"],
        "chardev",
        "a serial port on stdio, mon:stdio, null, none, file:PATH or chardev:ID",
        Builder::take_serial,
    ),
    with(
        &["monitor"],
        "chardev",
        "a monitor on stdio or chardev:ID; 'none' for no monitor",
        Builder::take_monitor,
    ),
    flag(
        &["nographic"],
        "no display; the terminal is serial port and monitor (Ctrl-a h tells more)",
        |b, _| {
            b.nographic = true;
            Ok(())
        },
    ),
    with(&["display"], "kind", "the display; only 'none' yet", Builder::take_display),
    with(&["vga"], "kind", "the graphics card; only 'none' yet", |_, t| only_none("graphics cards", t)),
    with(&["net"], "kind", "network; only 'none' yet", |_, t| only_none("networks", t)),
    with(&["nic"], "kind", "network card; only 'none' yet", |_, t| only_none("networks", t)),
    with(&["parallel"], "chardev", "parallel port; only 'none' yet", |_, t| only_none("parallel ports", t)),
    flag(&["nodefaults"], "no serial port and monitor unless asked for", |b, _| {
        b.no_defaults = true;
        Ok(())
    }),
    flag(&["no-user-config"], "read no configuration files (Rhea has none)", |_, _| Ok(())),
    with(&["name"], "[guest=]text", "the machine's name", Builder::take_name),
    with(&["uuid"], "uuid", "the machine's UUID", Builder::take_uuid),
    with(&["rtc"], "[base=utc|localtime|date][,clock=host|rt|vm]", "the real-time clock", Builder::take_rtc),
    with(&["icount"], "[shift=]n[,sleep=on|off]", "virtual time counts instructions", Builder::take_icount),
    flag(&["S"], "do not start the processors (the monitor's 'cont' does)", |b, _| {
        b.run.start_stopped = true;
        Ok(())
    }),
    flag(&["no-reboot"], "end instead of rebooting", |b, _| {
        b.run.no_reboot = true;
        Ok(())
    }),
    flag(&["no-shutdown"], "stop instead of ending when the guest powers off", |b, _| {
        b.run.no_shutdown = true;
        Ok(())
    }),
    with(&["d"], "item[,item…]", "log these items ('help' lists them)", log::take_items),
    with(&["D"], "file", "log to this file instead of stderr", |b, t| {
        b.log.file = Some(t.into());
        Ok(())
    }),
    with(
        &["dfilter"],
        "range[,range…]",
        "log only guest code in first..last, start+size or end-size",
        log::take_ranges,
    ),
];

fn only_none(what: &str, text: &str) -> anyhow::Result<()> {
    anyhow::ensure!(text == "none", "{what} are not implemented yet; only 'none' is");
    Ok(())
}

/// Options that QEMU documents and Rhea has not yet, with what they are about.
pub const NOT_YET: &[(&[&str], &str)] = &[
    (&["hda", "hdb", "hdc", "hdd", "cdrom"], "IDE disks; use -drive file=…,if=virtio"),
    (&["sd", "mtdblock"], "these disks; use -drive file=…,if=virtio"),
    (&["fda", "fdb", "boot", "L", "option-rom"], "firmware boot and disks"),
    (&["netdev", "tftp", "smb", "bootp"], "network"),
    (&["vnc", "spice", "full-screen", "g", "audio", "audiodev", "k", "show-cursor"], "display and sound"),
    (&["usb", "usbdevice"], "USB"),
    (&["virtfs", "fsdev"], "shared folders"),
    (&["enable-kvm"], "the KVM accelerator; -accel tcg is there"),
    (&["qmp", "qmp-pretty", "mon"], "monitor protocols"),
    (&["gdb", "s"], "the GDB stub"),
    (&["incoming", "loadvm", "only-migratable"], "migration and saved machines"),
    (&["set", "readconfig", "writeconfig", "plugin", "compat"], "the object model"),
    (&["mem-path", "mem-prealloc", "overcommit"], "memory back ends"),
    (&["smbios", "acpitable", "fw_cfg", "no-acpi", "no-hpet"], "firmware tables"),
    (&["daemonize", "pidfile", "chroot", "runas", "run-with", "sandbox", "add-fd"], "running as a service"),
    (&["trace", "perfmap", "jitdump", "msg", "dump-vmstate", "seed"], "tracing"),
    (
        &["watchdog", "watchdog-action", "action", "tpmdev", "semihosting", "semihosting-config"],
        "these devices and actions",
    ),
    (&["shim", "msg-timestamp", "echr", "win2k-hack", "prom-env"], "this part of QEMU"),
    (&["virtioconsole", "virtiocon"], "virtio consoles"),
];

fn help(program: &str) -> String {
    let mut text = format!("{}\nusage: {program} [OPTION…]\n\n", super::version_line());
    for option in OPTIONS {
        let names: Vec<String> = option.names.iter().map(|n| format!("-{n}")).collect();
        let head = format!("{} {}", names.join(" or "), option.argument.unwrap_or(""));
        let head = head.trim_end();
        // Writing to a string cannot fail.
        let _ = if head.len() < 28 {
            writeln!(text, "  {head:<28}{}", option.help)
        } else {
            writeln!(text, "  {head}\n{:30}{}", "", option.help)
        };
    }
    text + "\nWithout -display, -serial and -nodefaults the terminal is serial port and monitor, as with -nographic.\n\
        Options of QEMU that are not listed are refused by name.\n"
}
