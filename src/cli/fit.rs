//! `tracegen fit` and `tracegen agree`: statistics of real caches for synthetic ones.

use super::CommonArgs;
use super::places::WrittenFile;
use crate::presets::PresetKind;
use pimattn_core::columns;
use pimattn_core::error::{Error, Result};
use pimattn_core::fsio::Output;
use pimattn_core::table::{TableLayout, TypedWriter};
use pimattn_kv::fit::{FitOptions, KnownRotation, fit_until};
use pimattn_kv::fitted::FittedModel;
use pimattn_kv::rope::{RotaryPairs, SaidScaling};
use pimattn_kv::{self as kv, KvCache};
use pimattn_policies::select;
use pimattn_tracegen::agree::measure::AgreementPlan;
use pimattn_tracegen::agree::{Agreement, COLUMNS, before_decode, layers_of, stand_in_until};
use std::io::Write;
use std::path::PathBuf;
use std::sync::Mutex;

/// How a model is fitted.
#[derive(Debug, clap::Args)]
pub struct Fitting {
    /// Leading directions to keep of keys, values and queries
    #[arg(long, value_name = "N", default_value_t = FitOptions::default().rank)]
    rank: usize,
    /// Base of the RoPE frequencies, instead of the one found from the keys
    #[arg(long, value_name = "THETA")]
    rope_theta: Option<f64>,
    /// Elements that RoPE rotates together, instead of those found from the keys: halves (i and i + dim/2) or
    /// interleaved (2i and 2i + 1)
    #[arg(long, value_name = "PAIRS")]
    rope_pairs: Option<String>,
    /// How the rotation is rescaled, instead of as the dump says or as found from the keys: none, or YaRN with a factor and
    /// the context that it is of ("yarn:4 from 8192 tokens")
    #[arg(long, value_name = "SCALING")]
    rope_scaling: Option<String>,
    /// Number of layers of the model, instead of one more than the dump's last layer
    #[arg(long, value_name = "N")]
    model_layers: Option<u32>,
    /// Positions of the dump's tokens in the text, as ranges (0-63,5952-8063), instead of 0, 1, 2, ...
    #[arg(long, value_name = "RANGES")]
    positions: Option<String>,
}

impl Fitting {
    fn options(&self, layers: Vec<u32>) -> Result<FitOptions> {
        let rope_pairs = match self.rope_pairs.as_deref() {
            None => None,
            Some("halves") => Some(RotaryPairs::Halves),
            Some("interleaved") => Some(RotaryPairs::Interleaved),
            Some(other) => {
                let hint = pimattn_core::error::suggest(other, ["halves", "interleaved"]);
                return Err(Error::Usage(format!("--rope-pairs: unknown \"{other}\"{hint}")));
            }
        };
        let scaling = |text: &str| {
            let wrong = || format!("--rope-scaling: \"{text}\" is neither none nor as \"yarn:4 from 8192 tokens\"");
            SaidScaling::read(text).ok_or_else(|| Error::Usage(wrong()))
        };
        let scaling = self.rope_scaling.as_deref().map(scaling).transpose()?;
        Ok(FitOptions {
            layers,
            model_layers: self.model_layers,
            rank: self.rank,
            rotation: KnownRotation { theta: self.rope_theta, pairs: rope_pairs, scaling },
            positions: self.positions.as_deref().map_or(Ok(Vec::new()), |p| numbers("--positions", p, MOST_TOKENS))?,
        })
    }
}

/// Fit the parameters of synthetic caches to a real cache
#[derive(Debug, clap::Args)]
pub struct Fit {
    /// KV dump: .safetensors, .npz, or a folder of .npy
    #[arg(value_parser = super::named(PresetKind::Cache))]
    dump: PathBuf,
    /// Model to write, for a workload's synthetic.fit; - is standard output
    #[arg(short, long, value_name = "FITTED.toml")]
    output: WrittenFile,
    /// Layers to fit (2,16,29), instead of all
    #[arg(long, value_name = "LAYERS")]
    layers: Option<String>,
    #[command(flatten)]
    fitting: Fitting,
    /// Worker threads; 0 is one per processor
    #[arg(long, value_name = "N", default_value_t = 0)]
    threads: usize,
}

