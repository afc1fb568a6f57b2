//! Accounts of intervals that the replay cache looked up: what an interval adds to a channel's books is worked out once for each
//! state of the account that it meets, and multiplied.
//!
//! While a channel does nothing but such intervals, its account is kept as the cache keeps a channel's state (see
//! [`pimattn_engine::replay_cache`]): in canonical form, cycles counted from [`NOW`], and compared in full. An account depends on
//! the commands and on itself alone, so an equal account that meets the same interval again ends as before and adds the same
//! to the books. All that is written down each time is that it happened; the books are made up when anything else happens
//! ([`CachedAccounts::settle`]).

use super::account::{ChannelAccount, Durations, TimeOwner};
use super::books::{Books, PARTS, PhaseCounts};
use super::counters::Rules;
use foldhash::fast::FixedState;
use pimattn_core::units::Cycle;
use pimattn_engine::probe::{CommandEvent, NO_REQUEST};
use pimattn_engine::replay_cache::{CachedInterval, EventKind, GroupEvents, NOW, Occurrence};
use std::collections::HashMap;

/// Transitions, or accounts, above which everything is put into the books and forgotten.
const MAX_ENTRIES: usize = 1 << 13;

/// An account between two intervals.
#[derive(Clone, PartialEq)]
struct CachedAccount {
    sweep: ChannelAccount,
    /// Row switches of each part of the books of which it is not known how many banks they are for.
    open: [u64; PARTS],
}

/// Which account a channel has, and since when.
#[derive(Clone, Copy, PartialEq)]
struct AccountCursor {
    account: usize,
    now: Cycle,
}

/// What an interval does to an account.
struct AccountTransition {
    to: usize,
    /// What it adds to the books, part by part.
    adds: Vec<(usize, PhaseCounts)>,
    /// How often it happened, by channel, since the channel's books were made up.
    times: Vec<u64>,
}

/// The accounts of channels that do nothing but what the replay cache looked up.
#[derive(Default)]
pub struct CachedAccounts {
    channels: Vec<Option<AccountCursor>>,
    /// How many channels are in `channels`.
    active: usize,
    accounts: Vec<CachedAccount>,
    by_digest: HashMap<u64, Vec<usize>, FixedState>,
    /// Transitions by interval, group of its channels, and account.
    known: HashMap<(u64, u32, usize), usize, FixedState>,
    transitions: Vec<AccountTransition>,
}

impl CachedAccounts {
    /// No channel has an account here yet.
    pub fn new(channels: usize) -> Self {
        CachedAccounts { channels: vec![None; channels], ..CachedAccounts::default() }
    }

    /// Whether any channel has its account here.
    #[inline]
    pub fn is_active(&self) -> bool {
        self.active > 0
    }

    /// Whether it is time to [`CachedAccounts::settle`] all channels, and to [`CachedAccounts::forget`].
    pub fn is_full(&self) -> bool {
        self.transitions.len().max(self.accounts.len()) >= MAX_ENTRIES
    }

    /// Forgets all transitions and accounts; all channels must be settled.
    pub fn forget(&mut self) {
        self.accounts.clear();
        self.by_digest.clear();
        self.known.clear();
        self.transitions.clear();
    }

    /// Writes down an interval, a group of its channels by its index, for one channel of the group. False where it cannot, and
    /// then nothing has changed.
    pub fn take(
        &mut self,
        (interval, group): (&CachedInterval, usize),
        occurrence: &Occurrence<'_>,
        channel: usize,
        (sweep, books): (&mut ChannelAccount, &mut Books),
        rules: (&Durations, &Rules),
    ) -> bool {
        let at = match self.channels[channel] {
            Some(at) if at.now == occurrence.begin => at,
            Some(_) => return false,
            None => match self.enter(occurrence.begin, sweep, books) {
                Some(at) => {
                    self.active += 1;
                    at
                }
                None => return false,
            },
        };
        let key = (interval.id, group as u32, at.account);
        let events = &interval.groups[group];
        let transition = match self.known.get(&key) {
            Some(transition) => *transition,
            None => match self.work_out(events, at.account, rules) {
                Some((adds, account)) => {
                    let to = self.index_of(account);
                    self.transitions.push(AccountTransition { to, adds, times: vec![0; self.channels.len()] });
                    self.known.insert(key, self.transitions.len() - 1);
                    self.transitions.len() - 1
                }
                None => {
                    // The account is all there: the caller settles it before the interval is told event by event.
                    self.channels[channel] = Some(at);
                    return false;
                }
            },
        };
        let transition = &mut self.transitions[transition];
        transition.times[channel] += 1;
        self.channels[channel] = Some(AccountCursor { account: transition.to, now: occurrence.begin + events.cycles });
        true
    }

