//! Work is stopped by its own token: at once where it has not begun, soon where one request never ends, and without a
//! trace in other work of the same process. What Ctrl-C does to the programs is in `cli`.

use crate::common::{Keep, Memory, root, system};
use pimattn::audit::{audit_until, why::why_until};
use pimattn::experiments::end_to_end::{
    Attend, Model, Platform, ReplayedStacks, Service, Switches, TokenBudget, serve_until,
};
use pimattn::experiments::sweep::{self, grid::Grid, store::Store};
use pimattn::kv::fit::{FitOptions, fit_until};
use pimattn::kv::fitted::{self, FittedShape};
use pimattn::kv::rope::RopeScaling;
use pimattn::starc::artifact::{ArtifactBar, ArtifactData, Experiment};
use pimattn::tracegen::agree::{Agreement, measure::AgreementPlan};
use pimattn::{Cancel, Error, Generator, Header, Op, Record, Request, Result, Source, SyntheticSpec, Workload};
use pimattn::{attacc, engine, kv, replay_until, simulate, simulate_until, systems};
use std::sync::mpsc::channel;
use std::time::Duration;

fn stopped<T>(what: &str, result: Result<T>) {
    match result {
        Err(Error::Interrupted) => {}
        Err(e) => panic!("{what}: {e}"),
        Ok(_) => panic!("{what} ran to its end"),
    }
}

fn shape() -> SyntheticSpec {
    SyntheticSpec { layers: 1, kv_heads: 2, query_heads: 4, prefill: 256, decode_steps: 2, ..Default::default() }
}

fn generator(policy: &str) -> Generator {
    let cache = kv::synthetic::generate(&shape()).unwrap();
    Generator::new(systems::load("hbm3-pim").unwrap(), Workload::new(policy, 64), cache).unwrap()
}

/// Work without end, which says when the replay has come so far.
struct Endless {
    header: Header,
    blocks: u32,
    begun: std::sync::mpsc::Sender<()>,
}

impl Source for Endless {
    fn header(&self) -> &Header {
        &self.header
    }
    fn next_block(&mut self, out: &mut Vec<Record>) -> Result<bool> {
        self.blocks += 1;
        if self.blocks == 10 {
            self.begun.send(()).unwrap();
        }
        out.clear();
        out.push(Record::Request(Request { count: 64, ..Request::one(Op::MacAb, 0) }));
        Ok(true)
    }
}

#[test]
fn one_of_two_runs_is_stopped_and_the_other_goes_on() {
    let hbm3 = systems::load("hbm3-pim").unwrap();
    let (stop, keep) = (Cancel::new(), Cancel::new());
    let (begun, wait) = channel();
    let mut endless = Endless { header: Header::foreign(hbm3.device.geometry, "test"), blocks: 0, begun };
    std::thread::scope(|scope| {
        let replayed = scope.spawn(|| replay_until(&stop, &hbm3, &mut endless).map(|outcome| outcome.cycles));
        wait.recv_timeout(Duration::from_secs(60)).unwrap();
        // Both are at work in this process; one is stopped.
        let first = simulate_until(&keep, &generator("quest")).unwrap();
        stop.clone().request();
        stopped("the endless replay", replayed.join().unwrap());
        let second = simulate_until(&keep, &generator("quest")).unwrap();
        let alone = simulate(&generator("quest")).unwrap();
        for outcome in [first, second] {
            assert_eq!((outcome.cycles, outcome.energy.total()), (alone.cycles, alone.energy.total()));
        }
        assert!(!keep.is_requested() && stop.is_requested());
    });
}

#[test]
fn a_request_that_never_ends_is_stopped_in_both_engines_and_controllers() {
    for (name, run) in [("hbm3-pim", engine::Engine::Fast), ("hbm3-pim", engine::Engine::Plain)]
        .into_iter()
        .chain([("attacc-compat", engine::Engine::Fast), ("attacc-compat", engine::Engine::Plain)])
    {
        let (system, cancel) = (system(name, &[]), Cancel::new());
        let header = Header::foreign(system.device.geometry, "test");
        let run_of = Request { count: u32::MAX, ..Request::one(Op::MacAb, 0) };
        let mut source = Memory { header, records: vec![Record::Request(run_of)] };
        std::thread::scope(|scope| {
            let replayed = scope.spawn(|| engine::run_until(&cancel, run, &system, &mut source, &mut (), &mut |_| ()));
            std::thread::sleep(Duration::from_millis(50));
            cancel.request();
            stopped(name, replayed.join().unwrap());
        });
    }
}

