//! Execution by the host processor.
//!
//! Registers are loaded and saved by the kernel: a breakpoint raises a signal whose handler replaces the interrupted
//! context by the state under test and returns into it; the exception that ends the run raises another signal, whose
//! handler takes the registers from its context and puts the first context back. So every register is the test's,
//! RSP, RFLAGS and the vector and x87 registers included, and the kernel names the vector, the error code and CR2.
//!
//! Instructions that enter the kernel, load FS or GS, or change what the process can do must not be run here; the
//! generator leaves them out.

use std::cell::UnsafeCell;
use std::io;
use std::ptr;
use std::sync::{Mutex, MutexGuard, OnceLock};

use crate::place;
use crate::state::{Ended, FLAGS, Mode, State, Trap, X87};

const STACK: usize = 1 << 18;
const XSAVE: usize = 1 << 14;
/// Offset of the software-reserved bytes of the legacy save area (`struct _fpx_sw_bytes`).
const SW: usize = 464;
const SW_MAGIC: u32 = 0x4650_5853;
const XSTATE_BV: usize = 512;
/// Offset of the upper halves of YMM0 to YMM15 in the standard XSAVE format.
const YMM_HIGH: usize = 576;
const CS32: i64 = 0x23;
const USER_DS: u16 = 0x2b;
/// Order of `mcontext_t.gregs` for RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI, R8 to R15.
const GREG: [libc::c_int; 16] = [
    libc::REG_RAX,
    libc::REG_RCX,
    libc::REG_RDX,
    libc::REG_RBX,
    libc::REG_RSP,
    libc::REG_RBP,
    libc::REG_RSI,
    libc::REG_RDI,
    libc::REG_R8,
    libc::REG_R9,
    libc::REG_R10,
    libc::REG_R11,
    libc::REG_R12,
    libc::REG_R13,
    libc::REG_R14,
    libc::REG_R15,
];

#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    Idle,
    /// The next breakpoint enters the state under test.
    Armed,
    /// The next exception ends the run.
    Running,
}

struct Exchange {
    phase: Phase,
    mode: Mode,
    state: State,
    trap: Trap,
    gregs: [i64; 23],
    fp: [u8; XSAVE],
    fp_len: usize,
}

struct Shared(UnsafeCell<Exchange>);

// SAFETY: only the thread that holds `RUNNER`'s lock, and signal handlers on that thread while it waits for them,
// touch the exchange.
unsafe impl Sync for Shared {}

static EXCHANGE: Shared = Shared(UnsafeCell::new(Exchange {
    phase: Phase::Idle,
    mode: Mode::Long,
    state: State {
        gpr: [0; 16],
        rip: 0,
        rflags: 0,
        vec: [[0; 4]; 16],
        mxcsr: 0,
        x87: X87 { control: 0, status: 0, in_use: 0, st: [(0, 0); 8] },
    },
    trap: Trap { vector: 0, error_code: 0, address: 0 },
    gregs: [0; 23],
    fp: [0; XSAVE],
    fp_len: 0,
}));

/// The pages at the fixed addresses.
struct Pages {
    /// Writable alias of the code page.
    code: *mut u8,
}

// SAFETY: the pages are used under the lock only.
unsafe impl Send for Pages {}

static RUNNER: OnceLock<Result<Mutex<Pages>, String>> = OnceLock::new();

fn check(result: libc::c_int) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn map_at(address: u64, len: usize, protection: i32, flags: i32, fd: i32) -> io::Result<*mut u8> {
    let fixed = if address != 0 { libc::MAP_FIXED_NOREPLACE } else { 0 };
    // SAFETY: a new mapping that replaces none.
    let p =
        unsafe { libc::mmap(address as *mut _, len, protection, flags | fixed | libc::MAP_POPULATE, fd, 0) };
    if p == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    if address != 0 && p as u64 != address {
        return Err(io::Error::other("the kernel chose another address"));
    }
    Ok(p.cast())
}

