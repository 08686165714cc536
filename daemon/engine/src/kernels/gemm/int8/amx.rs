//! Tiles of products of 8-bit integers with AMX: 16 rows of 64 values of the left factor, which lie as they are read, and 16
//! groups of four values of 16 columns of a panel.

use std::arch::asm;
use std::ops::Range;

use super::tile::{Panel, numbers};
use super::{GROUP, LINE, WIDTH, bytes, padded, row_bytes};
use crate::kernels::gemm::amx::CONFIGURATION;
use crate::kernels::gemm::{Block, Epilogue};

/// Rows of a tile register, and its columns of 32-bit integers.
const SIDE: usize = 16;

/// Bytes of a panel's groups from one to the next.
const GROUPS: usize = WIDTH * GROUP;

/// Sums of two registers' rows in the columns of a panel.
#[repr(C, align(64))]
struct Sums([[i32; WIDTH]; 2 * SIDE]);

/// All tiles of a block, with AMX.
#[target_feature(enable = "avx2,fma,avx512f,avx512bw,avx512dq,avx512vl")]
pub(super) fn tiles<'b, E: Epilogue>(
    block: &Block<'_>,
    packed: &[f32],
    panels: Range<usize>,
    panel: impl Fn(usize) -> &'b [f32],
    epilogue: &E,
) {
    let (inner, stride) = (padded(block.a.columns), row_bytes(block.a.columns));
    let steps = inner / LINE;
    let packed = bytes(packed);
    assert!(block.rows.next_multiple_of(SIDE) * stride <= packed.len(), "a tile reaches beyond its rows");
    let mut sums = Sums([[0; WIDTH]; 2 * SIDE]);
    // SAFETY: the processor has AMX; the configuration is a valid one.
    unsafe { asm!("ldtilecfg [{}]", in(reg) &raw const CONFIGURATION.0, options(nostack, readonly)) };
    for index in panels {
        let panel = Panel::new(panel(index));
        assert!(panel.groups.len() >= steps * SIDE * GROUPS, "a panel is too short");
        for first in (0..block.rows).step_by(2 * SIDE) {
            let left = &packed[first * stride..];
            if steps > 0 {
                for half in 0..2 {
                    let groups = panel.groups[half * WIDTH / 2 * GROUP..].as_ptr();
                    let out = sums.0.as_flattened_mut()[half * WIDTH / 2..].as_mut_ptr();
                    // SAFETY: the rows and the groups of so many steps are there, with room for the sums, and the tile
                    // registers are configured.
                    unsafe {
                        match first + SIDE < block.rows {
                            true => two(steps, left.as_ptr(), stride, groups, out),
                            false => one(steps, left.as_ptr(), stride, groups, out),
                        }
                    }
                }
            }
            let rows = first..block.rows.min(first + 2 * SIDE);
            for ((row, sums), left) in rows.zip(&sums.0).zip(left.chunks_exact(stride)) {
                let values = numbers(sums, &left[inner..], &panel);
                block.store_row::<true, WIDTH, E>(epilogue, row, index * WIDTH, &values);
            }
        }
    }
    // SAFETY: the tile registers are not used any more; released, they cost nothing in a change of context.
    unsafe { asm!("tilerelease", options(nomem, nostack)) };
}

/// 32 rows and 32 columns.
///
/// # Safety
/// There must be 32 rows of `steps` times 64 values, as many groups of a panel, and room for the sums in rows of 64.
#[inline]
unsafe fn two(steps: usize, left: *const u8, stride: usize, groups: *const u8, out: *mut i32) {
    // SAFETY: promised by the caller.
    unsafe {
        asm!(
            "tilezero tmm0", "tilezero tmm1", "tilezero tmm2", "tilezero tmm3",
            "2:",
            "tileloadd tmm6, [{b} + {columns}*1]",
            "tileloadd tmm4, [{a} + {stride}*1]",
            "tdpbusd tmm0, tmm4, tmm6",
            "tileloadd tmm7, [{b} + {columns}*1 + 64]",
            "tdpbusd tmm1, tmm4, tmm7",
            "tileloadd tmm5, [{below} + {stride}*1]",
            "tdpbusd tmm2, tmm5, tmm6",
            "tdpbusd tmm3, tmm5, tmm7",
            "add {a}, 64", "add {below}, 64", "add {b}, 4096",
            "dec {n}", "jnz 2b",
            "tilestored [{out} + {columns}*1], tmm0",
            "tilestored [{out} + {columns}*1 + 64], tmm1",
            "tilestored [{lower} + {columns}*1], tmm2",
            "tilestored [{lower} + {columns}*1 + 64], tmm3",
            a = inout(reg) left => _,
            below = inout(reg) left.add(SIDE * stride) => _,
            b = inout(reg) groups => _,
            n = inout(reg) steps => _,
            stride = in(reg) stride,
            columns = in(reg) GROUPS,
            out = in(reg) out,
            lower = in(reg) out.add(SIDE * WIDTH),
            out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
            out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
            options(nostack)
        );
    }
}

/// 16 rows and 32 columns.
///
/// # Safety
/// As [`two`], with 16 rows.
#[inline]
unsafe fn one(steps: usize, left: *const u8, stride: usize, groups: *const u8, out: *mut i32) {
    // SAFETY: promised by the caller.
    unsafe {
        asm!(
            "tilezero tmm0", "tilezero tmm1",
            "2:",
            "tileloadd tmm4, [{a} + {stride}*1]",
            "tileloadd tmm6, [{b} + {columns}*1]",
            "tdpbusd tmm0, tmm4, tmm6",
            "tileloadd tmm7, [{b} + {columns}*1 + 64]",
            "tdpbusd tmm1, tmm4, tmm7",
            "add {a}, 64", "add {b}, 4096",
            "dec {n}", "jnz 2b",
            "tilestored [{out} + {columns}*1], tmm0",
            "tilestored [{out} + {columns}*1 + 64], tmm1",
            a = inout(reg) left => _,
            b = inout(reg) groups => _,
            n = inout(reg) steps => _,
            stride = in(reg) stride,
            columns = in(reg) GROUPS,
            out = in(reg) out,
            out("tmm0") _, out("tmm1") _, out("tmm4") _, out("tmm6") _, out("tmm7") _,
            options(nostack)
        );
    }
}
