//! What the command line of a system emulator says, as types. Nothing here is text any more; what can be checked
//! without building the machine has been checked.

use std::path::PathBuf;

use rhea_block::OpenFlags;
use rhea_options::{OptionValue, Options, option_enum};
use rhea_pci::PciAddress;
use rhea_virtio::{BlkConfig, MmioVersion};

use crate::targets::{CpuConfig, MachineConfig, Target};

option_enum! {
    /// How virtual CPUs share host threads.
    pub enum Threading {
        /// virtual CPUs take turns: never two at a time
        Single = "single",
        /// one thread for each virtual CPU
        Multi = "multi",
    }
}

option_enum! {
    /// Which tier of the translator runs guest code.
    pub enum Tier {
        /// interpret the intermediate representation
        Interpreter = "interpreter",
        /// translate to host code in one pass
        Baseline = "baseline",
    }
}

/// `-accel tcg`: the binary translator.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AccelConfig {
    /// `None`: one thread for each virtual CPU, but a single one under `-icount`.
    pub thread: Option<Threading>,
    /// Bound of the code cache in bytes; `None` for the built-in one.
    pub tb_size: Option<u64>,
    /// Units of one guest instruction.
    pub one_insn_per_tb: bool,
    /// Which tier runs.
    pub tier: Tier,
    /// Run the interpreter beside tier 1 and compare.
    pub lockstep: bool,
}

/// `-smp`, with nothing left open: `sockets * dies * cores * threads == maxcpus >= cpus >= 1`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Topology {
    /// Present at start.
    pub cpus: u32,
    /// At most.
    pub maxcpus: u32,
    /// Sockets of the machine.
    pub sockets: u32,
    /// Dies of a socket.
    pub dies: u32,
    /// Cores of a die.
    pub cores: u32,
    /// Threads of a core.
    pub threads: u32,
}

/// One NUMA node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NumaNode {
    /// Its memory in bytes.
    pub memory: u64,
    /// Its processors, by their index.
    pub cpus: Vec<u32>,
}

/// `-numa`: every byte of memory and every processor is in a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NumaConfig {
    /// The nodes in order of their numbers; memory follows the same order.
    pub nodes: Vec<NumaNode>,
    /// Distances row by row, 10 for a node to itself, if any were given.
    pub distances: Option<Vec<u8>>,
}

/// What the machine starts with.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BootConfig {
    /// Kernel to start directly.
    pub kernel: Option<PathBuf>,
    /// Its initial RAM disk.
    pub initrd: Option<PathBuf>,
    /// Its command line.
    pub append: Option<String>,
    /// A device tree to hand to it.
    pub dtb: Option<PathBuf>,
    /// Firmware: on a PC, a flat ROM that ends at 4 GiB.
    pub bios: Option<PathBuf>,
}

/// A character back end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CharConfig {
    /// No device at all.
    None,
    /// Discards.
    Null,
    /// A host file.
    File {
        /// Output.
        path: PathBuf,
        /// Keep what is in it.
        append: bool,
        /// Where input comes from.
        input: Option<PathBuf>,
    },
    /// The terminal.
    Stdio {
        /// Ctrl-C ends the emulator instead of going to the guest.
        signal: bool,
        /// Shared by several front ends under the Ctrl-a escape.
        mux: bool,
    },
    /// The terminal shared with the monitor under the Ctrl-a escape (`mon:stdio`).
    MonitorAndStdio,
    /// One declared with `-chardev`.
    Named(String),
}

/// `-device isa-debug-exit`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DebugExitConfig {
    /// First I/O port.
    pub iobase: u16,
    /// Number of ports: 1 to 8.
    pub iosize: u8,
}

/// `-device isa-debugcon`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DebugconConfig {
    /// The I/O port.
    pub iobase: u16,
    /// What it answers when read.
    pub readback: u8,
    /// Where it writes.
    pub chardev: CharConfig,
}

/// `-device loader`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoaderConfig {
    /// The file to place.
    pub file: PathBuf,
    /// Its guest physical address.
    pub addr: u64,
}

/// A disk image given with `-drive`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DriveConfig {
    /// Its id, which devices name.
    pub id: String,
    /// The image; if absent, `options` tell all.
    pub file: Option<String>,
    /// Flags beside those in `options`.
    pub flags: OpenFlags,
    /// What is written goes to a temporary file.
    pub snapshot: bool,
    /// Devices start in write-through mode.
    pub writethrough: bool,
    /// Options of the node.
    pub options: Options,
}

