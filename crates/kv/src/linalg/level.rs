//! Which vector instructions the kernels use: detected once, at run time.

use std::sync::atomic::{AtomicU8, Ordering};

/// A set of vector instructions, each containing those before it. Results do not depend on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum SimdLevel {
    /// What every processor of the architecture has: SSE2 on x86-64, NEON on AArch64.
    Baseline = 1,
    /// x86-64 with AVX2.
    Avx2 = 2,
    /// x86-64 with AVX-512 F, BW, DQ, VL and VNNI.
    Avx512 = 3,
}

/// Every level, the lowest first.
pub const LEVELS: [SimdLevel; 3] = [SimdLevel::Baseline, SimdLevel::Avx2, SimdLevel::Avx512];

/// The level in use; 0 before anybody has asked.
static LEVEL: AtomicU8 = AtomicU8::new(0);

/// The level that kernels use: the highest that the processor has, unless [`limit`] says less.
#[inline]
pub fn level() -> SimdLevel {
    match LEVEL.load(Ordering::Relaxed) {
        0 => limit(SimdLevel::Avx512),
        1 => SimdLevel::Baseline,
        2 => SimdLevel::Avx2,
        _ => SimdLevel::Avx512,
    }
}

/// Uses no higher level from now on, in all threads, and returns the one that is in use: for measurements that must not
/// depend on the processor.
pub fn limit(highest: SimdLevel) -> SimdLevel {
    let level = highest.min(detect());
    LEVEL.store(level as u8, Ordering::Relaxed);
    level
}

/// The highest level that the processor has.
pub fn detect() -> SimdLevel {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::is_x86_feature_detected as has;
        if has!("avx512f") && has!("avx512bw") && has!("avx512dq") && has!("avx512vl") && has!("avx512vnni") {
            return SimdLevel::Avx512;
        }
        if has!("avx2") {
            return SimdLevel::Avx2;
        }
    }
    SimdLevel::Baseline
}

/// Asks for data that will be read soon.
#[inline(always)]
pub fn prefetch<T>(data: &[T]) {
    #[cfg(target_arch = "x86_64")]
    for line in (0..size_of_val(data)).step_by(64) {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: a prefetch reads nothing; the address is within the data.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(data.as_ptr().cast::<i8>().add(line)) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = data;
}
