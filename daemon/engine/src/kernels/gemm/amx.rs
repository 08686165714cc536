//! Tiles of products of bfloat16 pairs with AMX. Factors are packed as `pair` says.

use std::arch::asm;
use std::ops::Range;

use super::pair::{BLOCK, SIDE, Tile, WIDTH, blocks};
use super::{Block, Epilogue};

/// The shape of the tile registers: 16 rows of 64 bytes each.
#[repr(C, align(64))]
pub(super) struct Configuration(pub(super) [u8; 64]);

pub(super) static CONFIGURATION: Configuration = {
    let mut bytes = [0; 64];
    bytes[0] = 1;
    let mut tile = 0;
    while tile < 8 {
        bytes[16 + 2 * tile] = 64;
        bytes[48 + tile] = 16;
        tile += 1;
    }
    Configuration(bytes)
};

/// All tiles of a block, with AMX.
#[target_feature(enable = "avx2,fma,avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
pub(super) fn tiles<'b, E: Epilogue>(
    block: &Block<'_>,
    planes: usize,
    packed: &[f32],
    panels: Range<usize>,
    panel: impl Fn(usize) -> &'b [f32],
    epilogue: &E,
) {
    let steps = blocks(block.a.columns);
    let strip = steps * planes * BLOCK;
    let mut out = Tile([0.0; 2 * SIDE * WIDTH]);
    if steps == 0 {
        for index in panels {
            for row in (0..block.rows).step_by(2 * SIDE) {
                block.store::<true, E>(epilogue, row, 2 * SIDE, index * WIDTH, WIDTH, &out.0);
            }
        }
        return;
    }
    // SAFETY: the processor has AMX; the configuration is a valid one.
    unsafe { asm!("ldtilecfg [{}]", in(reg) &raw const CONFIGURATION.0, options(nostack, readonly)) };
    for index in panels {
        let b = panel(index);
        assert!(b.len() >= 2 * strip, "a panel is too short");
        for row in (0..block.rows).step_by(2 * SIDE) {
            let a = &packed[row / SIDE * strip..][..strip];
            let below =
                if row + SIDE < block.rows { &packed[(row / SIDE + 1) * strip..][..strip] } else { &[] };
            let is_whole = row + 2 * SIDE <= block.rows && (index + 1) * WIDTH <= block.columns;
            let (target, stride, is_direct) = match epilogue.place().filter(|_| is_whole) {
                Some(place) => {
                    let first = place.pointer(block.first_row + row, 2 * SIDE, index * WIDTH, WIDTH);
                    (first, place.stride_bytes(), true)
                }
                None => (out.0.as_mut_ptr(), WIDTH * size_of::<f32>(), false),
            };
            // SAFETY: `a`, `below` and `b` hold so many blocks, the tile registers are configured, and the target has
            // room for as many rows as are computed, which this task alone writes.
            unsafe {
                match (planes, below.is_empty()) {
                    (1, false) => amx_tile(steps, a, below, b, target, stride),
                    (1, true) => amx_half_tile(steps, a, b, target, stride),
                    (_, false) => amx_tile_of_three(steps, a, below, b, target, stride),
                    (_, true) => amx_half_tile_of_three(steps, a, b, target, stride),
                }
            }
            if !is_direct {
                block.store::<true, E>(epilogue, row, 2 * SIDE, index * WIDTH, WIDTH, &out.0);
            }
        }
    }
    // SAFETY: the tile registers are not used any more; released, they cost nothing in a change of context.
    unsafe { asm!("tilerelease", options(nomem, nostack)) };
}

