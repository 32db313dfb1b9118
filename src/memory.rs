//! How the C library's allocator is told to give memory back.
//!
//! Owns: those settings, and the only `unsafe` code. Does not own: how much memory anything may take (each stage's limits).
//!
//! By its defaults glibc keeps an arena for nearly every thread, and once a large buffer was freed it takes buffers of that
//! size (up to 32 MiB) from the arenas as well, and keeps up to twice that size free in each. A service whose threads each
//! met one large request then holds several times the memory that it ever used at once: 362 MiB where 187 were in use.
//! Other allocators were tried (docs/benchmarks.md); none stayed as low without settings of its own.

/// Bounds what the allocator keeps for itself. Called once, before the first thread is started. Where the C library is not
/// glibc, its own ways hold.
pub fn bound() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    glibc::bound();
}

#[cfg(all(target_os = "linux", target_env = "gnu"))]
#[expect(unsafe_code, reason = "the C library's settings have no other way in")]
mod glibc {
    use std::ffi::c_int;

    /// Threads share this many arenas; small allocations come from a cache of each thread's own and seldom meet.
    const ARENAS_MAX: c_int = 4;

    /// A buffer from this size on is mapped for itself, and unmapped when it is freed. Setting it also ends the growth
    /// of this threshold.
    const MAPPED_FROM_BYTES: c_int = 2 << 20;

    /// An arena keeps this much free at its end.
    const KEPT_BYTES_MAX: c_int = 4 << 20;

    pub(super) fn bound() {
        let settings = [
            (libc::M_ARENA_MAX, ARENAS_MAX),
            (libc::M_MMAP_THRESHOLD, MAPPED_FROM_BYTES),
            (libc::M_TRIM_THRESHOLD, KEPT_BYTES_MAX),
        ];
        for (parameter, value) in settings {
            // SAFETY: `mallopt` takes two integers and locks for itself; a parameter or value that it does not know
            // changes nothing.
            let taken = unsafe { libc::mallopt(parameter, value) };
            debug_assert_eq!(taken, 1);
        }
    }
}