    /// Puts what a channel has done into its books, and gives its account back.
    pub fn settle(&mut self, channel: usize, sweep: &mut ChannelAccount, books: &mut Books) {
        let Some(at) = self.channels[channel].take() else { return };
        self.active -= 1;
        for transition in &mut self.transitions {
            let times = std::mem::take(&mut transition.times[channel]);
            if times > 0 {
                transition.adds.iter().for_each(|(part, add)| books.loose.at(*part).add_times(add, times));
            }
        }
        let account = &self.accounts[at.account];
        for (part, open) in account.open.iter().enumerate().filter(|(_, open)| **open > 0) {
            books.loose.at(part).time.put_open(*open);
        }
        let moved = account.sweep.clone().shifted(NOW, at.now);
        *sweep = moved.unwrap_or_else(|| unreachable!("an account can be moved to any cycle at which it was met"));
    }

    /// Takes over the account of a channel; none where that is of a segment, or too late.
    fn enter(&mut self, now: Cycle, sweep: &ChannelAccount, books: &mut Books) -> Option<AccountCursor> {
        if now < books.met || !books.open.is_empty() || !sweep.is_loose() {
            return None;
        }
        let sweep = sweep.clone().shifted(now, NOW)?;
        let open = open_switches(books);
        Some(AccountCursor { account: self.index_of(CachedAccount { sweep, open }), now })
    }

    /// What the events of a group add to the books, and the account after them.
    fn work_out(
        &self,
        group: &GroupEvents,
        account: usize,
        (durations, rules): (&Durations, &Rules),
    ) -> Option<(Vec<(usize, PhaseCounts)>, CachedAccount)> {
        let CachedAccount { mut sweep, open } = self.accounts[account].clone();
        let mut books = Books::default();
        for (part, open) in open.into_iter().enumerate().filter(|(_, open)| *open > 0) {
            books.loose.at(part).time.put_open(open);
        }
        for event in &group.events {
            let work = TimeOwner { segment: 0, phase: event.phase };
            match event.kind {
                EventKind::Command { command, banks, units, completes } => {
                    let cycle = NOW + Cycle::from(event.at);
                    let (address, phase) = (event.address, event.phase);
                    let (segment, request) = (0, NO_REQUEST);
                    let e = CommandEvent { cycle, command, address, banks, units, segment, phase, completes, request };
                    sweep.command(&e, work, durations, &mut books);
                    books.counters(work, cycle).command(&e, rules);
                }
                EventKind::Barrier => {}
                EventKind::Silent(op) => books.part(work).counters.silent(op),
            }
        }
        let sweep = sweep.shifted(NOW + group.cycles, NOW)?;
        let open = open_switches(&mut books);
        Some((books.loose.used().map(|(i, part)| (i, part.clone())).collect(), CachedAccount { sweep, open }))
    }

    /// The index of an account, which is stored if it is new.
    fn index_of(&mut self, account: CachedAccount) -> usize {
        let same = self.by_digest.entry(account.sweep.digest()).or_default();
        if let Some(found) = same.iter().find(|s| self.accounts[**s] == account) {
            return *found;
        }
        same.push(self.accounts.len());
        self.accounts.push(account);
        self.accounts.len() - 1
    }
}

/// Takes the open row switches out of the books, by part.
fn open_switches(books: &mut Books) -> [u64; PARTS] {
    let mut open = [0; PARTS];
    let used: Vec<usize> = books.loose.used().map(|(part, _)| part).collect();
    used.into_iter().for_each(|part| open[part] = books.loose.at(part).time.take_open());
    open
}
