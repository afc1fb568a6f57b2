//! Branch and bound over the orders of commands.
//!
//! A schedule is an order of commands, each issued as early as what came before it allows, none before its predecessor. This
//! contains an optimum: take any legal schedule, sort its commands by cycle, and issue each as early as the order allows;
//! every constraint asks for a distance from earlier commands only, so that by induction no command comes later than it did,
//! and the makespan does not grow.
//!
//! Partial schedules are taken in the order of a bound (A*): of each request left, the earliest cycle of its command by what
//! is there and what must still come before it; of all commands that an epoch still needs, the least spanning tree of the
//! distances that they keep from each other, for a sequence of them is a path. Of two partial schedules that have done the
//! same and left the banks alike, the one in which no later command could start sooner is dropped.

use super::problem::{Job, Kind, MOST, Need, Problem};
use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};

/// What was found.
pub struct Optimum {
    /// The least makespan; where the search gave up, a makespan that no schedule beats.
    pub cycles: u32,
    /// A schedule that has it: instances and cycles, in order; none where the search gave up.
    pub schedule: Vec<(usize, u32)>,
    /// Whether the search was finished.
    pub proved: bool,
}

#[derive(Clone)]
struct State {
    done: u16,
    /// Requests of two commands that had the first.
    half: u16,
    now: u32,
    /// When the results so far are there, of requests that barriers wait for; and of all.
    results: u32,
    makespan: u32,
    epoch: u32,
    /// When the present epoch began.
    gate: u32,
    ready: Vec<u32>,
    /// Per atom: the row, from 1; 0 when closed.
    rows: [u8; 32],
    /// Atoms whose row served something since it was opened.
    used: u32,
    /// Per atom, who opened it.
    by: [u8; 32],
    /// Per window and node: when each of its places is free, the first one first.
    free: Vec<u32>,
    /// The last command, in `Search::steps`.
    step: usize,
}

type Key = (u16, u16, [u8; 32], [u8; 32]);

/// A bank that several rows are wanted of, of each of which there is but one way to open it.
struct Bank {
    atom: usize,
    closer: usize,
    /// The least time from closing to opening.
    closed: u32,
    rows: Vec<Row>,
}

struct Row {
    opener: usize,
    /// Requests that need it.
    jobs: u16,
    /// The least distance of their commands.
    between: u32,
}

/// A command of a partial schedule, and the one before it.
struct Step {
    before: usize,
    instance: usize,
    at: u32,
}

struct Search<'p> {
    p: &'p Problem,
    /// Per window and node: where its places begin in `State::free`.
    places: Vec<Vec<usize>>,
    /// Requests that differ in nothing that matters from an older one: they wait for it.
    twin: Vec<Option<usize>>,
    /// Per atom, what opens it and what closes it.
    openers: Vec<Vec<usize>>,
    closers: Vec<Vec<usize>>,
    /// Per request and need: the one instance that can open it, if there is one.
    only_opener: Vec<Vec<Option<usize>>>,
    banks: Vec<Bank>,
    /// `gaps[a][b]`: cycles from the last command of a request to that of a later one that cannot pass it.
    gaps: Vec<Vec<u32>>,
    seen: HashMap<Key, Vec<Vec<u32>>>,
    steps: Vec<Step>,
}

/// The least makespan of a problem; gives up after `limit` partial schedules.
pub fn solve(p: &Problem, limit: u64) -> Optimum {
    let mut s = Search::new(p);
    let mut first = State {
        done: 0,
        half: 0,
        now: 0,
        results: 0,
        makespan: 0,
        epoch: 0,
        gate: 0,
        ready: vec![0; p.instances.len()],
        rows: [0; 32],
        used: 0,
        by: [0; 32],
        free: vec![0; p.windows.iter().map(|w| w.count * w.needs[0].len()).sum()],
        step: 0,
    };
    s.settle(&mut first);
    let mut queue = BinaryHeap::new();
    let mut states = vec![Some(first)];
    queue.push((Reverse(0), 0, Reverse(0)));
    let mut nodes = 0;
    while let Some((Reverse(bound), _, Reverse(id))) = queue.pop() {
        let Some(state) = states[id].take() else { continue };
        if state.done.count_ones() as usize == p.jobs.len() {
            return Optimum { cycles: state.makespan, schedule: s.path(state.step), proved: true };
        }
        nodes += 1;
        if nodes >= limit {
            return Optimum { cycles: bound, schedule: Vec::new(), proved: false };
        }
        for (instance, job, at) in s.choices(&state) {
            let mut next = s.apply(&state, instance, job, at);
            if s.dominated(&next) {
                continue;
            }
            s.steps.push(Step { before: state.step, instance, at });
            next.step = s.steps.len() - 1;
            let bound = s.bound(&next).max(bound);
            queue.push((Reverse(bound), next.done.count_ones(), Reverse(states.len())));
            states.push(Some(next));
        }
    }
    unreachable!("every request can be served")
}

