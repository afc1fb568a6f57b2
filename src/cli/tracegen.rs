//! `tracegen`: KV cache in, trace out.

use super::places::WrittenFile;
use super::{CommonArgs, EXIT_CODES, fit, generate, import_selection, manual};
use crate::presets::PresetKind;
use clap::{CommandFactory, Parser, Subcommand};
use pimattn_attacc::{self as attacc, Attention, Decode, UnitLevel};
use pimattn_core::cancel::Cancel;
use pimattn_core::error::{Error, Result, suggest};
use pimattn_core::fsio::{self, Output, OutputFolder};
use pimattn_core::op::Op;
use pimattn_core::order::{AddressMap, AddressOrder};
use pimattn_core::spec::System;
use pimattn_policies::select::{self, Preparation};
use pimattn_policies::selection::import::FORMS;
use pimattn_trace::folder::{self, FolderTrace};
use pimattn_trace::{self as trace, ExportOptions, FORMATS, Format, Header, MacReads, Record, Sink, Source};
use std::collections::BTreeSet;
use std::ffi::OsString;
use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::{Arc, Mutex};

#[derive(Debug, Parser)]
#[command(name = "tracegen", version = env!("PIMATTN_VERSION"), about = "Turn a KV cache into a trace of decoding on HBM-PIM", after_help = EXIT_CODES, color = super::color_help())]
struct TracegenCli {
    #[command(subcommand)]
    command: TracegenCommand,
    #[command(flatten)]
    common: CommonArgs,
}

impl AsMut<CommonArgs> for TracegenCli {
    fn as_mut(&mut self) -> &mut CommonArgs {
        &mut self.common
    }
}

#[derive(Debug, Subcommand)]
enum TracegenCommand {
    /// Select, map and write the trace of every decode step
    Run(generate::GenerateArgs),
    /// Write the trace of AttAcc's published schedule: dense attention, or the row budget of the STARC artifact
    Attacc(Attacc),
    /// Convert a trace to another format
    Convert(Convert),
    /// Print a device for another simulator
    ExportDevice(ExportDevice),
    /// Show what a trace holds
    Info(Info),
    Fit(fit::Fit),
    Agree(fit::Agree),
    /// Make a selection file of what another program has logged
    ImportSelection(import_selection::ImportArgs),
    /// List selection policies, forms of logged selections, and trace formats
    List,
    /// Print a completion script for a shell
    Completions(manual::CompletionsArgs),
    /// Write man pages, one for each command
    Man(manual::ManArgs),
}

#[derive(Debug, clap::Args)]
struct Attacc {
    /// Where the GEMV units are: bank, bg (bank group) or buffer (die)
    #[arg(long, value_name = "MODE")]
    mode: String,
    /// Heads that the device holds, over all requests; a channel processes one at a time
    #[arg(long, value_name = "N")]
    heads: u32,
    /// Tokens in the cache of each head
    #[arg(long, value_name = "TOKENS")]
    len: u32,
    /// Decode steps, each with one more token in every cache; more than one are labelled, for tables by step
    #[arg(long, value_name = "N", default_value_t = 1)]
    steps: u32,
    /// Elements of one key or value
    #[arg(long, value_name = "ELEMENTS", default_value_t = 128)]
    dim: u32,
    /// Bytes of one element
    #[arg(long, value_name = "BYTES", default_value_t = 2)]
    bytes: u32,
    /// Tokens that a head may attend to, rounded up to rows of 16; for --mode bank
    #[arg(long, value_name = "TOKENS")]
    kv_budget: Option<u32>,
    /// Cluster the keys first, as the artifact does in the last decode step
    #[arg(long)]
    clustering: bool,
    /// Process heads one after the other, instead of in AttAcc's pairs
    #[arg(long)]
    no_pipeline: bool,
    /// System whose device the trace is for, instead of one stack of HBM3 "8Gb 2R" with 16 channels
    #[arg(long, value_name = "SYSTEM", value_parser = super::named(PresetKind::System))]
    config: Option<PathBuf>,
    /// Override a key of the system file; may be given again
    #[arg(long, value_name = "KEY=VALUE", requires = "config")]
    set: Vec<String>,
    /// Trace to write; - is standard output
    #[arg(short, long, value_name = "TRACE")]
    output: WrittenFile,
    /// Trace format
    #[arg(long, value_name = "FORMAT", default_value = "attacc")]
    to: String,
    #[command(flatten)]
    export: Export,
}