/// Measure how closely synthetic caches agree with a real one
#[derive(Debug, clap::Args)]
pub struct Agree {
    /// KV dump of the real cache
    #[arg(value_parser = super::named(PresetKind::Cache))]
    real: PathBuf,
    /// Model to draw synthetic caches from; without it, one is fitted to the dump
    #[arg(long, value_name = "FITTED", value_parser = super::named(PresetKind::Fitted), conflicts_with_all = ["against", "hold_out"])]
    fit: Option<PathBuf>,
    /// KV dump to compare with, instead of synthetic caches
    #[arg(long, value_name = "FILE", conflicts_with = "hold_out")]
    against: Option<PathBuf>,
    /// Layers to compare; the model is fitted to the dump's other layers
    #[arg(long, value_name = "LAYERS")]
    hold_out: Option<String>,
    /// Fit only to the prefill and its queries, so that the fit has seen no compared decode step
    #[arg(long, conflicts_with_all = ["fit", "against"])]
    before_decode: bool,
    /// Layers to compare (9,23), instead of all
    #[arg(long, value_name = "LAYERS", conflicts_with = "hold_out")]
    layers: Option<String>,
    /// Policies to compare, instead of all
    #[arg(long, value_name = "POLICIES", value_delimiter = ',')]
    policies: Vec<String>,
    /// Budgets to compare
    #[arg(long, value_name = "TOKENS", value_delimiter = ',', default_values_t = [128, 256, 512, 1024, 2048])]
    budgets: Vec<usize>,
    /// Measure every N-th decode position
    #[arg(long, value_name = "N", default_value_t = 16)]
    every: usize,
    /// Synthetic caches to draw; figures are their means
    #[arg(long, value_name = "N", default_value_t = 3)]
    seeds: u64,
    /// First seed
    #[arg(long, value_name = "SEED", default_value_t = 1)]
    seed: u64,
    /// Table to write
    #[arg(short, long, value_name = "CSV")]
    output: Option<WrittenFile>,
    /// Fail (exit code 1) where row tokens differ by more than this share, or policies swap by top_recall over all layers
    #[arg(long, value_name = "SHARE")]
    tolerance: Option<f64>,
    #[command(flatten)]
    fitting: Fitting,
    /// Worker threads; 0 is one per processor
    #[arg(long, value_name = "N", default_value_t = 0)]
    threads: usize,
}

/// Layers, and tokens, that an option may list.
const MOST_LAYERS: usize = 1 << 16;
const MOST_TOKENS: usize = 1 << 28;

/// Numbers and ranges: `2,9` or `0-63,5952-8063`, no more than so many.
fn numbers(option: &str, text: &str, most: usize) -> Result<Vec<u32>> {
    let bad = |part: &str| Error::Usage(format!("{option}: \"{part}\" is not a number or a range such as 2-9"));
    let mut out = Vec::new();
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (u32, u32) =
            (first.trim().parse().map_err(|_| bad(part))?, last.trim().parse().map_err(|_| bad(part))?);
        if last < first {
            return Err(bad(part));
        }
        if (last - first) as usize >= most - out.len() {
            return Err(Error::Usage(format!("{option}: \"{part}\": more than {most} numbers")));
        }
        out.extend(first..=last);
    }
    Ok(out)
}

/// Layers of a model, as an option says them; none where it is not given.
pub(super) fn layers(option: &str, text: Option<&str>) -> Result<Vec<u32>> {
    text.map_or(Ok(Vec::new()), |t| numbers(option, t, MOST_LAYERS))
}

/// Runs `tracegen fit`.
pub fn run_fit(args: &Fit, common: &CommonArgs) -> Result<()> {
    super::threads(args.threads)?;
    let options = args.fitting.options(layers("--layers", args.layers.as_deref())?)?;
    let model = fit_until(&common.cancel, &kv::load_until(&common.cancel, &args.dump)?, &options)?;
    common.note(&fitted_to(&model));
    common.detail(|| described(&model));
    let mut out = Output::create(&args.output)?;
    out.write_all(model.render().as_bytes()).map_err(|e| Error::io(&args.output, e))?;
    out.commit()
}

/// What the model is of, and from which length on a cache of it is longer than that.
fn fitted_to(model: &FittedModel) -> String {
    let (rotation, context) = (model.embedding(), model.context());
    format!(
        "{rotation}; fitted to a text of {context} tokens: longer caches go beyond it, rotation rescaled, and say so"
    )
}

