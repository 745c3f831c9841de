//! `file`: output goes to a host file; input, if named, comes from another one.

use std::fs::{File, OpenOptions};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::input::InputQueue;
use crate::output::OutputQueue;
use crate::{CharReceiver, CharSink, Chardev};

/// A file of a `file` back end could not be opened.
#[derive(Debug, thiserror::Error)]
#[error("could not open '{}'", path.display())]
pub struct FileOpenError {
    /// The file that was asked for.
    pub path: PathBuf,
    /// What the system said.
    pub source: std::io::Error,
}

/// The back end that writes to a file.
pub struct FileChardev {
    output: OutputQueue,
    input: Option<InputQueue>,
}

impl FileChardev {
    /// Creates (or truncates, unless `append`) the output file, and opens the input file if there is one.
    pub fn open(path: &Path, append: bool, input: Option<&Path>) -> Result<Self, FileOpenError> {
        let fail = |path: &Path| {
            let path = path.to_owned();
            move |source| FileOpenError { path, source }
        };
        let mut options = OpenOptions::new();
        options.create(true);
        if append {
            options.append(true)
        } else {
            options.write(true).truncate(true)
        };
        let output = OutputQueue::spawn(options.open(path).map_err(fail(path))?, "chardev-file-out")
            .map_err(fail(path))?;
        let input = match input {
            None => None,
            Some(path) => {
                let queue = InputQueue::new();
                let file = File::open(path).map_err(fail(path))?;
                queue.spawn_reader(file, "chardev-file-in").map_err(fail(path))?;
                Some(queue)
            }
        };
        Ok(Self { output, input })
    }
}

impl CharSink for FileChardev {
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

impl Chardev for FileChardev {
    fn attach(&self, receiver: Arc<dyn CharReceiver>) {
        if let Some(input) = &self.input {
            input.attach(receiver);
        }
    }

    fn accept_input(&self) {
        if let Some(input) = &self.input {
            input.accept_input();
        }
    }
}
