//! `cargo xtask demo`: Debian's own kernel to a shell prompt, in one command.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, anyhow, ensure};
use rhea_boot_tests::initramfs::{self, PROMPT};
use rhea_boot_tests::kernels::Guest;
use rhea_boot_tests::session::Session;
use rhea_boot_tests::target_dir;

use crate::cargo::{self, build_rhea};

/// Whether somebody sits at the terminal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Leave the user at the guest's prompt.
    Interactive,
    /// Talk to the guest, and succeed only if it answered.
    Check,
}

/// How long a guest may take to its prompt: a slow host under load, not a measure.
const BOOT_LIMIT: Duration = Duration::from_secs(300);
const ANSWER_LIMIT: Duration = Duration::from_secs(60);

/// A guest that can be started.
struct Prepared {
    arguments: Vec<String>,
    prompt: &'static str,
    /// A command and what its answer contains.
    question: (&'static str, &'static str),
    /// The command that powers the guest off.
    farewell: &'static str,
}

/// Builds Rhea, obtains a guest, and boots it; with `builtin` the guest of our own.
pub fn run(mode: Mode, builtin: bool) -> anyhow::Result<()> {
    let rhea = build_rhea()?;
    let debian = if builtin { Err(anyhow!("--builtin was given")) } else { debian_guest() };
    let guest = match debian {
        Ok(guest) => guest,
        Err(error) => {
            eprintln!("demo: no Debian kernel to be had ({error:#}); booting the built-in guest instead");
            fallback_guest()?
        }
    };
    let mut command = Command::new(&rhea);
    command.arg("system-x86_64").args(&guest.arguments);
    match mode {
        Mode::Interactive => {
            println!("demo: {} {}", rhea.display(), command_line(&guest.arguments));
            println!("demo: Ctrl-a x ends, Ctrl-a h tells the other keys\n");
            cargo::run(&mut command)
        }
        Mode::Check => check(&mut command, &guest),
    }
}

/// The arguments as one would type them.
fn command_line(arguments: &[String]) -> String {
    let quoted: Vec<String> =
        arguments.iter().map(|a| if a.contains(' ') { format!("'{a}'") } else { a.clone() }).collect();
    quoted.join(" ")
}

fn debian_guest() -> anyhow::Result<Prepared> {
    println!("demo: obtaining Debian's kernel and busybox (kept under target/debian)");
    let kernel = Guest::Bookworm.kernel()?;
    let system = initramfs::busybox_system(&Guest::Bookworm.busybox()?, &[])?;
    let initrd = write("demo.cpio", &system)?;
    let arguments =
        ["-M", "q35", "-m", "512M", "-nographic", "-kernel", &path(kernel)?, "-initrd", &initrd, "-append"]
            .map(str::to_owned)
            .into_iter()
            .chain(["console=ttyS0 quiet".to_owned()]);
    Ok(Prepared {
        arguments: arguments.collect(),
        prompt: PROMPT,
        question: ("echo answer $((6*7)); uname -m", "answer 42\nx86_64"),
        farewell: "poweroff -f",
    })
}

/// The guest program of our own, for a host without Debian's packages; `build.rs` assembles it.
const BUILTIN: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/guest.rom"));

fn fallback_guest() -> anyhow::Result<Prepared> {
    ensure!(!BUILTIN.is_empty(), "this toolchain could not assemble the built-in guest");
    let rom = write("builtin.rom", BUILTIN)?;
    Ok(Prepared {
        arguments: ["-M", "q35", "-m", "64M", "-nographic", "-bios", &rom].map(str::to_owned).into(),
        prompt: "builtin# ",
        question: ("primes", "9592 primes below 100000"),
        farewell: "poweroff",
    })
}

fn write(name: &str, bytes: &[u8]) -> anyhow::Result<String> {
    let folder = target_dir().join("demo");
    fs::create_dir_all(&folder)?;
    let file = folder.join(name);
    fs::write(&file, bytes).with_context(|| file.display().to_string())?;
    path(file)
}

fn path(path: PathBuf) -> anyhow::Result<String> {
    path.into_os_string().into_string().map_err(|p| anyhow::anyhow!("{} is not valid UTF-8", p.display()))
}

fn check(command: &mut Command, guest: &Prepared) -> anyhow::Result<()> {
    let mut session = Session::start(command)?;
    session.expect(guest.prompt, BOOT_LIMIT).context("the guest did not reach its prompt")?;
    println!("demo: the guest is at its prompt after {:.1} s", session.elapsed().as_secs_f64());
    let (question, answer) = guest.question;
    let said = session.command(question, guest.prompt, ANSWER_LIMIT)?;
    ensure!(said.contains(answer), "the guest answered {said:?} to {question:?}");
    println!("demo: it answered {:?} with {:?}", question, said.trim());
    session.send(format!("{}\n", guest.farewell).as_bytes())?;
    let status = session.wait(ANSWER_LIMIT).context("the guest did not power off")?;
    ensure!(status.success(), "the emulator ended with {status}");
    println!("demo: it powered off cleanly");
    Ok(())
}
