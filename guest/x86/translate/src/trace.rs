//! What `-d int`, `mmu`, `unimp` and `guest_errors` print. None of it is reached unless its item is on, but for the
//! test of that.

use rhea_engine::trace::{Trace, item};
use rhea_engine::{Access, Env, Translation};
use rhea_x86_state::X86State;
use rhea_x86_state::state::{gpr, seg};
use rhea_x86_system::bus::{Delivery, TlbScope};
use rhea_x86_system::exception::{Exception, vector};
use std::fmt::{self, Write};

use crate::cpu::WalkError;

/// The trace, if `items` are on. One load and a branch when they are not.
#[inline]
fn active(env: &Env, items: u32) -> Option<&Trace> {
    let trace = env.trace();
    (trace.items & items != 0).then_some(trace)
}

/// Prints a line that starts with the processor's number.
fn print(env: &Env, trace: &Trace, text: fmt::Arguments<'_>) {
    trace.print(&format!("CPU {}: {text}\n", env.index()));
}

/// An interrupt or exception that is about to be delivered.
#[inline]
pub(crate) fn delivery(env: &Env, st: &X86State, d: &Delivery) {
    if let Some(trace) = active(env, item::INT) {
        print_delivery(env, trace, st, d);
    }
}

#[cold]
fn print_delivery(env: &Env, trace: &Trace, st: &X86State, d: &Delivery) {
    let mut line =
        format!("v={:02x} e={:04x} i={}", d.vector, d.error_code.unwrap_or(0), u8::from(d.software));
    // Writing to a String cannot fail.
    let _ = write!(
        line,
        " cpl={} IP={:04x}:{:016x} SP={:04x}:{:016x}",
        st.cpl(),
        st.seg[seg::CS].selector,
        st.rip,
        st.seg[seg::SS].selector,
        st.gpr[gpr::RSP]
    );
    let _ = if d.vector == vector::PF {
        write!(line, " CR2={:016x}", st.cr[2])
    } else {
        write!(line, " RAX={:016x}", st.gpr[gpr::RAX])
    };
    print(env, trace, format_args!("{line}"));
}

/// A triple fault: the processor shuts down.
pub(crate) fn triple_fault(env: &Env) {
    if let Some(trace) = active(env, item::INT | item::GUEST_ERRORS) {
        trace.report(&format!("CPU {}: triple fault\n", env.index()));
    }
}

/// A page walk has ended.
#[inline]
pub(crate) fn walk(
    env: &Env,
    linear: u64,
    access: Access,
    index: u8,
    found: &Result<Translation, WalkError>,
) {
    if let Some(trace) = active(env, item::MMU) {
        print_walk(env, trace, linear, access, index, found);
    }
}

#[cold]
fn print_walk(
    env: &Env,
    trace: &Trace,
    linear: u64,
    access: Access,
    index: u8,
    found: &Result<Translation, WalkError>,
) {
    let head = format!("mmu: {access:?} {linear:#018x} index {index}:");
    match found {
        Ok(t) => {
            let may = |yes: bool, letter: char| if yes { letter } else { '-' };
            print(
                env,
                trace,
                format_args!(
                    "{head} physical {:#x} {}{}{}{}",
                    t.phys,
                    may(t.read, 'r'),
                    may(t.write, 'w'),
                    may(t.fetch, 'x'),
                    may(t.global, 'g')
                ),
            );
        }
        Err(WalkError::Fault(e)) => {
            let code = e.error_code.unwrap_or(0);
            print(env, trace, format_args!("{head} fault v={:02x} e={code:04x}", e.vector));
        }
        Err(WalkError::NotCanonical) => print(env, trace, format_args!("{head} not canonical")),
    }
}

/// Cached translations are to be forgotten.
#[inline]
pub(crate) fn flush(env: &Env, scope: &TlbScope) {
    if let Some(trace) = active(env, item::MMU) {
        print(env, trace, format_args!("mmu: flush {scope:x?}"));
    }
}

/// Privileged semantics refused `what` (a write or read of a register named in the text) with an exception.
#[cold]
pub(crate) fn refused(env: &Env, st: &X86State, e: &Exception, what: fmt::Arguments<'_>) {
    if let Some(trace) = active(env, item::GUEST_ERRORS) {
        let (cpu, vector, code) = (env.index(), e.vector, e.error_code.unwrap_or(0));
        let at = st.rip;
        trace.report(&format!("CPU {cpu}: guest error: {what} at {at:#x}: v={vector:02x} e={code:04x}\n"));
    }
}