#[test]
fn all_long_work_looks_at_its_token() {
    let cancel = Cancel::new();
    cancel.request();
    let sample = root().join("traces/smollm2-135m-rustbook-cut.safetensors");
    stopped("a dump", kv::load_until(&cancel, &sample));
    stopped("a synthetic cache", kv::synthetic::generate_until(&cancel, &shape()));
    let model = fitted::FittedModel::load(&root().join("configs/synthetic/smollm2-135m.toml")).unwrap();
    let cache =
        kv::synthetic::generate(&SyntheticSpec { dim: model.dim, prefill: 512, decode_steps: 8, ..shape() }).unwrap();
    let shape = FittedShape {
        layers: vec![model.layers[0].layer],
        model_layers: model.model_layers,
        kv_heads: 1,
        query_heads: 1,
        dim: model.dim,
        prefill: 64,
        decode_steps: 1,
        prefill_queries: 0,
        element_bytes: 2,
        rope_scaling: RopeScaling::None,
        seed: 1,
    };
    stopped("a fitted cache", fitted::generate_until(&cancel, &model, &shape));
    let options = FitOptions { rank: 4, ..FitOptions::default() };
    stopped("a fit", fit_until(&cancel, &cache, &options));
    let plan = AgreementPlan { policies: vec!["full"], budgets: vec![64], every: 1, seed: 1 };
    let none = std::iter::empty::<Result<kv::KvCache>>();
    stopped("an agreement", Agreement::new_until(&cancel, &cache, none, &plan, &|| ()));

    let made = generator("full");
    stopped("generation", made.run_until(&cancel, &mut Keep::default(), None, &mut |_| ()));
    stopped("a simulation", simulate_until(&cancel, &made));

    let compat = system("attacc-compat", &[]);
    let attention = attacc::Attention {
        mode: attacc::UnitLevel::Bank,
        heads: 1,
        len: 128,
        dim: 128,
        bytes: 2,
        kv_budget: None,
        clustering: false,
    };
    for form in [attacc::Form::Exact, attacc::Form::Published] {
        let schedule = attacc::AttentionSchedule::of(form, attention, compat.device.geometry).unwrap();
        stopped("a schedule", schedule.run_until(&cancel, &mut Keep::default(), &mut |_| ()));
        let wanted = [attention];
        stopped("a stack", ReplayedStacks::new(&compat).until(&cancel).attend(form, &wanted));
    }
    let ArtifactData { models, policies } = ArtifactData::load().unwrap();
    let bar = ArtifactBar {
        model: models[0].clone(),
        policy: policies[0].clone(),
        batch: 1,
        prefill: 128,
        context: 2,
        budgets: None,
        clustering: false,
    };
    stopped("the artifact", Experiment::new(&cancel, &compat, &[bar], &|_, _| ()).map(drop));

    let platform = Platform::load(&root().join("configs/platform/h100-attacc.toml"), &[], Switches::default()).unwrap();
    let llama = Model::load(&root().join("configs/model/llama-7b.toml"), &[]).unwrap();
    let service = Service {
        batch: 1,
        prefill: 128,
        steps: 1,
        bytes: 2,
        budget: TokenBudget::Full,
        mode: attacc::UnitLevel::Bank,
        power_limit: true,
        pipeline: false,
        coprocess: false,
    };
    stopped("a service", serve_until(&cancel, &platform.gpus_only(), &llama, &service, None).map(drop));

    let folder = tempfile::tempdir().unwrap();
    let grid = Grid::load(&root().join("configs/sweep/demo.toml")).unwrap();
    let mut store = Store::open(&grid, folder.path(), &folder.path().join("points")).unwrap();
    stopped("a sweep", sweep::run(&grid, &grid.points(), &mut store, 1, &cancel, &mut |_| ()));

    let log = folder.path().join("log");
    let pim = system("hbm3-pim", &[]);
    let command = &pim.device.commands.iter().find(|c| c.effect.opens()).unwrap().name;
    std::fs::write(&log, format!("1,{command},0,0,0,0,0,0,0,0\n")).unwrap();
    stopped("an audit", audit_until(&cancel, &log, &pim, 1).map(drop));
    stopped("reasons", why_until(&cancel, &log, &pim, 1, &mut |_| ()).map(drop));
}
