//! What is shown while a command works, and the signals that ask it to stop or to tell how far it is.
//!
//! In a pipe `-p` prints `    (12.34/100%)` and a carriage return, as QEMU does; on a terminal the line also tells rate
//! and time left. SIGUSR1 prints the percentage once, to standard error. After the first SIGINT the command stops at the
//! next good moment; the second ends the process at once.

use std::cell::Cell;
use std::io::{IsTerminal, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use futures_util::future::{Either, select};
use rhea_async_io::Timer;
use rhea_block::{BlockError, Progress};
use signal_hook::consts::{SIGINT, SIGUSR1};
use signal_hook::flag;

use crate::failure::{Failure, Outcome};
use crate::size;

/// A change of less than this many per cent is not shown.
const STEP: f64 = 1.0;
/// How often an operation that works by itself is looked at.
const TICK: Duration = Duration::from_millis(50);
/// A terminal's line changes as often as eyes can follow.
const TERMINAL_INTERVAL: Duration = Duration::from_millis(100);

/// Progress of one command.
pub(crate) struct Meter {
    shown: bool,
    terminal: bool,
    started: Instant,
    /// Per cent at the last line, and when that was.
    last: Cell<(f64, Instant)>,
    interrupted: Arc<AtomicBool>,
    asked: Arc<AtomicBool>,
    ended: Cell<bool>,
}

impl Meter {
    /// Starts to watch the signals, and shows the start if progress is to be shown.
    pub fn start(shown: bool) -> Self {
        let (interrupted, asked) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
        // Without the handlers the signals do what the system does, which is no worse than no handling.
        if !is_ignored(SIGINT) {
            let _ = flag::register_conditional_default(SIGINT, interrupted.clone());
            let _ = flag::register(SIGINT, interrupted.clone());
        }
        let _ = flag::register(SIGUSR1, asked.clone());
        let now = Instant::now();
        let meter = Self {
            shown,
            terminal: std::io::stdout().is_terminal(),
            started: now,
            last: Cell::new((-100.0, now)),
            interrupted,
            asked,
            ended: Cell::new(false),
        };
        meter.update(0, 0);
        meter
    }

    /// So much of `total` (bytes) is done; fails if the user wants the command to stop.
    pub fn advance(&self, done: u64, total: u64) -> Outcome<()> {
        self.update(done, total);
        match self.interrupted.load(Relaxed) {
            true => Err(Failure::interrupted()),
            false => Ok(()),
        }
    }

    /// Runs an operation of the block layer and shows how far it is. If the user wants the command to stop, `stop` is
    /// called; an operation that then fails has not gone wrong.
    pub async fn watch<T>(
        &self,
        progress: &Progress,
        stop: impl Fn(),
        work: impl Future<Output = Result<T, BlockError>>,
    ) -> Outcome<T> {
        let mut work = std::pin::pin!(work);
        let mut stopped = false;
        loop {
            let ended = match select(work.as_mut(), Timer::after(TICK)).await {
                Either::Left((ended, _)) => Some(ended),
                Either::Right(_) => None,
            };
            if self.advance(progress.done(), progress.total()).is_err() && !stopped {
                stop();
                stopped = true;
            }
            match ended {
                Some(Err(_)) if stopped => return Err(Failure::interrupted()),
                Some(ended) => return Ok(ended?),
                None => {}
            }
        }
    }

    fn update(&self, done: u64, total: u64) {
        let percent = if total == 0 { 0.0 } else { (done as f64 / total as f64).min(1.0) * 100.0 };
        if self.asked.load(Relaxed) && self.asked.swap(false, Relaxed) {
            eprintln!("    ({percent:3.2}/100%)");
        }
        if !self.shown {
            return;
        }
        let (last, when) = self.last.get();
        let complete = percent >= 100.0 && last < 100.0;
        if self.terminal {
            if when.elapsed() >= TERMINAL_INTERVAL || complete || last < 0.0 {
                self.line(percent, &self.rate(done, total));
            }
        } else if percent - last >= STEP || complete {
            self.line(percent, "");
        }
    }

    fn rate(&self, done: u64, total: u64) -> String {
        let elapsed = self.started.elapsed().as_secs_f64();
        if done == 0 || elapsed < 0.2 {
            return String::new();
        }
        let rate = done as f64 / elapsed;
        let left = (total.saturating_sub(done) as f64 / rate).ceil() as u64;
        let (hours, minutes, seconds) = (left / 3600, left / 60 % 60, left % 60);
        let left = match hours {
            0 => format!("{minutes}:{seconds:02}"),
            _ => format!("{hours}:{minutes:02}:{seconds:02}"),
        };
        format!("  {}/s, {left} left", size::human(rate as u64))
    }

    fn line(&self, percent: f64, more: &str) {
        self.last.set((percent, Instant::now()));
        let mut out = std::io::stdout().lock();
        let _ = match self.terminal {
            // Spaces cover what a longer line has left.
            true => write!(out, "    ({percent:3.2}/100%){more:<40}\r"),
            false => write!(out, "    ({percent:3.2}/100%)\r"),
        };
        let _ = out.flush();
    }

    /// All is done: shows it, whether or not it was shown before.
    pub fn complete(&self) {
        if self.shown {
            self.line(100.0, "");
        }
    }

    /// Ends the line.
    pub fn end(&self) {
        if self.shown && !self.ended.replace(true) {
            println!();
        }
    }
}

impl Drop for Meter {
    fn drop(&mut self) {
        self.end();
    }
}

/// Whether whoever has started us wants a signal ignored, as shells do for what a script runs in the background.
fn is_ignored(signal: i32) -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0);
    mask >> (signal - 1) & 1 == 1
}

/// Ends the process the way SIGINT ends one that does not handle it.
pub(crate) fn die_interrupted() {
    let _ = signal_hook::low_level::emulate_default_handler(SIGINT);
}
