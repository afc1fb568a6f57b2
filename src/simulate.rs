//! The chain from a generator, or a trace, to what it costs.

use pimattn_core::cancel::Cancel;
use pimattn_core::error::Result;
use pimattn_core::spec::System;
use pimattn_core::units::Cycle;
use pimattn_engine::Engine;
use pimattn_stats::{Collector, Steps, energy::Energy, replay as counted};
use pimattn_trace::Source;
use pimattn_trace::pipe::pipe;
use pimattn_tracegen::generate::Generator;

/// What a run cost.
pub struct Outcome {
    /// Length of the run in cycles of the device's clock.
    pub cycles: Cycle,
    /// The same in nanoseconds.
    pub time_ns: f64,
    /// Energy by part, in pJ.
    pub energy: Energy,
    /// Everything that was counted: the run, its heads and its channels.
    pub collector: Collector,
}

/// Replays a trace on a system.
///
/// # Errors
/// [`Error::Data`](crate::Error::Data) where the trace is damaged or for another device, and what the source says.
pub fn replay(system: &System, source: &mut dyn Source) -> Result<Outcome> {
    replay_until(&Cancel::new(), system, source)
}

/// [`replay`], unless `cancel` is requested: then it ends soon.
///
/// # Errors
/// Those of [`replay`], and [`Error::Interrupted`](crate::Error::Interrupted).
pub fn replay_until(cancel: &Cancel, system: &System, source: &mut dyn Source) -> Result<Outcome> {
    let device = &system.device;
    let mut steps = ();
    let mut collector = Collector::with_steps(device, &mut steps as &mut dyn Steps);
    let cycles = counted::collect(cancel, Engine::default(), system, source, &mut collector, &mut |_| ())?;
    let collector = collector.into_counts();
    let run = &collector.run;
    let channel_cycles = run.time.total() / u64::from(device.geometry.banks_per_channel());
    let energy = Energy::of(&run.counters, channel_cycles, device, system.energy);
    Ok(Outcome { cycles, time_ns: device.clock.ns(cycles), energy, collector })
}

/// Generates a trace and replays it, side by side, on the system that its addresses are for; memory does not grow with
/// the trace. Not for use within rayon's own threads: it waits for a generator that works on these.
///
/// # Errors
/// Those of [`Generator::run`] and of [`replay`].
pub fn simulate(generator: &Generator) -> Result<Outcome> {
    simulate_until(&Cancel::new(), generator)
}

/// [`simulate`], unless `cancel` is requested: then it ends soon. Another simulation goes on, unless it has the same token.
///
/// ```
/// use pimattn::{Cancel, Error, Generator, SyntheticSpec, Workload, kv, simulate_until, systems};
///
/// let shape = SyntheticSpec { layers: 1, kv_heads: 1, query_heads: 1, prefill: 128, decode_steps: 1, ..Default::default() };
/// let cache = kv::synthetic::generate(&shape)?;
/// let generator = Generator::new(systems::load("hbm3-pim")?, Workload::new("quest", 64), cache)?;
/// let (cancel, other) = (Cancel::new(), Cancel::new());
/// // From a signal handler, a timer, another thread.
/// cancel.clone().request();
/// assert!(matches!(simulate_until(&cancel, &generator), Err(Error::Interrupted)));
/// assert!(simulate_until(&other, &generator).is_ok());
/// # Ok::<(), Error>(())
/// ```
///
/// # Errors
/// Those of [`simulate`], and [`Error::Interrupted`](crate::Error::Interrupted).
pub fn simulate_until(cancel: &Cancel, generator: &Generator) -> Result<Outcome> {
    let (mut sink, mut source) = pipe(generator.header().clone());
    std::thread::scope(|scope| {
        let maker = scope.spawn(move || generator.run_until(cancel, &mut sink, None, &mut |_| ()));
        let replayed = replay_until(cancel, generator.system(), &mut source);
        let cut = source.was_cut();
        // A generator that is still at work finds the trace closed.
        drop(source);
        let made = maker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        if cut {
            made?;
        }
        replayed
    })
}
