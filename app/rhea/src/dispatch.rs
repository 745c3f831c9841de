//! Which front end runs: by program name, then by first word.

use std::ffi::OsStr;
use std::path::Path;

use anyhow::{Context, bail};

use crate::command_line::{self, Outcome};
use crate::machine_run;
use crate::targets::{Target, riscv, x86};

/// A front end with the name of the program it stands for.
struct FrontEnd {
    /// QEMU's name of the program, which the link carries.
    link: &'static str,
    /// The first word that selects it under Rhea's own name.
    word: &'static str,
    what: What,
    about: &'static str,
}

/// What a front end runs.
#[derive(Clone, Copy)]
enum What {
    /// A machine with this processor.
    System(Target),
    /// A tool: given its program name and arguments, it prints and returns its exit status.
    Tool(fn(&str, &[String]) -> u8),
}

const FRONT_ENDS: &[FrontEnd] = &[
    FrontEnd {
        link: "qemu-system-x86_64",
        word: "system-x86_64",
        what: What::System(&x86::X86_64),
        about: "emulate a PC with 64-bit x86 processors",
    },
    FrontEnd {
        link: "qemu-system-i386",
        word: "system-i386",
        what: What::System(&x86::I386),
        about: "emulate a PC with 32-bit x86 processors",
    },
    FrontEnd {
        link: "qemu-system-riscv64",
        word: "system-riscv64",
        what: What::System(&riscv::RISCV64),
        about: "emulate a machine with 64-bit RISC-V processors",
    },
    FrontEnd {
        link: "qemu-system-riscv32",
        word: "system-riscv32",
        what: What::System(&riscv::RISCV32),
        about: "emulate a machine with 32-bit RISC-V processors",
    },
    FrontEnd {
        link: "qemu-img",
        word: "img",
        what: What::Tool(rhea_image_tool::run),
        about: "make, copy, check and describe disk images",
    },
    FrontEnd {
        link: "qemu-io",
        word: "io",
        what: What::Tool(rhea_io_tool::run),
        about: "read, write and check disk images by hand",
    },
    FrontEnd {
        link: "qemu-nbd",
        word: "nbd",
        what: What::Tool(rhea_nbd_tool::run),
        about: "serve disk images to NBD clients",
    },
    FrontEnd {
        link: "qemu-storage-daemon",
        word: "storage-daemon",
        what: What::Tool(rhea_storage_daemon::run),
        about: "block devices and their exports, without a machine",
    },
];

/// The last component of the path a program was started by; `rhea` if there is none.
pub fn base_name(program: &OsStr) -> String {
    Path::new(program).file_name().map_or_else(|| "rhea".into(), |name| name.to_string_lossy().into_owned())
}

/// Runs what the name and the arguments ask for and returns the exit status.
pub fn run(program: &str, arguments: &[String]) -> anyhow::Result<u8> {
    if let Some(front_end) = FRONT_ENDS.iter().find(|f| f.link == program) {
        return start(program, front_end, arguments);
    }
    let (word, rest) = match arguments.split_first() {
        Some((word, rest)) => (word.as_str(), rest),
        None => ("--help", arguments),
    };
    if let Some(front_end) = FRONT_ENDS.iter().find(|f| f.word == word) {
        return start(program, front_end, rest);
    }
    match word {
        "links" => links(rest),
        "help" | "-h" | "-help" | "--help" => {
            print!("{}", overview());
            Ok(0)
        }
        "version" | "-V" | "-version" | "--version" => {
            println!("{}", command_line::version_line());
            Ok(0)
        }
        _ if program.starts_with("qemu-") => {
            bail!("no front end for '{program}' exists yet; see 'rhea --help' for those that do")
        }
        _ => {
            let words = FRONT_ENDS.iter().map(|f| f.word).chain(["links", "help", "version"]);
            let hint = match rhea_options::closest(word, words) {
                Some(near) => format!("did you mean '{near}'?"),
                None if word.starts_with('-') => {
                    "options follow a front end, such as 'rhea system-x86_64'".into()
                }
                None => "see 'rhea --help'".into(),
            };
            bail!("unknown command '{word}'; {hint}")
        }
    }
}

/// Runs a front end. Its messages carry the name it was started by, or the name it stands for.
fn start(program: &str, front_end: &FrontEnd, arguments: &[String]) -> anyhow::Result<u8> {
    match front_end.what {
        What::System(target) => system(program, target, arguments),
        What::Tool(run) => Ok(run(front_end.link, arguments)),
    }
}

fn system(program: &str, target: Target, arguments: &[String]) -> anyhow::Result<u8> {
    match command_line::parse(program, target, arguments)? {
        Outcome::Say(text) => {
            print!("{text}");
            Ok(0)
        }
        Outcome::Run(config) => machine_run::run(program, &config),
    }
}

fn overview() -> String {
    let mut text =
        format!("{}\n\nusage: rhea COMMAND [OPTION…]\n\ncommands:\n", command_line::version_line());
    for f in FRONT_ENDS {
        text += &format!("  {:<16} {} (also started as {})\n", f.word, f.about, f.link);
    }
    text += "  links DIR        create links in DIR with the names of QEMU's programs\n";
    text += "  version          print the version\n";
    text += "  help             print this text; 'rhea COMMAND -help' tells a command's options\n";
    text
}

/// `rhea links DIR`.
fn links(arguments: &[String]) -> anyhow::Result<u8> {
    let [directory] = arguments else { bail!("links: expects one directory") };
    let directory = Path::new(directory);
    let binary = std::env::current_exe().context("links: cannot tell where this program is")?;
    std::fs::create_dir_all(directory).with_context(|| format!("links: {}", directory.display()))?;
    for front_end in FRONT_ENDS {
        let link = directory.join(front_end.link);
        match std::fs::read_link(&link) {
            Ok(target) if target == binary => continue,
            // An old link of ours may be replaced; a file of somebody else's may not.
            Ok(target) if base_name(target.as_os_str()) == base_name(binary.as_os_str()) => {
                std::fs::remove_file(&link).with_context(|| format!("links: {}", link.display()))?;
            }
            Ok(target) => {
                bail!("links: {} exists and leads to {}; not touched", link.display(), target.display())
            }
            Err(_) => {}
        }
        std::os::unix::fs::symlink(&binary, &link).with_context(|| format!("links: {}", link.display()))?;
    }
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn program_names_lose_their_path() {
        assert_eq!(base_name(OsStr::new("/usr/bin/qemu-system-i386")), "qemu-system-i386");
        assert_eq!(base_name(OsStr::new("")), "rhea");
    }

    #[test]
    fn unknown_commands_are_refused_with_a_hint() {
        let text = |program: &str, word: &str| run(program, &[word.into()]).unwrap_err().to_string();
        assert_eq!(
            text("rhea", "system-x86_46"),
            "unknown command 'system-x86_46'; did you mean 'system-x86_64'?"
        );
        assert!(text("rhea", "-kernel").contains("options follow a front end"));
        assert!(text("qemu-system-s390x", "-M").contains("no front end for 'qemu-system-s390x'"));
    }
}
