//! How fast a volume's cipher is: `cargo run --release -p rhea-block-crypto --example throughput`.

use std::time::Duration;

use rhea_async_io::block_on;
use rhea_block_crypto::{LuksOptions, LuksVolume};
use rhea_options::Options;

/// Processor time of this thread: other work on the machine does not count.
fn now() -> Duration {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(now.tv_sec.unsigned_abs(), u32::try_from(now.tv_nsec).expect("less than a second"))
}

fn rate(mut work: impl FnMut(&mut [u8])) -> f64 {
    let mut data = vec![0; 1 << 20];
    let start = now();
    let mut pieces = 0;
    while now() - start < Duration::from_millis(300) {
        work(&mut data);
        pieces += 1;
    }
    f64::from(pieces) / (now() - start).as_secs_f64()
}

fn main() {
    for kind in ["", "cipher-alg=aes-128", "cipher-mode=cbc", "cipher-mode=ctr", "cipher-alg=serpent-256"] {
        let text = format!("iter-time=0{}{kind}", if kind.is_empty() { "" } else { "," });
        let mut options = Options::parse(&text, None).expect("well-formed");
        let options = LuksOptions::take(&mut options).expect("known");
        let formatted = block_on(LuksVolume::format(options, false, b"x".to_vec().into())).expect("formats");
        let cipher = formatted.volume.cipher().expect("open");
        let encrypt = rate(|data| cipher.encrypt(0, data));
        let decrypt = rate(|data| cipher.decrypt(0, data));
        println!("{kind:24} encrypt {encrypt:6.0} MiB/s  decrypt {decrypt:6.0} MiB/s");
    }
}
