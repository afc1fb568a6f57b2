//! Where the figures of a device file come from, and whether they agree with each other.

use super::config::Document;
use super::device::{DeviceFile, TimingFile};
use super::quantity::Quantity;
use crate::error::{Result, suggest};
use crate::units::ClockPeriod;

/// An error if a source is named that the file does not declare.
pub(super) fn check_sources(file: &DeviceFile, doc: &Document) -> Result<()> {
    for (key, source) in sources_of(file) {
        if source != "assumed" && !file.sources.contains_key(source) {
            let hint = suggest(source, file.sources.keys().map(String::as_str).chain(["assumed"]));
            return Err(doc.error(&format!("{key}.source"), format!("unknown source \"{source}\"{hint}")));
        }
    }
    Ok(())
}

/// A clock cycle has a power of two of transfers; tCK is rounded to whole ps.
pub(super) fn check_rate(preset: &TimingFile, clock: ClockPeriod) -> Result<(), String> {
    let transfers_per_ps = preset.rate.value * 1e-6;
    let fits = |n: i32| (f64::from(1 << n) / transfers_per_ps - f64::from(clock.0)).abs() < 1.0;
    match (0..=5).any(fits) {
        true => Ok(()),
        false => Err(format!(
            "{} MT/s are {:.2} transfers in a tCK of {} ps; expected 1, 2, 4, 8, 16 or 32",
            preset.rate.value,
            transfers_per_ps * f64::from(clock.0),
            clock.0
        )),
    }
}

/// Presets of one device name the same timings: one that only some have is missing in the others, or misspelt.
pub(super) fn check_presets(file: &DeviceFile, doc: &Document) -> Result<()> {
    for (a, b) in file.timing.iter().zip(file.timing.iter().skip(1)) {
        for ((name, this), (other_name, other)) in [(a, b), (b, a)] {
            if let Some(odd) = this.values.keys().find(|k| !other.values.contains_key(*k)) {
                let hint = suggest(odd, other.values.keys().map(String::as_str));
                let what = format!("\"{odd}\" is a timing of preset \"{name}\" but not of \"{other_name}\"{hint}");
                return Err(doc.error(&format!("timing.{name}.{odd}"), what));
            }
        }
    }
    Ok(())
}

/// Names of what is assumed.
pub(super) fn assumed(file: &DeviceFile) -> Vec<String> {
    sources_of(file)
        .into_iter()
        .filter(|(_, s)| *s == "assumed")
        .map(|(key, _)| {
            match key.strip_prefix("constraints[").and_then(|k| k.split(']').next()?.parse::<usize>().ok()) {
                Some(i) => format!("constraints {:?}", file.constraints[i].set).to_lowercase(),
                None => key,
            }
        })
        .collect()
}

/// Every source that is named, with the key that names it.
fn sources_of(file: &DeviceFile) -> Vec<(String, &str)> {
    let mut out: Vec<(String, &str)> = Vec::new();
    for (k, o) in &file.organisation {
        out.push((format!("organisation.{k}"), &o.source));
        out.extend(o.density.source.as_deref().map(|s| (format!("organisation.{k}.density"), s)));
        out.extend(o.column.source.as_deref().map(|s| (format!("organisation.{k}.column"), s)));
    }
    out.extend(file.pim.as_ref().map(|p| ("pim".into(), p.source.as_str())));
    let of_units =
        file.pim.iter().flat_map(|p| [("accumulators", &p.accumulators), ("heads_per_read", &p.heads_per_read)]);
    out.extend(of_units.filter_map(|(name, n)| Some((format!("pim.{name}"), n.as_ref()?.source.as_str()))));
    for (k, t) in &file.timing {
        out.push((format!("timing.{k}"), &t.source));
        out.extend(t.values.iter().filter_map(|(n, v)| Some((format!("timing.{k}.{n}"), v.source.as_deref()?))));
    }
    out.extend(file.refresh_time.as_ref().map(|t| ("refresh_time".into(), t.source.as_str())));
    out.extend(file.power_budget.as_ref().map(|b| ("power_budget".into(), b.source.as_str())));
    for (i, c) in file.constraints.iter().enumerate() {
        out.push((format!("constraints[{i}].source"), &c.source));
    }
    let e = &file.energy;
    out.push(("energy".into(), &e.source));
    out.extend(e.refreshes_per_window.as_ref().map(|n| ("energy.refreshes_per_window".into(), n.source.as_str())));
    fn source<D>(energy: &Option<Quantity<D>>) -> Option<&str> {
        energy.as_ref()?.source.as_deref()
    }
    let named = [
        ("activation", e.activation.source.as_deref()),
        ("cell_activation", source(&e.cell_activation)),
        ("cell_column", e.cell_column.source.as_deref()),
        ("bank_group", source(&e.bank_group)),
        ("global_io", source(&e.global_io)),
        ("tsv", source(&e.tsv)),
        ("interposer", source(&e.interposer)),
        ("mac", source(&e.mac)),
        ("sram", source(&e.sram)),
        ("background", e.background.source.as_deref()),
    ];
    out.extend(named.into_iter().filter_map(|(n, s)| Some((format!("energy.{n}"), s?))));
    out
}
