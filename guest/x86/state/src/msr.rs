//! Model-specific registers: their numbers and where their values live (SDM vol. 4).

/// MSR numbers.
pub mod index {
    #![allow(missing_docs, reason = "the names are the architecture's own")]
    pub const P5_MC_ADDR: u32 = 0x0;
    pub const P5_MC_TYPE: u32 = 0x1;
    pub const TSC: u32 = 0x10;
    pub const PLATFORM_ID: u32 = 0x17;
    pub const APIC_BASE: u32 = 0x1b;
    pub const EBL_CR_POWERON: u32 = 0x2a;
    pub const TSC_ADJUST: u32 = 0x3b;
    /// IA32_BIOS_SIGN_ID; on AMD PATCH_LEVEL.
    pub const BIOS_SIGN_ID: u32 = 0x8b;
    pub const PLATFORM_INFO: u32 = 0xce;
    pub const MTRR_CAP: u32 = 0xfe;
    pub const SYSENTER_CS: u32 = 0x174;
    pub const SYSENTER_ESP: u32 = 0x175;
    pub const SYSENTER_EIP: u32 = 0x176;
    pub const MCG_CAP: u32 = 0x179;
    pub const MCG_STATUS: u32 = 0x17a;
    pub const MCG_CTL: u32 = 0x17b;
    pub const MISC_ENABLE: u32 = 0x1a0;
    pub const DEBUGCTL: u32 = 0x1d9;
    pub const LAST_BRANCH_FROM: u32 = 0x1db;
    pub const LAST_INTERRUPT_TO: u32 = 0x1de;
    pub const MTRR_PHYS_BASE0: u32 = 0x200;
    pub const MTRR_PHYS_LAST: u32 = 0x20f;
    pub const MTRR_FIX_64K_00000: u32 = 0x250;
    pub const MTRR_FIX_16K_80000: u32 = 0x258;
    pub const MTRR_FIX_16K_A0000: u32 = 0x259;
    pub const MTRR_FIX_4K_C0000: u32 = 0x268;
    pub const MTRR_FIX_4K_F8000: u32 = 0x26f;
    pub const PAT: u32 = 0x277;
    pub const MTRR_DEF_TYPE: u32 = 0x2ff;
    pub const MC0_CTL: u32 = 0x400;
    pub const TSC_DEADLINE: u32 = 0x6e0;
    pub const X2APIC_FIRST: u32 = 0x800;
    pub const X2APIC_LAST: u32 = 0x8ff;
    pub const EFER: u32 = 0xc000_0080;
    pub const STAR: u32 = 0xc000_0081;
    pub const LSTAR: u32 = 0xc000_0082;
    pub const CSTAR: u32 = 0xc000_0083;
    pub const FMASK: u32 = 0xc000_0084;
    pub const FS_BASE: u32 = 0xc000_0100;
    pub const GS_BASE: u32 = 0xc000_0101;
    pub const KERNEL_GS_BASE: u32 = 0xc000_0102;
    pub const TSC_AUX: u32 = 0xc000_0103;
    pub const AMD_SYSCFG: u32 = 0xc001_0010;
    pub const AMD_HWCR: u32 = 0xc001_0015;
    pub const AMD_TOP_MEM: u32 = 0xc001_001a;
    pub const AMD_TOP_MEM2: u32 = 0xc001_001d;
    pub const AMD_INT_PENDING: u32 = 0xc001_0055;
    pub const AMD_SMBASE: u32 = 0xc001_0111;
}

/// Variable-range MTRR pairs.
pub const VARIABLE_MTRRS: usize = 8;
/// Machine-check banks.
pub const MC_BANKS: usize = 10;

/// Values of the MSRs that are not kept elsewhere (EFER, FS/GS base, APIC and TSC registers are).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Msrs {
    /// IA32_STAR.
    pub star: u64,
    /// IA32_LSTAR.
    pub lstar: u64,
    /// IA32_CSTAR.
    pub cstar: u64,
    /// IA32_FMASK.
    pub fmask: u64,
    /// IA32_KERNEL_GS_BASE.
    pub kernel_gs_base: u64,
    /// IA32_SYSENTER_CS.
    pub sysenter_cs: u64,
    /// IA32_SYSENTER_ESP.
    pub sysenter_esp: u64,
    /// IA32_SYSENTER_EIP.
    pub sysenter_eip: u64,
    /// IA32_TSC_AUX.
    pub tsc_aux: u64,
    /// IA32_TSC_ADJUST; part of [`crate::X86State::tsc_offset`] already.
    pub tsc_adjust: u64,
    /// IA32_PAT.
    pub pat: u64,
    /// IA32_MISC_ENABLE.
    pub misc_enable: u64,
    /// IA32_DEBUGCTL.
    pub debugctl: u64,
    /// IA32_MTRR_DEF_TYPE.
    pub mtrr_def_type: u64,
    /// IA32_MTRR_FIX64K_00000, FIX16K_80000, FIX16K_A0000, then FIX4K_C0000 to FIX4K_F8000.
    pub mtrr_fixed: [u64; 11],
    /// IA32_MTRR_PHYSBASEn and PHYSMASKn, alternating.
    pub mtrr_variable: [u64; 2 * VARIABLE_MTRRS],
    /// IA32_MCG_STATUS.
    pub mcg_status: u64,
    /// IA32_MCG_CTL.
    pub mcg_ctl: u64,
    /// IA32_MCi_CTL, STATUS, ADDR, MISC.
    pub mc_banks: [[u64; 4]; MC_BANKS],
    /// AMD SYSCFG.
    pub syscfg: u64,
    /// AMD HWCR.
    pub hwcr: u64,
    /// AMD TOP_MEM and TOP_MEM2.
    pub top_mem: [u64; 2],
    /// AMD interrupt pending message register.
    pub int_pending: u64,
}

impl Default for Msrs {
    /// Values after RESET (SDM vol. 3, table 9-1 and 12.11, 12.12).
    fn default() -> Self {
        let mut mc_banks = [[0; 4]; MC_BANKS];
        for bank in &mut mc_banks {
            bank[0] = u64::MAX;
        }
        Self {
            star: 0,
            lstar: 0,
            cstar: 0,
            fmask: 0,
            kernel_gs_base: 0,
            sysenter_cs: 0,
            sysenter_esp: 0,
            sysenter_eip: 0,
            tsc_aux: 0,
            tsc_adjust: 0,
            pat: 0x0007_0406_0007_0406,
            misc_enable: 1,
            debugctl: 0,
            mtrr_def_type: 0,
            mtrr_fixed: [0; 11],
            mtrr_variable: [0; 2 * VARIABLE_MTRRS],
            mcg_status: 0,
            mcg_ctl: u64::MAX,
            mc_banks,
            syscfg: 0,
            hwcr: 0,
            top_mem: [0; 2],
            int_pending: 0,
        }
    }
}
