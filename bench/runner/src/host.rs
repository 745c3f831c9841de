//! What a process costs its host, from /proc.

use std::fs;

use anyhow::Context;

/// Resident bytes of a process, without those of its guest's RAM: mappings of at least `ram` bytes are the guest's.
pub fn resident_beyond_guest(process: u32, ram: u64) -> anyhow::Result<u64> {
    let text =
        fs::read_to_string(format!("/proc/{process}/smaps")).context("cannot read the process's mappings")?;
    Ok(resident(&text, ram))
}

fn resident(smaps: &str, ram: u64) -> u64 {
    let mut total = 0;
    let mut size = 0;
    for line in smaps.lines() {
        let mut words = line.split_whitespace();
        let (Some(key), Some(value)) = (words.next(), words.next()) else { continue };
        let Ok(kib) = value.parse::<u64>() else { continue };
        match key {
            "Size:" => size = kib * 1024,
            "Rss:" if size < ram => total += kib * 1024,
            _ => {}
        }
    }
    total
}

/// Processor time of a process so far, in seconds.
pub fn processor_seconds(process: u32) -> anyhow::Result<f64> {
    let text =
        fs::read_to_string(format!("/proc/{process}/stat")).context("cannot read the process's times")?;
    parse_stat(&text).context("the kernel's stat line has no times")
}

fn parse_stat(stat: &str) -> Option<f64> {
    // The name is in parentheses and may hold blanks. utime and stime are fields 14 and 15 (proc_pid_stat(5)).
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let ticks: u64 = fields.get(11)?.parse::<u64>().ok()? + fields.get(12)?.parse::<u64>().ok()?;
    // USER_HZ is 100 on every Linux that this runs on.
    Some(ticks as f64 / 100.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn guest_memory_is_left_out() {
        let smaps = "7f00-7f01 rw-p 0 00:00 0\nSize: 1048576 kB\nRss: 500000 kB\n\
                     5500-5501 r-xp 0 00:00 0 /x\nSize: 100 kB\nRss: 60 kB\n";
        assert_eq!(resident(smaps, 1 << 30), 60 * 1024);
    }

    #[test]
    fn times_of_a_process_with_a_strange_name() {
        let stat = "1 (a b) c) S 1 1 1 0 -1 4194560 1 2 3 4 250 50 5 6 20 0 1 0 1 1 1";
        assert_eq!(parse_stat(stat), Some(3.0));
    }
}
