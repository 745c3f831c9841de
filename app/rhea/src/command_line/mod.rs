//! The command line of a system emulator, in QEMU's syntax, to [`SystemConfig`].
//!
//! One table ([`table::OPTIONS`]) names every option with its argument, its help and the function that takes it into
//! the [`Builder`]; `-h` is printed from the same table. An option that QEMU has and Rhea has not yet is refused by
//! name ([`table::NOT_YET`]); any other word is refused with the nearest option as a hint. When all options are read,
//! [`Builder::finish`] checks what only makes sense together.

mod accelerator;
mod chardev;
mod device;
mod drive;
mod log;
mod machine;
mod numa;
mod object;
mod processor;
mod table;
#[cfg(test)]
mod tests;
mod topology;
mod virtio;

use anyhow::{Context, anyhow, bail};
use rhea_options::{FromOptions, MebiSize, Options, closest, options};
use rhea_virtio::MmioVersion;

use crate::config::{
    BootConfig, CharConfig, DisksConfig, IcountConfig, LogConfig, RtcBase, RtcClock, RtcConfig, RunConfig,
    SystemConfig,
};
use crate::targets::{CpuConfig, Target};

use accelerator::AccelRequest;
use device::DeviceRequest;
use numa::NumaRequest;
use object::MemoryBackend;
use topology::SmpOptions;

/// Guest memory without `-m`, as QEMU's PC has it.
const DEFAULT_RAM: u64 = 128 << 20;

/// What a command line asks for.
#[derive(Debug)]
pub enum Outcome {
    /// Print this (a help text, the version) and end.
    Say(String),
    /// Build this machine and run it.
    Run(Box<SystemConfig>),
}

/// The line that `-version` prints.
pub fn version_line() -> String {
    format!("Rhea {}", env!("CARGO_PKG_VERSION"))
}

/// Parses the arguments after the program's name (and front end word).
pub fn parse(program: &str, target: Target, arguments: &[String]) -> anyhow::Result<Outcome> {
    let mut builder = Builder::new(program, target);
    let mut rest = arguments.iter();
    while let Some(word) = rest.next() {
        let Some(name) = word.strip_prefix("--").or_else(|| word.strip_prefix('-')).filter(|n| !n.is_empty())
        else {
            bail!(
                "{word}: a bare disk image would be an IDE disk, which is not implemented yet; \
                 give it with -drive file={word},if=virtio (a kernel is given with -kernel, a ROM with -bios)"
            );
        };
        let Some(option) = table::OPTIONS.iter().find(|o| o.names.contains(&name)) else {
            return Err(unknown_option(name));
        };
        let argument = match option.argument {
            None => "",
            Some(_) => rest.next().ok_or_else(|| anyhow!("-{name}: requires an argument"))?,
        };
        (option.take)(&mut builder, argument)
            .with_context(|| format!("-{name} {argument}").trim_end().to_owned())?;
        if let Some(text) = builder.say.take() {
            return Ok(Outcome::Say(text));
        }
    }
    Ok(Outcome::Run(Box::new(builder.finish()?)))
}

fn unknown_option(name: &str) -> anyhow::Error {
    if let Some((_, what)) = table::NOT_YET.iter().find(|(names, _)| names.contains(&name)) {
        return anyhow!("-{name}: not implemented yet ({what})");
    }
    let names = table::OPTIONS.iter().flat_map(|o| o.names).copied();
    match closest(name, names) {
        Some(near) => anyhow!("-{name}: invalid option; did you mean '-{near}'?"),
        None => anyhow!("-{name}: invalid option; see -help"),
    }
}

options! {
    /// `-m`
    pub struct MemoryOptions(implied "size") {
        /// guest memory at start
        "size" => size: Option<MebiSize>,
    }
}

options! {
    /// `-name`
    pub struct NameOptions(implied "guest") {
        /// the machine's name
        "guest" => guest: Option<String>,
        /// name the emulator's threads (they always have names)
        "debug-threads" => debug_threads: Option<bool>,
    }
}

options! {
    /// `-rtc`
    pub struct RtcOptions {
        /// where it starts
        "base" => base: Option<RtcBase>,
        /// what it counts
        "clock" => clock: Option<RtcClock>,
        /// what happens to ticks the guest missed (only 'none' yet)
        "driftfix" => driftfix: Option<String>,
    }
}

options! {
    /// `-icount`
    pub struct IcountOptions(implied "shift") {
        /// one guest instruction takes 2^shift ns of virtual time (0 to 10)
        "shift" => shift: Option<String>,
        /// wait in real time while all virtual CPUs sleep
        "sleep" => sleep: Option<bool>,
        /// keep virtual time from running ahead of real time (only 'off' yet)
        "align" => align: Option<bool>,
    }
}