fn set_up() -> io::Result<Pages> {
    let (r, w, x) = (libc::PROT_READ, libc::PROT_WRITE, libc::PROT_EXEC);
    // SAFETY: the name is a C string.
    let fd = unsafe { libc::memfd_create(c"rhea-lockstep".as_ptr(), libc::MFD_CLOEXEC) };
    check(fd)?;
    // SAFETY: plain call.
    check(unsafe { libc::ftruncate(fd, place::CODE_LEN as i64) })?;
    let code = map_at(0, place::CODE_LEN, r | w, libc::MAP_SHARED, fd)?;
    map_at(place::CODE, place::CODE_LEN, r | x, libc::MAP_SHARED, fd)?;
    let private = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
    map_at(place::DATA, place::DATA_LEN, r | w, private, -1)?;
    let fixed = map_at(place::READ_ONLY, place::READ_ONLY_LEN, r | w, private, -1)?;
    for i in 0..place::READ_ONLY_LEN {
        // SAFETY: inside the page just mapped.
        unsafe { fixed.add(i).write(place::read_only_byte(i)) };
    }
    // SAFETY: the page just mapped.
    check(unsafe { libc::mprotect(fixed.cast(), place::READ_ONLY_LEN, r) })?;
    for signal in [libc::SIGTRAP, libc::SIGILL, libc::SIGSEGV, libc::SIGFPE, libc::SIGBUS] {
        // SAFETY: the handler has the signature SA_SIGINFO asks for and is async-signal-safe.
        unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            let handler: extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut libc::c_void) = on_signal;
            action.sa_sigaction = handler as usize;
            action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK | libc::SA_NODEFER;
            check(libc::sigaction(signal, &action, ptr::null_mut()))?;
        }
    }
    Ok(Pages { code })
}

/// The host processor, for as long as this value lives: one at a time in a process.
pub struct Host {
    pages: MutexGuard<'static, Pages>,
    /// The stack of this thread's signal handlers.
    _stack: Vec<u8>,
}

impl Host {
    /// Takes the processor; waits for another thread's use of it to end.
    ///
    /// # Errors
    /// The fixed addresses are taken, or the system refuses a mapping.
    pub fn take() -> Result<Self, String> {
        let runner = RUNNER.get_or_init(|| set_up().map(Mutex::new).map_err(|e| e.to_string()));
        let pages = runner.as_ref().map_err(Clone::clone)?.lock().unwrap_or_else(|e| e.into_inner());
        let mut stack = vec![0u8; STACK];
        let alternate = libc::stack_t { ss_sp: stack.as_mut_ptr().cast(), ss_flags: 0, ss_size: STACK };
        // SAFETY: the stack lives as long as self, which does not leave this thread (the guard is not Send) and takes
        // it back when dropped.
        check(unsafe { libc::sigaltstack(&alternate, ptr::null_mut()) }).map_err(|e| e.to_string())?;
        // Compatibility mode needs usable data segments; 64-bit mode ignores them.
        // SAFETY: flat user segments; the compiler's code does not use DS or ES bases.
        unsafe {
            std::arch::asm!("mov ds, {0:x}", "mov es, {0:x}", in(reg) USER_DS, options(nostack, preserves_flags));
        }
        Ok(Host { pages, _stack: stack })
    }

    /// Executes `code` from `state` (at [`place::START`]) with `data` as the writable data.
    ///
    /// # Panics
    /// If `data` has another length than [`place::DATA_LEN`] or `code` does not fit its page.
    pub fn run(&mut self, mode: Mode, code: &[u8], state: &State, data: &[u8]) -> Ended {
        let page = place::code_page(code);
        assert_eq!(data.len(), place::DATA_LEN);
        // SAFETY: both pages are mapped with these lengths; the lock is held. The breakpoint is caught by the handler,
        // which comes back with every register as it was.
        unsafe {
            ptr::copy_nonoverlapping(page.as_ptr(), self.pages.code, page.len());
            ptr::copy_nonoverlapping(data.as_ptr(), place::DATA as *mut u8, data.len());
            let x = EXCHANGE.0.get();
            (*x).state = state.clone();
            (*x).mode = mode;
            (&raw mut (*x).phase).write_volatile(Phase::Armed);
            std::arch::asm!("int3");
            assert!((&raw const (*x).phase).read_volatile() == Phase::Idle);
            let mut after = vec![0u8; place::DATA_LEN];
            ptr::copy_nonoverlapping(place::DATA as *const u8, after.as_mut_ptr(), after.len());
            Ended { state: (*x).state.clone(), data: after, trap: (*x).trap }
        }
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let none = libc::stack_t { ss_sp: ptr::null_mut(), ss_flags: libc::SS_DISABLE, ss_size: 0 };
        // SAFETY: no handler is running on the stack.
        unsafe { libc::sigaltstack(&none, ptr::null_mut()) };
    }
}