fn members(mut set: u32) -> impl Iterator<Item = usize> {
    std::iter::from_fn(move || {
        let i = set.trailing_zeros();
        (set != 0).then(|| {
            set &= set - 1;
            i as usize
        })
    })
}

/// The least sum of distances that a sequence of some instances, each so often, takes from the first to the last.
fn span(p: &Problem, instances: &[(usize, u32)]) -> u32 {
    let between = |a: usize, b: usize| p.apart[a][b].min(p.apart[b][a]);
    let mut reach: Vec<u32> = instances.iter().skip(1).map(|(i, _)| between(instances[0].0, *i)).collect();
    let mut left: Vec<usize> = instances.iter().skip(1).map(|(i, _)| *i).collect();
    let mut sum = instances.iter().map(|(i, times)| (times - 1) * p.apart[*i][*i]).sum();
    while let Some((at, least)) = reach.iter().copied().enumerate().min_by_key(|(_, r)| *r) {
        sum += least;
        let next = left.swap_remove(at);
        reach.swap_remove(at);
        reach.iter_mut().zip(&left).for_each(|(r, i)| *r = (*r).min(between(next, *i)));
    }
    sum
}

/// Of requests that cannot pass each other: what their commands keep apart, and a change of rows in a bank of both.
fn gaps(p: &Problem, openers: &[Vec<usize>], closers: &[Vec<usize>]) -> Vec<Vec<u32>> {
    let n = p.jobs.len();
    let mut out = vec![vec![0; n]; n];
    for (b, younger) in p.jobs.iter().enumerate() {
        for a in members(u32::from(younger.after)) {
            let older = &p.jobs[a];
            if older.kind != Kind::Column || younger.kind != Kind::Column {
                continue;
            }
            let mut gap = p.apart[older.last][younger.last];
            for (m, n) in older.needs.iter().flat_map(|m| younger.needs.iter().map(move |n| (m, n))) {
                for atom in members(m.atoms & n.atoms).filter(|_| m.row != n.row) {
                    let opened = |c: usize| {
                        let openers = openers[atom].iter().filter(|k| p.instances[**k].opens == n.row);
                        openers.map(|k| p.apart[c][*k] + p.apart[*k][younger.last]).min().unwrap_or(0)
                    };
                    let switch = closers[atom].iter().map(|c| p.apart[older.last][*c] + opened(*c)).min().unwrap_or(0);
                    gap = gap.max(switch);
                }
            }
            out[a][b] = gap;
        }
    }
    out
}

impl Bank {
    fn new(p: &Problem, atom: usize, openers: &[usize], closers: &[usize]) -> Option<Self> {
        let [closer] = *closers else { return None };
        let mut rows = Vec::new();
        for opener in openers {
            let row = p.instances[*opener].opens;
            if openers.iter().filter(|k| p.instances[**k].opens == row).count() > 1 {
                return None;
            }
            let needs =
                |j: &Job| j.kind == Kind::Column && j.needs.iter().any(|n| n.atoms >> atom & 1 == 1 && n.row == row);
            let jobs: Vec<usize> = (0..p.jobs.len()).filter(|j| needs(&p.jobs[*j])).collect();
            let pairs = jobs.iter().flat_map(|a| jobs.iter().filter(move |b| *b != a).map(move |b| (*a, *b)));
            let between = pairs.map(|(a, b)| p.apart[p.jobs[a].last][p.jobs[b].last]).min().unwrap_or(0);
            rows.push(Row { opener: *opener, jobs: jobs.iter().map(|j| 1 << j).sum(), between });
        }
        let closed = rows.iter().map(|r| p.apart[closer][r.opener]).min().unwrap_or(0);
        (!rows.is_empty()).then_some(Bank { atom, closer, closed, rows })
    }
}

