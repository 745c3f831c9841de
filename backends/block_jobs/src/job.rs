//! What all jobs have in common: their state, and how they are paused, slowed, cancelled and completed.
//!
//! ```text
//!   created ─▶ running ─▶ ready ─▶ (complete) ─▶ concluded
//!                │  ▲        │
//!                ▼  │        └──── (cancel) ───▶ concluded
//!               paused
//! ```

use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_lock::Semaphore;
use parking_lot::Mutex;
use rhea_async_io::Timer;
use rhea_block::{BlockError, Progress, Result};

/// What a job does, named as in QAPI's JobType.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JobKind {
    /// Moves data down into a backing file.
    Commit,
    /// Moves data up from a backing file.
    Stream,
    /// Keeps a copy up to date.
    Mirror,
    /// Makes a copy of one moment.
    Backup,
    /// Creates an image.
    Create,
    /// Changes an image's options.
    Amend,
}

impl JobKind {
    /// QAPI's name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Commit => "commit",
            Self::Stream => "stream",
            Self::Mirror => "mirror",
            Self::Backup => "backup",
            Self::Create => "create",
            Self::Amend => "amend",
        }
    }
}

/// Where a job stands, named as in QAPI's JobStatus.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JobStatus {
    /// Not begun.
    Created,
    /// At work.
    Running,
    /// Held by [`Control::pause`].
    Paused,
    /// A mirror is up to date, and stays so until it is completed or cancelled.
    Ready,
    /// Ended, well or not.
    Concluded,
}

impl JobStatus {
    /// QAPI's name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Ready => "ready",
            Self::Concluded => "concluded",
        }
    }
}

#[derive(Debug)]
struct State {
    status: JobStatus,
    /// As many pauses as must be taken back.
    paused: usize,
    cancelled: bool,
    completing: bool,
    /// Bytes a second; 0: no limit.
    speed: u64,
    /// Bytes that may still go in this slice.
    allowance: u64,
    slice_began: Instant,
    error: Option<BlockError>,
}

/// The handle of a job: for those who watch it, and for the job itself.
#[derive(Debug)]
pub struct Control {
    id: String,
    kind: JobKind,
    progress: Progress,
    state: Mutex<State>,
    /// Released upon every change that a waiting job may care for.
    changed: Semaphore,
}

/// Rates are kept over slices of this length.
const SLICE: Duration = Duration::from_millis(100);

impl Control {
    /// A job that has not begun.
    pub fn new(id: &str, kind: JobKind) -> Arc<Self> {
        Arc::new(Self {
            id: id.into(),
            kind,
            progress: Progress::new(),
            state: Mutex::new(State {
                status: JobStatus::Created,
                paused: 0,
                cancelled: false,
                completing: false,
                speed: 0,
                allowance: 0,
                slice_began: Instant::now(),
                error: None,
            }),
            changed: Semaphore::new(0),
        })
    }

    /// The job's name.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// What it does.
    pub fn kind(&self) -> JobKind {
        self.kind
    }

    /// How far it is; in bytes.
    pub fn progress(&self) -> &Progress {
        &self.progress
    }

    /// Where it stands.
    pub fn status(&self) -> JobStatus {
        self.state.lock().status
    }

    /// Why it failed, once it is concluded.
    pub fn error(&self) -> Option<BlockError> {
        self.state.lock().error.clone()
    }

    fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let value = change(&mut self.state.lock());
        self.changed.add_permits(1);
        value
    }

    /// Holds the job at its next good moment.
    pub fn pause(&self) {
        self.change(|s| s.paused += 1);
    }

    /// Takes a pause back.
    pub fn resume(&self) {
        self.change(|s| s.paused = s.paused.saturating_sub(1));
    }

    /// Stops the job at its next good moment; it ends with `ECANCELED`.
    pub fn cancel(&self) {
        self.change(|s| s.cancelled = true);
    }

    /// Lets a job that is ready come to its end.
    pub fn complete(&self) -> Result<()> {
        let ready = self.change(|s| {
            let ready = s.status == JobStatus::Ready;
            s.completing |= ready;
            ready
        });
        match ready {
            true => Ok(()),
            false => {
                Err(BlockError::invalid(format!("The active block job '{}' cannot be completed", self.id)))
            }
        }
    }

    /// Limits the rate, in bytes a second; 0: no limit.
    pub fn set_speed(&self, speed: u64) {
        self.change(|s| {
            s.speed = speed;
            s.allowance = 0;
            s.slice_began = Instant::now();
        });
    }

    /// Whether [`Control::complete`] was called.
    pub fn is_completing(&self) -> bool {
        self.state.lock().completing
    }

    /// Whether [`Control::cancel`] was called.
    pub fn is_cancelled(&self) -> bool {
        self.state.lock().cancelled
    }

    pub(crate) fn set_ready(&self) {
        let mut state = self.state.lock();
        if state.status == JobStatus::Running {
            state.status = JobStatus::Ready;
        }
    }

    /// Waits until something has changed, or for a while.
    pub(crate) async fn wait_change(&self, at_most: Duration) {
        let changed = async {
            self.changed.acquire().await.forget();
        };
        let timer = async {
            Timer::after(at_most).await;
        };
        futures_util::pin_mut!(changed, timer);
        futures_util::future::select(changed, timer).await;
        // However many changes there were: whoever waits looks at the state anew.
        while let Some(permit) = self.changed.try_acquire() {
            permit.forget();
        }
    }

    /// A good moment: waits while the job is paused, and fails if it was cancelled.
    pub async fn pause_point(&self) -> Result<()> {
        let mut before = None;
        loop {
            {
                let mut state = self.state.lock();
                if state.cancelled || state.paused == 0 {
                    if let Some(status) = before {
                        state.status = status;
                    }
                    return match state.cancelled {
                        true => Err(BlockError::os(libc::ECANCELED)),
                        false => Ok(()),
                    };
                }
                if before.is_none() {
                    before = Some(state.status);
                    state.status = JobStatus::Paused;
                }
            }
            self.wait_change(Duration::from_secs(1)).await;
        }
    }

    /// A good moment before copying so many bytes: also waits as the rate asks.
    pub async fn before_copying(&self, bytes: u64) -> Result<()> {
        loop {
            self.pause_point().await?;
            let wait = {
                let mut state = self.state.lock();
                if state.speed == 0 {
                    return Ok(());
                }
                let passed = state.slice_began.elapsed();
                if passed >= SLICE {
                    state.slice_began = Instant::now();
                    state.allowance = (state.speed as u128 * SLICE.as_millis() / 1000).max(1) as u64;
                }
                if state.allowance > 0 {
                    // A request larger than a slice's allowance takes what is there, and later slices pay for it.
                    let owed = bytes.saturating_sub(state.allowance);
                    state.allowance = state.allowance.saturating_sub(bytes);
                    let slices = owed as f64 / (state.speed as f64 * SLICE.as_secs_f64());
                    state.slice_began += SLICE.mul_f64(slices.min(1e6));
                    return Ok(());
                }
                SLICE.saturating_sub(passed).max(Duration::from_millis(1))
            };
            self.wait_change(wait).await;
        }
    }
}

/// Runs a job to its end.
pub async fn run<T>(control: &Arc<Control>, work: impl Future<Output = Result<T>>) -> Result<T> {
    control.change(|s| s.status = JobStatus::Running);
    let result = match control.pause_point().await {
        Ok(()) => work.await,
        Err(error) => Err(error),
    };
    control.change(|s| {
        s.status = JobStatus::Concluded;
        s.error = result.as_ref().err().cloned();
    });
    result
}

#[cfg(test)]
mod tests {
    use super::*;
    use rhea_async_io::{block_on, spawn};

    #[test]
    fn a_paused_job_waits_and_a_cancelled_one_ends() {
        let control = Control::new("j", JobKind::Mirror);
        control.pause();
        let worker = control.clone();
        block_on(async {
            let job = spawn(async move { run(&worker, async { Ok(7) }).await });
            Timer::after(Duration::from_millis(30)).await;
            assert_eq!(control.status(), JobStatus::Paused);
            control.resume();
            assert_eq!(job.await, Ok(7));
        });
        assert_eq!(control.status(), JobStatus::Concluded);
        let control = Control::new("k", JobKind::Mirror);
        control.cancel();
        assert_eq!(block_on(run(&control, async { Ok(()) })).unwrap_err().errno(), libc::ECANCELED);
        assert!(control.complete().is_err());
    }

    #[test]
    fn the_rate_is_kept() {
        let control = Control::new("j", JobKind::Backup);
        control.set_speed(1 << 20);
        let began = Instant::now();
        block_on(async {
            for _ in 0..5 {
                control.before_copying(65536).await.unwrap();
            }
        });
        // 320 KiB at 1 MiB/s, less what the first slice allows.
        assert!(began.elapsed() >= Duration::from_millis(150), "{:?}", began.elapsed());
    }
}
