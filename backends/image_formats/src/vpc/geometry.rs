//! Cylinders, heads and sectors, as the specification's appendix "CHS Calculation" has them.

/// A disk's geometry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Geometry {
    pub(super) cylinders: u16,
    pub(super) heads: u8,
    pub(super) sectors: u8,
}

impl Geometry {
    /// The largest there is; it says nothing of the disk's size.
    pub(super) const MAX: Self = Self { cylinders: 65535, heads: 16, sectors: 255 };

    /// Sectors of 512 bytes in all.
    pub(super) fn total(self) -> u64 {
        u64::from(self.cylinders) * u64::from(self.heads) * u64::from(self.sectors)
    }

    /// The specification's geometry of a disk; mostly a bit smaller than the disk.
    fn of(total: u64) -> Self {
        let total = total.min(Self::MAX.total());
        let (cylinders_by_heads, heads, sectors);
        if total > 65535 * 16 * 63 {
            (sectors, heads) = (255, 16);
            cylinders_by_heads = total / sectors;
        } else {
            let by_17 = total / 17;
            let heads_17 = by_17.div_ceil(1024).max(4);
            let by_31 = total / 31;
            (cylinders_by_heads, heads, sectors) = if by_17 < heads_17 * 1024 && heads_17 <= 16 {
                (by_17, heads_17, 17)
            } else if by_31 < 16 * 1024 {
                (by_31, 16, 31)
            } else {
                (total / 63, 16, 63)
            };
        }
        Self { cylinders: (cylinders_by_heads / heads) as u16, heads: heads as u8, sectors: sectors as u8 }
    }

    /// The smallest geometry that has room for so many sectors; the largest, if none has.
    pub(super) fn for_sectors(wanted: u64) -> Self {
        let mut geometry = Self::default();
        // The rounding of the steps loses at most a few cylinders, so a few thousand sectors more will do.
        let mut more = 0;
        while wanted.min(Self::MAX.total()) > geometry.total() {
            geometry = Self::of(wanted + more);
            more += 1;
        }
        geometry
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn disks_get_the_geometry_that_others_give_them() {
        let chs = |bytes: u64| {
            let g = Geometry::for_sectors(bytes.div_ceil(512));
            (g.cylinders, g.heads, g.sectors)
        };
        // As seen in images that qemu-img creates.
        assert_eq!(chs(0), (0, 0, 0));
        assert_eq!(chs(512), (1, 4, 17));
        assert_eq!(chs(1 << 20), (0x1f, 4, 17));
        assert_eq!(chs(100 << 20), (0x3ec, 12, 17));
        assert_eq!(chs(1000 << 20), (0x7f0, 16, 63));
        assert_eq!(chs(10_000_000_001), (0x4bb1, 16, 63));
        assert_eq!(chs(127 << 30), (0xfeff, 16, 255));
        assert_eq!(chs(130 << 30), (0xffff, 16, 255));
    }
}
