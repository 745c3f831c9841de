//! The environment in memory: FNSTENV, FLDENV and the head of FNSAVE (SDM vol. 1, figures 8-9 to 8-12).

use rhea_x86_state::flags;

use super::{Machine, Memory, set_control_word, set_status_word, set_tag_word, status_word, tag_word};
use crate::x87::decode::{Decoded, Operand};

impl Machine<'_> {
    /// Real and virtual-8086 mode have images with linear addresses.
    fn is_real_format(&self) -> bool {
        self.st.cr[0] & 1 == 0 || self.st.rflags & flags::VM != 0
    }

    /// Writes the environment image (SDM vol. 1, figures 8-9 to 8-12); returns its length.
    pub(super) fn store_environment(&mut self, d: Decoded, memory: &mut Memory) -> usize {
        let (ip, dp) = (self.st.x87_ip, self.st.x87_dp);
        let [cs, ds, op, _] = self.st.x87_cs_ds_op.map(u64::from);
        let words = [self.st.x87_cw as u16, status_word(self.st), tag_word(self.st)];
        let real = self.is_real_format();
        if d.operand == Operand::Short {
            let pointers = if real {
                let (ip, dp) = (ip + (cs << 4), dp + (ds << 4));
                [ip & 0xffff, ip >> 16 << 12 & 0xf000 | op, dp & 0xffff, dp >> 16 << 12 & 0xf000]
            } else {
                [ip & 0xffff, cs, dp & 0xffff, ds]
            };
            for (i, w) in words.iter().map(|&w| u64::from(w)).chain(pointers).enumerate() {
                memory.set_int(2 * i, 2, w);
            }
            return 14;
        }
        let pointers = if real {
            let (ip, dp) = (ip + (cs << 4), dp + (ds << 4));
            let high = |a: u64| a >> 16 << 12 & 0x0fff_f000;
            [ip & 0xffff, high(ip) | op, dp & 0xffff, high(dp)]
        } else {
            [ip & 0xffff_ffff, cs | op << 16, dp & 0xffff_ffff, ds | 0xffff_0000]
        };
        for (i, w) in words.iter().map(|&w| u64::from(w) | 0xffff_0000).chain(pointers).enumerate() {
            memory.set_int(4 * i, 4, w);
        }
        28
    }

    /// Reads the environment image; returns its length.
    pub(super) fn load_environment(&mut self, d: Decoded, memory: &Memory) -> usize {
        let size = if d.operand == Operand::Short { 2 } else { 4 };
        let word = |i: usize| memory.int(size * i, size);
        let real = self.is_real_format();
        let (ip, cs, dp, ds, op) = match (real, size) {
            (false, 2) => (word(3), word(4), word(5), word(6), 0),
            (false, _) => (word(3), word(4) & 0xffff, word(5), word(6) & 0xffff, word(4) >> 16 & 0x7ff),
            (true, 2) => {
                (word(3) | word(4) >> 12 << 16, 0, word(5) | word(6) >> 12 << 16, 0, word(4) & 0x7ff)
            }
            (true, _) => {
                let high = |w: u64| (w >> 12 & 0xffff) << 16;
                (word(3) & 0xffff | high(word(4)), 0, word(5) & 0xffff | high(word(6)), 0, word(4) & 0x7ff)
            }
        };
        self.st.x87_ip = ip;
        self.st.x87_dp = dp;
        self.st.x87_cs_ds_op = [cs as u32, ds as u32, op as u32, 0];
        set_status_word(self.st, word(1) as u16);
        set_tag_word(self.st, word(2) as u16);
        set_control_word(self.st, word(0) as u16);
        7 * size
    }
}
