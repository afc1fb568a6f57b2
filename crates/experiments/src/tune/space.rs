//! What software is free to choose, given what hardware can address.

use pimattn_core::error::{Error, Result, suggest};
use pimattn_core::op::Op;
use pimattn_core::spec::Device;
use pimattn_mapping::workload::{Addressing, Align, HeadPlacement, Layout, UnitPlacement, ValueLayout, Workload};
use serde::Serialize;

/// How much one row activation of the hardware covers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Capability {
    /// One row, the same in all banks.
    Broadcast,
    /// A row of its own in each bank group; or the same in all banks.
    BankGroup,
    /// No rows at all: the account of the STARC artifact, as a reference.
    Ideal,
}

impl Capability {
    /// All, from the least to the most.
    pub const ALL: [Capability; 3] = [Capability::Broadcast, Capability::BankGroup, Capability::Ideal];

    /// Its name, which is that of the addressing that it is needed for.
    pub fn name(self) -> &'static str {
        match self {
            Capability::Broadcast => "broadcast",
            Capability::BankGroup => "bank-group",
            Capability::Ideal => "ideal",
        }
    }

    /// Whether a device has it.
    pub fn is_of(self, device: &Device) -> bool {
        let has = |op: Op| device.plans[op as usize].is_some();
        match self {
            Capability::Broadcast | Capability::Ideal => has(Op::MacAb),
            Capability::BankGroup => [Op::ActBg, Op::PreBg, Op::MacBg, Op::MacAb].into_iter().all(has),
        }
    }

    /// The addressings that software may choose from.
    fn addressings(self) -> Vec<String> {
        match self {
            Capability::Broadcast => names(&[Addressing::Broadcast]),
            Capability::BankGroup => names(&[Addressing::BankGroup, Addressing::Broadcast]),
            Capability::Ideal => names(&[Addressing::Ideal]),
        }
    }
}

/// Knobs that act on each other are tried together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum KnobBlock {
    /// Where keys lie.
    Keys,
    /// Where values lie.
    Values,
    /// Where heads and row-blocks go.
    Placement,
    /// What is selected, and where what a policy selects by lies.
    Selection,
    /// What is left out, and what runs side by side.
    Schedule,
}

impl KnobBlock {
    /// All, in the order in which they are tried.
    pub const ALL: [KnobBlock; 5] =
        [KnobBlock::Placement, KnobBlock::Keys, KnobBlock::Values, KnobBlock::Selection, KnobBlock::Schedule];
}

/// A setting of a knob.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KnobSetting {
    /// As tables show it.
    pub text: String,
    /// As overrides of the workload.
    pub overrides: Vec<String>,
}

/// One thing that can be chosen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Knob {
    /// Key of the workload, or [`SIZES`].
    pub key: &'static str,
    /// Its settings; the first is that of the workload, or what comes nearest on this hardware.
    pub settings: Vec<KnobSetting>,
    /// What it is tried together with.
    pub block: KnobBlock,
}

/// The knob of budgets and of the sizes that the policy selects by.
pub const SIZES: &str = "sizes";

/// Keys of all knobs, in the order of [`Space::new`].
pub const KEYS: [&str; 14] = [
    SIZES,
    "placement.units",
    "placement.split",
    "placement.heads",
    "mapping.addressing",
    "mapping.layout",
    "mapping.align",
    "mapping.value_addressing",
    "mapping.value_layout",
    "mapping.value_align",
    "mapping.values",
    "mapping.skip_columns",
    "mapping.selection_layout",
    "schedule.pipeline",
];

/// A setting of each knob, by index.
pub type KnobChoice = Vec<u8>;

/// Everything that can be chosen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Space {
    /// The knobs.
    pub knobs: Vec<Knob>,
}

/// The name that a value has in a file.
fn name(value: impl Serialize) -> String {
    let value = toml::Value::try_from(value);
    value.ok().and_then(|v| v.as_str().map(String::from)).unwrap_or_default()
}

fn names<T: Serialize + Copy>(values: &[T]) -> Vec<String> {
    values.iter().map(|v| name(*v)).collect()
}

/// `first`, then the others.
fn beginning_with(first: String, mut all: Vec<String>) -> Vec<String> {
    match all.iter().position(|v| *v == first) {
        Some(at) => all[..=at].rotate_right(1),
        None => all.insert(0, first),
    }
    all
}

/// What of a policy decides which knobs matter.
#[derive(Debug, Clone, Copy)]
pub struct PolicyTraits {
    /// It clusters keys, so that clusters can begin at rows.
    pub clusters: bool,
}

