//! Which instruction set the kernels use, found at run time.

/// An instruction set that this processor has. Can only be had from [`Isa::detect`] and [`Isa::available`],
/// which is what makes calling the kernels compiled for it sound.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Isa(pub(super) IsaKind);

/// Instruction sets with a kernel of their own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum IsaKind {
    /// AMX-INT8, AMX-BF16, AVX-512 BF16 and VBMI besides all of the next.
    Amx,
    /// AVX-512 F, BW, VL and VNNI.
    Avx512Vnni,
    /// AVX-512 F, BW, VL.
    Avx512,
    /// AVX2 with FMA and F16C.
    Avx2,
    /// Plain Rust; on AArch64 the compiler makes NEON of it.
    Portable,
}

impl Isa {
    /// The best that this processor has.
    pub fn detect() -> Self {
        Self::available()[0]
    }

    /// All that this processor has, best first.
    pub fn available() -> Vec<Self> {
        let mut found = Vec::new();
        #[cfg(target_arch = "x86_64")]
        {
            if is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512bw")
                && is_x86_feature_detected!("avx512vl")
            {
                if is_x86_feature_detected!("avx512vnni") {
                    if is_x86_feature_detected!("avx512bf16")
                        && is_x86_feature_detected!("avx512vbmi")
                        && amx_is_usable()
                    {
                        found.push(Self(IsaKind::Amx));
                    }
                    found.push(Self(IsaKind::Avx512Vnni));
                }
                found.push(Self(IsaKind::Avx512));
            }
            if is_x86_feature_detected!("avx2")
                && is_x86_feature_detected!("fma")
                && is_x86_feature_detected!("f16c")
            {
                found.push(Self(IsaKind::Avx2));
            }
        }
        found.push(Self(IsaKind::Portable));
        found
    }
}

/// Whether the processor multiplies tiles of bytes, and the system lets this process do so: Linux wants to be
/// asked first, because tiles make a thread's saved state larger (Documentation/arch/x86/xstate.rst).
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
fn amx_is_usable() -> bool {
    const ARCH_REQ_XCOMP_PERM: libc::c_int = 0x1023;
    const XFEATURE_XTILEDATA: libc::c_ulong = 18;
    const BF16_TILE_AND_INT8: u32 = 1 << 22 | 1 << 24 | 1 << 25;
    // Leaf 7 exists wherever AVX-512 does.
    if std::arch::x86_64::__cpuid_count(7, 0).edx & BF16_TILE_AND_INT8 != BF16_TILE_AND_INT8 {
        return false;
    }
    // SAFETY: asks for a permission of this process and touches no memory.
    unsafe { libc::syscall(libc::SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) == 0 }
}

#[cfg(all(target_arch = "x86_64", not(target_os = "linux")))]
fn amx_is_usable() -> bool {
    false
}

/// Compiles a plain Rust body once per instruction set and calls the right one. The body is the scalar twin
/// and the source of all the others, so they agree to the bit (`mul_add` is a fused multiply-add everywhere).
macro_rules! per_isa {
    ($(#[$doc:meta])* $vis:vis fn $name:ident($isa:ident; $($arg:ident: $ty:ty),* $(,)?) $body:block) => {
        $(#[$doc])*
        $vis fn $name($isa: $crate::backend::cpu::kernels::Isa, $($arg: $ty),*) {
            #[inline(always)]
            fn body($($arg: $ty),*) $body
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx2,fma,f16c")]
            fn avx512($($arg: $ty),*) { body($($arg),*) }
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma,f16c")]
            fn avx2($($arg: $ty),*) { body($($arg),*) }
            match $isa.0 {
                #[cfg(target_arch = "x86_64")]
                // SAFETY: an `Isa` other than Portable is only made where the processor has its features.
                $crate::backend::cpu::kernels::isa::IsaKind::Amx | $crate::backend::cpu::kernels::isa::IsaKind::Avx512Vnni | $crate::backend::cpu::kernels::isa::IsaKind::Avx512 => unsafe { avx512($($arg),*) },
                #[cfg(target_arch = "x86_64")]
                // SAFETY: as above.
                $crate::backend::cpu::kernels::isa::IsaKind::Avx2 => unsafe { avx2($($arg),*) },
                _ => body($($arg),*),
            }
        }
    };
}
pub(super) use per_isa;
