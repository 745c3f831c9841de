//! `-object`: the memory back ends that `-numa` names, and what disks need.

use anyhow::{anyhow, bail};
use rhea_options::{FromOptions, Options, Size, closest, options};

use super::Builder;

options! {
    /// `-object memory-backend-ram`
    struct MemoryOptions {
        /// its name
        "id" => id: String,
        /// its size (a plain number counts bytes)
        "size" => size: Size,
    }
}

const OBJECTS: &[(&str, &str)] = &[
    ("memory-backend-ram", "anonymous host memory"),
    ("secret", "a password or key"),
    ("throttle-group", "a limit that disks share"),
    ("tls-creds-anon", "TLS without certificates"),
    ("tls-creds-psk", "TLS with a shared key"),
    ("tls-creds-x509", "TLS with certificates"),
];

/// Objects of QEMU that people name most often.
const NOT_YET: &[&str] = &[
    "memory-backend-file",
    "memory-backend-memfd",
    "memory-backend-epc",
    "iothread",
    "rng-random",
    "rng-builtin",
    "filter-dump",
    "authz-simple",
    "authz-list",
    "main-loop",
    "thread-context",
    "can-bus",
    "cryptodev-backend",
];

/// A memory back end.
pub struct MemoryBackend {
    id: String,
    size: u64,
}

/// `-object`.
pub fn take(builder: &mut Builder, text: &str) -> anyhow::Result<()> {
    let mut options = Options::parse(text, Some("qom-type"))?;
    let wants_help = options.wants_help();
    let Some(kind) = options.take::<String>("qom-type")? else {
        if wants_help {
            let lines = OBJECTS.iter().map(|(name, about)| format!("{name:<20} {about}\n"));
            builder.say = Some(format!("objects:\n{}", lines.collect::<String>()));
            return Ok(());
        }
        bail!("parameter 'qom-type' is missing");
    };
    if !OBJECTS.iter().any(|(name, _)| *name == kind) {
        if NOT_YET.contains(&kind.as_str()) {
            bail!("object '{kind}' is not implemented yet; use -object help to list those that are");
        }
        return Err(match closest(&kind, OBJECTS.iter().map(|(name, _)| *name)) {
            Some(near) => anyhow!("no object '{kind}'; did you mean '{near}'?"),
            None => anyhow!("no object '{kind}'; use -object help to list them"),
        });
    }
    if kind != "memory-backend-ram" {
        // The block layer's: made when it is there.
        match rhea_block_objects::object_help(text) {
            Some(help) => builder.say = Some(help),
            None => builder.disks.objects.push(text.into()),
        }
        return Ok(());
    }
    if wants_help {
        builder.say = Some(format!("{kind} options:\n{}", MemoryOptions::help()));
        return Ok(());
    }
    let MemoryOptions { id, size: Size(size) } = MemoryOptions::from_options(options)?;
    if size == 0 || size % 4096 != 0 {
        bail!("parameter 'size' expects whole pages of 4 KiB");
    }
    if builder.memory_backends.iter().any(|known| known.id == id) {
        bail!("id '{id}' is taken by another -object");
    }
    builder.memory_backends.push(MemoryBackend { id, size });
    Ok(())
}

/// The size of the memory back end with this id.
pub fn size_of(backends: &[MemoryBackend], id: &str) -> anyhow::Result<u64> {
    let found = backends.iter().find(|backend| backend.id == id);
    found.map(|backend| backend.size).ok_or_else(|| anyhow!("no -object has the id '{id}'"))
}