#[derive(Debug, clap::Args)]
struct Convert {
    /// Trace to read; - is standard input
    input: PathBuf,
    /// Trace to write; - is standard output. For plain DRAM, a folder also receives everything that the target needs to
    /// run it. A folder is one that exists, a name that ends in /, or with --config a name without an extension
    output: WrittenFile,
    /// Format to write
    #[arg(long, value_name = "FORMAT")]
    to: String,
    /// Format to read (not a write-only one), instead of detecting it from the first bytes
    #[arg(long, value_name = "FORMAT")]
    from: Option<String>,
    /// System whose device a text trace is for
    #[arg(long, value_name = "SYSTEM", value_parser = super::named(PresetKind::System))]
    config: Option<PathBuf>,
    /// Override a key of the system file; may be given again
    #[arg(long, value_name = "KEY=VALUE", requires = "config")]
    set: Vec<String>,
    /// Write one trace for each channel (output to a folder only)
    #[arg(long, requires = "config")]
    per_channel: bool,
    #[command(flatten)]
    export: Export,
}

/// How to write a format that cannot hold everything.
#[derive(Debug, Clone, clap::Args)]
pub struct Export {
    /// File that records what the format could not express, instead of TRACE.manifest.json
    #[arg(long, value_name = "FILE")]
    manifest: Option<WrittenFile>,
    /// Refuse what the format cannot express instead of lowering it
    #[arg(long)]
    strict: bool,
    /// Reads that replace a PIM multiply-accumulate on plain DRAM. banks: one in each of its banks; units: one in each
    /// unit; one: a single read; columns: as banks, but each column once in a decode step of a KV head
    #[arg(long, value_name = "banks|units|one|columns", default_value = "banks")]
    mac_reads: String,
}

#[derive(Debug, clap::Args)]
struct ExportDevice {
    /// Simulator: ramulator21 (a class of its Python)
    #[arg(long, value_name = "NAME")]
    to: String,
    /// System whose device is printed
    #[arg(long, value_name = "SYSTEM", value_parser = super::named(PresetKind::System))]
    config: PathBuf,
    /// Override a key of the system file; may be given again
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
}

#[derive(Debug, clap::Args)]
struct Info {
    /// Trace to read; - is standard input
    trace: PathBuf,
    /// Format to read (not a write-only one), instead of detecting it from the first bytes
    #[arg(long, value_name = "FORMAT")]
    from: Option<String>,
    /// System whose device a text trace is for
    #[arg(long, value_name = "SYSTEM", value_parser = super::named(PresetKind::System))]
    config: Option<PathBuf>,
}

/// Entry point of the binary.
pub fn main() -> ExitCode {
    ExitCode::from(with(std::env::args_os().collect()))
}

/// Runs the program with these arguments, the first of which is its name; the exit code.
pub fn with(args: Vec<OsString>) -> u8 {
    super::run(args, |cli: TracegenCli| match cli.command {
        TracegenCommand::Run(args) => generate::run(args, &cli.common),
        TracegenCommand::Attacc(args) => attacc(&args, &cli.common),
        TracegenCommand::Convert(args) => convert(&args, &cli.common),
        TracegenCommand::ExportDevice(args) => export_device(&args),
        TracegenCommand::Info(args) => info(&args, &cli.common),
        TracegenCommand::Fit(args) => fit::run_fit(&args, &cli.common),
        TracegenCommand::Agree(args) => fit::run_agree(&args, &cli.common),
        TracegenCommand::ImportSelection(args) => import_selection::run(&args, &cli.common),
        TracegenCommand::List => super::print(&list()?),
        TracegenCommand::Completions(args) => manual::completions(&args, TracegenCli::command()),
        TracegenCommand::Man(args) => manual::man(&args, TracegenCli::command()),
    })
}

