//! Accesses to guest RAM by host address.

use std::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering};

/// Copies bytes out of one page of guest RAM.
pub(crate) fn host_read(host: usize, out: &mut [u8]) {
    debug_assert!(host % 4096 + out.len() <= 4096);
    // SAFETY: `host..host + len` lies in one page of a RAM block kept alive by the caller's Env. Other vCPUs may
    // write it meanwhile, which at worst yields torn bytes, as it does for the guest's own block moves.
    unsafe { std::ptr::copy_nonoverlapping(host as *const u8, out.as_mut_ptr(), out.len()) };
}

/// Copies bytes into one page of guest RAM that takes writes and holds no translated code.
pub(crate) fn host_write(host: usize, bytes: &[u8]) {
    debug_assert!(host % 4096 + bytes.len() <= 4096);
    // SAFETY: as in `host_read`.
    unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), host as *mut u8, bytes.len()) };
}

/// Loads 1, 2, 4 or 8 bytes at a host address inside guest RAM.
#[inline]
pub(crate) fn host_load(host: usize, size: u32) -> u64 {
    // SAFETY: `host..host + size` lies in one page of a RAM block kept alive by the caller's Env; guest RAM is only
    // accessed atomically or by translated code outside the Rust memory model. Unaligned accesses use volatile reads.
    unsafe {
        match size {
            1 => u64::from(AtomicU8::from_ptr(host as *mut u8).load(Ordering::Relaxed)),
            2 if host.is_multiple_of(2) => {
                u64::from(AtomicU16::from_ptr(host as *mut u16).load(Ordering::Relaxed))
            }
            4 if host.is_multiple_of(4) => {
                u64::from(AtomicU32::from_ptr(host as *mut u32).load(Ordering::Relaxed))
            }
            8 if host.is_multiple_of(8) => AtomicU64::from_ptr(host as *mut u64).load(Ordering::Relaxed),
            2 => u64::from((host as *const u16).read_unaligned()),
            4 => u64::from((host as *const u32).read_unaligned()),
            _ => (host as *const u64).read_unaligned(),
        }
    }
}

/// Stores 1, 2, 4 or 8 bytes at a host address inside guest RAM.
pub(crate) fn host_store(host: usize, size: u32, value: u64) {
    // SAFETY: as in `host_load`; the page is RAM that takes writes.
    unsafe {
        match size {
            1 => AtomicU8::from_ptr(host as *mut u8).store(value as u8, Ordering::Relaxed),
            2 if host.is_multiple_of(2) => {
                AtomicU16::from_ptr(host as *mut u16).store(value as u16, Ordering::Relaxed);
            }
            4 if host.is_multiple_of(4) => {
                AtomicU32::from_ptr(host as *mut u32).store(value as u32, Ordering::Relaxed);
            }
            8 if host.is_multiple_of(8) => {
                AtomicU64::from_ptr(host as *mut u64).store(value, Ordering::Relaxed);
            }
            2 => (host as *mut u16).write_unaligned(value as u16),
            4 => (host as *mut u32).write_unaligned(value as u32),
            _ => (host as *mut u64).write_unaligned(value),
        }
    }
}

/// Compares and swaps 1, 2, 4 or 8 bytes at a naturally aligned host address; returns the old value.
pub(crate) fn host_cas(host: usize, size: u32, old: u64, new: u64) -> u64 {
    use Ordering::SeqCst;
    debug_assert!(host.is_multiple_of(size as usize));
    fn either<T: Into<u64>>(r: Result<T, T>) -> u64 {
        r.unwrap_or_else(|v| v).into()
    }
    // SAFETY: as in `host_store`, and aligned as the caller checked.
    unsafe {
        match size {
            1 => either(
                AtomicU8::from_ptr(host as *mut u8).compare_exchange(old as u8, new as u8, SeqCst, SeqCst),
            ),
            2 => either(
                AtomicU16::from_ptr(host as *mut u16)
                    .compare_exchange(old as u16, new as u16, SeqCst, SeqCst),
            ),
            4 => either(
                AtomicU32::from_ptr(host as *mut u32)
                    .compare_exchange(old as u32, new as u32, SeqCst, SeqCst),
            ),
            _ => either(AtomicU64::from_ptr(host as *mut u64).compare_exchange(old, new, SeqCst, SeqCst)),
        }
    }
}

/// Compares and swaps 16 bytes; `None` if the host cannot or the address is not aligned.
#[cfg(target_arch = "x86_64")]
pub(crate) fn host_cas128(host: usize, old: u128, new: u128) -> Option<u128> {
    if !host.is_multiple_of(16) || !std::arch::is_x86_feature_detected!("cmpxchg16b") {
        return None;
    }
    let (mut low, mut high) = (old as u64, (old >> 64) as u64);
    // SAFETY: the feature is there, the address is aligned and inside a page of RAM that takes writes. RBX, which
    // the compiler keeps for itself, is put back. (The intrinsic becomes a library call in unoptimized builds.)
    unsafe {
        std::arch::asm!(
            "xchg rsi, rbx",
            "lock cmpxchg16b [rdi]",
            "mov rbx, rsi",
            in("rdi") host,
            inout("rsi") new as u64 => _,
            in("rcx") (new >> 64) as u64,
            inout("rax") low,
            inout("rdx") high,
            options(nostack),
        );
    }
    Some(u128::from(high) << 64 | u128::from(low))
}

/// Compares and swaps 16 bytes; `None` if the host cannot.
#[cfg(not(target_arch = "x86_64"))]
pub(crate) fn host_cas128(_: usize, _: u128, _: u128) -> Option<u128> {
    None
}
