//! `-accel`: accelerators are tried in the order given, as in QEMU.

use anyhow::bail;
use rhea_options::{FromOptions, Options, closest, options};

use super::Builder;
use crate::config::{AccelConfig, Threading, Tier};

/// Code caches beyond this are of no use: branches inside one must reach 2 GiB.
const MAX_TB_SIZE_MIB: u64 = 1024;

options! {
    /// `-accel tcg`
    pub struct TcgOptions {
        /// virtual CPUs on one host thread or one each
        "thread" => thread: Option<Threading>,
        /// size of the code cache in MiB
        "tb-size" => tb_size: Option<u64>,
        /// translate each guest instruction by itself
        "one-insn-per-tb" => one_insn_per_tb: Option<bool>,
        /// which tier runs guest code
        "tier" => tier: Option<Tier>,
        /// run the interpreter beside the translator and compare (slow)
        "lockstep" => lockstep: Option<bool>,
    }
}

/// Accelerators of QEMU that are not there.
const NOT_YET: &[&str] = &["kvm", "xen", "hvf", "whpx", "nvmm", "mshv", "qtest"];

/// One `-accel`.
pub struct AccelRequest {
    name: String,
    /// Set when the accelerator exists.
    config: Option<AccelConfig>,
}

/// `-accel`.
pub fn take(builder: &mut Builder, text: &str) -> anyhow::Result<()> {
    let mut options = Options::parse(text, Some("accel"))?;
    if options.wants_help() {
        builder.say = Some(match options.get("accel") {
            None => "accelerators:\ntcg     the binary translator\n".into(),
            Some(_) => format!("tcg parameters:\n{}", TcgOptions::help()),
        });
        return Ok(());
    }
    let Some(name) = options.take::<String>("accel")? else { bail!("parameter 'accel' is missing") };
    let config =
        if name == "tcg" { Some(configure(TcgOptions::from_options(options)?)?) } else { check(&name)? };
    builder.accelerators.push(AccelRequest { name, config });
    Ok(())
}

/// Refuses a name that is no accelerator of QEMU either.
fn check(name: &str) -> anyhow::Result<Option<AccelConfig>> {
    if NOT_YET.contains(&name) {
        return Ok(None);
    }
    match closest(name, NOT_YET.iter().copied().chain(["tcg"])) {
        Some(near) => bail!("no accelerator '{name}'; did you mean '{near}'?"),
        None => bail!("no accelerator '{name}'; use -accel help to list them"),
    }
}

fn configure(options: TcgOptions) -> anyhow::Result<AccelConfig> {
    if let Some(size) = options.tb_size
        && !(1..=MAX_TB_SIZE_MIB).contains(&size)
    {
        bail!("parameter 'tb-size' expects 1 to {MAX_TB_SIZE_MIB} (MiB), not '{size}'");
    }
    let tier = options.tier.unwrap_or(Tier::Baseline);
    let lockstep = options.lockstep.unwrap_or(false);
    if lockstep && tier == Tier::Interpreter {
        bail!(
            "lockstep=on compares tier=baseline with the interpreter; tier=interpreter leaves nothing to compare"
        );
    }
    Ok(AccelConfig {
        thread: options.thread,
        tb_size: options.tb_size.map(|mib| mib << 20),
        one_insn_per_tb: options.one_insn_per_tb.unwrap_or(false),
        tier,
        lockstep,
    })
}

/// The first accelerator asked for that exists; the translator if none was asked for.
pub fn choose(program: &str, requests: Vec<AccelRequest>, names: Vec<String>) -> anyhow::Result<AccelConfig> {
    let default = || configure(TcgOptions::from_options(Options::default())?);
    if !requests.is_empty() && !names.is_empty() {
        bail!("-machine accel= and -accel cannot be used together");
    }
    let mut candidates = requests;
    for name in names {
        let config = if name == "tcg" { Some(default()?) } else { check(&name)? };
        candidates.push(AccelRequest { name, config });
    }
    let mut missing = Vec::new();
    for candidate in candidates {
        match candidate.config {
            Some(config) => {
                if !missing.is_empty() {
                    eprintln!(
                        "{program}: accelerator {} is not implemented yet; using tcg",
                        missing.join(", ")
                    );
                }
                return Ok(config);
            }
            None => missing.push(candidate.name),
        }
    }
    match missing.as_slice() {
        [] => default(),
        _ => bail!("-accel {}: not implemented yet; -accel tcg is", missing.join(", ")),
    }
}