fn described(model: &FittedModel) -> String {
    let layer = |l: &pimattn_kv::fitted::Layer| {
        format!("{} ({} first sinks, {:.2} % later ones)", l.layer, l.first_sinks, 100.0 * l.sink_rate)
    };
    let layers: Vec<String> = model.layers.iter().map(layer).collect();
    format!("{}; layers {}", model.embedding(), layers.join(", "))
}

/// Runs `tracegen agree`.
pub fn run_agree(args: &Agree, common: &CommonArgs) -> Result<()> {
    super::threads(args.threads)?;
    if args.every == 0 || args.seeds == 0 || args.budgets.contains(&0) {
        return Err(Error::Usage("--every, --seeds and --budgets must be at least 1".into()));
    }
    let named = args.policies.iter().map(|p| select::find(p).map(|e| e.name).map_err(Error::Usage));
    let named = named.collect::<Result<Vec<_>>>()?;
    let all = || select::REGISTRY.iter().map(|e| e.name).collect();
    let plan = AgreementPlan {
        policies: if named.is_empty() { all() } else { named },
        budgets: args.budgets.clone(),
        every: args.every,
        seed: args.seed,
    };
    let whole = kv::load_until(&common.cancel, &args.real)?;
    let held = layers("--hold-out", args.hold_out.as_deref())?;
    let mut compared = layers("--layers", args.layers.as_deref())?;
    compared.extend(&held);
    let real = if compared.is_empty() { whole.clone() } else { layers_of(&whole, &compared)? };
    let agreement = match &args.against {
        Some(path) => {
            let other = layers_of(&kv::load_until(&common.cancel, path)?, &real.layers)?;
            compare(&real, 1, |_| Ok(other.clone()), &plan, common)?
        }
        None => {
            let model = match &args.fit {
                Some(path) => FittedModel::load(path)?,
                None => {
                    let rest = whole.layers.iter().copied().filter(|l| !held.contains(l)).collect::<Vec<_>>();
                    if rest.is_empty() {
                        return Err(Error::Usage("--hold-out leaves no layer to fit".into()));
                    }
                    let mut options = args.fitting.options(rest)?;
                    let seen = if args.before_decode {
                        options.positions.truncate(whole.prefill);
                        before_decode(&whole)?
                    } else {
                        whole
                    };
                    fit_until(&common.cancel, &seen, &options)?
                }
            };
            common.detail(|| described(&model));
            let draw = |i| stand_in_until(&common.cancel, &model, &real, args.seed.wrapping_add(i));
            compare(&real, args.seeds, draw, &plan, common)?
        }
    };
    if let Some(path) = &args.output {
        let layout = TableLayout::of(COLUMNS);
        let mut writer = TypedWriter::new(Output::create(path)?, &path.display().to_string(), layout);
        agreement.cells.iter().try_for_each(|cell| writer.row(cell))?;
        writer.finish()?.commit()?;
    }
    if let Some(beyond) = agreement.beyond_fit {
        common.warn(&format!("the synthetic caches have {beyond}"));
    }
    super::print(&agreement.text())?;
    if let Some(tolerance) = args.tolerance {
        let beyond = agreement.beyond(tolerance);
        let swapped = agreement
            .orders
            .iter()
            .filter(|o| o.layer.is_none() && o.measure == columns::TOP_RECALL && !o.swapped.is_empty());
        let swapped = swapped.count();
        if beyond.len() + swapped > 0 {
            return Err(Error::Check(format!(
                "row tokens differ by more than {tolerance} in {} cells; policies swap at {swapped} budgets",
                beyond.len()
            )));
        }
    }
    Ok(())
}

fn compare(
    real: &KvCache,
    caches: u64,
    draw: impl Fn(u64) -> Result<KvCache>,
    plan: &AgreementPlan,
    common: &CommonArgs,
) -> Result<Agreement> {
    let heads = (real.layers.len() * real.kv_heads) as u64;
    let progress = Mutex::new((common.progress("measuring", Some(heads * (caches + 1))), 0));
    let tick = || {
        let mut progress = progress.lock().unwrap_or_else(|e| e.into_inner());
        progress.1 += 1;
        let done = progress.1;
        progress.0.at(done);
    };
    Agreement::new_until(&common.cancel, real, (0..caches).map(draw), plan, &tick)
}
