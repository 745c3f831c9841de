//! What is measured of the image tools.

use std::fs::File;
use std::io;
use std::path::Path;

use anyhow::Context;

use super::process::{self, Cost};
use super::serve::{self, Server};
use super::{Side, Tools};

/// What a case does.
pub enum Work {
    /// Runs `qemu-img`; `OUT` in the arguments is the side's own target.
    Image(&'static str),
    /// Runs `qemu-img`, each side as client of its own `qemu-nbd`, which serves the file.
    Nbd(&'static str, &'static str),
    /// Runs QEMU's `qemu-img` (ours where it is not there) as client of each side's `qemu-nbd`.
    NbdServer(&'static str, &'static str),
}

/// One case.
pub struct Case {
    /// As it is reported.
    pub name: &'static str,
    work: Work,
    /// Files that it reads, which are to be in the page cache.
    reads: &'static [&'static str],
    /// How often it is run for one figure: short ones more often.
    times: usize,
    /// The target's format, if it is to hold what `disk.raw` holds.
    target: Option<&'static str>,
}

const fn image(name: &'static str, arguments: &'static str) -> Case {
    Case { name, work: Work::Image(arguments), reads: &[], times: 1, target: None }
}

const fn convert(name: &'static str, arguments: &'static str, target: &'static str) -> Case {
    let reads = &["disk.raw", "disk.qcow2"];
    Case { name, work: Work::Image(arguments), reads, times: 3, target: Some(target) }
}

const fn compress(name: &'static str, arguments: &'static str) -> Case {
    Case { times: 1, ..convert(name, arguments, "qcow2") }
}

const fn requests(name: &'static str, arguments: &'static str) -> Case {
    Case { reads: &["disk.raw", "disk.qcow2", "written.raw", "written.qcow2"], ..image(name, arguments) }
}

const fn nbd(name: &'static str, served: &'static str, arguments: &'static str) -> Case {
    Case { work: Work::Nbd(served, arguments), reads: &["disk.raw", "written.raw"], ..image(name, "") }
}

const fn nbd_server(name: &'static str, served: &'static str, arguments: &'static str) -> Case {
    Case { work: Work::NbdServer(served, arguments), ..nbd(name, served, "") }
}

/// Requests spread over the disk: the step is of no power of two, so that few are near each other.
pub const ALL: &[Case] = &[
    Case { times: 50, ..image("info", "info disk.qcow2") },
    Case { times: 20, ..image("create, 100 GiB qcow2", "create -q -f qcow2 OUT 100G") },
    Case {
        times: 3,
        ..image("create, metadata of 10 GiB", "create -q -f qcow2 -o preallocation=metadata OUT 10G")
    },
    convert("convert raw to qcow2", "convert -f raw -O qcow2 disk.raw OUT", "qcow2"),
    convert("convert qcow2 to raw", "convert -f qcow2 -O raw disk.qcow2 OUT", "raw"),
    convert("convert qcow2 to qcow2", "convert -f qcow2 -O qcow2 disk.qcow2 OUT", "qcow2"),
    convert("convert, 16 in any order", "convert -W -m 16 -f raw -O qcow2 disk.raw OUT", "qcow2"),
    compress("convert, zlib", "convert -c -f qcow2 -O qcow2 disk.qcow2 OUT"),
    compress("convert, zlib in any order", "convert -c -W -f qcow2 -O qcow2 disk.qcow2 OUT"),
    compress("convert, zstd", "convert -c -f qcow2 -O qcow2 -o compression_type=zstd disk.qcow2 OUT"),
    Case {
        reads: &["disk.raw", "same.raw"],
        ..image("compare raw, raw", "compare -f raw -F raw disk.raw same.raw")
    },
    Case {
        reads: &["disk.raw", "disk.qcow2"],
        ..image("compare raw, qcow2", "compare -f raw -F qcow2 disk.raw disk.qcow2")
    },
    Case { times: 10, ..image("check, 100 GiB sparse", "check wide.qcow2") },
    Case { times: 10, ..image("map, 100 GiB sparse", "map --output=json wide.qcow2") },
    requests("read raw, depth 1", "bench -f raw -c 100000 -d 1 -s 4096 -S 8675328 disk.raw"),
    requests("read raw, depth 32", "bench -f raw -c 100000 -d 32 -s 4096 -S 8675328 disk.raw"),
    requests("write raw, depth 1", "bench -w -f raw -c 100000 -d 1 -s 4096 -S 8675328 written.raw"),
    requests("write raw, depth 32", "bench -w -f raw -c 100000 -d 32 -s 4096 -S 8675328 written.raw"),
    requests("read qcow2, depth 1", "bench -f qcow2 -c 100000 -d 1 -s 4096 -S 8675328 disk.qcow2"),
    requests("read qcow2, depth 32", "bench -f qcow2 -c 100000 -d 32 -s 4096 -S 8675328 disk.qcow2"),
    requests("write qcow2, depth 1", "bench -w -f qcow2 -c 100000 -d 1 -s 4096 -S 8675328 written.qcow2"),
    requests("write qcow2, depth 32", "bench -w -f qcow2 -c 100000 -d 32 -s 4096 -S 8675328 written.qcow2"),
    requests("read raw, uncached, depth 1", "bench -t none -f raw -c 10000 -d 1 -s 4096 -S 8675328 disk.raw"),
    requests(
        "read raw, uncached, depth 32",
        "bench -t none -f raw -c 20000 -d 32 -s 4096 -S 8675328 disk.raw",
    ),
    requests(
        "write raw, uncached, depth 1",
        "bench -t none -w -f raw -c 10000 -d 1 -s 4096 -S 8675328 written.raw",
    ),
    requests(
        "write raw, uncached, depth 32",
        "bench -t none -w -f raw -c 20000 -d 32 -s 4096 -S 8675328 written.raw",
    ),
    requests("read raw, 2 MiB, depth 8", "bench -f raw -c 2000 -d 8 -s 2M disk.raw"),
    requests("write raw, 2 MiB, depth 8", "bench -w -f raw -c 1000 -d 8 -s 2M written.raw"),
    nbd("NBD, read 4 KiB, depth 1", "disk.raw", "bench -f raw -c 20000 -d 1 -s 4096 -S 8675328 URI"),
    nbd("NBD, read 4 KiB, depth 32", "disk.raw", "bench -f raw -c 50000 -d 32 -s 4096 -S 8675328 URI"),
    nbd("NBD, write 4 KiB, depth 32", "written.raw", "bench -w -f raw -c 50000 -d 32 -s 4096 -S 8675328 URI"),
    nbd("NBD, read 256 KiB, depth 8", "disk.raw", "bench -f raw -c 10000 -d 8 -s 256k -S 8650752 URI"),
    nbd("NBD, write 256 KiB, depth 8", "written.raw", "bench -w -f raw -c 5000 -d 8 -s 256k -S 8650752 URI"),
    nbd("NBD, read 2 MiB, depth 8", "disk.raw", "bench -f raw -c 1000 -d 8 -s 2M URI"),
    nbd("NBD, write 2 MiB, depth 8", "written.raw", "bench -w -f raw -c 1000 -d 8 -s 2M URI"),
    Case { target: Some("raw"), ..nbd("NBD, convert to raw", "disk.raw", "convert -f raw -O raw URI OUT") },
    nbd_server(
        "NBD server, read 4 KiB, depth 1",
        "disk.raw",
        "bench -f raw -c 20000 -d 1 -s 4096 -S 8675328 URI",
    ),
    nbd_server(
        "NBD server, read 4 KiB, depth 32",
        "disk.raw",
        "bench -f raw -c 50000 -d 32 -s 4096 -S 8675328 URI",
    ),
    nbd_server("NBD server, read 2 MiB, depth 8", "disk.raw", "bench -f raw -c 1000 -d 8 -s 2M URI"),
    nbd_server("NBD server, write 2 MiB, depth 8", "written.raw", "bench -w -f raw -c 1000 -d 8 -s 2M URI"),
];