/// Multiplies the tile of the rows at `{a0}` and, if there are some, `{a1}`, with both halves of a panel.
macro_rules! amx_loop {
    ($(#[$attribute:meta])* $name:ident, ($($below:ident)?), $body:tt, $a_step:literal, $b_step:literal, $store:tt) => {
        $(#[$attribute])*
        #[inline]
        unsafe fn $name(steps: usize, a: &[f32], $($below: &[f32],)? b: &[f32], out: *mut f32, stride: usize) {
            amx_loop!(@asm steps a ($($below)?) b out stride $body $a_step $b_step $store)
        }
    };
    (@asm $steps:ident $a:ident ($below:ident) $b:ident $out:ident $stride:ident [$($body:literal),*] $a_step:literal $b_step:literal [$($store:literal),*]) => {
        // SAFETY: promised by the caller.
        unsafe {
            asm!(
                "tilezero tmm0", "tilezero tmm1", "tilezero tmm2", "tilezero tmm3",
                "2:",
                $($body,)*
                concat!("add {a0}, ", $a_step), concat!("add {a1}, ", $a_step), concat!("add {b}, ", $b_step),
                "dec {n}", "jnz 2b",
                $($store,)*
                a0 = inout(reg) $a.as_ptr() => _,
                a1 = inout(reg) $below.as_ptr() => _,
                b = inout(reg) $b.as_ptr() => _,
                n = inout(reg) $steps => _,
                line = in(reg) 64usize,
                row = in(reg) $stride,
                out = in(reg) $out,
                lower = in(reg) $out.byte_add(SIDE * $stride),
                out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                options(nostack)
            )
        }
    };
    (@asm $steps:ident $a:ident () $b:ident $out:ident $stride:ident [$($body:literal),*] $a_step:literal $b_step:literal [$($store:literal),*]) => {
        // SAFETY: promised by the caller.
        unsafe {
            asm!(
                "tilezero tmm0", "tilezero tmm1",
                "2:",
                $($body,)*
                concat!("add {a0}, ", $a_step), concat!("add {b}, ", $b_step),
                "dec {n}", "jnz 2b",
                $($store,)*
                a0 = inout(reg) $a.as_ptr() => _,
                b = inout(reg) $b.as_ptr() => _,
                n = inout(reg) $steps => _,
                line = in(reg) 64usize,
                row = in(reg) $stride,
                out = in(reg) $out,
                out("tmm0") _, out("tmm1") _, out("tmm4") _, out("tmm6") _, out("tmm7") _,
                options(nostack)
            )
        }
    };
}

amx_loop!(
    /// 32 rows, bfloat16.
    amx_tile, (below),
    [
        "tileloadd tmm6, [{b} + {line}*1]",
        "tileloadd tmm4, [{a0} + {line}*1]",
        "tdpbf16ps tmm0, tmm4, tmm6",
        "tileloadd tmm7, [{b} + {line}*1 + 1024]",
        "tdpbf16ps tmm1, tmm4, tmm7",
        "tileloadd tmm5, [{a1} + {line}*1]",
        "tdpbf16ps tmm2, tmm5, tmm6",
        "tdpbf16ps tmm3, tmm5, tmm7"
    ],
    1024, 2048,
    [
        "tilestored [{out} + {row}*1], tmm0",
        "tilestored [{out} + {row}*1 + 64], tmm1",
        "tilestored [{lower} + {row}*1], tmm2",
        "tilestored [{lower} + {row}*1 + 64], tmm3"
    ]
);

amx_loop!(
    /// 16 rows, bfloat16.
    amx_half_tile, (),
    [
        "tileloadd tmm4, [{a0} + {line}*1]",
        "tileloadd tmm6, [{b} + {line}*1]",
        "tdpbf16ps tmm0, tmm4, tmm6",
        "tileloadd tmm7, [{b} + {line}*1 + 1024]",
        "tdpbf16ps tmm1, tmm4, tmm7"
    ],
    1024, 2048,
    ["tilestored [{out} + {row}*1], tmm0", "tilestored [{out} + {row}*1 + 64], tmm1"]
);

amx_loop!(
    /// 32 rows, float32 as three bfloat16 values: the products of the parts 3 1, 2 1, 2 2, 1 2, 1 3 and 1 1, in
    /// the order that loads the fewest blocks.
    amx_tile_of_three, (below),
    [
        "tileloadd tmm6, [{b} + {line}*1]",
        "tileloadd tmm7, [{b} + {line}*1 + 1024]",
        "tileloadd tmm4, [{a0} + {line}*1 + 2048]",
        "tileloadd tmm5, [{a1} + {line}*1 + 2048]",
        "tdpbf16ps tmm0, tmm4, tmm6", "tdpbf16ps tmm1, tmm4, tmm7",
        "tdpbf16ps tmm2, tmm5, tmm6", "tdpbf16ps tmm3, tmm5, tmm7",
        "tileloadd tmm4, [{a0} + {line}*1 + 1024]",
        "tileloadd tmm5, [{a1} + {line}*1 + 1024]",
        "tdpbf16ps tmm0, tmm4, tmm6", "tdpbf16ps tmm1, tmm4, tmm7",
        "tdpbf16ps tmm2, tmm5, tmm6", "tdpbf16ps tmm3, tmm5, tmm7",
        "tileloadd tmm6, [{b} + {line}*1 + 2048]",
        "tileloadd tmm7, [{b} + {line}*1 + 3072]",
        "tdpbf16ps tmm0, tmm4, tmm6", "tdpbf16ps tmm1, tmm4, tmm7",
        "tdpbf16ps tmm2, tmm5, tmm6", "tdpbf16ps tmm3, tmm5, tmm7",
        "tileloadd tmm4, [{a0} + {line}*1]",
        "tileloadd tmm5, [{a1} + {line}*1]",
        "tdpbf16ps tmm0, tmm4, tmm6", "tdpbf16ps tmm1, tmm4, tmm7",
        "tdpbf16ps tmm2, tmm5, tmm6", "tdpbf16ps tmm3, tmm5, tmm7",
        "tileloadd tmm6, [{b} + {line}*1 + 4096]",
        "tileloadd tmm7, [{b} + {line}*1 + 5120]",
        "tdpbf16ps tmm0, tmm4, tmm6", "tdpbf16ps tmm1, tmm4, tmm7",
        "tdpbf16ps tmm2, tmm5, tmm6", "tdpbf16ps tmm3, tmm5, tmm7",
        "tileloadd tmm6, [{b} + {line}*1]",
        "tileloadd tmm7, [{b} + {line}*1 + 1024]",
        "tdpbf16ps tmm0, tmm4, tmm6", "tdpbf16ps tmm1, tmm4, tmm7",
        "tdpbf16ps tmm2, tmm5, tmm6", "tdpbf16ps tmm3, tmm5, tmm7"
    ],
    3072, 6144,
    [
        "tilestored [{out} + {row}*1], tmm0",
        "tilestored [{out} + {row}*1 + 64], tmm1",
        "tilestored [{lower} + {row}*1], tmm2",
        "tilestored [{lower} + {row}*1 + 64], tmm3"
    ]
);

amx_loop!(
    /// 16 rows, float32 as three bfloat16 values, in the same order.
    amx_half_tile_of_three, (),
    [
        "tileloadd tmm6, [{b} + {line}*1]",
        "tileloadd tmm7, [{b} + {line}*1 + 1024]",
        "tileloadd tmm4, [{a0} + {line}*1 + 2048]",
        "tdpbf16ps tmm0, tmm4, tmm6", "tdpbf16ps tmm1, tmm4, tmm7",
        "tileloadd tmm4, [{a0} + {line}*1 + 1024]",
        "tdpbf16ps tmm0, tmm4, tmm6", "tdpbf16ps tmm1, tmm4, tmm7",
        "tileloadd tmm6, [{b} + {line}*1 + 2048]",
        "tileloadd tmm7, [{b} + {line}*1 + 3072]",
        "tdpbf16ps tmm0, tmm4, tmm6", "tdpbf16ps tmm1, tmm4, tmm7",
        "tileloadd tmm4, [{a0} + {line}*1]",
        "tdpbf16ps tmm0, tmm4, tmm6", "tdpbf16ps tmm1, tmm4, tmm7",
        "tileloadd tmm6, [{b} + {line}*1 + 4096]",
        "tileloadd tmm7, [{b} + {line}*1 + 5120]",
        "tdpbf16ps tmm0, tmm4, tmm6", "tdpbf16ps tmm1, tmm4, tmm7",
        "tileloadd tmm6, [{b} + {line}*1]",
        "tileloadd tmm7, [{b} + {line}*1 + 1024]",
        "tdpbf16ps tmm0, tmm4, tmm6", "tdpbf16ps tmm1, tmm4, tmm7"
    ],
    3072, 6144,
    ["tilestored [{out} + {row}*1], tmm0", "tilestored [{out} + {row}*1 + 64], tmm1"]
);
