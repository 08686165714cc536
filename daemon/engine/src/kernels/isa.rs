//! The instruction sets that the operations are compiled for, and the choice between them at run time.

use std::fmt;
use std::sync::OnceLock;

use hone_base::error::{Error, Result, quoted};

/// The environment variable that chooses an instruction set, for tests and comparisons.
pub const VARIABLE: &str = "HONE_ISA";

/// The sets of instructions that the operations are compiled for, the simplest first. Each has all that stand before it, but
/// for AVX-VNNI, which processors with AVX-512 may lack and which no other set uses.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Set {
    /// What every processor of the target has (SSE2 on x86-64, NEON on AArch64), through the compiler.
    Portable,
    /// AVX2 and FMA.
    Avx2,
    /// Products of 8-bit integers in AVX registers.
    AvxVnni,
    /// AVX-512 F, BW, DQ and VL.
    Avx512,
    /// Products of 8-bit integers in AVX-512 registers.
    Avx512Vnni,
    /// Products of bfloat16 pairs in AVX-512 registers.
    Avx512Bf16,
    /// Products of tiles of bfloat16 and of 8-bit integers (Advanced Matrix Extensions).
    Amx,
}

/// A set of instructions that this processor has. There is no value of a set that it lacks, so whoever holds one may run
/// the code that was compiled for it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Isa(Set);

impl Set {
    const ALL: [Self; 7] = [
        Self::Portable,
        Self::Avx2,
        Self::AvxVnni,
        Self::Avx512,
        Self::Avx512Vnni,
        Self::Avx512Bf16,
        Self::Amx,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::Portable => "portable",
            Self::Avx2 => "avx2",
            Self::AvxVnni => "avxvnni",
            Self::Avx512 => "avx512",
            Self::Avx512Vnni => "avx512vnni",
            Self::Avx512Bf16 => "avx512bf16",
            Self::Amx => "amx",
        }
    }
}

impl fmt::Debug for Isa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl Isa {
    /// What every processor has.
    pub const PORTABLE: Self = Self(Set::Portable);

    /// The best that this processor has.
    pub fn best() -> Self {
        Self::available().last().unwrap_or(Self::PORTABLE)
    }

    /// Every instruction set that this processor has, the simplest first. It is asked once.
    pub fn available() -> impl Iterator<Item = Self> {
        static HAS: OnceLock<[bool; Set::ALL.len()]> = OnceLock::new();
        let has = *HAS.get_or_init(detect);
        Set::ALL.into_iter().zip(has).filter(|(_, has)| *has).map(|(set, _)| Self(set))
    }

    /// The name in `HONE_ISA`.
    pub fn name(self) -> &'static str {
        self.0.name()
    }

    /// The same without AMX.
    pub(super) fn without_amx(self) -> Self {
        // A processor with AMX has this set, too.
        if self.0 == Set::Amx { Self(Set::Avx512Bf16) } else { self }
    }

    /// Which of the sets that the operations are compiled for.
    pub(super) const fn set(self) -> Set {
        self.0
    }

    /// What this process computes with: what `HONE_ISA` names, else the best that the processor has.
    ///
    /// # Errors
    /// When `HONE_ISA` names one that does not exist or that this processor lacks.
    pub fn chosen() -> Result<Self> {
        static CHOSEN: OnceLock<Result<Isa>> = OnceLock::new();
        CHOSEN
            .get_or_init(|| match std::env::var(VARIABLE) {
                Ok(name) if !name.is_empty() => Self::named(&name),
                _ => Ok(Self::best()),
            })
            .clone()
    }

    fn named(name: &str) -> Result<Self> {
        let known = || Set::ALL.map(Set::name).join(", ");
        if !Set::ALL.into_iter().any(|set| set.name() == name) {
            return Err(Error::invalid(format!(
                "{VARIABLE} is {}; it must be one of {}",
                quoted(name),
                known()
            )));
        }
        Self::available().find(|isa| isa.name() == name).ok_or_else(|| {
            Error::invalid(format!(
                "{VARIABLE} is {}, but this processor has none of it; the best it has is {}",
                quoted(name),
                Self::best().name()
            ))
        })
    }
}

/// Which sets there are, in the order of [`Set::ALL`].
#[cfg(target_arch = "x86_64")]
fn detect() -> [bool; Set::ALL.len()] {
    let avx2 = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma");
    let avx_vnni = avx2 && is_x86_feature_detected!("avxvnni");
    let avx512 = avx2
        && is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512dq")
        && is_x86_feature_detected!("avx512vl");
    let vnni = avx512 && is_x86_feature_detected!("avx512vnni");
    let bf16 = vnni && is_x86_feature_detected!("avx512bf16");
    [true, avx2, avx_vnni, avx512, vnni, bf16, bf16 && has_amx()]
}

#[cfg(not(target_arch = "x86_64"))]
fn detect() -> [bool; Set::ALL.len()] {
    Set::ALL.map(|set| set == Set::Portable)
}

/// Whether the processor has AMX for bfloat16 and 8-bit integers and the kernel lets this process use it.
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
fn has_amx() -> bool {
    use std::arch::asm;
    use std::arch::x86_64::__cpuid_count;
    const TILE: u32 = 1 << 24;
    const BF16: u32 = 1 << 22;
    const INT8: u32 = 1 << 25;
    const ALL: u32 = TILE | BF16 | INT8;
    if __cpuid_count(7, 0).edx & ALL != ALL {
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
            match isa.set() {
                // SAFETY: there is no `Isa` of a set that the processor lacks.
                #[cfg(target_arch = "x86_64")]
                $crate::kernels::isa::Set::Avx2 | $crate::kernels::isa::Set::AvxVnni => unsafe { avx2($($argument),*) },
                // SAFETY: as above.
                #[cfg(target_arch = "x86_64")]
                set if set >= $crate::kernels::isa::Set::Avx512 => unsafe { avx512($($argument),*) },
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
    fn every_set_up_to_the_best_has_its_name_and_others_are_refused() {
        let available: Vec<Isa> = Isa::available().collect();
        assert_eq!((available.first(), available.last()), (Some(&Isa::PORTABLE), Some(&Isa::best())));
        assert!(available.is_sorted());
        for set in Set::ALL {
            match Isa::named(set.name()) {
                Ok(isa) => assert!(isa.set() == set && available.contains(&isa)),
                Err(error) => {
                    assert!(!available.contains(&Isa(set)));
                    assert!(error.message().contains("this processor has none of it"), "{error}");
                }
            }
        }
        let error = Isa::named("mmx").unwrap_err();
        let all = "portable, avx2, avxvnni, avx512, avx512vnni, avx512bf16, amx";
        assert!(error.message().contains(all), "{error}");
    }
}
