//! A conversation with an emulator's serial port, with deadlines.

use std::io::{Read, Write};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

/// Output kept at most: beyond it a guest that prints for ever fails its test instead of filling memory.
const MAX_OUTPUT: usize = 64 << 20;

#[derive(Default)]
struct Output {
    bytes: Vec<u8>,
    ended: bool,
}

/// A running emulator with its serial port on standard input and output.
pub struct Session {
    child: Child,
    input: Option<ChildStdin>,
    output: Arc<(Mutex<Output>, Condvar)>,
    /// How much of the output `expect` has consumed.
    position: usize,
    started: Instant,
}

impl Session {
    /// Starts the emulator.
    pub fn start(command: &mut Command) -> anyhow::Result<Self> {
        let name = command.get_program().to_string_lossy().into_owned();
        let started = Instant::now();
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot start {name}"))?;
        let output = Arc::new((Mutex::new(Output::default()), Condvar::new()));
        let input = child.stdin.take();
        if let Some(stdout) = child.stdout.take() {
            collect(stdout, output.clone(), true);
        }
        if let Some(stderr) = child.stderr.take() {
            collect(stderr, output.clone(), false);
        }
        Ok(Self { child, input, output, position: 0, started })
    }

    /// Time since the emulator was started.
    pub fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    /// The emulator's process id.
    pub fn process_id(&self) -> u32 {
        self.child.id()
    }

    /// Waits until the guest prints `text` and returns what came before it (since the last `expect`).
    pub fn expect(&mut self, text: &str, timeout: Duration) -> anyhow::Result<String> {
        let deadline = Instant::now() + timeout;
        let (lock, changed) = &*self.output;
        let mut output = lock.lock().expect("collector does not panic");
        let mut searched = self.position;
        loop {
            if let Some(at) = find(&output.bytes[searched..], text.as_bytes()) {
                let at = searched + at;
                let before = String::from_utf8_lossy(&output.bytes[self.position..at]).into_owned();
                self.position = at + text.len();
                return Ok(before);
            }
            searched = output.bytes.len().saturating_sub(text.len()).max(self.position);
            let left = deadline.saturating_duration_since(Instant::now());
            if output.ended || left.is_zero() || output.bytes.len() > MAX_OUTPUT {
                let why = if output.ended { "the emulator ended" } else { "no answer" };
                let tail = tail(&output.bytes);
                bail!(
                    "{why} after {:.1?} while waiting for {text:?}; last output:\n{tail}",
                    self.started.elapsed()
                );
            }
            output = changed.wait_timeout(output, left).expect("collector does not panic").0;
        }
    }

    /// Sends bytes to the serial port.
    pub fn send(&mut self, bytes: &[u8]) -> anyhow::Result<()> {
        let input = self.input.as_mut().context("input is closed")?;
        input.write_all(bytes).and_then(|()| input.flush()).context("the emulator takes no input")
    }

    /// Types a command at the guest's prompt and returns what it printed, up to the next prompt.
    pub fn command(&mut self, line: &str, prompt: &str, timeout: Duration) -> anyhow::Result<String> {
        self.send(format!("{line}\n").as_bytes())?;
        // The terminal's echo comes first and ends with a line break.
        let echo_end = &line[line.len().saturating_sub(20)..];
        self.expect(echo_end, timeout)?;
        self.expect("\n", timeout)?;
        Ok(self.expect(prompt, timeout)?.replace('\r', ""))
    }

    /// Waits for the emulator to end by itself.
    pub fn wait(&mut self, timeout: Duration) -> anyhow::Result<ExitStatus> {
        let deadline = Instant::now() + timeout;
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            if Instant::now() >= deadline {
                bail!("the emulator did not end within {timeout:.0?}; last output:\n{}", self.tail());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Everything printed so far.
    pub fn transcript(&self) -> String {
        String::from_utf8_lossy(&self.output.0.lock().expect("collector does not panic").bytes).into_owned()
    }

    /// Everything printed, once the emulator has ended and its output is read to the end.
    pub fn transcript_at_end(&self) -> String {
        let (lock, changed) = &*self.output;
        let output = lock.lock().expect("collector does not panic");
        let wait = changed.wait_timeout_while(output, Duration::from_secs(60), |o| !o.ended);
        let output = wait.expect("collector does not panic").0;
        String::from_utf8_lossy(&output.bytes).replace('\r', "")
    }

    fn tail(&self) -> String {
        tail(&self.output.0.lock().expect("collector does not panic").bytes)
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        // Already ended: both fail, which is fine.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn collect(mut source: impl Read + Send + 'static, output: Arc<(Mutex<Output>, Condvar)>, is_console: bool) {
    std::thread::spawn(move || {
        let mut buffer = [0; 4096];
        loop {
            let count = source.read(&mut buffer).unwrap_or(0);
            let mut state = output.0.lock().expect("collector does not panic");
            if state.bytes.len() <= MAX_OUTPUT {
                state.bytes.extend(&buffer[..count]);
            }
            state.ended |= count == 0 && is_console;
            output.1.notify_all();
            if count == 0 {
                return;
            }
        }
    });
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|w| w == needle)
}

/// The last lines of output, for an error message.
fn tail(bytes: &[u8]) -> String {
    let start = bytes.len().saturating_sub(2000);
    String::from_utf8_lossy(&bytes[start..]).replace('\r', "")
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOON: Duration = Duration::from_secs(120);

    #[test]
    fn expect_returns_what_came_before() {
        let mut session = Session::start(Command::new("sh").args(["-c", "echo one two three"])).unwrap();
        assert_eq!(session.expect("two", SOON).unwrap(), "one ");
        assert_eq!(session.expect("three", SOON).unwrap(), " ");
        assert!(session.wait(SOON).unwrap().success());
    }

    #[test]
    fn an_end_is_told_from_silence() {
        let mut session = Session::start(Command::new("sh").args(["-c", "echo gone"])).unwrap();
        let error = session.expect("never", SOON).unwrap_err().to_string();
        assert!(error.contains("the emulator ended") && error.contains("gone"), "{error}");
        let mut session = Session::start(Command::new("sh").args(["-c", "sleep 60"])).unwrap();
        assert!(
            session.expect("x", Duration::from_millis(50)).unwrap_err().to_string().contains("no answer")
        );
    }
}
