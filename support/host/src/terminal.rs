//! The terminal that Rhea was started on: raw mode, and its restoration on every way out of the process.
//!
//! [`RawMode`] restores on drop. That is not enough for a process that may end by a signal, a panic in another thread,
//! `exit` or `abort`, so entering raw mode also arranges for these: an `atexit` function, a panic hook, and handlers for
//! the signals of a crash, all of which call the same async-signal-safe restoration. Orderly signals (SIGINT, SIGTERM, …)
//! are the business of [`crate::signals`].

use std::io;
use std::mem::MaybeUninit;
use std::sync::Once;
use std::sync::atomic::{AtomicBool, AtomicPtr, Ordering};

/// Standard input, the terminal that is switched.
const TERMINAL: i32 = libc::STDIN_FILENO;

/// True while the terminal is in raw mode.
static RAW: AtomicBool = AtomicBool::new(false);
/// The settings to restore; set once, never freed, so that a signal handler may read it at any time.
static SAVED: AtomicPtr<libc::termios> = AtomicPtr::new(std::ptr::null_mut());
/// Signals that end the process by a fault, and what was installed for them before.
const CRASH_SIGNALS: [i32; 5] = [libc::SIGSEGV, libc::SIGBUS, libc::SIGILL, libc::SIGFPE, libc::SIGABRT];
static PREVIOUS: [AtomicPtr<libc::sigaction>; 5] = [const { AtomicPtr::new(std::ptr::null_mut()) }; 5];

/// True when standard input is a terminal.
pub fn is_terminal() -> bool {
    // SAFETY: isatty takes any descriptor number.
    unsafe { libc::isatty(TERMINAL) == 1 }
}

/// What raw mode leaves to the terminal's own keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keys {
    /// Ctrl-C, Ctrl-\ and Ctrl-Z raise their signals.
    RaiseSignals,
    /// Every key is a byte of input.
    AreInput,
}

/// The terminal in raw mode, until dropped.
#[derive(Debug)]
pub struct RawMode(());

impl RawMode {
    /// Switches the terminal to raw input (no echo, no line editing). `None` when standard input is no terminal, or
    /// when this process runs in its background and must not touch it.
    pub fn enter(keys: Keys) -> io::Result<Option<Self>> {
        // SAFETY: both calls take no memory of ours; tcgetpgrp fails with -1 when there is no terminal.
        if !is_terminal() || unsafe { libc::tcgetpgrp(TERMINAL) != libc::getpgrp() } {
            return Ok(None);
        }
        let mut saved = MaybeUninit::<libc::termios>::uninit();
        // SAFETY: `saved` is writable memory of the right type.
        if unsafe { libc::tcgetattr(TERMINAL, saved.as_mut_ptr()) } != 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: tcgetattr succeeded, so it filled the structure.
        let saved = unsafe { saved.assume_init() };
        let mut raw = saved;
        raw.c_iflag &= !(libc::IGNBRK
            | libc::BRKINT
            | libc::PARMRK
            | libc::ISTRIP
            | libc::INLCR
            | libc::IGNCR
            | libc::ICRNL
            | libc::IXON);
        raw.c_oflag |= libc::OPOST;
        raw.c_lflag &= !(libc::ECHO | libc::ECHONL | libc::ICANON | libc::IEXTEN);
        if keys == Keys::AreInput {
            raw.c_lflag &= !libc::ISIG;
        }
        raw.c_cc[libc::VMIN] = 1;
        raw.c_cc[libc::VTIME] = 0;
        if SAVED.load(Ordering::Acquire).is_null() {
            // Leaked on purpose: handlers may look at it until the last instruction of the process.
            SAVED.store(Box::into_raw(Box::new(saved)), Ordering::Release);
        }
        install_restorers();
        RAW.store(true, Ordering::Release);
        // SAFETY: `raw` is a valid termios structure.
        if unsafe { libc::tcsetattr(TERMINAL, libc::TCSANOW, &raw) } != 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(Some(Self(())))
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        restore();
    }
}

/// Puts the terminal back as it was found; does nothing when it is not raw. Async-signal-safe.
pub fn restore() {
    let saved = SAVED.load(Ordering::Acquire);
    if !saved.is_null() && RAW.swap(false, Ordering::AcqRel) {
        // SAFETY: `saved` points to a leaked, never written termios; tcsetattr is async-signal-safe (POSIX 2.4.3).
        unsafe { libc::tcsetattr(TERMINAL, libc::TCSANOW, saved) };
    }
}

extern "C" fn restore_at_exit() {
    restore();
}

/// Restores the terminal, then lets the signal do what it would have done without us.
extern "C" fn restore_and_continue(signal: i32) {
    restore();
    for (number, previous) in CRASH_SIGNALS.iter().zip(&PREVIOUS) {
        let previous = previous.load(Ordering::Acquire);
        if *number == signal && !previous.is_null() {
            // A signal sent by another process would not come again by itself: it is raised for the previous action,
            // and stays pending until this handler returns.
            // SAFETY: `previous` points to a leaked sigaction that the kernel filled in; sigaction and raise are
            // async-signal-safe.
            unsafe {
                libc::sigaction(signal, previous, std::ptr::null_mut());
                libc::raise(signal);
            }
        }
    }
}

fn install_restorers() {
    static INSTALLED: Once = Once::new();
    INSTALLED.call_once(|| {
        // SAFETY: a plain C function without arguments that touches only statics.
        unsafe { libc::atexit(restore_at_exit) };
        let previous_hook = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            restore();
            previous_hook(info);
        }));
        for (signal, slot) in CRASH_SIGNALS.iter().zip(&PREVIOUS) {
            install_crash_handler(*signal, slot);
        }
    });
}

fn install_crash_handler(signal: i32, slot: &AtomicPtr<libc::sigaction>) {
    // SAFETY: an all-zero sigaction is a valid value (SIG_DFL, no flags, empty mask).
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = restore_and_continue as *const () as usize;
    action.sa_flags = libc::SA_ONSTACK;
    // SAFETY: as above.
    let mut previous: libc::sigaction = unsafe { std::mem::zeroed() };
    // SAFETY: both structures are valid; the handler only calls async-signal-safe functions.
    if unsafe { libc::sigaction(signal, &action, &mut previous) } == 0 {
        slot.store(Box::into_raw(Box::new(previous)), Ordering::Release);
    }
}
