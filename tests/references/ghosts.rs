//! Every channel does the work of its own heads, no more and no less; what time costs is paid for all of it. By hand.

use crate::common;

use common::{root, system};
use pimattn_attacc::{Attention, AttentionSchedule, DEVICE, Form, UnitLevel};
use pimattn_core::error::Result;
use pimattn_core::op::Op;
use pimattn_core::spec::{Effect, System};
use pimattn_experiments::attention::{self, Layers};
use pimattn_experiments::end_to_end::cost::{Cost, EnergyComponent};
use pimattn_experiments::end_to_end::layer::LayerPart;
use pimattn_experiments::end_to_end::{
    Model, Platform, Reference, ReplayedStacks, Service, Switches, TokenBudget, serve,
};
use pimattn_mapping::workload::Workload;
use pimattn_stats::energy::Energy;
use pimattn_trace::{Record, Request, Segment, Sink};
use pimattn_tracegen::generate::Generator;
use std::collections::{BTreeMap, BTreeSet};

const HEAD: Attention =
    Attention { mode: UnitLevel::Bank, heads: 1, len: 256, dim: 128, bytes: 2, kv_budget: None, clustering: false };

/// The requests of a schedule.
#[derive(Default)]
struct Requests(Vec<Request>);

impl Sink for Requests {
    fn push(&mut self, record: Record) -> Result<()> {
        if let Record::Request(r) = record {
            self.0.push(r);
        }
        Ok(())
    }
    fn finish(&mut self) -> Result<()> {
        Ok(())
    }
}

fn requests(form: Form, attention: Attention) -> Vec<Request> {
    let mut out = Requests::default();
    AttentionSchedule::of(form, attention, DEVICE).unwrap().run(&mut out, &mut |_| {}).unwrap();
    out.0
}

/// Requests of one operation, and by channel.
fn count(requests: &[Request], op: Op) -> (u64, [u64; 16]) {
    let mut by_channel = [0; 16];
    for r in requests.iter().filter(|r| r.op == op) {
        by_channel[DEVICE.channel_of(r.addr) as usize] += u64::from(r.count);
    }
    (by_channel.iter().sum(), by_channel)
}

/// What one head takes: MACs, queries, scores and outputs out, probabilities, softmax. A vector of 128 elements of 2
/// bytes, an entry of 16 elements.
fn by_hand(mode: UnitLevel, tokens: u64) -> [(Op, u64); 5] {
    // Units with tokens of their own; columns of a vector in each of their banks; targets of scores and probabilities;
    // moves that empty all accumulators of a stripe.
    let (op, units, columns, targets, outputs) = match mode {
        UnitLevel::Bank => (Op::MacAb, 16, 2, 8, 8),
        UnitLevel::BankGroup => (Op::MacSb, 16, 8, 8, 2),
        UnitLevel::Buffer => (Op::MacPb, 2, 8, 1, 1),
    };
    let positions = tokens.div_ceil(units);
    let entries = targets * positions.div_ceil(16);
    [
        (op, 2 * positions * columns),
        (Op::WrGb, 8),
        (Op::MvSb, entries + columns * outputs),
        (Op::MvGb, entries),
        (Op::Sfm, 1),
    ]
}