/// Writes to the console and ends the process: a signal that no test raised.
fn unexpected(signal: libc::c_int) -> ! {
    // SAFETY: both calls are async-signal-safe; the default action then ends the process as it would have.
    unsafe {
        let text = b"lockstep: a signal outside the instructions under test\n";
        libc::write(2, text.as_ptr().cast(), text.len());
        libc::signal(signal, libc::SIG_DFL);
        libc::raise(signal);
        libc::_exit(1)
    }
}

extern "C" fn on_signal(signal: libc::c_int, _: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // The kernel leaves AC, NT and ID as the test had them: this code is compiled for a processor that does not check
    // alignment, and NT and ID are to be clear in the next test.
    // SAFETY: changes the flags only, and the stack below the red zone of a function that calls others is free.
    unsafe { std::arch::asm!("pushfq", "and dword ptr [rsp], 0xffdbbfff", "popfq") };
    // SAFETY: the kernel passes the context of the interrupted code, with its floating-point save area. The exchange
    // belongs to the thread under test, which waits: exceptions are synchronous, so this is that thread if the phase
    // says so.
    unsafe {
        let machine = &mut (*context.cast::<libc::ucontext_t>()).uc_mcontext;
        let x = &mut *EXCHANGE.0.get();
        let fp = machine.fpregs.cast::<u8>();
        match x.phase {
            Phase::Idle => unexpected(signal),
            Phase::Armed if signal == libc::SIGTRAP => {
                x.phase = Phase::Running;
                x.gregs = machine.gregs;
                x.fp_len = save_area_len(fp);
                ptr::copy_nonoverlapping(fp, x.fp.as_mut_ptr(), x.fp_len);
                load(x, &mut machine.gregs, fp);
            }
            Phase::Armed => unexpected(signal),
            Phase::Running => {
                x.phase = Phase::Idle;
                save(x, &machine.gregs, fp);
                machine.gregs = x.gregs;
                ptr::copy_nonoverlapping(x.fp.as_ptr(), fp, x.fp_len);
            }
        }
    }
}

/// Length of the save area, extended part included.
///
/// # Safety
/// `fp` points to the save area of a signal frame.
unsafe fn save_area_len(fp: *const u8) -> usize {
    // SAFETY: the legacy area is always there.
    unsafe {
        if get::<u32>(fp, SW) != SW_MAGIC {
            return 512;
        }
        (get::<u32>(fp, SW + 4) as usize).clamp(512, XSAVE)
    }
}

/// # Safety
/// `at` is inside the area.
unsafe fn get<T: Copy>(area: *const u8, at: usize) -> T {
    // SAFETY: the caller's.
    unsafe { area.add(at).cast::<T>().read_unaligned() }
}

/// # Safety
/// `at` is inside the area.
unsafe fn put<T: Copy>(area: *mut u8, at: usize, value: T) {
    // SAFETY: the caller's.
    unsafe { area.add(at).cast::<T>().write_unaligned(value) }
}

/// # Safety
/// `fp` points to the save area of a signal frame.
unsafe fn load(x: &Exchange, gregs: &mut [i64; 23], fp: *mut u8) {
    let s = &x.state;
    for (&g, &v) in GREG.iter().zip(&s.gpr) {
        gregs[g as usize] = v as i64;
    }
    gregs[libc::REG_RIP as usize] = s.rip as i64;
    let flags = &mut gregs[libc::REG_EFL as usize];
    let mask = (FLAGS | crate::state::AC) as i64;
    *flags = *flags & !mask | s.rflags as i64 & mask;
    if x.mode == Mode::Compat {
        let cs = &mut gregs[libc::REG_CSGSFS as usize];
        *cs = *cs & !0xffff | CS32;
    }
    // SAFETY: offsets of FXSAVE and of the standard XSAVE format, within the area.
    unsafe {
        put(fp, 0, s.x87.control);
        put(fp, 2, s.x87.status);
        put(fp, 4, u16::from(s.x87.in_use));
        put(fp, 6, 0u16);
        put(fp, 8, [0u64; 2]);
        put(fp, 24, s.mxcsr);
        for (i, &(significand, sign_exponent)) in s.x87.st.iter().enumerate() {
            put(fp, 32 + 16 * i, significand);
            put(fp, 40 + 16 * i, u64::from(sign_exponent));
        }
        for (i, v) in s.vec.iter().enumerate() {
            put(fp, 160 + 16 * i, [v[0], v[1]]);
        }
        if x.fp_len > YMM_HIGH {
            for (i, v) in s.vec.iter().enumerate() {
                put(fp, YMM_HIGH + 16 * i, [v[2], v[3]]);
            }
            let bv: u64 = get(fp, XSTATE_BV);
            put(fp, XSTATE_BV, bv | 7);
        }
    }
}