/// The options read so far.
pub struct Builder {
    program: String,
    target: Target,
    /// A text to print instead of running.
    say: Option<String>,
    /// `-machine`, all of them.
    machine: Options,
    accelerators: Vec<AccelRequest>,
    cpu: Option<CpuConfig>,
    smp: Options,
    ram_size: u64,
    numa: NumaRequest,
    memory_backends: Vec<MemoryBackend>,
    boot: BootConfig,
    serials: Vec<CharConfig>,
    monitor: Option<CharConfig>,
    chardevs: Vec<(String, CharConfig)>,
    devices: Vec<DeviceRequest>,
    disks: DisksConfig,
    /// `-drive if=virtio`, by id.
    virtio_drives: Vec<String>,
    snapshot: bool,
    mmio: MmioVersion,
    nographic: bool,
    no_display: bool,
    no_defaults: bool,
    name: Option<String>,
    uuid: Option<[u8; 16]>,
    rtc: RtcConfig,
    icount: Option<IcountConfig>,
    log: LogConfig,
    run: RunConfig,
}

impl Builder {
    fn new(program: &str, target: Target) -> Self {
        Self {
            program: program.into(),
            target,
            say: None,
            machine: Options::default(),
            accelerators: Vec::new(),
            cpu: None,
            smp: Options::default(),
            ram_size: DEFAULT_RAM,
            numa: NumaRequest::default(),
            memory_backends: Vec::new(),
            boot: BootConfig::default(),
            serials: Vec::new(),
            monitor: None,
            chardevs: Vec::new(),
            devices: Vec::new(),
            disks: DisksConfig::default(),
            virtio_drives: Vec::new(),
            snapshot: false,
            mmio: MmioVersion::Legacy,
            nographic: false,
            no_display: false,
            no_defaults: false,
            name: None,
            uuid: None,
            rtc: RtcConfig { base: RtcBase::Utc, clock: RtcClock::Host },
            icount: None,
            log: LogConfig::default(),
            run: RunConfig::default(),
        }
    }

    /// True (and the text is kept) when the option's argument asks for its help.
    fn help<T: FromOptions>(&mut self, option: &str, text: &str) -> anyhow::Result<bool> {
        let wants = Options::parse(text, None)?.wants_help();
        if wants {
            self.say = Some(format!("{option} parameters:\n{}", T::help()));
        }
        Ok(wants)
    }

    fn take_smp(&mut self, text: &str) -> anyhow::Result<()> {
        if !self.help::<SmpOptions>("-smp", text)? {
            // Checked now, for an error that names this argument; resolved when all are there.
            SmpOptions::parse(text)?;
            self.smp.merge(Options::parse(text, SmpOptions::IMPLIED)?);
        }
        Ok(())
    }

    fn take_memory(&mut self, text: &str) -> anyhow::Result<()> {
        if self.help::<MemoryOptions>("-m", text)? {
            return Ok(());
        }
        if let Some(MebiSize(size)) = MemoryOptions::parse(text)?.size {
            if size == 0 {
                bail!("guest memory cannot be empty");
            }
            if size % 4096 != 0 {
                bail!("guest memory must be a whole number of 4 KiB pages");
            }
            self.ram_size = size;
        }
        Ok(())
    }

    fn take_name(&mut self, text: &str) -> anyhow::Result<()> {
        if !self.help::<NameOptions>("-name", text)? {
            let options = NameOptions::parse(text)?;
            if options.debug_threads == Some(false) {
                bail!("threads always have names; debug-threads=off is not possible");
            }
            self.name = options.guest.or(self.name.take());
        }
        Ok(())
    }

    fn take_uuid(&mut self, text: &str) -> anyhow::Result<()> {
        self.uuid = Some(parse_uuid(text).ok_or_else(|| anyhow!("expects 8-4-4-4-12 hexadecimal digits"))?);
        Ok(())
    }

    fn take_rtc(&mut self, text: &str) -> anyhow::Result<()> {
        if self.help::<RtcOptions>("-rtc", text)? {
            return Ok(());
        }
        let options = RtcOptions::parse(text)?;
        match options.driftfix.as_deref() {
            None | Some("none") => {}
            Some("slew") => bail!("driftfix=slew is not implemented yet"),
            Some(other) => bail!("parameter 'driftfix' expects 'none' or 'slew', not '{other}'"),
        }
        self.rtc.base = options.base.unwrap_or(self.rtc.base);
        self.rtc.clock = options.clock.unwrap_or(self.rtc.clock);
        Ok(())
    }