#[test]
fn a_channel_is_asked_for_what_its_own_heads_take() {
    for mode in UnitLevel::ALL {
        for heads in [1, 16, 17, 20, 31, 32, 33, 48, 50] {
            for len in [1, 40, 256, 1000, 2049] {
                for pipeline in [true, false] {
                    let attention = Attention { mode, heads, len, ..HEAD };
                    let mut out = Requests::default();
                    let schedule = AttentionSchedule::new(attention, DEVICE).unwrap().pipelined(pipeline);
                    schedule.run(&mut out, &mut |_| {}).unwrap();
                    for (op, each) in by_hand(mode, len.into()) {
                        let (all, by_channel) = count(&out.0, op);
                        assert_eq!(all, u64::from(heads) * each, "{attention:?} {pipeline} {op:?}");
                        for (channel, n) in (0..).zip(by_channel) {
                            let here = heads / 16 + u32::from(channel < heads % 16);
                            assert_eq!(n, u64::from(here) * each, "{attention:?} {pipeline} {op:?} {channel}");
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn no_column_is_multiplied_twice_and_every_one_once() {
    for mode in UnitLevel::ALL {
        for (heads, len) in [(17, 256), (33, 1000), (32, 2300)] {
            let attention = Attention { mode, heads, len, ..HEAD };
            let macs = |form| {
                let mut seen: BTreeMap<u64, u32> = BTreeMap::new();
                for r in requests(form, attention) {
                    if matches!(r.op, Op::MacAb | Op::MacSb | Op::MacPb) {
                        (0..r.count).for_each(|i| *seen.entry(r.addr + u64::from(i * r.stride)).or_default() += 1);
                    }
                }
                (seen.len() as u64, seen.into_values().max().unwrap())
            };
            let (_, columns) = by_hand(mode, len.into())[0];
            assert_eq!(macs(Form::Exact), (u64::from(heads) * columns, 1), "{attention:?}");
            // The second head's outputs are those of the first once more.
            assert!(macs(Form::Published).1 > 1, "{attention:?}");
        }
    }
}

#[test]
fn a_row_budget_is_sent_and_multiplied_in_full() {
    for (heads, budget, tokens) in [(17, 256, 256), (64, 1448, 1456), (26, 1539, 1552), (33, 9000, 4001)] {
        let attention = Attention { heads, len: 4001, kv_budget: Some(budget), ..HEAD };
        for (op, each) in by_hand(UnitLevel::Bank, tokens) {
            assert_eq!(count(&requests(Form::Exact, attention), op).0, u64::from(heads) * each, "{attention:?} {op:?}");
        }
    }
}

#[test]
fn the_published_schedule_keeps_its_ghosts() {
    let macs = |form| count(&requests(form, Attention { heads: 17, ..HEAD }), Op::MacAb).0;
    // 17 heads of 64; published, a dummy on 16 channels, and 15 channels repeat the 32 of their outputs.
    assert_eq!((macs(Form::Exact), macs(Form::Published)), (17 * 64, 17 * 64 + 16 + 15 * 32));
    let sent = |form| count(&requests(form, Attention { heads: 32, len: 777, bytes: 1, ..HEAD }), Op::WrGb).0;
    assert_eq!((sent(Form::Exact), sent(Form::Published)), (128, 128));
    let sent = |form| count(&requests(form, Attention { heads: 32, len: 1500, ..HEAD }), Op::WrGb).0;
    assert_eq!((sent(Form::Exact), sent(Form::Published)), (256, 254));
}

#[test]
fn moves_are_as_many_as_the_entries_hold() {
    // Of 32 positions a unit has 32 scores: one entry of 1-byte elements, two of 2, four of 4.
    for (bytes, entries) in [(1, 1), (2, 2), (4, 4)] {
        let attention = Attention { len: 512, bytes, ..HEAD };
        let all = requests(Form::Exact, attention);
        let outputs = 8 * u64::from(bytes.max(1));
        assert_eq!(count(&all, Op::MvGb).0, 8 * entries, "{bytes}");
        assert_eq!(count(&all, Op::MvSb).0, 8 * entries + outputs, "{bytes}");
    }
}

#[test]
fn labels_leave_the_requests_as_they_are() {
    for heads in [5, 17, 32, 49] {
        let attention = Attention { heads, len: 700, ..HEAD };
        let mut labelled = Requests::default();
        let schedule = AttentionSchedule::new(attention, DEVICE).unwrap();
        schedule.run_labelled(&schedule.segments(&Segment::default()), &mut labelled).unwrap();
        let each = |all: Vec<Request>| all.into_iter().map(|r| (r.op, r.addr, r.count)).collect::<Vec<_>>();
        assert_eq!(each(labelled.0), each(requests(Form::Exact, attention)), "{heads}");
    }
}

/// Banks activated.
fn activations(system: &System, form: Form, attention: Attention) -> u64 {
    let layer = attention::replay(system, form, &attention).unwrap();
    let commands = system.device.commands.iter().zip(layer.counters.banks);
    commands.filter(|(c, _)| c.effect == Effect::Open).map(|(_, banks)| banks).sum()
}

#[test]
fn the_second_head_opens_its_own_values() {
    for name in ["hbm3-pim", "attacc-compat"] {
        let system = system(name, &["refresh=none"]);
        let two = |len| Attention { heads: 32, len, ..HEAD };
        let of = |form, len| activations(&system, form, two(len));
        // Up to 256 tokens K and V are a row each of 64 banks.
        assert_eq!(of(Form::Exact, 256), 16 * 2 * 2 * 64, "{name}");
        assert_eq!(of(Form::Exact, 256) - of(Form::Published, 256), 16 * 64, "{name}: a row switch is missing");
        // Of 300 tokens 38 columns: a row and six columns of the next, which nobody else uses.
        assert_eq!(of(Form::Exact, 300), 16 * 2 * 2 * 2 * 64, "{name}");
        // Of nine rows, the last of one head's is the first of the next one's, as published.
        assert_eq!(of(Form::Exact, 2300), 16 * 2 * 2 * 9 * 64, "{name}");
        assert!(of(Form::Published, 2300) < of(Form::Exact, 2300), "{name}");
    }
}

#[test]
fn a_channel_of_each_kind_stands_for_all() {
    for system in [system("hbm3-pim", &[]), system("attacc-compat", &[]), system("attacc-compat", &["refresh=none"])] {
        let mut layers = Layers::new(&system);
        for mode in UnitLevel::ALL {
            for heads in [17, 20, 31, 32, 33, 47, 48] {
                for len in [100, 256, 700] {
                    let attention = Attention { mode, heads, len, ..HEAD };
                    let all = attention::replay(&system, Form::Exact, &attention).unwrap();
                    let short = layers.layer(Form::Exact, attention).unwrap();
                    assert_eq!(short, all, "{} {attention:?}", system.name);
                }
            }
        }
        // 17, 20, 31; 32; 33, 47; 48.
        assert_eq!(layers.replays(), 3 * 4 * 3, "{}", system.name);
    }
}

#[test]
fn heads_on_other_channels_hold_nobody_up() {
    let system = system("hbm3-pim", &[]);
    let mut layers = Layers::new(&system);
    let mut cycles = |heads| layers.layer(Form::Exact, Attention { heads, len: 1000, ..HEAD }).unwrap().cycles;
    assert_eq!(cycles(17), cycles(32));
    assert!(cycles(32) < 2 * cycles(16), "a pair hides what a head alone does not");
    assert_eq!(cycles(33), cycles(48));
}

fn ideal(set: &[&str]) -> Vec<Request> {
    let base = [
        "mapping.addressing=ideal",
        "selection_cost=free",
        "policy=full",
        "dense_layers=1",
        "synthetic.layers=1",
        "synthetic.kv_heads=1",
        "synthetic.query_heads=17",
        "synthetic.prefill=255",
        "synthetic.decode_steps=1",
    ];
    let set: Vec<String> = base.iter().chain(set).map(|s| s.to_string()).collect();
    let (workload, doc) = Workload::load(&root().join("configs/workload/synthetic.toml"), &set).unwrap();
    let mut out = Requests::default();
    Generator::load(workload, &doc, None).unwrap().run(&mut out, None, &mut |_| {}).unwrap();
    out.0
}

#[test]
fn ideal_addressing_has_ghosts_only_where_they_are_asked_for() {
    assert_eq!(count(&ideal(&[]), Op::MacAb).0, 1088);
    assert_eq!(count(&ideal(&["schedule.published=true"]), Op::MacAb).0, 1584);
    let alone = ["schedule.published=true", "schedule.pipeline=false"];
    assert_eq!(count(&ideal(&alone), Op::MacAb).0, 1088, "without pairs there is none");
    let set = ["mapping.addressing=broadcast", "schedule.published=true"].map(String::from);
    let refused = Workload::load(&root().join("configs/workload/synthetic.toml"), &set).unwrap_err().to_string();
    assert!(refused.contains("schedule.published") && refused.contains("ideal"), "{refused}");
}

const SERVICE: Service = Service {
    batch: 16,
    prefill: 2047,
    steps: 1,
    bytes: 2,
    budget: TokenBudget::Full,
    mode: UnitLevel::Bank,
    power_limit: true,
    pipeline: false,
    coprocess: false,
};

fn platform(set: &[&str], switches: Switches) -> Platform {
    let set: Vec<String> = set.iter().map(|s| s.to_string()).collect();
    Platform::load(&root().join("configs/platform/h100-attacc.toml"), &set, switches).unwrap()
}

fn llama() -> Model {
    Model::load(&root().join("configs/model/llama-7b.toml"), &[]).unwrap()
}

/// The step and the prefill of a service, and the system of the stacks.
fn served(platform: &Platform, service: &Service) -> (Cost, Cost, System) {
    let system = platform.pim.as_ref().unwrap().stack(true).unwrap();
    let outcome = serve(platform, &llama(), service, Some(&mut ReplayedStacks::new(&system))).unwrap();
    (outcome.mean(), outcome.prefill, system.clone())
}

fn close(a: f64, b: f64) -> bool {
    (a - b).abs() <= 1e-9 * a.abs().max(b.abs())
}

#[test]
fn a_request_multiplies_as_much_in_any_batch() {
    let pj = |switches, batch: u32, prefill| {
        let service = Service { batch, prefill, ..SERVICE };
        served(&platform(&[], switches), &service).0.component(EnergyComponent::PimCompute) / f64::from(batch)
    };
    let none = Switches::default();
    let batches = [16, 20, 21, 32].map(|batch| pj(none, batch, 2047));
    // 32 layers of 32 heads: scores and outputs of 2,048 tokens of 128 elements, 0.32 pJ each; the softmax's 5
    // operations, a multiply-accumulate being two. The buffers' share is less than a thousandth.
    let hand = |tokens: f64| 32.0 * 32.0 * tokens * (2.0 * 128.0 + 2.5) * 0.32;
    assert!(batches.iter().all(|b| close(*b, batches[0])), "{batches:?}");
    assert!((batches[0] / hand(2048.0) - 1.0).abs() < 1e-3, "{} pJ, by hand {}", batches[0], hand(2048.0));
    assert_eq!(format!("{:.3}", hand(2048.0) * 1e-9), "0.173");
    // A token more takes a column more of every unit.
    let padded = hand(2064.0) / hand(2048.0);
    assert!((pj(none, 21, 2048) / batches[0] / padded - 1.0).abs() < 1e-3);
    let mut published = none;
    published.set(pimattn_experiments::end_to_end::Switch::PublishedSchedule, true);
    assert!(pj(published, 21, 2047) > 1.4 * batches[0], "the reference's ghosts");
}

#[test]
fn platforms_stand_for_the_whole_step() {
    let none = Switches::default();
    let attention_only = ["pim.standing=attention"];
    for service in [SERVICE, Service { batch: 21, pipeline: true, coprocess: true, ..SERVICE }] {
        let (step, prefill, system) = served(&platform(&[], none), &service);
        let (attending, before, _) = served(&platform(&attention_only, none), &service);
        let standing = |cost: &Cost| cost.component(EnergyComponent::PimStanding);
        // 8 devices of 5 stacks.
        let idle = |seconds: f64| 40.0 * Energy::idle(&system, seconds * 1e9).standing();
        let attention = step.seconds[LayerPart::Score as usize];
        assert!(attention > 0.0 && close(step.time(), attending.time()));
        assert!(close(standing(&step), standing(&attending) + idle(step.time() - attention)));
        assert!(close(standing(&prefill), idle(prefill.time())) && standing(&before) == 0.0);
        // Of every channel, the device's power for all the time; refreshes of the attention are counted, not averaged.
        let ns = step.time() * 1e9;
        let power = 640.0 * system.device.energy.background * ns;
        let refresh = 640.0 * system.device.energy.refresh * ns / system.device.clock.ns(system.device.nrefi);
        assert!(standing(&step) >= power && standing(&step) <= power + refresh, "{power} {refresh}");
        assert!(standing(&step) > power + 0.9 * refresh);
        for other in [
            EnergyComponent::PimMemory,
            EnergyComponent::PimCompute,
            EnergyComponent::Dram,
            EnergyComponent::Communication,
        ] {
            assert!(close(step.component(other) + 1.0, attending.component(other) + 1.0), "{other:?}");
        }
    }
    for reference in Reference::ALL {
        let (step, prefill, _) = served(&platform(&[], Switches::of(reference)), &SERVICE);
        assert_eq!([&step, &prefill].map(|c| c.component(EnergyComponent::PimStanding)), [0.0; 2], "published: none");
    }
    let without = serve(&platform(&[], none).gpus_only(), &llama(), &SERVICE, None).unwrap();
    assert_eq!(without.mean().component(EnergyComponent::PimStanding), 0.0);
}

#[test]
fn a_bit_costs_the_same_in_attention_and_in_shared_matrices() {
    let system = system("hbm3-pim", &[]);
    let (device, e) = (&system.device, &system.device.energy);
    let mut checked = BTreeSet::new();
    for op in [Op::MacAb, Op::MacSb, Op::MacPb] {
        let id = device.plans[op as usize].as_ref().unwrap().last;
        let wires = device.commands[usize::from(id)].path_pj_per_bit;
        assert!(close(Energy::mac_pj_per_bit(id, device), e.cell_activation + e.cell_column + wires));
        checked.insert(id);
    }
    assert_eq!(checked.len(), 3);
    let refresh = (0..device.commands.len()).find(|i| device.commands[*i].effect == Effect::Refresh).unwrap();
    assert_eq!(Energy::mac_pj_per_bit(refresh as u8, device), 0.0);
    // A stack's attention and what a full row pays for each bit agree where rows are full.
    let full = Attention { heads: 16, len: 4096, ..HEAD };
    let layer = Layers::new(&system).layer(Form::Exact, full).unwrap();
    let macs = layer.counters.only(device, |e| e == Effect::Mac);
    let bits = 16.0 * 2.0 * 4096.0 * 128.0 * 16.0;
    let per_bit = Energy::mac_pj_per_bit(device.plans[Op::MacAb as usize].as_ref().unwrap().last, device);
    let of = |model| Energy::of(&macs, 0, device, model).array();
    assert!(close(of(pimattn_core::spec::system::EnergyModel::PerByte), bits * per_bit));
}
