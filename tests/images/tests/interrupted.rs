//! Commands that are killed: what they leave can be checked, and nothing that was there before is lost.

use std::time::Duration;

use rhea_image_tests::{Bench, Random, Whose};

const TOOL: &str = env!("CARGO_BIN_EXE_qemu-img");

/// Runs our tool and ends it by a signal after a while; whether it had ended before.
fn cut_short(bench: &Bench, line: &str, after: Duration, signal: &str) -> Option<i32> {
    let mut words = line.split_whitespace();
    let mut child = bench.command(Whose::Ours, words.next().unwrap()).args(words).spawn().unwrap();
    std::thread::sleep(after);
    let _ = std::process::Command::new("kill").args([signal, &child.id().to_string()]).output();
    let code = child.wait().unwrap().code();
    // The kernel takes a killed process's io_uring, and with it the locks on its files, apart a little later.
    std::thread::sleep(Duration::from_millis(300));
    code
}

/// Times from 1 ms to what a whole run takes.
fn moments(random: &mut Random) -> impl Iterator<Item = Duration> + '_ {
    (0..8).map(|_| Duration::from_micros(1000 + random.below(120_000)))
}

fn sound(bench: &Bench, file: &str) {
    for whose in [Whose::Theirs, Whose::Ours] {
        let checked = bench.run(whose, &format!("qemu-img check -f qcow2 {file}"));
        // Leaked clusters are all that may be wrong.
        assert!(matches!(checked.status, Some(0 | 3)), "{whose:?} {file}: {}{}", checked.out, checked.err);
    }
}

#[test]
fn a_killed_conversion_leaves_a_sound_image() {
    let Some(bench) = Bench::new(TOOL) else { return };
    bench.data("d", 48 << 20, 31);
    let mut random = Random::new(31);
    for (index, moment) in moments(&mut random).enumerate() {
        let compress = if index % 2 == 0 { "-c" } else { "" };
        let _ = std::fs::remove_file(bench.path("i"));
        cut_short(
            &bench,
            &format!("qemu-img convert -t writeback -f raw -O qcow2 {compress} d i"),
            moment,
            "-KILL",
        );
        // Killed before the header was there, it is no image yet.
        if std::fs::metadata(bench.path("i")).is_ok_and(|m| m.len() > 0)
            && bench.run(Whose::Theirs, "qemu-img info -f qcow2 i").status == Some(0)
        {
            sound(&bench, "i");
        }
    }
    bench.done();
}

#[test]
fn a_killed_commit_loses_nothing() {
    let Some(bench) = Bench::new(TOOL) else { return };
    bench.data("d", 24 << 20, 32);
    bench.data("e", 24 << 20, 33);
    let mut random = Random::new(32);
    for moment in moments(&mut random) {
        bench.ok(Whose::Theirs, "qemu-img convert -f raw -O qcow2 d base");
        bench.ok(Whose::Theirs, "qemu-img create -f qcow2 -F qcow2 -b base top");
        bench.ok(
            Whose::Theirs,
            "qemu-img convert -n -f raw --target-image-opts e driver=qcow2,file.filename=top",
        );
        cut_short(&bench, "qemu-img commit top", moment, "-KILL");
        sound(&bench, "base");
        sound(&bench, "top");
        bench.ok(Whose::Theirs, "qemu-img compare -f raw -F qcow2 e top");
        bench.ok(Whose::Ours, "qemu-img commit top");
        bench.ok(Whose::Theirs, "qemu-img compare -f raw -F qcow2 e base");
    }
    bench.done();
}

#[test]
fn a_killed_rebase_changes_nothing_one_can_see() {
    let Some(bench) = Bench::new(TOOL) else { return };
    bench.data("d", 24 << 20, 34);
    bench.data("e", 24 << 20, 35);
    let mut random = Random::new(34);
    for moment in moments(&mut random) {
        bench.ok(Whose::Theirs, "qemu-img create -f qcow2 -F raw -b d top");
        cut_short(&bench, "qemu-img rebase -F raw -b e top", moment, "-KILL");
        sound(&bench, "top");
        bench.ok(Whose::Theirs, "qemu-img compare -f raw -F qcow2 d top");
    }
    bench.done();
}

#[test]
fn ctrl_c_takes_a_new_target_away_and_leaves_an_old_one() {
    let Some(bench) = Bench::new(TOOL) else { return };
    bench.data("d", 48 << 20, 36);
    std::fs::write(bench.path("old"), "").unwrap();
    for target in ["new", "old"] {
        // Slow enough to be in the midst of it.
        let line = format!("qemu-img convert -f raw -O raw -r 4M d {target}");
        let status = cut_short(&bench, &line, Duration::from_millis(700), "-INT");
        assert_eq!(status, None, "ended by the signal");
        assert_eq!(bench.path(target).exists(), target == "old", "{target}");
    }
    bench.done();
}

/// A shell's background jobs are not meant when Ctrl-C is pressed: it has them ignore the signal.
#[test]
fn a_signal_that_is_to_be_ignored_is() {
    let Some(bench) = Bench::new(TOOL) else { return };
    bench.data("d", 4 << 20, 37);
    for whose in [Whose::Theirs, Whose::Ours] {
        let tool = bench.command(whose, "qemu-img");
        let mut child = bench
            .command(whose, "qemu-img")
            .get_current_dir()
            .map(|folder| {
                let mut shell = std::process::Command::new("sh");
                shell.current_dir(folder).args(["-c", r#"trap "" INT; exec "$@""#, "sh"]);
                shell.arg(tool.get_program()).args("convert -f raw -O raw -r 4M d new".split(' '));
                shell
            })
            .unwrap()
            .spawn()
            .unwrap();
        std::thread::sleep(Duration::from_millis(300));
        let _ = std::process::Command::new("kill").args(["-INT", &child.id().to_string()]).output();
        assert_eq!(child.wait().unwrap().code(), Some(0), "{whose:?}");
        bench.ok(Whose::Theirs, "qemu-img compare -f raw -F raw d new");
    }
    bench.done();
}