    fn take_icount(&mut self, text: &str) -> anyhow::Result<()> {
        if self.help::<IcountOptions>("-icount", text)? {
            return Ok(());
        }
        let options = IcountOptions::parse(text)?;
        let shift = match options.shift.as_deref() {
            None => bail!("parameter 'shift' is missing"),
            Some("auto") => bail!("shift=auto is not implemented yet; give a number from 0 to 10"),
            Some(number) => number.parse().ok().filter(|n| *n <= 10),
        };
        let Some(shift) = shift else { bail!("parameter 'shift' expects a number from 0 to 10 or 'auto'") };
        if options.align == Some(true) {
            bail!("align=on is not implemented yet");
        }
        self.icount = Some(IcountConfig { shift, sleep: options.sleep.unwrap_or(true) });
        Ok(())
    }

    fn take_display(&mut self, text: &str) -> anyhow::Result<()> {
        match text {
            "none" => self.no_display = true,
            "help" | "?" => self.say = Some("display kinds:\nnone\n".into()),
            _ => bail!("display '{text}' is not implemented yet; use -display none or -nographic"),
        }
        Ok(())
    }

    fn take_serial(&mut self, text: &str) -> anyhow::Result<()> {
        self.serials.push(chardev::parse_short(text)?);
        Ok(())
    }

    fn take_monitor(&mut self, text: &str) -> anyhow::Result<()> {
        self.monitor = Some(chardev::parse_short(text)?);
        Ok(())
    }

    fn take_chardev(&mut self, text: &str) -> anyhow::Result<()> {
        if Options::parse(text, Some("backend"))?.wants_help() {
            self.say = Some(chardev::help());
            return Ok(());
        }
        let (id, config) = chardev::parse(text)?;
        if self.chardevs.iter().any(|(known, _)| *known == id) {
            bail!("id '{id}' is taken by another -chardev");
        }
        self.chardevs.push((id, config));
        Ok(())
    }

    /// Checks what only makes sense together and fills in what was left open.
    fn finish(self) -> anyhow::Result<SystemConfig> {
        let (board, machine) = machine::finish(self.target, &self.machine).context("-machine")?;
        let topology = SmpOptions::from_options(self.smp)
            .map_err(anyhow::Error::from)
            .and_then(|smp| topology::resolve(&smp, board))
            .context("-smp")?;
        let boot = self.boot;
        if boot.kernel.is_none() {
            for (given, name) in [
                (boot.initrd.is_some(), "initrd"),
                (boot.append.is_some(), "append"),
                (boot.dtb.is_some(), "dtb"),
            ] {
                if given {
                    bail!("-{name}: only allowed with -kernel");
                }
            }
        }
        (self.target.check_boot)(&boot)?;
        let backend = |id: &str| object::size_of(&self.memory_backends, id);
        let numa = self.numa.finish(board, topology, self.ram_size, &backend).context("-numa")?;
        let devices = device::collect(self.devices)?;
        let virtio = virtio::finish(devices.virtio, &self.virtio_drives, board, self.mmio)?;
        let disks = drive::finish(self.disks, self.snapshot, board, &machine).context("flash memory")?;
        let accel =
            accelerator::choose(&self.program, self.accelerators, machine::accelerators(&self.machine))?;
        // With no display to open, a machine that was told nothing about output talks on the terminal.
        let headless_by_choice = self.no_display || self.no_defaults;
        let mut serials = self.serials;
        if serials.is_empty() && (self.nographic || !headless_by_choice) {
            serials.push(if self.monitor.is_some() {
                CharConfig::Stdio { signal: !self.nographic, mux: false }
            } else {
                CharConfig::MonitorAndStdio
            });
        }
        let config = SystemConfig {
            target: self.target,
            name: self.name,
            uuid: self.uuid,
            machine,
            accel,
            cpu: match self.cpu {
                Some(cpu) => cpu,
                None => processor::parse(self.target, self.target.default_cpu)?,
            },
            topology,
            ram_size: self.ram_size,
            numa,
            boot,
            serials,
            monitor: self.monitor.filter(|m| *m != CharConfig::None),
            chardevs: self.chardevs,
            debug_exit: devices.debug_exit,
            debugcon: devices.debugcon,
            loaders: devices.loaders,
            disks,
            virtio,
            rtc: self.rtc,
            icount: self.icount,
            log: self.log,
            run: self.run,
        };
        chardev::check_references(&config)?;
        Ok(config)
    }
}

/// `xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx`, hyphens at their places or none at all.
fn parse_uuid(text: &str) -> Option<[u8; 16]> {
    let groups: Vec<usize> = text.split('-').map(str::len).collect();
    if groups != [8, 4, 4, 4, 12] && groups != [32] {
        return None;
    }
    let digits: Vec<u8> =
        text.chars().filter(|c| *c != '-').map(|c| c.to_digit(16).map(|d| d as u8)).collect::<Option<_>>()?;
    let mut uuid = [0; 16];
    for (byte, pair) in uuid.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = pair[0] << 4 | pair[1];
    }
    Some(uuid)
}