impl<'p> Search<'p> {
    fn new(p: &'p Problem) -> Self {
        let closes = |i: &usize| {
            p.jobs.iter().any(|j| j.kind == Kind::Close && j.last == *i || j.needs.iter().any(|n| n.closer == *i))
        };
        let with = |atom: usize| (0..p.instances.len()).filter(move |i| p.instances[*i].atoms >> atom & 1 == 1);
        let openers: Vec<Vec<usize>> =
            (0..p.atoms).map(|a| with(a).filter(|i| p.instances[*i].opens > 0).collect()).collect();
        let closers: Vec<Vec<usize>> = (0..p.atoms).map(|a| with(a).filter(closes).collect()).collect();
        let only = |n: &Need| {
            let of_row = |a: usize| openers[a].iter().filter(|k| p.instances[**k].opens == n.row).count();
            members(n.atoms).all(|a| of_row(a) == 1).then_some(n.opener)
        };
        let mut places = Vec::new();
        let mut at = 0;
        for w in &p.windows {
            let nodes = w.needs[0].len();
            places.push((0..nodes).map(|n| at + n * w.count).collect());
            at += nodes * w.count;
        }
        let behind = |j: usize| p.jobs.iter().map(|o| o.after >> j & 1).collect::<Vec<_>>();
        let alike = |a: usize, b: usize| {
            let (x, y) = (&p.jobs[a], &p.jobs[b]);
            (x.kind, x.epoch, x.last, x.after) == (y.kind, y.epoch, y.last, y.after)
                && x.kind == Kind::Column
                && behind(a) == behind(b)
        };
        Search {
            p,
            places,
            twin: (0..p.jobs.len()).map(|b| (0..b).rev().find(|a| alike(*a, b))).collect(),
            only_opener: p.jobs.iter().map(|j| j.needs.iter().map(only).collect()).collect(),
            banks: (0..p.atoms).filter_map(|a| Bank::new(p, a, &openers[a], &closers[a])).collect(),
            gaps: gaps(p, &openers, &closers),
            openers,
            closers,
            seen: HashMap::new(),
            steps: vec![Step { before: 0, instance: 0, at: 0 }],
        }
    }

    fn path(&self, mut step: usize) -> Vec<(usize, u32)> {
        let mut out = Vec::new();
        while step > 0 {
            let s = &self.steps[step];
            out.push((s.instance, s.at));
            step = s.before;
        }
        out.reverse();
        out
    }

    fn left(&self, s: &State) -> impl Iterator<Item = usize> + use<> {
        let all = (1u32 << self.p.jobs.len()) - 1;
        members(all & !u32::from(s.done))
    }

    /// Whether all of some atoms are at a row, 0 for closed.
    fn at(s: &State, atoms: u32, row: u8) -> bool {
        members(atoms).all(|a| s.rows[a] == row)
    }

    /// Completes what needs no command, and opens the epoch that is reached.
    fn settle(&self, s: &mut State) {
        loop {
            let silent = self.left(s).find(|&j| {
                let job = &self.p.jobs[j];
                job.after & !s.done == 0
                    && match job.kind {
                        Kind::Column => false,
                        Kind::Open => Self::at(s, job.needs[0].atoms, job.needs[0].row),
                        Kind::Close => Self::at(s, self.p.instances[job.last].atoms, 0),
                    }
            });
            let Some(j) = silent else { break };
            self.used(s, self.p.instances[self.p.jobs[j].last].atoms);
            s.done |= 1 << j;
        }
        let next = self.left(s).filter(|j| self.p.jobs[*j].kind == Kind::Column).map(|j| self.p.jobs[j].epoch).min();
        if let Some(next) = next
            && next > s.epoch
        {
            s.epoch = next;
            s.gate = s.results;
        }
    }

