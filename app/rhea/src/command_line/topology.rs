//! `-smp`: what is not given is worked out, then checked, by the rules that QEMU documents for `-smp`.

use anyhow::bail;
use rhea_options::options;

use crate::config::Topology;
use crate::targets::BoardSpec;

options! {
    /// `-smp`
    pub struct SmpOptions(implied "cpus") {
        /// processors present at start
        "cpus" => cpus: Option<u32>,
        /// processors at most (processors cannot be added later yet)
        "maxcpus" => maxcpus: Option<u32>,
        /// sockets of the machine
        "sockets" => sockets: Option<u32>,
        /// dies of a socket
        "dies" => dies: Option<u32>,
        /// cores of a die
        "cores" => cores: Option<u32>,
        /// threads of a core
        "threads" => threads: Option<u32>,
    }
}

/// Works out what was left open. Left-over processors become cores first, then sockets, then threads.
pub fn resolve(options: &SmpOptions, board: &BoardSpec) -> anyhow::Result<Topology> {
    let given =
        [options.cpus, options.maxcpus, options.sockets, options.dies, options.cores, options.threads];
    if given.contains(&Some(0)) {
        bail!("invalid CPU topology: parameters must be greater than zero");
    }
    let dies = options.dies.unwrap_or(1);
    if dies > 1 && !board.has_dies {
        bail!("dies > 1 not supported by machine '{}'", board.name);
    }
    let (mut sockets, mut cores, mut threads) = (options.sockets, options.cores, options.threads);
    let wanted = options.maxcpus.or(options.cpus);
    if let Some(wanted) = wanted {
        let rest = |others: [u32; 3]| {
            let product = others.iter().map(|n| u128::from(*n)).product::<u128>();
            u32::try_from(u128::from(wanted) / product).unwrap_or(0)
        };
        if cores.is_none() {
            let (s, t) = (sockets.unwrap_or(1), threads.unwrap_or(1));
            (sockets, threads, cores) = (Some(s), Some(t), Some(rest([s, dies, t])));
        } else if sockets.is_none() {
            let t = threads.unwrap_or(1);
            (threads, sockets) = (Some(t), Some(rest([dies, cores.unwrap_or(1), t])));
        } else if threads.is_none() {
            threads = Some(rest([sockets.unwrap_or(1), dies, cores.unwrap_or(1)]));
        }
    }
    let (sockets, cores, threads) = (sockets.unwrap_or(1), cores.unwrap_or(1), threads.unwrap_or(1));
    let total = [sockets, dies, cores, threads].iter().try_fold(1u32, |product, n| product.checked_mul(*n));
    let hierarchy = format!("sockets ({sockets}) * dies ({dies}) * cores ({cores}) * threads ({threads})");
    let Some(total) = total else { bail!("invalid CPU topology: {hierarchy} is too large") };
    let maxcpus = options.maxcpus.unwrap_or(match options.cpus {
        // The hierarchy may hold more than were asked for at start only if maxcpus says so.
        Some(cpus) => cpus,
        None => total,
    });
    let cpus = options.cpus.unwrap_or(maxcpus);
    if total != maxcpus {
        bail!(
            "invalid CPU topology: the product of the hierarchy must match maxcpus: {hierarchy} != maxcpus ({maxcpus})"
        );
    }
    if maxcpus < cpus {
        bail!("invalid CPU topology: maxcpus ({maxcpus}) must not be less than cpus ({cpus})");
    }
    let (machine, most) = (board.name, board.max_cpus);
    if maxcpus > most {
        bail!("invalid number of CPUs {maxcpus}: machine '{machine}' supports at most {most}");
    }
    Ok(Topology { cpus, maxcpus, sockets, dies, cores, threads })
}

#[cfg(test)]
mod tests {
    use rhea_options::FromOptions;

    use super::*;
    use crate::targets::x86::X86_64;

    fn smp(text: &str) -> Result<Topology, String> {
        resolve(&SmpOptions::parse(text).unwrap(), X86_64.board("q35").unwrap()).map_err(|e| e.to_string())
    }

    fn shape(text: &str) -> [u32; 6] {
        let t = smp(text).unwrap();
        [t.cpus, t.maxcpus, t.sockets, t.dies, t.cores, t.threads]
    }

    #[test]
    fn what_is_left_open_is_worked_out() {
        assert_eq!(shape(""), [1, 1, 1, 1, 1, 1]);
        assert_eq!(shape("4"), [4, 4, 1, 1, 4, 1]);
        assert_eq!(shape("8,sockets=2"), [8, 8, 2, 1, 4, 1]);
        assert_eq!(shape("8,cores=2"), [8, 8, 4, 1, 2, 1]);
        assert_eq!(shape("8,sockets=2,cores=2"), [8, 8, 2, 1, 2, 2]);
        assert_eq!(shape("8,threads=2"), [8, 8, 1, 1, 4, 2]);
        assert_eq!(shape("8,dies=2"), [8, 8, 1, 2, 4, 1]);
        assert_eq!(shape("sockets=2,cores=3"), [6, 6, 2, 1, 3, 1]);
        assert_eq!(shape("2,maxcpus=4"), [2, 4, 1, 1, 4, 1]);
    }

    #[test]
    fn impossible_topologies_are_refused() {
        assert!(smp("0").unwrap_err().contains("greater than zero"));
        assert!(smp("5,cores=2,threads=2").unwrap_err().contains("!= maxcpus (5)"));
        assert!(smp("3,sockets=2").unwrap_err().contains("must match maxcpus"));
        assert!(smp("4,maxcpus=2").unwrap_err().contains("must not be less"));
        assert!(smp("256").unwrap_err().contains("at most 255"));
        assert!(smp("sockets=65536,cores=65536,threads=65536").unwrap_err().contains("too large"));
        assert!(smp("sockets=4294967295,dies=4294967295,cpus=1").is_err());
    }
}