fn target_name(side: Side) -> &'static str {
    match side {
        Side::Rhea => "target-rhea",
        Side::Qemu => "target-qemu",
    }
}

impl Case {
    /// Runs it for one figure.
    pub fn run(&self, side: Side, folder: &Path, tools: &Tools) -> anyhow::Result<Cost> {
        for name in self.reads {
            let mut file = File::open(folder.join(name)).with_context(|| (*name).to_owned())?;
            io::copy(&mut file, &mut io::sink())?;
        }
        let once = || match self.work {
            Work::Image(arguments) => {
                let words = words(arguments, side, "");
                process::run(tools.path(side, "qemu-img"), &words, folder)
            }
            Work::Nbd(served, arguments) => self.with_server(side, side, served, arguments, folder, tools),
            Work::NbdServer(served, arguments) => {
                let client = *tools.sides().last().unwrap_or(&side);
                self.with_server(side, client, served, arguments, folder, tools)
            }
        };
        let costs = (0..self.times).map(|_| once()).collect::<anyhow::Result<Vec<_>>>()?;
        Ok(Cost::mean(&costs))
    }

    /// The client's time, the processor time of both, and the server's memory.
    fn with_server(
        &self,
        side: Side,
        client: Side,
        served: &str,
        arguments: &str,
        folder: &Path,
        tools: &Tools,
    ) -> anyhow::Result<Cost> {
        let server = Server::start(&tools.path(side, "qemu-nbd"), served, folder)?;
        let uri = format!("nbd+unix:///?socket={}", serve::SOCKET);
        let words = words(arguments, side, &uri);
        let mut cost = process::run(tools.path(client, "qemu-img"), &words, folder)?;
        let (processor, resident) = server.cost()?;
        cost.processor += processor;
        cost.resident = resident;
        Ok(cost)
    }

    /// Whether both sides' targets hold what they should, as the other side sees it.
    pub fn verify(&self, folder: &Path, tools: &Tools) -> anyhow::Result<()> {
        let Some(format) = self.target else { return Ok(()) };
        for &side in tools.sides() {
            let other = tools.sides().iter().copied().find(|s| *s != side).unwrap_or(side);
            let words = ["compare", "-f", "raw", "-F", format, "disk.raw", target_name(side)];
            process::run(tools.path(other, "qemu-img"), &words, folder)
                .with_context(|| format!("{}: the target is wrong", target_name(side)))?;
        }
        Ok(())
    }
}

/// The words of a command line, with the side's target and the server's address.
fn words<'a>(arguments: &'a str, side: Side, uri: &'a str) -> Vec<&'a str> {
    let word = |word: &'a str| match word {
        "OUT" => target_name(side),
        "URI" => uri,
        word => word,
    };
    arguments.split_whitespace().map(word).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_differ() {
        for (index, case) in ALL.iter().enumerate() {
            assert!(ALL[..index].iter().all(|other| other.name != case.name), "{}", case.name);
        }
    }

    #[test]
    fn words_are_filled_in() {
        assert_eq!(words("a OUT URI", Side::Rhea, "nbd:x"), ["a", "target-rhea", "nbd:x"]);
    }
}