    fn used(&self, s: &mut State, atoms: u32) {
        for a in members(atoms) {
            let by = s.by[a];
            s.used |= (0..self.p.atoms).filter(|o| s.rows[*o] != 0 && s.by[*o] == by).map(|o| 1 << o).sum::<u32>();
        }
    }

    fn earliest(&self, s: &State, instance: usize) -> u32 {
        let mut at = s.ready[instance].max(s.now);
        for (w, places) in self.p.windows.iter().zip(&self.places) {
            for (needs, place) in w.needs[instance].iter().zip(places) {
                if *needs > 0 {
                    at = at.max(s.free[place + needs - 1]);
                }
            }
        }
        at
    }

    fn issue(&self, s: &State, instance: usize, at: u32) -> State {
        let mut s = s.clone();
        s.now = at;
        for (ready, apart) in s.ready.iter_mut().zip(&self.p.apart[instance]) {
            *ready = (*ready).max(at + apart);
        }
        for (w, places) in self.p.windows.iter().zip(&self.places) {
            for (takes, place) in w.takes[instance].iter().zip(places) {
                let free = &mut s.free[*place..place + w.count];
                for after in takes {
                    free.rotate_left(1);
                    free[w.count - 1] = at + after + w.latency;
                }
            }
        }
        s
    }

    fn finish(&self, s: &mut State, j: usize, at: u32) {
        let job = &self.p.jobs[j];
        s.done |= 1 << j;
        let result = at + job.done;
        s.makespan = s.makespan.max(result);
        if job.kind == Kind::Column {
            s.results = s.results.max(result);
        }
    }

    /// Whether `closer` may close what is open for `j`.
    fn may_close(&self, s: &State, j: usize, closer: usize) -> bool {
        let atoms = self.p.instances[closer].atoms;
        let open = members(atoms).filter(|a| s.rows[*a] != 0).map(|a| 1 << a).sum::<u32>();
        // No older request loses its row, if it has it.
        let older = self.left(s).take_while(|o| *o < j).flat_map(|o| &self.p.jobs[o].needs);
        if older.into_iter().any(|n| n.atoms & open != 0 && Self::at(s, n.atoms, n.row)) {
            return false;
        }
        // What was opened for nothing need not have been opened.
        let whole = |a: usize| (0..self.p.atoms).all(|o| s.rows[o] == 0 || s.by[o] != s.by[a] || atoms >> o & 1 == 1);
        open != 0 && (open & s.used != 0 || !members(open).all(whole))
    }

    /// The row command that `j` asks for to have a need met, if it may ask for one.
    fn row_command(&self, s: &State, j: usize, need: usize) -> Option<usize> {
        let job = &self.p.jobs[j];
        let n = &job.needs[need];
        if Self::at(s, n.atoms, n.row) {
            return None;
        }
        // In a bank, the oldest request that is left decides on the row.
        let in_the_way = |o: usize| {
            let older = &self.p.jobs[o];
            let shares = self.p.instances[older.last].atoms & n.atoms != 0;
            let alike = older.kind == Kind::Column
                && older.needs.iter().filter(|m| m.atoms & n.atoms != 0).all(|m| m.row == n.row);
            older.needs.iter().any(|m| m.atoms & n.atoms != 0 && m.row != n.row) || shares && !alike
        };
        if self.left(s).take_while(|o| *o < j).any(in_the_way) {
            return None;
        }
        if Self::at(s, n.atoms, 0) {
            return Some(n.opener);
        }
        // It may be closed as early as for the oldest request that waits for this row in some of the banks.
        let waits = |o: &Need| o.row == n.row && o.atoms & n.atoms == o.atoms && !Self::at(s, o.atoms, o.row);
        let first = self.left(s).find(|o| self.p.jobs[*o].needs.iter().any(waits)).unwrap_or(j);
        self.may_close(s, first.min(j), n.closer).then_some(n.closer)
    }