/// The disks of a machine.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DisksConfig {
    /// `-object`s of the block layer, as they were given.
    pub objects: Vec<String>,
    /// `-blockdev`.
    pub blockdevs: Vec<Options>,
    /// `-drive`.
    pub drives: Vec<DriveConfig>,
    /// Banks of flash memory, and the id of the drive or the name of the node that each is on.
    pub flash: Vec<(u32, String)>,
}

/// Where a virtio device is plugged in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VirtioPlace {
    /// On the PCI bus: at this address, or wherever there is room.
    Pci(Option<PciAddress>),
    /// In the next free slot in memory, with registers of this version.
    Mmio(MmioVersion),
}

/// A virtio block device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VirtioBlkConfig {
    /// The id of a `-drive` or the name of a node.
    pub drive: String,
    /// Request queues; `None`: one for each processor on PCI, else one.
    pub queues: Option<u16>,
    /// Whether it starts in write-back mode; `None`: as the drive says.
    pub write_cache: Option<bool>,
    /// The rest.
    pub device: BlkConfig,
}

/// Which virtio device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum VirtioKind {
    /// A disk.
    Blk(Box<VirtioBlkConfig>),
    /// A source of random bytes.
    Rng,
    /// A console.
    Console(CharConfig),
}

/// A virtio device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VirtioConfig {
    /// What it was called on the command line.
    pub driver: String,
    /// Its id.
    pub id: Option<String>,
    /// Where it goes.
    pub place: VirtioPlace,
    /// What it is.
    pub kind: VirtioKind,
}

option_enum! {
    /// The clock that the real-time clock counts.
    pub enum RtcClock {
        /// the host's wall clock
        Host = "host",
        /// the host's monotonic clock
        Rt = "rt",
        /// the virtual clock, which stands still while the machine is stopped
        Vm = "vm",
    }
}

/// Where the real-time clock starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RtcBase {
    /// Universal time.
    Utc,
    /// The host's local time.
    LocalTime,
    /// This time, in seconds since 1970-01-01T00:00:00Z.
    DateTime(i64),
}

impl OptionValue for RtcBase {
    fn expected() -> String {
        "'utc', 'localtime' or a date (2006-06-17 or 2006-06-17T16:01:21)".into()
    }

    fn placeholder() -> String {
        "utc|localtime|<date>".into()
    }

    fn from_text(text: &str) -> Option<Self> {
        match text {
            "utc" => Some(Self::Utc),
            "localtime" => Some(Self::LocalTime),
            _ => parse_date_time(text).map(Self::DateTime),
        }
    }
}

/// `YYYY-MM-DD[THH:MM:SS]` to seconds since the epoch.
fn parse_date_time(text: &str) -> Option<i64> {
    let (date, time) = text.split_once('T').unwrap_or((text, "00:00:00"));
    let numbers = |text: &str, separator: char| -> Option<[i64; 3]> {
        let mut parts = text.split(separator).map(|p| {
            (!p.is_empty() && p.len() <= 4 && p.bytes().all(|b| b.is_ascii_digit()))
                .then(|| p.parse().ok())?
        });
        let all = [parts.next()??, parts.next()??, parts.next()??];
        parts.next().is_none().then_some(all)
    };
    let [year, month, day] = numbers(date, '-')?;
    let [hour, minute, second] = numbers(time, ':')?;
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let lengths = [31, if leap { 29 } else { 28 }, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let month_index = usize::try_from(month - 1).ok().filter(|m| *m < 12)?;
    if !(1970..=9999).contains(&year) || !(1..=lengths[month_index]).contains(&day) {
        return None;
    }
    if hour > 23 || minute > 59 || second > 59 {
        return None;
    }
    let leap_days = |y: i64| y / 4 - y / 100 + y / 400;
    let days = (year - 1970) * 365 + leap_days(year - 1) - leap_days(1969)
        + lengths[..month_index].iter().sum::<i64>()
        + day
        - 1;
    Some(((days * 24 + hour) * 60 + minute) * 60 + second)
}

/// `-rtc`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RtcConfig {
    /// Where it starts.
    pub base: RtcBase,
    /// What it counts.
    pub clock: RtcClock,
}

/// `-icount`: virtual time counts guest instructions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IcountConfig {
    /// One instruction takes `1 << shift` ns of virtual time: 0 to 10.
    pub shift: u8,
    /// While every virtual CPU sleeps, wait for the next timer in real time (otherwise jump to it).
    pub sleep: bool,
}

