//! What the published simulators do that this one does not: one switch each, all off unless asked for.

use pimattn_core::error::{Error, Result, suggest};

/// A published simulator.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reference {
    /// AttAcc's simulator, scale-snu/attacc_simulator.
    Attacc,
    /// The STARC artifact, EPIC-RPI/STARC: AttAcc's with further factors.
    Starc,
}

impl Reference {
    /// All of them.
    pub const ALL: [Reference; 2] = [Reference::Attacc, Reference::Starc];

    /// Name on the command line and in tables.
    pub fn name(self) -> &'static str {
        match self {
            Reference::Attacc => "attacc",
            Reference::Starc => "starc",
        }
    }
}

macro_rules! switches {
    ($($(#[doc = $doc:literal])+ $variant:ident $name:literal $starc_only:literal,)+) => {
        /// One thing that a published simulator does otherwise.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Switch {
            $($(#[doc = $doc])+ $variant,)+
        }

        impl Switch {
            /// All switches.
            pub const ALL: &'static [Switch] = &[$(Switch::$variant),+];

            /// Name in configuration files and tables.
            pub fn name(self) -> &'static str {
                match self { $(Switch::$variant => $name),+ }
            }

            /// What it does, in a sentence.
            pub fn meaning(self) -> &'static str {
                match self { $(Switch::$variant => concat!($($doc),+).trim_ascii()),+ }
            }

            fn is_starc_only(self) -> bool {
                match self { $(Switch::$variant => $starc_only),+ }
            }
        }
    };
}

switches! {
    /// Models as published: 8/3 of the hidden size as feed-forward width, no grouped queries.
    PublishedModels "published_models" false,
    /// Attention on the controller that copies AttAcc's Ramulator, cycle for cycle.
    PublishedController "published_controller" false,
    /// AttAcc's schedule as its generators write it: work that nobody asked for, rows and entries that are left out.
    PublishedSchedule "published_schedule" false,
    /// The PIM devices' link is NVLink 3 beside any GPU.
    Nvlink3ToPim "nvlink3_to_pim" false,
    /// PIM memory energy by requests: each MAC column pays its share of a full row's activation; no refresh, no standing power.
    RequestEnergy "request_energy" false,
    /// Moves to and from GEMV buffers take figures per bit as figures per byte.
    MovesPerByte "moves_per_byte" false,
    /// In buffer mode, MACs read one bank at every step but the first, which reads both back from a file of results.
    BufferHalf "buffer_half" false,
    /// PIM arithmetic energy covers scores over the whole cache: neither values nor what a row budget leaves.
    ScoresOnly "scores_only" false,
    /// Every stack pays for as many heads as the fullest.
    FullStacks "full_stacks" false,
    /// Softmax on PIM covers the whole cache, and its time, which attention has within it, hides transfers once more.
    DenseSoftmax "dense_softmax" false,
    /// Of the time that pipelining hides in QKV and projection, QKV gets 3/4 and projection 1/4, however long they are.
    FixedShares "fixed_shares" false,
    /// Co-processing divides matrices by the GPUs' peak rates, not by those that they reach.
    PeakRates "peak_rates" false,
    /// Co-processing moves no data, and its energy is that of the GPUs alone.
    FreeCoprocessing "free_coprocessing" false,
    /// Register energy counts elements for bytes, and one product for all heads.
    RegisterElements "register_elements" false,
    /// Activation and normalisation take at least what one core computes.
    ElementwiseOneCore "elementwise_one_core" false,
    /// The prefill does not count how keys and values get to the PIM devices.
    FreePrefillLink "free_prefill_link" false,
    /// Activation takes an eighth of its time.
    EighthActivation "eighth_activation" true,
    /// Normalisation takes an eighth of its time.
    EighthNorm "eighth_norm" true,
    /// The prefill's keys and values take an eighth of their time to the PIM devices.
    EighthLink "eighth_link" true,
    /// All-reduce takes an eighth of its time.
    EighthAllReduce "eighth_all_reduce" true,
}

impl Switch {
    /// The published simulators that do this.
    pub fn references(self) -> &'static [Reference] {
        if self.is_starc_only() { &Reference::ALL[1..] } else { &Reference::ALL }
    }

    /// The switch of this name; else what is wrong with it.
    pub fn parse(name: &str) -> Result<Switch, String> {
        let known = || Switch::ALL.iter().map(|s| s.name());
        let found = Switch::ALL.iter().find(|s| s.name() == name);
        found.copied().ok_or_else(|| format!("unknown switch \"{name}\"{}", suggest(name, known())))
    }
}

/// A set of switches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Switches(u32);

impl Switches {
    /// All that a published simulator does.
    pub fn of(reference: Reference) -> Switches {
        let mut out = Switches::default();
        Switch::ALL.iter().filter(|s| s.references().contains(&reference)).for_each(|s| out.set(*s, true));
        out
    }

    /// The switches of the published simulator of this name; "none" has none.
    pub fn parse(name: &str) -> Result<Switches> {
        let names = || Reference::ALL.map(Reference::name).into_iter().chain(["none"]);
        match Reference::ALL.into_iter().find(|r| r.name() == name) {
            Some(reference) => Ok(Switches::of(reference)),
            None if name == "none" => Ok(Switches::default()),
            None => Err(Error::Usage(format!("unknown reference \"{name}\"{}", suggest(name, names())))),
        }
    }

    /// Whether a switch is on.
    pub fn has(self, switch: Switch) -> bool {
        self.0 & 1 << switch as u32 != 0
    }

    /// Turns a switch on or off.
    pub fn set(&mut self, switch: Switch, on: bool) {
        let bit = 1 << switch as u32;
        self.0 = if on { self.0 | bit } else { self.0 & !bit };
    }

    /// What is on, in words: a reference, "none", or the switches.
    pub fn describe(self) -> String {
        let whole = Reference::ALL.into_iter().find(|r| Switches::of(*r) == self).map(Reference::name);
        let on = || Switch::ALL.iter().filter(|s| self.has(**s)).map(|s| s.name()).collect::<Vec<_>>();
        match whole {
            Some(name) => name.into(),
            None if self.0 == 0 => "none".into(),
            None => on().join("+"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_artifact_does_all_that_attacc_does_and_more() {
        let (attacc, starc) = (Switches::of(Reference::Attacc), Switches::of(Reference::Starc));
        assert_eq!(attacc.0 & starc.0, attacc.0);
        let eighths = Switch::ALL.iter().filter(|s| starc.has(**s) && !attacc.has(**s)).count();
        assert_eq!(eighths, 4);
    }

    #[test]
    fn sets_are_named() {
        assert_eq!(Switches::of(Reference::Starc).describe(), "starc");
        assert_eq!(Switches::default().describe(), "none");
        let mut some = Switches::default();
        some.set(Switch::EighthNorm, true);
        some.set(Switch::FullStacks, true);
        assert_eq!(some.describe(), "full_stacks+eighth_norm");
        some.set(Switch::EighthNorm, false);
        assert!(some.has(Switch::FullStacks) && !some.has(Switch::EighthNorm));
    }

    #[test]
    fn wrong_names_get_the_nearest() {
        assert!(Switch::parse("full_stack").unwrap_err().contains("did you mean \"full_stacks\""));
        assert!(Switches::parse("stark").unwrap_err().to_string().contains("did you mean \"starc\""));
    }
}
