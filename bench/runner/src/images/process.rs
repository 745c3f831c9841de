//! What one run of a program costs.

use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use rustix::process::{Pid, WaitId, WaitIdOptions, waitid};

use crate::host;

/// How often a running program's memory is looked at.
const LOOK: Duration = Duration::from_millis(1);

/// The costs of a run.
#[derive(Debug, Clone, Copy, Default)]
pub struct Cost {
    /// From start to end.
    pub seconds: f64,
    /// Processor time, as finely as the kernel tells it (hundredths).
    pub processor: f64,
    /// Most bytes that were resident, as far as looking each millisecond shows.
    pub resident: u64,
}

impl Cost {
    /// The mean of runs, but the most of memory.
    pub fn mean(costs: &[Self]) -> Self {
        let count = costs.len().max(1) as f64;
        Self {
            seconds: costs.iter().map(|c| c.seconds).sum::<f64>() / count,
            processor: costs.iter().map(|c| c.processor).sum::<f64>() / count,
            resident: costs.iter().map(|c| c.resident).max().unwrap_or(0),
        }
    }
}

/// Runs a program to its end, which must be a good one.
pub fn run(program: PathBuf, arguments: &[&str], folder: &std::path::Path) -> anyhow::Result<Cost> {
    let mut command = Command::new(&program);
    command.args(arguments).current_dir(folder).stdin(Stdio::null()).stdout(Stdio::null());
    let start = Instant::now();
    let mut child =
        command.spawn().with_context(|| format!("cannot run {} (package qemu-utils)", program.display()))?;
    let id = child.id();
    // On a thread of its own, so that the end is noticed when it comes.
    let ended = std::sync::atomic::AtomicBool::new(false);
    let (seconds, processor, resident) = std::thread::scope(|scope| {
        let watch = scope.spawn(|| {
            let mut most = 0;
            while !ended.load(std::sync::atomic::Ordering::Relaxed) {
                most = most.max(peak(id));
                std::thread::sleep(LOOK);
            }
            most
        });
        let seconds = wait(&child).map(|()| start.elapsed().as_secs_f64());
        // Ended, but not yet gone: its times can still be read.
        let processor = host::processor_seconds(id).unwrap_or(0.0);
        ended.store(true, std::sync::atomic::Ordering::Relaxed);
        (seconds, processor, watch.join().unwrap_or(0))
    });
    let status = child.wait()?;
    ensure!(status.success(), "{} {} failed ({status})", program.display(), arguments.join(" "));
    Ok(Cost { seconds: seconds?, processor, resident })
}

/// Waits for the end of a child, and leaves its remains.
fn wait(child: &Child) -> anyhow::Result<()> {
    let id = Pid::from_child(child);
    loop {
        match waitid(WaitId::Pid(id), WaitIdOptions::EXITED | WaitIdOptions::NOWAIT) {
            Ok(_) => return Ok(()),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error).context("cannot wait for a program"),
        }
    }
}

/// The most that has been resident of a process so far; 0 if it is gone.
pub fn peak(id: u32) -> u64 {
    let Ok(status) = fs::read_to_string(format!("/proc/{id}/status")) else { return 0 };
    high_water(&status)
}

fn high_water(status: &str) -> u64 {
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    kib.unwrap_or(0) * 1024
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_read() {
        assert_eq!(high_water("Name:\tx\nVmHWM:\t   14000 kB\nVmRSS:\t 9 kB\n"), 14_000 << 10);
        assert_eq!(high_water("Name:\tx\n"), 0);
    }

    #[test]
    fn a_run_is_timed_and_a_failure_told() {
        let cost = run("/bin/sleep".into(), &["0.05"], std::path::Path::new("/")).unwrap();
        assert!(cost.seconds >= 0.05 && cost.resident > 0);
        assert!(run("/bin/false".into(), &[], std::path::Path::new("/")).is_err());
    }
}