    /// All that could be issued next: instance, the job that it completes a command of, and when.
    fn choices(&self, s: &State) -> Vec<(usize, Option<usize>, u32)> {
        let mut out: Vec<(usize, Option<usize>, u32)> = Vec::new();
        let mut add = |instance, job, gate: u32| {
            if !out.iter().any(|(i, j, _)| (*i, *j) == (instance, job)) {
                out.push((instance, job, self.earliest(s, instance).max(gate)));
            }
        };
        for j in self.left(s) {
            let job = &self.p.jobs[j];
            let free = job.after & !s.done == 0;
            for need in 0..job.needs.len() {
                if let Some(c) = self.row_command(s, j, need) {
                    // An opening completes its request by `settle`: but its result counts.
                    let of = (job.kind == Kind::Open && c == job.last && free).then_some(j);
                    add(c, of, 0);
                }
            }
            match job.kind {
                Kind::Column => {
                    let rows = job.needs.iter().all(|n| Self::at(s, n.atoms, n.row));
                    let twin = self.twin[j].is_some_and(|t| s.done >> t & 1 == 0);
                    if free && rows && job.epoch == s.epoch && !twin {
                        add(job.last, Some(j), s.gate);
                    }
                }
                Kind::Close if free && self.may_close(s, j, job.last) => add(job.last, Some(j), 0),
                _ => {}
            }
        }
        out
    }

    fn apply(&self, s: &State, instance: usize, job: Option<usize>, at: u32) -> State {
        let mut next = self.issue(s, instance, at);
        let i = &self.p.instances[instance];
        let effect_closes = i.opens == 0 && job.is_none_or(|j| self.p.jobs[j].kind == Kind::Close);
        if i.opens > 0 {
            for a in members(i.atoms) {
                (next.rows[a], next.by[a]) = (i.opens, instance as u8);
            }
            next.used &= !i.atoms;
        } else if effect_closes {
            members(i.atoms).for_each(|a| next.rows[a] = 0);
            next.used &= !i.atoms;
        }
        if let Some(j) = job {
            let of = &self.p.jobs[j];
            if of.kind == Kind::Column {
                let atoms = of.needs.iter().map(|n| n.atoms).fold(0, |a, b| a | b);
                self.used(&mut next, atoms);
            }
            if of.kind == Kind::Open {
                self.used(&mut next, i.atoms);
            }
            if of.passes == 2 && next.half >> j & 1 == 0 {
                next.half |= 1 << j;
            } else {
                self.finish(&mut next, j, at);
            }
        }
        self.settle(&mut next);
        next
    }

    /// A makespan that no continuation beats.
    fn bound(&self, s: &State) -> u32 {
        let p = self.p;
        let soon: Vec<u32> = (0..p.instances.len()).map(|i| self.earliest(s, i)).collect();
        let mut start = [0u32; MOST];
        let commands = |j: usize| u32::from(p.jobs[j].passes) - u32::from(s.half >> j & 1);
        let (mut epoch, mut gate, mut results) = (s.epoch, s.gate, s.results);
        let mut of_epoch = 0u16;
        let close = |of_epoch: u16, start: &[u32; MOST], results: u32| {
            let jobs = || members(u32::from(of_epoch));
            let Some(first) = jobs().map(|j| start[j]).min() else { return results };
            let tail = jobs().map(|j| p.jobs[j].done).min().unwrap_or(0);
            let columns: Vec<(usize, u32)> = jobs().map(|j| (p.jobs[j].last, commands(j))).collect();
            let mut results = results.max(first + span(p, &columns) + tail);
            // The same for the rows to open, of which there is but one way to.
            let mut openings: Vec<(usize, u32)> = Vec::new();
            let mut tail = u32::MAX;
            for j in jobs() {
                for (n, only) in p.jobs[j].needs.iter().zip(&self.only_opener[j]) {
                    let Some(k) = only.filter(|_| !Self::at(s, n.atoms, n.row)) else { continue };
                    tail = tail.min(p.apart[k][p.jobs[j].last] + p.jobs[j].done);
                    if !openings.contains(&(k, 1)) {
                        openings.push((k, 1));
                    }
                }
            }
            if let Some(first) = openings.iter().map(|(k, _)| soon[*k]).min() {
                results = results.max(first + span(p, &openings) + tail);
            }
            for bank in &self.banks {
                results = results.max(self.bank_bound(s, bank, of_epoch, &soon));
            }
            results
        };
        for j in self.left(s) {
            let job = &p.jobs[j];
            let mut at = 0;
            for o in members(u32::from(job.after & !s.done)) {
                let older = p.jobs[o].last;
                at = at.max(start[o] + (commands(o) - 1) * p.apart[older][older] + self.gaps[o][j]);
            }
            if job.kind != Kind::Column {
                start[j] = at;
                continue;
            }
            if job.epoch != epoch {
                results = close(of_epoch, &start, results);
                (epoch, gate, of_epoch) = (job.epoch, results, 0);
            }
            at = at.max(gate).max(soon[job.last]);
            for n in &job.needs {
                for a in members(n.atoms).filter(|a| s.rows[*a] != n.row) {
                    let closed = self.closers[a].iter().map(|c| (*c, soon[*c]));
                    let opened = |k: usize| match s.rows[a] {
                        0 => soon[k],
                        _ => soon[k].max(closed.clone().map(|(c, at)| at + p.apart[c][k]).min().unwrap_or(0)),
                    };
                    let openers = self.openers[a].iter().filter(|k| p.instances[**k].opens == n.row);
                    at = at.max(openers.map(|k| opened(*k) + p.apart[*k][job.last]).min().unwrap_or(0));
                }
            }
            start[j] = at;
            of_epoch |= 1 << j;
            results = results.max(at + (commands(j) - 1) * p.apart[job.last][job.last] + job.done);
        }
        close(of_epoch, &start, results).max(s.makespan)
    }

