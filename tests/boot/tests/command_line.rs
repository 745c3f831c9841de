//! Wrong command lines: one clear line on stderr, exit status 1, nothing on stdout, no panic.
//!
//! These need the built binary only; `cargo xtask test` builds it and runs them.

use std::process::{Command, Output};

use rhea_boot_tests::{rhea_binary, target_dir};

fn rhea(arguments: &[&str]) -> Output {
    Command::new(rhea_binary().unwrap()).args(arguments).output().unwrap()
}

fn refused(arguments: &[&str], part: &str) {
    let output = rhea(arguments);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{arguments:?}: {said}");
    assert_eq!(said.lines().count(), 1, "{arguments:?}: {said}");
    assert!(said.starts_with("rhea: ") && said.contains(part), "{arguments:?}: {said}");
    assert!(output.stdout.is_empty(), "{arguments:?}");
}

fn file(name: &str, bytes: &[u8]) -> String {
    let folder = target_dir().join("boot-tests");
    std::fs::create_dir_all(&folder).unwrap();
    let file = folder.join(format!("{name}-{}", std::process::id()));
    std::fs::write(&file, bytes).unwrap();
    file.into_os_string().into_string().unwrap()
}

#[test]
#[ignore = "needs the built binary: run cargo xtask test"]
fn wrong_options_are_refused() {
    let s = "system-x86_64";
    refused(&[s, "-kernal", "x"], "did you mean '-kernel'");
    refused(&[s, "-hda", "x"], "-hda: not implemented yet");
    refused(&[s, "-kernel", "k", "-smp", "4,cores=3"], "invalid CPU topology");
    refused(&[s, "-kernel", "k", "-smp", "100000"], "at most");
    refused(&[s, "-kernel", "k", "-m", "lots"], "expects a size");
    refused(&[s, "-M", "nothing", "-kernel", "k"], "no machine 'nothing'");
    refused(&[s, "-cpu", "no-such-model", "-kernel", "k"], "no-such-model");
    refused(&[s, "-cpu", "max,+no-such-feature", "-kernel", "k"], "no-such-feature");
    refused(
        &[s, "-kernel", "k", "-smp", "2", "-icount", "3"],
        "-icount: not implemented yet for more than one CPU",
    );
    refused(&[s, "-kernel", "k", "-icount", "auto"], "shift=auto is not implemented yet");
    refused(&[s, "-kernel", "k", "-icount", "3,align=on"], "align=on is not implemented yet");
    refused(&["sytem-x86_64"], "did you mean 'system-x86_64'");
    refused(&[s], "nothing to run");
}

#[test]
#[ignore = "needs the built binary: run cargo xtask test"]
fn bad_kernels_are_refused() {
    let s = ["system-x86_64", "-display", "none", "-kernel"];
    let with = |more: &[&str], part: &str| refused(&[&s[..], more].concat(), part);
    with(&["/no/such/file"], "/no/such/file");
    with(&[&file("empty", b"")], "empty");
    with(&[&file("garbage", &[0xa5; 5000])], "garbage");
    let mut truncated = vec![0; 4096];
    truncated[0x1fe..0x200].copy_from_slice(&[0x55, 0xaa]);
    truncated[0x202..0x206].copy_from_slice(b"HdrS");
    with(&[&file("truncated", &truncated)], "truncated");
    with(&["/proc/self/exe", "-m", "1M"], "");
}

#[test]
#[ignore = "needs the built binary: run cargo xtask test"]
fn bad_roms_are_refused() {
    let s = ["system-x86_64", "-display", "none", "-bios"];
    let with = |more: &[&str], part: &str| refused(&[&s[..], more].concat(), part);
    with(&["/no/such/rom"], "/no/such/rom");
    with(&[&file("odd", &[0; 1000])], "odd");
    with(&[&file("none", b"")], "none");
}

#[test]
#[ignore = "needs the built binary: run cargo xtask test"]
fn help_and_version_succeed() {
    for arguments in [
        &["--help"][..],
        &["--version"],
        &["system-x86_64", "-help"],
        &["system-i386", "-version"],
        &["system-x86_64", "-M", "help"],
        &["system-x86_64", "-cpu", "help"],
        &["system-x86_64", "-accel", "help"],
        &["system-x86_64", "-d", "help"],
    ] {
        let output = rhea(arguments);
        assert!(
            output.status.success() && !output.stdout.is_empty() && output.stderr.is_empty(),
            "{arguments:?}"
        );
    }
}

#[test]
#[ignore = "needs the built binary: run cargo xtask test"]
fn links_carry_the_names_of_the_programs() {
    let folder = target_dir().join("boot-tests").join(format!("links-{}", std::process::id()));
    let output = rhea(&["links", folder.to_str().unwrap()]);
    assert!(output.status.success(), "{output:?}");
    for name in ["qemu-system-x86_64", "qemu-system-i386"] {
        let output = Command::new(folder.join(name)).arg("-version").output().unwrap();
        let target = name.trim_start_matches("qemu-system-");
        assert!(String::from_utf8_lossy(&output.stdout).contains(target), "{output:?}");
    }
    assert!(rhea(&["links", folder.to_str().unwrap()]).status.success(), "a second time too");
    std::fs::remove_dir_all(folder).unwrap();
}
