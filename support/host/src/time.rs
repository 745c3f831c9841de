//! The host's time zone.

/// Offset of the host's local time from UTC, now, in seconds (east is positive).
pub fn local_offset_seconds() -> i64 {
    // SAFETY: time accepts a null pointer.
    local_offset_at(unsafe { libc::time(std::ptr::null_mut()) })
}

/// The same at another time, in seconds since 1970: summer time comes and goes.
pub fn local_offset_at(time: i64) -> i64 {
    // SAFETY: an all-zero tm is a valid value (its pointer member may be null).
    let mut local: libc::tm = unsafe { std::mem::zeroed() };
    // SAFETY: both pointers are to live values of the right types; localtime_r writes only to the second.
    let result = unsafe { libc::localtime_r(&time, &mut local) };
    if result.is_null() { 0 } else { local.tm_gmtoff }
}
