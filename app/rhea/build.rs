//! How the binary is linked.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    if std::env::var("CARGO_CFG_TARGET_ENV").as_deref() == Ok("gnu") {
        // Relative relocations in their short form (DT_RELR, glibc 2.36): the long one is 700 KiB that the loader reads at
        // every start, and that each short-lived tool then has resident. Linkers that do not know it say so and go on.
        println!("cargo:rustc-link-arg-bins=-Wl,-z,pack-relative-relocs");
    }
}
