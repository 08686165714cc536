//! The instruction sets that the operations are compiled for, and the choice between them at run time.

use std::sync::OnceLock;

use hone_base::error::{Error, Result, quoted};

/// The environment variable that chooses an instruction set, for tests and comparisons.
pub const VARIABLE: &str = "HONE_ISA";

/// A set of instructions; each has all that stand before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Isa {
    /// What every processor of the target has (SSE2 on x86-64, NEON on AArch64), through the compiler.
    Portable,
    /// AVX2 and FMA.
    Avx2,
    /// AVX-512 F, BW, DQ and VL.
    Avx512,
    /// Products of bfloat16 pairs in AVX-512 registers.
    Avx512Bf16,
    /// Products of bfloat16 tiles (Advanced Matrix Extensions).
    Amx,
}

impl Isa {
    /// Every instruction set, the simplest first.
    pub const ALL: [Self; 5] = [Self::Portable, Self::Avx2, Self::Avx512, Self::Avx512Bf16, Self::Amx];

    /// The name in `HONE_ISA`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Portable => "portable",
            Self::Avx2 => "avx2",
            Self::Avx512 => "avx512",
            Self::Avx512Bf16 => "avx512bf16",
            Self::Amx => "amx",
        }
    }

    /// Whether this processor has it.
    pub fn is_available(self) -> bool {
        self <= best()
    }

    /// What this process computes with: what `HONE_ISA` names, else the best that the processor has.
    ///
    /// Fails when `HONE_ISA` names one that does not exist or that this processor lacks.
    pub fn chosen() -> Result<Self> {
        static CHOSEN: OnceLock<Result<Isa>> = OnceLock::new();
        CHOSEN
            .get_or_init(|| match std::env::var(VARIABLE) {
                Ok(name) if !name.is_empty() => Self::named(&name),
                _ => Ok(best()),
            })
            .clone()
    }

    fn named(name: &str) -> Result<Self> {
        let known = || Self::ALL.map(Self::name).join(", ");
        let Some(isa) = Self::ALL.into_iter().find(|isa| isa.name() == name) else {
            return Err(Error::invalid(format!(
                "{VARIABLE} is {}; it must be one of {}",
                quoted(name),
                known()
            )));
        };
        if !isa.is_available() {
            let best = best().name();
            return Err(Error::invalid(format!(
                "{VARIABLE} is {}, but this processor has none of it; the best it has is {best}",
                quoted(name)
            )));
        }
        Ok(isa)
    }
}

/// The best instruction set of this processor.
fn best() -> Isa {
    static BEST: OnceLock<Isa> = OnceLock::new();
    *BEST.get_or_init(detect)
}

#[cfg(target_arch = "x86_64")]
fn detect() -> Isa {
    let avx2 = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma");
    let avx512 = avx2
        && is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512dq")
        && is_x86_feature_detected!("avx512vl");
    let bf16 = avx512 && is_x86_feature_detected!("avx512bf16");
    match (avx2, avx512, bf16) {
        (_, _, true) if has_amx() => Isa::Amx,
        (_, _, true) => Isa::Avx512Bf16,
        (_, true, _) => Isa::Avx512,
        (true, ..) => Isa::Avx2,
        _ => Isa::Portable,
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn detect() -> Isa {
    Isa::Portable
}

/// Whether the processor has AMX for bfloat16 and the kernel lets this process use it.
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
fn has_amx() -> bool {
    use std::arch::asm;
    use std::arch::x86_64::__cpuid_count;
    const TILE: u32 = 1 << 24;
    const BF16: u32 = 1 << 22;
    let features = __cpuid_count(7, 0).edx;
    if features & TILE == 0 || features & BF16 == 0 {
        return false;
    }
    let result: i64;
    // SAFETY: the system call arch_prctl(ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) reads two numbers and touches no
    // memory; it grants the whole process the use of the tile registers, or returns an error.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") 158i64 => result,
            in("rdi") 0x1023u64,
            in("rsi") 18u64,
            lateout("rcx") _,
            lateout("r11") _,
            options(nostack)
        );
    }
    result == 0
}

#[cfg(all(target_arch = "x86_64", not(target_os = "linux")))]
fn has_amx() -> bool {
    false
}

/// Whether the processor is AMD's.
#[cfg(target_arch = "x86_64")]
pub(super) fn is_amd() -> bool {
    let vendor = std::arch::x86_64::__cpuid(0);
    [vendor.ebx, vendor.edx, vendor.ecx].map(u32::to_le_bytes).as_flattened() == b"AuthenticAMD"
}

/// Whether the processor is AMD's.
#[cfg(not(target_arch = "x86_64"))]
pub(super) fn is_amd() -> bool {
    false
}

/// Defines a function that is compiled once for each width of vectors, and takes the instruction set as its first
/// argument. Inside it `FMA` tells whether the processor multiplies and adds in one instruction.
///
/// The loops of its body are left to the compiler to vectorise, so the body and what it calls must be inlined.
macro_rules! vectorised {
    ($(#[$attribute:meta])* $visibility:vis fn $name:ident<FMA>($($argument:ident: $type:ty),* $(,)?) $(-> $result:ty)? $body:block) => {
        $(#[$attribute])*
        #[allow(clippy::too_many_arguments)]
        $visibility fn $name(isa: $crate::kernels::isa::Isa, $($argument: $type),*) $(-> $result)? {
            #[inline(always)]
            #[allow(clippy::too_many_arguments, unused_mut)]
            fn body<const FMA: bool>($($argument: $type),*) $(-> $result)? $body
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma")]
            #[allow(clippy::too_many_arguments)]
            fn avx2($($argument: $type),*) $(-> $result)? {
                body::<true>($($argument),*)
            }
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma,avx512f,avx512bw,avx512dq,avx512vl")]
            #[allow(clippy::too_many_arguments)]
            fn avx512($($argument: $type),*) $(-> $result)? {
                body::<true>($($argument),*)
            }
            match isa {
                // SAFETY: an `Isa` is only chosen when the processor has it.
                #[cfg(target_arch = "x86_64")]
                $crate::kernels::isa::Isa::Avx2 => unsafe { avx2($($argument),*) },
                // SAFETY: as above.
                #[cfg(target_arch = "x86_64")]
                isa if isa > $crate::kernels::isa::Isa::Avx2 => unsafe { avx512($($argument),*) },
                _ => body::<{ cfg!(target_arch = "aarch64") }>($($argument),*),
            }
        }
    };
}
pub(crate) use vectorised;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_set_below_the_best_is_available_and_unknown_ones_are_named() {
        assert!(Isa::Portable.is_available());
        assert_eq!(Isa::named("portable").unwrap(), Isa::Portable);
        let error = Isa::named("mmx").unwrap_err();
        assert!(error.message().contains("portable, avx2, avx512, avx512bf16, amx"), "{error}");
    }
}
