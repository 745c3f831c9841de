//! Signals that ask the process to end, delivered to a thread instead of to a handler.
//!
//! [`watch`] must run before other threads start: they inherit the blocked set, so that only the watching thread
//! receives these signals.

use std::io;
use std::mem::MaybeUninit;

/// A signal that asks for an orderly end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EndSignal {
    /// SIGINT: Ctrl-C.
    Interrupt,
    /// SIGTERM.
    Terminate,
    /// SIGHUP: the terminal is gone.
    Hangup,
    /// SIGQUIT: Ctrl-\.
    Quit,
}

impl EndSignal {
    /// The system's name of the signal.
    pub fn name(self) -> &'static str {
        match self {
            Self::Interrupt => "SIGINT",
            Self::Terminate => "SIGTERM",
            Self::Hangup => "SIGHUP",
            Self::Quit => "SIGQUIT",
        }
    }

    fn from_number(number: i32) -> Option<Self> {
        match number {
            libc::SIGINT => Some(Self::Interrupt),
            libc::SIGTERM => Some(Self::Terminate),
            libc::SIGHUP => Some(Self::Hangup),
            libc::SIGQUIT => Some(Self::Quit),
            _ => None,
        }
    }
}

fn end_signals() -> libc::sigset_t {
    let mut set = MaybeUninit::uninit();
    // SAFETY: sigemptyset initializes the set, sigaddset adds valid signal numbers to it.
    unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP, libc::SIGQUIT] {
            if !is_ignored(signal) {
                libc::sigaddset(set.as_mut_ptr(), signal);
            }
        }
        set.assume_init()
    }
}

/// Linux queues a blocked signal even when it is ignored, so that ignoring must be looked up.
fn is_ignored(signal: i32) -> bool {
    // SAFETY: an all-zero sigaction is a valid value.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    // SAFETY: no new action is set; `action` is writable.
    unsafe {
        libc::sigaction(signal, std::ptr::null(), &mut action) == 0 && action.sa_sigaction == libc::SIG_IGN
    }
}

/// Blocks the end signals in this thread (and those it starts later) and calls `on_signal` for each on a thread of its
/// own. A signal that the process was started with ignored (nohup) stays ignored.
pub fn watch(mut on_signal: impl FnMut(EndSignal) + Send + 'static) -> io::Result<()> {
    let set = end_signals();
    // SAFETY: `set` is an initialized signal set; no old set is asked for.
    let result = unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &set, std::ptr::null_mut()) };
    if result != 0 {
        return Err(io::Error::from_raw_os_error(result));
    }
    std::thread::Builder::new().name("signals".into()).spawn(move || {
        loop {
            let mut number = 0;
            // SAFETY: `set` is initialized and `number` writable.
            if unsafe { libc::sigwait(&set, &mut number) } == 0
                && let Some(signal) = EndSignal::from_number(number)
            {
                on_signal(signal);
            }
        }
    })?;
    Ok(())
}