/// # Safety
/// `fp` points to the save area of a signal frame.
unsafe fn save(x: &mut Exchange, gregs: &[i64; 23], fp: *const u8) {
    let s = &mut x.state;
    for (&g, v) in GREG.iter().zip(&mut s.gpr) {
        *v = gregs[g as usize] as u64;
    }
    s.rip = gregs[libc::REG_RIP as usize] as u64;
    s.rflags = gregs[libc::REG_EFL as usize] as u64 & FLAGS;
    // SAFETY: as in `load`.
    unsafe {
        let bv: u64 = if x.fp_len > YMM_HIGH { get(fp, XSTATE_BV) } else { 3 };
        s.mxcsr = get(fp, 24);
        if bv & 1 != 0 {
            s.x87.control = get(fp, 0);
            s.x87.status = get(fp, 2);
            s.x87.in_use = get(fp, 4);
            for (i, st) in s.x87.st.iter_mut().enumerate() {
                *st = (get(fp, 32 + 16 * i), get(fp, 40 + 16 * i));
            }
        } else {
            s.x87 = X87 { control: 0x37f, ..X87::default() };
        }
        for (i, v) in s.vec.iter_mut().enumerate() {
            let low: [u64; 2] = if bv & 2 != 0 { get(fp, 160 + 16 * i) } else { [0; 2] };
            let high: [u64; 2] = if bv & 4 != 0 { get(fp, YMM_HIGH + 16 * i) } else { [0; 2] };
            *v = [low[0], low[1], high[0], high[1]];
        }
    }
    let vector = gregs[libc::REG_TRAPNO as usize] as u8;
    let has_code = matches!(vector, 8 | 10..=14 | 17 | 21);
    x.trap = Trap {
        vector,
        error_code: if has_code { gregs[libc::REG_ERR as usize] as u32 } else { 0 },
        address: if vector == 14 { gregs[libc::REG_CR2 as usize] as u64 } else { 0 },
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(mode: Mode, code: &[u8], state: &State) -> Ended {
        Host::take().expect("host").run(mode, code, state, &vec![0; place::DATA_LEN])
    }

    #[test]
    fn an_addition_is_seen_in_registers_and_flags() {
        let mut s = State::default();
        s.gpr[0] = u64::MAX;
        s.gpr[3] = 1;
        let e = run(Mode::Long, &[0x48, 0x01, 0xd8], &s); // add rax, rbx
        assert_eq!(e.trap.vector, 6);
        assert_eq!(e.state.rip, place::START + 3);
        assert_eq!(e.state.gpr[0], 0);
        assert_eq!(e.state.rflags & FLAGS, 0x55);
    }

    #[test]
    fn compatibility_mode_reads_memory() {
        let mut s = State::default();
        s.gpr[3] = place::READ_ONLY;
        s.gpr[0] = 0x1122_3344;
        let e = run(Mode::Compat, &[0x8a, 0x03, 0x40], &s); // mov al, [ebx]; inc eax
        assert_eq!(e.state.rip, place::START + 3);
        assert_eq!(e.state.gpr[0] & 0xffff_ff00, 0x1122_3300);
        assert_eq!(e.state.gpr[0] as u8, place::read_only_byte(0).wrapping_add(1));
    }

    #[test]
    fn exceptions_have_vectors() {
        let s = State::default();
        assert_eq!(run(Mode::Long, &[0xf7, 0xf1], &s).trap.vector, 0); // div ecx
        let fault = run(Mode::Long, &[0x89, 0x04, 0x25, 0, 0x30, 1, 0x10], &s); // mov [10013000], eax
        assert_eq!(fault.trap, Trap { vector: 14, error_code: 7, address: place::READ_ONLY });
    }

    #[test]
    fn vectors_and_x87_go_in_and_out() {
        let mut s = State::default();
        s.vec[1] = [1, 2, 3, 4];
        s.x87.in_use = 0x80;
        s.x87.status = 7 << 11;
        s.x87.st[0] = (1 << 63, 0x3fff);
        let e = run(Mode::Long, &[0xd8, 0xc0], &s); // fadd st, st
        assert_eq!(e.state.x87.st[0], (1 << 63, 0x4000));
        assert_eq!(e.state.vec[1], s.vec[1]);
    }
}