/// An output that a trace writer owns and the caller commits.
#[derive(Clone)]
struct SharedOutput {
    output: Arc<Mutex<Option<Output>>>,
    cancel: Cancel,
}

impl SharedOutput {
    fn create(path: &Path, cancel: &Cancel) -> Result<Self> {
        Ok(SharedOutput { output: Arc::new(Mutex::new(Some(Output::create(path)?))), cancel: cancel.clone() })
    }

    fn commit(&self) -> Result<()> {
        let output = self.output.lock().unwrap_or_else(|e| e.into_inner()).take();
        output.map_or(Ok(()), Output::commit)
    }

    fn with<T>(&self, f: impl FnOnce(&mut Output) -> std::io::Result<T>) -> std::io::Result<T> {
        match self.output.lock().unwrap_or_else(|e| e.into_inner()).as_mut() {
            Some(output) => f(output),
            None => Err(std::io::Error::other("written after the end")),
        }
    }
}

impl Write for SharedOutput {
    /// An export writes much for one request, so that this is where it is stopped.
    fn write(&mut self, buf: &[u8]) -> std::io::Result<usize> {
        self.cancel.check().map_err(std::io::Error::other)?;
        self.with(|o| o.write(buf))
    }
    fn flush(&mut self) -> std::io::Result<()> {
        self.with(Write::flush)
    }
}

/// A trace that is being written, with its manifest if its format needs one.
pub struct Destination {
    /// Takes its records.
    pub sink: Box<dyn Sink + Send>,
    output: SharedOutput,
    manifest: Option<PathBuf>,
}

impl Destination {
    /// Begins a trace.
    pub fn create(
        format: &Format,
        path: &Path,
        header: &Header,
        export: &Export,
        device: Option<AddressMap>,
        cancel: &Cancel,
    ) -> Result<Self> {
        // PIM operations are addressed in the default order, and so is what stands beside them.
        let order = device.filter(|_| !format.pim).map_or(AddressOrder::default(), |d| d.order);
        let options = ExportOptions { strict: export.strict, mac_reads: MacReads::parse(&export.mac_reads)?, order };
        let to_stdout = path.as_os_str() == "-";
        if to_stdout && format.name == trace::ptrace::FORMAT.name && std::io::stdout().is_terminal() {
            let what =
                format!("{} is binary, and standard output is a terminal: name a file, or a pipe's end", format.name);
            return Err(Error::Usage(what));
        }
        let manifest = match (&export.manifest, format.keeps_all) {
            (Some(_), true) => {
                return Err(Error::Usage(format!("--manifest: {} keeps everything, and has no manifest", format.name)));
            }
            (Some(file), false) => Some(file.to_path_buf()),
            (None, false) if to_stdout && !format.pim => {
                return Err(Error::Usage(format!(
                    "{} does not hold everything: name a file for the losses with --manifest",
                    format.name
                )));
            }
            (None, false) if !to_stdout => {
                let mut name = path.as_os_str().to_owned();
                name.push(".manifest.json");
                Some(PathBuf::from(name))
            }
            (None, _) => None,
        };
        let output = SharedOutput::create(path, cancel)?;
        let sink = (format.create)(Box::new(output.clone()), header, options)?;
        Ok(Destination { sink, output, manifest })
    }

    /// Moves the finished trace and its manifest into place.
    pub fn commit(self, common: &CommonArgs) -> Result<()> {
        let Some(manifest) = self.sink.manifest() else { return self.output.commit() };
        if manifest.format == "ramulator-rw" && manifest.writes > 0 {
            common.warn(
                "ramulator-rw with writes is miscounted by its target, as the manifest says: prefer ramulator-ls",
            );
        }
        if let Some(file) = &self.manifest {
            let mut out = Output::create(file)?;
            out.write_all(manifest.json()?.as_bytes()).map_err(|e| Error::io(file, e))?;
            self.output.commit()?;
            out.commit()?;
        } else {
            self.output.commit()?;
        }
        let (lowered, segments) = (manifest.lowered(), manifest.segments_dropped);
        if lowered + segments > 0 {
            let how = match &self.manifest {
                Some(file) => format!("{} says how", file.display()),
                None => "--manifest FILE would say how".into(),
            };
            common.warn(&format!("{lowered} requests were lowered or dropped, and {segments} segment marks: {how}"));
        }
        Ok(())
    }
}

