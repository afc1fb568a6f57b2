//! Units. The only place where nanoseconds become clock cycles.

/// Clock cycles of the DRAM command clock.
pub type Cycle = u64;

/// The period of the DRAM command clock, in picoseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClockPeriod(pub u32);

impl ClockPeriod {
    /// Nanoseconds to cycles as JEDEC's rounding algorithm does it (JESD79-4, 13.3): the guard band of 2.6 % keeps
    /// a value that is a whole number of cycles but for rounding of tCK from becoming one more.
    pub fn cycles_jedec(self, ns: f64) -> Cycle {
        let ps = (ns * 1000.0).round() as u64;
        let tck = u64::from(self.0);
        // (ps * 1000 / tCK + 974) / 1000, in integers
        (ps * 1000 / tck + 974) / 1000
    }

    /// Cycles to nanoseconds.
    pub fn ns(self, cycles: Cycle) -> f64 {
        cycles as f64 * f64::from(self.0) / 1000.0
    }
}

#[cfg(test)]
mod tests {
    use super::ClockPeriod;

    #[test]
    fn jedec_rounding_of_trfc() {
        assert_eq!(ClockPeriod(769).cycles_jedec(350.0), 456);
        assert_eq!(ClockPeriod(1000).cycles_jedec(350.0), 350);
        assert_eq!(ClockPeriod(1000).cycles_jedec(350.1), 351);
    }
}