/// What `-d` logs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum LogItem {
    /// Guest code as it is translated.
    InAsm,
    /// The intermediate representation.
    Op,
    /// The same after its passes.
    OpOpt,
    /// Host code.
    OutAsm,
    /// Interrupts and exceptions.
    Int,
    /// CPU state before each unit.
    Cpu,
    /// Each unit as it runs.
    Exec,
    /// Accesses to addresses and ports where nothing is.
    Unimp,
    /// What the guest does against the rules.
    GuestErrors,
    /// Page walks.
    Mmu,
}

impl LogItem {
    /// Every item with its word and its help.
    pub const ALL: &[(Self, &str, &str)] = &[
        (Self::InAsm, "in_asm", "show guest code for each translated unit"),
        (Self::Op, "op", "show the intermediate representation of each unit"),
        (Self::OpOpt, "op_opt", "the same: the passes run while a unit is built"),
        (Self::OutAsm, "out_asm", "show the host code of each unit"),
        (Self::Int, "int", "show interrupts and exceptions"),
        (Self::Cpu, "cpu", "show the CPU registers before each unit"),
        (Self::Exec, "exec", "show each unit as it is entered"),
        (Self::Unimp, "unimp", "log accesses to addresses and ports where nothing is"),
        (Self::GuestErrors, "guest_errors", "log refused register accesses, writes to ROM, triple faults"),
        (Self::Mmu, "mmu", "log page walks, and TLB flushes that the guest asks for"),
    ];
}

/// `-d`, `-D` and `-dfilter`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LogConfig {
    /// What is logged.
    pub items: Vec<LogItem>,
    /// Where; stderr if absent.
    pub file: Option<PathBuf>,
    /// Only guest code at these addresses (first, last inclusive); all if empty.
    pub ranges: Vec<(u64, u64)>,
}

/// How the machine's run goes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RunConfig {
    /// A reset ends the emulator.
    pub no_reboot: bool,
    /// A guest's power-off leaves the emulator stopped.
    pub no_shutdown: bool,
    /// Do not start the CPUs.
    pub start_stopped: bool,
}

/// Everything a system emulator was asked to be.
#[derive(Debug, Clone, PartialEq)]
pub struct SystemConfig {
    /// The processor family.
    pub target: Target,
    /// `-name`.
    pub name: Option<String>,
    /// `-uuid`, as 16 bytes in the order they are written.
    pub uuid: Option<[u8; 16]>,
    /// The board.
    pub machine: MachineConfig,
    /// The accelerator.
    pub accel: AccelConfig,
    /// The processor, not yet placed in the topology.
    pub cpu: CpuConfig,
    /// Processors and how they are grouped.
    pub topology: Topology,
    /// Guest memory in bytes.
    pub ram_size: u64,
    /// How memory and processors are spread.
    pub numa: Option<NumaConfig>,
    /// What it starts with.
    pub boot: BootConfig,
    /// Serial ports in order.
    pub serials: Vec<CharConfig>,
    /// A monitor of its own.
    pub monitor: Option<CharConfig>,
    /// `-chardev`, by id.
    pub chardevs: Vec<(String, CharConfig)>,
    /// `-device isa-debug-exit`.
    pub debug_exit: Option<DebugExitConfig>,
    /// `-device isa-debugcon`.
    pub debugcon: Option<DebugconConfig>,
    /// `-device loader`.
    pub loaders: Vec<LoaderConfig>,
    /// `-drive`, `-blockdev`.
    pub disks: DisksConfig,
    /// `-device virtio-…` and `-drive if=virtio`.
    pub virtio: Vec<VirtioConfig>,
    /// `-rtc`.
    pub rtc: RtcConfig,
    /// `-icount`.
    pub icount: Option<IcountConfig>,
    /// `-d`, `-D`, `-dfilter`.
    pub log: LogConfig,
    /// `-no-reboot`, `-no-shutdown`, `-S`.
    pub run: RunConfig,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_count_seconds() {
        assert_eq!(parse_date_time("1970-01-01"), Some(0));
        assert_eq!(parse_date_time("2006-06-17T16:01:21"), Some(1_150_560_081));
        assert_eq!(parse_date_time("2000-03-01"), Some(951_868_800));
        for bad in
            ["", "2006", "2006-13-01", "2006-02-30", "2006-01-01T24:00:00", "2006-01-01T", "+2006-01-01"]
        {
            assert_eq!(parse_date_time(bad), None, "{bad}");
        }
    }
}