fn attacc(args: &Attacc, common: &CommonArgs) -> Result<()> {
    let format = trace::format(&args.to)?;
    let system = args.config.as_deref().map(|c| System::load(c, &args.set)).transpose()?;
    if let Some(device) = system.as_ref().map(|s| &s.device) {
        let mac = match UnitLevel::parse(&args.mode)? {
            UnitLevel::Bank => Op::MacAb,
            UnitLevel::BankGroup => Op::MacSb,
            UnitLevel::Buffer => Op::MacPb,
        };
        if let Some(op) =
            [mac, Op::WrGb, Op::MvSb, Op::MvGb, Op::Sfm].iter().find(|op| device.plans[**op as usize].is_none())
        {
            let what = format!("--mode {}: {} has no {}", args.mode, device.name, op.mnemonic());
            return Err(Error::Usage(what));
        }
    }
    let geometry = system.map_or(attacc::DEVICE, |s| s.device.geometry);
    let &Attacc { heads, len, dim, bytes, kv_budget, clustering, .. } = args;
    let attention = Attention { mode: UnitLevel::parse(&args.mode)?, heads, len, dim, bytes, kv_budget, clustering };
    let decode = Decode::new(attention, geometry, args.steps)?.pipelined(!args.no_pipeline);
    if let Some((written, made)) = decode.schedule(args.steps - 1)?.clustering_macs() {
        common.detail(|| format!("clustering: {written} MACs of {made} that the artifact makes are in its trace"));
    }
    let mut trace = Destination::create(format, &args.output, decode.header(), &args.export, None, &common.cancel)?;
    let mut progress = common.progress("generating", Some(decode.rounds()));
    decode.run_until(&common.cancel, trace.sink.as_mut(), &mut |n| progress.at(n))?;
    drop(progress);
    trace.commit(common)
}

fn open(
    path: &Path,
    from: Option<&str>,
    config: Option<&Path>,
    set: &[String],
) -> Result<(Box<dyn Source + Send>, Option<AddressMap>)> {
    let device = config.map(|c| System::load(c, set)).transpose()?.map(|s| s.addressing());
    let format = from.map(trace::readable).transpose()?;
    let (input, name) = (fsio::open(path)?, path.display().to_string());
    let source = match format {
        Some(format) => (format.open)(fsio::decompress(&name, input)?, &name, device)?,
        None => trace::open(input, &name, device)?,
    };
    Ok((source, device))
}

/// Whether `path` is a folder to export to: it exists as one, or does not exist and ends in / or, beside --config, has no
/// extension.
fn is_folder(path: &Path, config: bool) -> bool {
    let slash = path.as_os_str().as_encoded_bytes().ends_with(b"/");
    let bare = config && path.extension().is_none() && path.as_os_str() != "-";
    path.is_dir() || !path.exists() && (slash || bare)
}

