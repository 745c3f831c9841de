//! Character back ends: the short form of `-serial` and the long one of `-chardev`.

use std::path::PathBuf;

use anyhow::{anyhow, bail};
use rhea_options::{FromOptions, Options, closest, options};

use crate::config::{CharConfig, SystemConfig, VirtioKind};

/// Back ends of QEMU that are not there yet, in either form.
const NOT_YET: &[&str] = &[
    "pipe",
    "socket",
    "udp",
    "tcp",
    "telnet",
    "websocket",
    "tn3270",
    "unix",
    "pty",
    "tty",
    "serial",
    "parallel",
    "parport",
    "vc",
    "con",
    "msmouse",
    "wctablet",
    "braille",
    "testdev",
    "ringbuf",
    "memory",
    "spicevmc",
    "spiceport",
    "qemu-vdagent",
    "dbus",
    "hub",
    "fdset",
];

fn unknown(name: &str) -> anyhow::Error {
    if NOT_YET.contains(&name) {
        return anyhow!("character back end '{name}' is not implemented yet; null, file and stdio are");
    }
    match closest(name, ["null", "none", "file", "stdio", "mon:stdio", "chardev"]) {
        Some(near) => anyhow!("no character back end '{name}'; did you mean '{near}'?"),
        None => anyhow!("no character back end '{name}'"),
    }
}

/// `stdio`, `mon:stdio`, `null`, `none`, `file:PATH`, `chardev:ID`.
pub fn parse_short(text: &str) -> anyhow::Result<CharConfig> {
    match text.split_once(':') {
        None => match text {
            "none" => Ok(CharConfig::None),
            "null" => Ok(CharConfig::Null),
            "stdio" => Ok(CharConfig::Stdio { signal: true, mux: false }),
            _ if text.starts_with("/dev/") => Err(unknown("tty")),
            _ => Err(unknown(text)),
        },
        Some(("mon", "stdio")) => Ok(CharConfig::MonitorAndStdio),
        Some(("mon", other)) => bail!("mon:{other} is not implemented yet; mon:stdio is"),
        Some(("file", "")) => bail!("file: needs a path"),
        Some(("file", path)) => Ok(CharConfig::File { path: path.into(), append: false, input: None }),
        Some(("chardev", "")) => bail!("chardev: needs an id"),
        Some(("chardev", id)) => Ok(CharConfig::Named(id.into())),
        Some((kind, _)) => Err(unknown(kind)),
    }
}

options! {
    /// `-chardev null`
    struct NullOptions {
        /// its name
        "id" => id: String,
    }
}

options! {
    /// `-chardev file`
    struct FileOptions {
        /// its name
        "id" => id: String,
        /// where output goes
        "path" => path: PathBuf,
        /// keep what the file holds
        "append" => append: Option<bool>,
        /// where input comes from
        "input-path" => input_path: Option<PathBuf>,
    }
}

options! {
    /// `-chardev stdio`
    struct StdioOptions {
        /// its name
        "id" => id: String,
        /// Ctrl-C ends the emulator instead of going to the guest
        "signal" => signal: Option<bool>,
        /// share it between front ends, with Ctrl-a as the escape
        "mux" => mux: Option<bool>,
    }
}

/// `-chardev`.
pub fn parse(text: &str) -> anyhow::Result<(String, CharConfig)> {
    let mut options = Options::parse(text, Some("backend"))?;
    let Some(backend) = options.take::<String>("backend")? else { bail!("parameter 'backend' is missing") };
    Ok(match backend.as_str() {
        "null" => (NullOptions::from_options(options)?.id, CharConfig::Null),
        "file" => {
            let o = FileOptions::from_options(options)?;
            (o.id, CharConfig::File { path: o.path, append: o.append.unwrap_or(false), input: o.input_path })
        }
        "stdio" => {
            let o = StdioOptions::from_options(options)?;
            let mux = o.mux.unwrap_or(false);
            (o.id, CharConfig::Stdio { signal: o.signal.unwrap_or(!mux), mux })
        }
        other => return Err(unknown(other)),
    })
}

/// `-chardev help`.
pub fn help() -> String {
    format!(
        "character back ends:\n\nnull\n{}\nfile\n{}\nstdio\n{}",
        NullOptions::help(),
        FileOptions::help(),
        StdioOptions::help()
    )
}

/// Every `chardev:ID` must be declared, and only a mux may have more than one user.
pub fn check_references(config: &SystemConfig) -> anyhow::Result<()> {
    let debugcon = config.debugcon.iter().map(|d| ("-device isa-debugcon", &d.chardev));
    let serials = config.serials.iter().map(|s| ("-serial", s));
    let monitor = config.monitor.iter().map(|m| ("-monitor", m));
    let consoles = config.virtio.iter().filter_map(|device| match &device.kind {
        VirtioKind::Console(chardev) => Some(("-device virtconsole", chardev)),
        _ => None,
    });
    let users: Vec<_> = serials.chain(monitor).chain(debugcon).chain(consoles).collect();
    let mut stdio_users = 0;
    let mut seen: Vec<&str> = Vec::new();
    for (option, user) in users {
        match user {
            CharConfig::Stdio { .. } | CharConfig::MonitorAndStdio => stdio_users += 1,
            CharConfig::Named(id) => {
                let ids = || config.chardevs.iter().map(|(id, _)| id.as_str());
                let Some((_, backend)) = config.chardevs.iter().find(|(known, _)| known == id) else {
                    match closest(id, ids()) {
                        Some(near) => {
                            bail!("{option}: no -chardev has the id '{id}'; did you mean '{near}'?")
                        }
                        None => bail!("{option}: no -chardev has the id '{id}'"),
                    }
                };
                let is_mux = matches!(backend, CharConfig::Stdio { mux: true, .. });
                if seen.contains(&id.as_str()) && !is_mux {
                    bail!("{option}: character back end '{id}' is in use already");
                }
                seen.push(id);
            }
            CharConfig::None | CharConfig::Null | CharConfig::File { .. } => {}
        }
    }
    stdio_users += config.chardevs.iter().filter(|(_, c)| matches!(c, CharConfig::Stdio { .. })).count();
    if stdio_users > 1 {
        bail!("stdio can be used once; share it with mon:stdio or -chardev stdio,mux=on");
    }
    Ok(())
}
