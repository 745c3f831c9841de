//! Character back ends: the host's end of serial ports, debug consoles and monitors.
//!
//! A device model holds an `Arc<dyn Chardev>`. Bytes from the guest go out through [`CharSink::write`]; bytes from
//! the host come in through the [`CharReceiver`] that the device attached. Flow control works both ways:
//!
//! * toward the guest nothing is lost: a back end offers at most [`CharReceiver::can_receive`] bytes, keeps the rest
//!   in a bounded buffer, stops reading its host source when that is full, and goes on when the device calls
//!   [`Chardev::accept_input`];
//! * toward the host [`CharSink::write`] says how many bytes it took.
//!
//! Lock order: a back end never holds a lock of its own while it calls a [`CharReceiver`], and a device may call any
//! method here with its own lock held. A receiver may therefore take the device's lock.

mod file;
mod input;
mod mux;
mod null;
mod output;
mod stdio;

use std::sync::Arc;

pub use file::{FileChardev, FileOpenError};
pub use input::InputQueue;
pub use mux::{Mux, MuxControl, MuxPort};
pub use null::NullChardev;
pub use stdio::{StdioChardev, StdioError};

/// Device to host.
pub trait CharSink: Send + Sync {
    /// Hands bytes to the host and returns how many were accepted, from the front. A short count means that the
    /// host's side did not drain in time; the device decides whether to hold or drop the rest.
    fn write(&self, bytes: &[u8]) -> usize;

    /// True while somebody can be at the other end.
    fn is_open(&self) -> bool;

    /// Waits (bounded) until what was accepted has reached the host. Called when the machine ends.
    fn flush(&self) {}
}

/// Host to device.
pub trait CharReceiver: Send + Sync {
    /// How many bytes the device can take now.
    fn can_receive(&self) -> usize;

    /// Delivers bytes, never more than `can_receive` just answered.
    fn receive(&self, bytes: &[u8]);

    /// A break condition on the line. A receiver that is no serial line has nothing to do.
    fn receive_break(&self) {}
}

/// A character back end as a device sees it.
pub trait Chardev: CharSink {
    /// Connects the device. Input that came before is kept and delivered now. A second call replaces the receiver.
    fn attach(&self, receiver: Arc<dyn CharReceiver>);

    /// The device has room again: deliver what waits. Delivery may happen on the calling thread or another one, after
    /// the caller has released its locks.
    fn accept_input(&self);
}