/// Writes a trace to a folder, with everything that the target needs to run it.
fn convert_to_folder(args: &Convert, common: &CommonArgs, format: &Format, extension: &str) -> Result<()> {
    let Some(config) = &args.config else {
        return Err(Error::Usage(format!("{} is a folder: name the device with --config", args.output.display())));
    };
    if args.export.manifest.is_some() {
        return Err(Error::Usage("--manifest: a folder contains its own manifest".into()));
    }
    let system = System::load(config, &args.set)?;
    let (mut source, _) = open(&args.input, args.from.as_deref(), args.config.as_deref(), &args.set)?;
    let header = source.header().clone();
    let geometry = header.geometry;
    let folder = OutputFolder::create(&args.output)?;
    let count = if args.per_channel { geometry.channels } else { 1 };
    let name = |channel: u32| match args.per_channel {
        true => format!("trace.ch{channel:02}.{extension}"),
        false => format!("trace.{extension}"),
    };
    // A channel without work gets no file. A single trace is kept even without work: writing it reports the error.
    let mut traces: Vec<(Option<Destination>, bool)> = (0..count).map(|_| (None, !args.per_channel)).collect();
    let (mut block, mut records) = (Vec::new(), 0);
    let mut progress = common.progress("converting", None);
    while source.next_block(&mut block)? {
        common.cancel.check()?;
        for record in &block {
            let channel = match record {
                Record::Request(r) if r.op == Op::Sync => None,
                Record::Request(r) => Some(geometry.channel_of(r.addr)),
                Record::Segment(s) => Some(s.channel),
                Record::Mark(m) => Some(m.channel),
                Record::Arrival(a) => Some(a.channel),
            };
            let range = match (args.per_channel, channel) {
                (false, _) => 0..1,
                (true, Some(channel)) => channel..channel + 1,
                // A sync orders the channels; it goes to each of them.
                (true, None) => 0..count,
            };
            for channel in range {
                let (trace, works) = &mut traces[channel as usize];
                *works |= matches!(record, Record::Request(r) if matches!(r.op, Op::Ld | Op::St) || r.op.is_mac());
                if trace.is_none() {
                    let export = Export {
                        manifest: Some(WrittenFile::from(folder.join(match args.per_channel {
                            true => format!("manifest.ch{channel:02}.json"),
                            false => "manifest.json".into(),
                        }))),
                        ..args.export.clone()
                    };
                    *trace = Some(Destination::create(
                        format,
                        &folder.join(name(channel)),
                        &header,
                        &export,
                        Some(system.addressing()),
                        &common.cancel,
                    )?);
                }
                trace.iter_mut().try_for_each(|t| t.sink.push(*record))?;
            }
        }
        records += block.len() as u64;
        progress.at(records);
    }
    drop(progress);
    let (mut parts, mut done) = (Vec::new(), Vec::new());
    for (channel, (trace, works)) in (0..).zip(traces) {
        let Some(mut trace) = trace.filter(|_| works) else { continue };
        trace.sink.finish()?;
        if let Some(manifest) = trace.sink.manifest() {
            parts.push(FolderTrace { name: name(channel), channel: args.per_channel.then_some(channel), manifest });
        }
        done.push(trace);
    }
    if parts.is_empty() {
        return Err(Error::Check("nothing to write: no operation of this trace accesses memory".into()));
    }
    let files = folder::files(format.name, &system, &parts)?;
    for file in files {
        let path = folder.join(file.name);
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent).map_err(|e| Error::io(parent, e))?;
        }
        let mut out = Output::create(&path)?;
        out.write_all(file.text.as_bytes()).map_err(|e| Error::io(&path, e))?;
        out.commit()?;
    }
    done.into_iter().try_for_each(|trace| trace.commit(common))
}

fn export_device(args: &ExportDevice) -> Result<()> {
    if args.to != "ramulator21" {
        let hint = suggest(&args.to, ["ramulator21"]);
        return Err(Error::Usage(format!("unknown simulator \"{}\"{hint}", args.to)));
    }
    super::print(&folder::ramulator_constraints(&System::load(&args.config, &args.set)?)?)
}

fn convert(args: &Convert, common: &CommonArgs) -> Result<()> {
    let format = trace::format(&args.to)?;
    if let Some(extension) = folder::extension(format.name)
        && is_folder(&args.output, args.config.is_some())
    {
        let new = !args.output.exists();
        let done = convert_to_folder(args, common, format, extension);
        if done.is_err() && new {
            // Unfinished files are already gone; a folder that holds other files stays.
            let _ = std::fs::remove_dir(&args.output);
        }
        return done;
    }
    if args.per_channel {
        let what = format!(
            "--per-channel needs a folder: {} is not one, or {} does not export to one",
            args.output.display(),
            format.name
        );
        return Err(Error::Usage(what));
    }
    let (mut source, device) = open(&args.input, args.from.as_deref(), args.config.as_deref(), &args.set)?;
    let mut trace = Destination::create(format, &args.output, source.header(), &args.export, device, &common.cancel)?;
    let mut progress = common.progress("converting", None);
    let (mut block, mut records) = (Vec::new(), 0);
    while source.next_block(&mut block)? {
        common.cancel.check()?;
        block.iter().try_for_each(|r| trace.sink.push(*r))?;
        records += block.len() as u64;
        progress.at(records);
    }
    trace.sink.finish()?;
    drop(progress);
    trace.commit(common)
}

