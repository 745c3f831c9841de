//! vCPU threads and their control.
//!
//! Each thread owns its `VcpuContext`. It alternates between running the dispatcher and sleeping on its control block;
//! whoever wants something done with a context while it sleeps hands in a job.

use parking_lot::{Condvar, Mutex};
use rhea_accel_api::VcpuGroup;
use rhea_engine::{VcpuContext, VcpuHandle, request};
use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;

type Job = Box<dyn FnOnce(&mut VcpuContext) + Send>;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Want {
    Run,
    Pause,
    Quit,
}

struct State {
    want: Want,
    running: bool,
    ended: bool,
    job: Option<Job>,
}

struct Control {
    state: Mutex<State>,
    changed: Condvar,
}

struct Vcpu {
    handle: VcpuHandle,
    control: Arc<Control>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// Puts a vCPU in its reset state.
pub type Reset = Arc<dyn Fn(&mut VcpuContext) + Send + Sync>;

/// A group of translated vCPUs.
pub struct TranslatedVcpus {
    vcpus: Vec<Vcpu>,
    reset: Reset,
}

impl TranslatedVcpus {
    /// Starts a (paused) thread for each context. `reset` puts a context in its reset state.
    ///
    /// # Errors
    /// The host cannot make a thread.
    pub fn new(contexts: Vec<Box<VcpuContext>>, reset: Reset) -> io::Result<Self> {
        let mut vcpus = Vec::with_capacity(contexts.len());
        for (index, cx) in contexts.into_iter().enumerate() {
            let control = Arc::new(Control {
                state: Mutex::new(State { want: Want::Pause, running: false, ended: false, job: None }),
                changed: Condvar::new(),
            });
            let handle = cx.handle();
            let shared = control.clone();
            let thread = std::thread::Builder::new()
                .name(format!("CPU {index}/TCG"))
                .stack_size(2 << 20)
                .spawn(move || vcpu_thread(cx, &shared))?;
            vcpus.push(Vcpu { handle, control, thread: Mutex::new(Some(thread)) });
        }
        Ok(TranslatedVcpus { vcpus, reset })
    }

    fn set(&self, want: Want) {
        for v in &self.vcpus {
            let mut state = v.control.state.lock();
            if state.want == Want::Quit {
                continue;
            }
            state.want = want;
            if want == Want::Run {
                v.handle.withdraw(request::STOP);
            } else {
                v.handle.request(request::STOP);
            }
            v.control.changed.notify_all();
        }
    }

    fn wait_paused(&self) {
        for v in &self.vcpus {
            let mut state = v.control.state.lock();
            while state.running && !state.ended {
                v.control.changed.wait(&mut state);
            }
        }
    }

    /// Runs `job` with the context of vCPU `index`, on its thread, and waits for it. The group must be paused.
    pub fn with<R: Send + 'static>(
        &self,
        index: usize,
        job: impl FnOnce(&mut VcpuContext) -> R + Send + 'static,
    ) -> Option<R> {
        let v = self.vcpus.get(index)?;
        let result = Arc::new(Mutex::new(None));
        let out = result.clone();
        let mut state = v.control.state.lock();
        state.job = Some(Box::new(move |cx| *out.lock() = Some(job(cx))));
        v.control.changed.notify_all();
        while state.job.is_some() && !state.ended {
            v.control.changed.wait(&mut state);
        }
        drop(state);
        result.lock().take()
    }
}

fn vcpu_thread(mut cx: Box<VcpuContext>, control: &Control) {
    let mut state = control.state.lock();
    loop {
        if let Some(job) = state.job.take() {
            // The requester waits on this lock's condition, so holding it is what makes the job exclusive.
            job(&mut cx);
            control.changed.notify_all();
            continue;
        }
        match state.want {
            Want::Quit => break,
            Want::Pause => control.changed.wait(&mut state),
            Want::Run => {
                state.running = true;
                drop(state);
                cx.run();
                state = control.state.lock();
                state.running = false;
                control.changed.notify_all();
            }
        }
    }
    state.ended = true;
    control.changed.notify_all();
}

impl VcpuGroup for TranslatedVcpus {
    fn resume(&self) {
        self.set(Want::Run);
    }

    fn pause(&self) {
        self.set(Want::Pause);
        self.wait_paused();
    }

    fn reset(&self) {
        for index in 0..self.vcpus.len() {
            let reset = self.reset.clone();
            self.with(index, move |cx| reset(cx));
        }
    }

    fn shut_down(&self) {
        self.set(Want::Quit);
        for v in &self.vcpus {
            if let Some(thread) = v.thread.lock().take() {
                // A vCPU thread that panicked has printed its message; there is nothing to add.
                let _ = thread.join();
            }
        }
    }

    fn len(&self) -> usize {
        self.vcpus.len()
    }

    fn registers(&self, index: usize) -> String {
        self.with(index, |cx| cx.dump()).unwrap_or_default()
    }

    fn statistics(&self) -> String {
        let mut text = String::new();
        for index in 0..self.vcpus.len() {
            if let Some(s) = self.with(index, |cx| *cx.stats()) {
                text += &format!("CPU {index}:\n{s}");
            }
        }
        text
    }
}

impl Drop for TranslatedVcpus {
    fn drop(&mut self) {
        self.shut_down();
    }
}
