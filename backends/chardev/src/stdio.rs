//! `stdio`: the terminal, or the pipes, that Rhea was started with.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rhea_host::stdio::{Stdin, Stdout};
use rhea_host::terminal::{Keys, RawMode};

use crate::input::InputQueue;
use crate::output::OutputQueue;
use crate::{CharReceiver, CharSink, Chardev};

/// Why `stdio` cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum StdioError {
    /// Two back ends asked for it.
    #[error("cannot use stdio by multiple character devices")]
    InUse,
    /// The system refused.
    #[error("could not set up stdio: {0}")]
    System(#[from] std::io::Error),
}

/// The back end on standard input and output. There is one in a process.
pub struct StdioChardev {
    output: OutputQueue,
    input: InputQueue,
    _terminal: Option<RawMode>,
}

impl StdioChardev {
    /// Takes standard input and output, and puts a terminal into raw mode. With `signals`, Ctrl-C still ends the
    /// process; without, it is input for the guest.
    pub fn open(signals: bool) -> Result<Self, StdioError> {
        static TAKEN: AtomicBool = AtomicBool::new(false);
        if TAKEN.swap(true, Ordering::AcqRel) {
            return Err(StdioError::InUse);
        }
        let terminal = RawMode::enter(if signals { Keys::RaiseSignals } else { Keys::AreInput })?;
        let output = OutputQueue::spawn(Stdout::default(), "stdio-out")?;
        let input = InputQueue::new();
        input.spawn_reader(Stdin::default(), "stdio-in")?;
        Ok(Self { output, input, _terminal: terminal })
    }
}

impl CharSink for StdioChardev {
    fn write(&self, bytes: &[u8]) -> usize {
        self.output.write(bytes)
    }

    fn is_open(&self) -> bool {
        self.output.is_open()
    }

    fn flush(&self) {
        self.output.flush();
    }
}

impl Chardev for StdioChardev {
    fn attach(&self, receiver: Arc<dyn CharReceiver>) {
        self.input.attach(receiver);
    }

    fn accept_input(&self) {
        self.input.accept_input();
    }
}