    /// When the last result of a bank is there, of which some requests need several rows: each is opened, used and closed
    /// before the next one opens.
    fn bank_bound(&self, s: &State, bank: &Bank, of_epoch: u16, soon: &[u32]) -> u32 {
        let p = self.p;
        let row = s.rows[bank.atom];
        let (mut sum, mut longest, mut tail, mut first) = (0, 0, u32::MAX, u32::MAX);
        for r in bank.rows.iter().filter(|r| r.jobs & of_epoch != 0 && p.instances[r.opener].opens != row) {
            let jobs = || members(u32::from(r.jobs & of_epoch)).map(|j| &p.jobs[j]);
            let until = |from: u32| from + p.apart[bank.closer][r.opener];
            first = first.min(if row == 0 { soon[r.opener] } else { soon[r.opener].max(until(soon[bank.closer])) });
            let spaced = (jobs().count() as u32 - 1) * r.between;
            let use_of = |j: &Job| p.apart[r.opener][j.last] + p.apart[j.last][bank.closer];
            let used = jobs().map(use_of).min().unwrap_or(0) + spaced;
            let open = used.max(p.apart[r.opener][bank.closer]) + bank.closed;
            (sum, longest) = (sum + open, longest.max(open));
            tail = tail.min(jobs().map(|j| p.apart[r.opener][j.last] + j.done).min().unwrap_or(0) + spaced);
        }
        if first == u32::MAX { 0 } else { first + sum - longest + tail }
    }

    /// Whether another partial schedule has been as good; else remembers this one.
    fn dominated(&mut self, s: &State) -> bool {
        let p = self.p;
        let mut relevant = vec![false; p.instances.len()];
        for j in self.left(s) {
            relevant[p.jobs[j].last] = true;
            for n in &p.jobs[j].needs {
                (relevant[n.opener], relevant[n.closer]) = (true, true);
            }
        }
        let mut times: Vec<u32> =
            s.ready.iter().zip(&relevant).map(|(r, keep)| if *keep { (*r).max(s.now) } else { 0 }).collect();
        times.extend([s.gate.max(s.now), s.results.max(s.now), s.makespan]);
        times.extend(s.free.iter().map(|t| (*t).max(s.now)));
        // Who opened a row matters only until it served.
        let mut by = [0; 32];
        members(!s.used & ((1u64 << p.atoms) - 1) as u32).for_each(|a| by[a] = s.by[a]);
        let seen = self.seen.entry((s.done, s.half, s.rows, by)).or_default();
        if seen.iter().any(|o| o.iter().zip(&times).all(|(a, b)| a <= b)) {
            return true;
        }
        seen.retain(|o| !times.iter().zip(o).all(|(a, b)| a <= b));
        seen.push(times);
        false
    }
}
