//! What benchmarks share: traces in memory, and how often a fast version goes into the time of the plain one. Times are
//! processor time of this thread, the least of a few runs taken in turns, so that neither other processes nor a change of
//! the clock falls on one side alone.

use pimattn_core::error::Result;
use pimattn_trace::{BLOCK, Header, Record, Source};

/// Records in memory, as a trace.
pub struct Memory<'r> {
    header: Header,
    records: std::slice::Chunks<'r, Record>,
}

impl Source for Memory<'_> {
    fn header(&self) -> &Header {
        &self.header
    }
    fn next_block(&mut self, out: &mut Vec<Record>) -> Result<bool> {
        out.clear();
        out.extend(self.records.next().into_iter().flatten());
        Ok(!out.is_empty())
    }
}

impl<'r> Memory<'r> {
    /// The trace of these records.
    pub fn new(header: Header, records: &'r [Record]) -> Self {
        Memory { header, records: records.chunks(BLOCK) }
    }
}

/// Seconds of processor time that this thread has had.
pub fn thread_seconds() -> f64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the pointer is to a timespec, which the call fills in.
    let failed = unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut time) };
    assert_eq!(failed, 0, "there is no clock of the thread's processor time");
    time.tv_sec as f64 + time.tv_nsec as f64 * 1e-9
}

/// The least seconds of some runs of `work`.
pub fn least_seconds<T>(runs: usize, mut work: impl FnMut() -> T) -> f64 {
    let mut run = || {
        let start = thread_seconds();
        std::hint::black_box(work());
        thread_seconds() - start
    };
    (0..runs).map(|_| run()).fold(f64::INFINITY, f64::min)
}

/// Prints a line: times of both versions, and the ratio.
pub fn ratio<T, U>(name: &str, mut plain: impl FnMut() -> T, mut fast: impl FnMut() -> U) {
    let (mut slow, mut quick) = (f64::INFINITY, f64::INFINITY);
    for _ in 0..3 {
        quick = quick.min(least_seconds(3, &mut fast));
        slow = slow.min(least_seconds(1, &mut plain));
    }
    println!("{name:44} plain {:9.3} ms   fast {:9.3} ms   {:7.1} times", slow * 1e3, quick * 1e3, slow / quick);
}

/// Whether all benchmarks are asked for, not some by name.
pub fn everything() -> bool {
    std::env::args().skip(1).all(|arg| arg == "--bench")
}
