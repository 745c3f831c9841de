//! The floating-point environment of a vCPU: where its rounding modes live and where its sticky flags gather.
//!
//! While a vCPU thread runs, the host's MXCSR and x87 control word hold the guest's rounding and flush modes with all
//! exceptions masked, so that translated code is plain host instructions and flags gather in the host registers. The
//! interpreter gathers its flags in `soft_flags`. Asking for the flags merges both. Rust code that may compute in
//! floating point (devices) runs under the host's default environment: see [`HostDefault`].

/// Rounding and flush modes of vector and scalar floating point.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct FloatEnv {
    /// Rounding: 0 nearest even, 1 down, 2 up, 3 toward zero.
    pub rounding: u8,
    /// Denormal results become zero.
    pub flush_to_zero: bool,
    /// Denormal operands count as zero.
    pub denormals_are_zero: bool,
}

const ALL_MASKED: u32 = 0x1f80;
#[cfg(target_arch = "x86_64")]
const DEFAULT: u32 = ALL_MASKED;

/// The six sticky flags: invalid, denormal, divide by zero, overflow, underflow, inexact from bit 0.
pub const FLAGS: u32 = 0x3f;

impl FloatEnv {
    fn mxcsr(self) -> u32 {
        ALL_MASKED
            | u32::from(self.rounding & 3) << 13
            | u32::from(self.flush_to_zero) << 15
            | u32::from(self.denormals_are_zero) << 6
    }
}

/// Both environments of one vCPU.
#[derive(Clone, Copy, Debug, Default)]
pub struct FloatState {
    env: FloatEnv,
    /// Precision and rounding control, bits 8..=11 of an x87 control word.
    x87_control: u32,
    soft_flags: u32,
    soft_x87_flags: u32,
    /// The environment is loaded in the host registers.
    loaded: bool,
    /// Host flags taken over at the last unload.
    saved: (u32, u32),
}

#[cfg(target_arch = "x86_64")]
mod host {
    use std::arch::asm;

    pub fn mxcsr() -> u32 {
        let mut v = 0u32;
        // SAFETY: STMXCSR writes four bytes to the local.
        unsafe { asm!("stmxcsr [{}]", in(reg) &mut v, options(nostack, preserves_flags)) };
        v
    }

    pub fn set_mxcsr(v: u32) {
        debug_assert_eq!(v & !0xffff, 0, "reserved bits");
        // SAFETY: LDMXCSR reads four bytes of the local; reserved bits are clear and every exception is masked.
        unsafe { asm!("ldmxcsr [{}]", in(reg) &v, options(nostack, preserves_flags, readonly)) };
    }

    pub fn set_x87_control(v: u16) {
        // SAFETY: FLDCW reads two bytes of the local; all exceptions are masked.
        unsafe { asm!("fldcw [{}]", in(reg) &v, options(nostack, preserves_flags, readonly)) };
    }

    /// Reads the x87 exception flags and clears them.
    pub fn take_x87_flags() -> u32 {
        let mut v = 0u16;
        // SAFETY: FNSTSW writes two bytes to the local; FNCLEX only clears status flags.
        unsafe { asm!("fnstsw [{}]", in(reg) &mut v, options(nostack, preserves_flags)) };
        if v & 0x3f != 0 {
            // SAFETY: as above.
            unsafe { asm!("fnclex", options(nostack, nomem, preserves_flags)) };
        }
        u32::from(v) & 0x3f
    }
}

#[cfg(not(target_arch = "x86_64"))]
mod host {
    pub fn mxcsr() -> u32 {
        0
    }
    pub fn set_mxcsr(_: u32) {}
    pub fn set_x87_control(_: u16) {}
    pub fn take_x87_flags() -> u32 {
        0
    }
}

impl FloatState {
    /// Loads the guest's environment into the host registers of this thread.
    pub fn load(&mut self) {
        host::set_mxcsr(self.env.mxcsr() | self.saved.0);
        host::set_x87_control(0x3f | self.x87_control as u16 & 0xf00);
        self.soft_x87_flags |= self.saved.1;
        self.saved = (0, 0);
        self.loaded = true;
    }

    /// Puts the host's default environment back and keeps the guest's flags.
    pub fn unload(&mut self) {
        if self.loaded {
            self.saved = (host::mxcsr() & FLAGS, host::take_x87_flags());
            #[cfg(target_arch = "x86_64")]
            host::set_mxcsr(DEFAULT);
            host::set_x87_control(0x37f);
            self.loaded = false;
        }
    }

    /// Modes of vector and scalar operations.
    pub fn env(&self) -> FloatEnv {
        self.env
    }

    /// Sets the modes of vector and scalar operations; sticky flags stay.
    pub fn set_env(&mut self, env: FloatEnv) {
        self.env = env;
        if self.loaded {
            host::set_mxcsr(env.mxcsr() | host::mxcsr() & FLAGS);
        }
    }

    /// Precision and rounding control of x87 operations (control word bits 8..=11).
    pub fn x87_control(&self) -> u32 {
        self.x87_control
    }

    /// Sets precision and rounding control of x87 operations.
    pub fn set_x87_control(&mut self, control: u32) {
        self.x87_control = control & 0xf00;
        if self.loaded {
            host::set_x87_control(0x3f | self.x87_control as u16);
        }
    }

    /// Adds flags raised in software.
    pub fn raise(&mut self, flags: u32) {
        self.soft_flags |= flags & FLAGS;
    }

    /// Adds x87 flags raised in software.
    pub fn raise_x87(&mut self, flags: u32) {
        self.soft_x87_flags |= flags & FLAGS;
    }

    /// Sticky flags gathered since the last call, which are cleared.
    pub fn take_flags(&mut self) -> u32 {
        let mut flags = self.soft_flags | self.saved.0;
        self.soft_flags = 0;
        self.saved.0 = 0;
        if self.loaded {
            let v = host::mxcsr();
            flags |= v & FLAGS;
            if v & FLAGS != 0 {
                host::set_mxcsr(v & !FLAGS);
            }
        }
        flags
    }

    /// Sticky x87 flags gathered since the last call, which are cleared.
    pub fn take_x87_flags(&mut self) -> u32 {
        let mut flags = self.soft_x87_flags | self.saved.1;
        self.soft_x87_flags = 0;
        self.saved.1 = 0;
        if self.loaded {
            flags |= host::take_x87_flags();
        }
        flags
    }

    /// Runs `f` under the host's default environment: device models may compute in floating point.
    pub fn with_host_default<R>(&mut self, f: impl FnOnce() -> R) -> R {
        if !self.loaded {
            return f();
        }
        #[cfg(target_arch = "x86_64")]
        {
            let guest = host::mxcsr();
            host::set_mxcsr(DEFAULT);
            let r = f();
            host::set_mxcsr(guest);
            r
        }
        #[cfg(not(target_arch = "x86_64"))]
        f()
    }
}
