//! What every accelerator offers to the rest of Rhea: a group of vCPUs that can be started, stopped and reset.
//!
//! The translator (`rhea-accel-translate`) implements it; KVM will (`accel/kvm`). Run control, the monitor and the
//! debugger speak only to this trait.

/// The vCPUs of one machine.
///
/// A new group is paused. `pause` and `shut_down` return only when no vCPU executes any more; they must not be called
/// from a vCPU's own thread (a device model asks run control instead).
pub trait VcpuGroup: Send + Sync {
    /// Lets all vCPUs run.
    fn resume(&self);

    /// Stops all vCPUs between instructions and waits until they have stopped.
    fn pause(&self);

    /// Puts every vCPU in its reset state. The group must be paused.
    fn reset(&self);

    /// Ends all vCPU threads. The group cannot be used afterwards.
    fn shut_down(&self);

    /// Number of vCPUs.
    fn len(&self) -> usize;

    /// Whether there are none.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The registers of vCPU `index` as text (`info registers`). The group must be paused.
    fn registers(&self, index: usize) -> String;

    /// Counters of the accelerator as text (`info jit`).
    fn statistics(&self) -> String;
}