impl Space {
    /// What `workload` leaves free on hardware of a capability, where a head may spread over up to `channels` channels; `sizes` are
    /// the budgets and sizes of the policy, those of the workload first.
    pub fn new(
        workload: &Workload,
        policy: PolicyTraits,
        capability: Capability,
        channels: u32,
        sizes: Vec<KnobSetting>,
    ) -> Self {
        let mapping = &workload.mapping;
        let mut knobs = vec![Knob { key: SIZES, settings: sizes, block: KnobBlock::Selection }];
        let mut add = |key: &'static str, block, first: String, all: Vec<String>| {
            let setting = |text: String| KnobSetting { overrides: vec![format!("{key}={text}")], text };
            knobs.push(Knob { key, settings: beginning_with(first, all).into_iter().map(setting).collect(), block });
        };
        if capability == Capability::Ideal {
            // No token has a place: all that is left is what the schedule does with the heads.
            let ideal = || name(Addressing::Ideal);
            add("mapping.addressing", KnobBlock::Keys, ideal(), vec![ideal()]);
            add("mapping.value_addressing", KnobBlock::Values, ideal(), vec![ideal()]);
            return Space { knobs };
        }
        let (keys, values) = (mapping.of_keys(), mapping.of_values());
        add(
            "placement.units",
            KnobBlock::Placement,
            name(workload.placement.units),
            names(&[UnitPlacement::RoundRobin, UnitPlacement::LoadAware]),
        );
        let splits = (0..).map(|i| 1u32 << i).take_while(|n| *n <= channels).map(|n| n.to_string()).collect();
        add("placement.split", KnobBlock::Placement, workload.placement.split.to_string(), splits);
        if !workload.batch.prefill.is_empty() {
            let all = names(&[HeadPlacement::RoundRobin, HeadPlacement::Balanced]);
            add("placement.heads", KnobBlock::Placement, name(workload.placement.heads), all);
        }
        let mut layouts = names(&[Layout::RowBlock, Layout::Interleaved]);
        let mut aligns = names(&[mapping.align]);
        if policy.clusters {
            layouts.push(name(Layout::ClusterStriped));
            aligns = names(&[Align::None, Align::Row]);
        }
        // The addressing of the workload, where the hardware has it; else the one that it has.
        let addressings = capability.addressings();
        let first = |addressing: Addressing| match addressings.contains(&name(addressing)) {
            true => name(addressing),
            false => addressings[0].clone(),
        };
        for (block, arrangement, [addressing, layout, align]) in [
            (KnobBlock::Keys, keys, ["mapping.addressing", "mapping.layout", "mapping.align"]),
            (KnobBlock::Values, values, ["mapping.value_addressing", "mapping.value_layout", "mapping.value_align"]),
        ] {
            add(addressing, block, first(arrangement.addressing), addressings.clone());
            add(layout, block, name(arrangement.layout), layouts.clone());
            add(align, block, name(arrangement.align), aligns.clone());
        }
        let of_values = names(&[ValueLayout::Stripe, ValueLayout::Vector]);
        add("mapping.values", KnobBlock::Values, name(mapping.values), of_values);
        let of_selection = names(&[Layout::Interleaved, Layout::RowBlock]);
        add("mapping.selection_layout", KnobBlock::Selection, name(mapping.selection_layout), of_selection);
        let either = || ["true", "false"].map(String::from).to_vec();
        add("mapping.skip_columns", KnobBlock::Schedule, mapping.skip_columns.to_string(), either());
        add("schedule.pipeline", KnobBlock::Schedule, workload.schedule.pipeline.to_string(), either());
        Space { knobs }
    }

    /// The choice of the workload, or what comes nearest on the hardware.
    pub fn default_choice(&self) -> KnobChoice {
        vec![0; self.knobs.len()]
    }

    /// Number of choices.
    pub fn size(&self) -> u64 {
        self.knobs.iter().map(|knob| knob.settings.len() as u64).product()
    }

    /// All choices, in order.
    pub fn choices(&self) -> impl Iterator<Item = KnobChoice> + '_ {
        (0..self.size()).map(|mut rest| {
            let mut choice = self.default_choice();
            for (c, knob) in choice.iter_mut().zip(&self.knobs).rev() {
                let n = knob.settings.len() as u64;
                *c = (rest % n) as u8;
                rest /= n;
            }
            choice
        })
    }

    /// The setting of a knob in a choice; none where the space has no such knob.
    pub fn setting(&self, choice: &KnobChoice, key: &str) -> Option<&KnobSetting> {
        let at = self.knobs.iter().position(|knob| knob.key == key)?;
        Some(&self.knobs[at].settings[usize::from(choice[at])])
    }

    /// A choice as overrides of the workload.
    pub fn overrides(&self, choice: &KnobChoice) -> Vec<String> {
        let settings = self.knobs.iter().zip(choice).map(|(knob, c)| &knob.settings[usize::from(*c)]);
        settings.flat_map(|setting| setting.overrides.iter().cloned()).collect()
    }

    /// Knobs in which a choice differs from the default.
    pub fn changed(&self, choice: &KnobChoice) -> Vec<usize> {
        (0..choice.len()).filter(|i| choice[*i] != 0).collect()
    }

    /// A choice with another setting of knobs.
    pub fn with(choice: &KnobChoice, settings: &[(usize, u8)]) -> KnobChoice {
        let mut out = choice.clone();
        settings.iter().for_each(|(knob, setting)| out[*knob] = *setting);
        out
    }
}

/// Whether a device has a capability that a user named.
///
/// # Errors
/// [`Error::Usage`] with the nearest name, or with those that the device has.
pub fn capability(text: &str, device: &Device) -> Result<Capability> {
    let known = || Capability::ALL.into_iter().map(Capability::name);
    let found = Capability::ALL.into_iter().find(|c| c.name() == text);
    let found =
        found.ok_or_else(|| Error::Usage(format!("unknown capability \"{text}\"{}", suggest(text, known()))))?;
    match found.is_of(device) {
        true => Ok(found),
        false => Err(Error::Usage(format!("{} has no commands for \"{text}\"", device.name))),
    }
}