fn info(args: &Info, common: &CommonArgs) -> Result<()> {
    let (mut source, _) = open(&args.trace, args.from.as_deref(), args.config.as_deref(), &[])?;
    let mut requests = [0u64; Op::COUNT];
    let (mut runs, mut segments, mut block) = (0u64, 0u64, Vec::new());
    let (mut steps, mut layers, mut heads, mut channels) =
        (BTreeSet::new(), BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
    let mut progress = common.progress("reading", None);
    while source.next_block(&mut block)? {
        common.cancel.check()?;
        for r in &block {
            match r {
                Record::Request(r) => {
                    requests[r.op as usize] += u64::from(r.count);
                    runs += 1;
                    if r.op != Op::Sync {
                        channels.insert(source.header().geometry.channel_of(r.addr));
                    }
                }
                Record::Segment(s) => {
                    segments += 1;
                    steps.insert(s.step);
                    layers.insert(s.layer);
                    heads.insert((s.request, s.kv_head));
                }
                Record::Mark(_) | Record::Arrival(_) => {}
            }
        }
        progress.at(runs);
    }
    drop(progress);
    let Header {
        generator,
        geometry: g,
        spec_hash,
        seed,
        config,
        provenance,
        element_bytes,
        heads_per_read,
        selection,
    } = source.header();
    let mut out = String::new();
    let mut line = |key: &str, value: String| out.push_str(&format!("{key:<12} {value}\n"));
    let or_unknown = |s: &String| if s.is_empty() { "unknown".to_string() } else { s.clone() };
    line("generator", or_unknown(generator));
    line("source", or_unknown(provenance));
    if let Some(of) = selection {
        line("selection", format!("{} of {} tokens, {:08x}", of.policy, of.budget, of.selection_hash));
        line("cache hash", of.cache_hash.clone());
        of.cautions.iter().for_each(|caution| line("caution", caution.clone()));
    }
    line("device", g.to_string());
    line("spec hash", format!("{spec_hash:08x}"));
    line("seed", seed.to_string());
    if *element_bytes > 0 {
        line("elements", format!("{element_bytes} B"));
    }
    if *heads_per_read > 1 {
        line("MACs", format!("for {heads_per_read} query heads at a time"));
    }
    line("segments", format!("{segments}: {} steps, {} layers, {} KV heads", steps.len(), layers.len(), heads.len()));
    line("channels", format!("{} used", channels.len()));
    line("requests", format!("{} in {runs} runs", requests.iter().sum::<u64>()));
    for (op, n) in Op::ALL.iter().zip(requests).filter(|(_, n)| *n > 0) {
        line("", format!("{n:>12} {}", op.mnemonic()));
    }
    if !config.is_empty() {
        out.push_str("configuration\n");
        config.lines().for_each(|l| out.push_str(&format!("  {l}\n")));
    }
    super::print(&out)
}

fn list() -> Result<String> {
    let mut out = String::from("policies, the steps after which their work repeats, and what they prepare from\n");
    for e in select::REGISTRY {
        let policy = (e.build)(&toml::Table::new()).map_err(|w| Error::Check(format!("{}: {w}", e.name)))?;
        let from = match policy.prepares_from() {
            Preparation::Nothing => "nothing",
            Preparation::Keys => "keys",
            Preparation::Queries => "keys, queries",
        };
        out.push_str(&format!("  {:<16} {:>4}  {from:<13}  {}\n", e.name, policy.period(), e.summary));
    }
    out.push_str("logged selections, for import-selection\n");
    FORMS.iter().for_each(|f| out.push_str(&format!("  {:<12} {}\n", f.name, f.summary)));
    out.push_str("trace formats\n");
    FORMATS.iter().for_each(|f| out.push_str(&format!("  {:<12} {}\n", f.name, f.summary)));
    Ok(out)
}
