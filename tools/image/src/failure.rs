//! Why a command ends early: what is told to the user, and the exit status.

use rhea_block::BlockError;

/// The result of a command's steps.
pub(crate) type Outcome<T> = Result<T, Failure>;

/// An error as the user sees it.
#[derive(Debug)]
pub(crate) struct Failure {
    /// One message a line, each behind the program's name; a hint follows its message as it is.
    messages: Vec<(String, Option<String>)>,
    /// The user is sent to the command's help text.
    pub usage: bool,
    /// The exit status.
    pub status: u8,
    /// Ctrl-C: nothing is told, and the process ends by the signal.
    pub interrupted: bool,
}

impl Failure {
    pub fn new(message: impl Into<String>) -> Self {
        Self { messages: vec![(message.into(), None)], usage: false, status: 1, interrupted: false }
    }

    /// A command line that makes no sense.
    pub fn usage(message: impl Into<String>) -> Self {
        Self { usage: true, ..Self::new(message) }
    }

    /// An exit status and no words: all was said before.
    pub fn silent(status: u8) -> Self {
        Self { messages: Vec::new(), usage: false, status, interrupted: false }
    }

    /// A command line that makes no sense, as was said before.
    pub fn bad_usage() -> Self {
        Self { usage: true, ..Self::silent(1) }
    }

    /// The user has pressed Ctrl-C.
    pub fn interrupted() -> Self {
        Self { interrupted: true, ..Self::silent(130) }
    }

    pub fn with_status(self, status: u8) -> Self {
        Self { status, ..self }
    }

    /// Another message behind the first.
    pub fn then(mut self, message: impl Into<String>) -> Self {
        self.messages.push((message.into(), None));
        self
    }

    /// Lines below the last message.
    pub fn with_hint(mut self, hint: impl Into<String>) -> Self {
        if let Some(last) = self.messages.last_mut() {
            last.1 = Some(hint.into());
        }
        self
    }

    /// Puts what was tried before the first message.
    pub fn context(mut self, what: impl std::fmt::Display) -> Self {
        if let Some((message, _)) = self.messages.first_mut() {
            *message = format!("{what}: {message}");
        }
        self
    }

    /// Prints the messages to standard error.
    pub fn tell(&self, program: &str, command: &str) {
        for (message, hint) in &self.messages {
            eprintln!("{program}: {message}");
            if let Some(hint) = hint {
                eprintln!("{hint}");
            }
        }
        if self.usage {
            let space = if command.is_empty() { "" } else { " " };
            eprintln!("Try '{program}{space}{command} --help' for more info");
        }
    }
}

impl From<BlockError> for Failure {
    fn from(error: BlockError) -> Self {
        let hint = error.hint().map(str::to_owned);
        Self { messages: vec![(error.to_string(), hint)], usage: false, status: 1, interrupted: false }
    }
}

/// Adds what was tried to errors.
pub(crate) trait FailureExt<T> {
    /// Puts `what: ` before an error's message.
    fn told(self, what: impl std::fmt::Display) -> Outcome<T>;
}

impl<T, E: Into<Failure>> FailureExt<T> for Result<T, E> {
    fn told(self, what: impl std::fmt::Display) -> Outcome<T> {
        self.map_err(|error| error.into().context(what))
    }
}
