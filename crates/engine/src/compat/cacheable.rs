//! What the replay cache needs of a channel of the compat controller ([`crate::replay_cache`]).

use super::controller::CompatController;
use crate::replay_cache::rebase::Rebase;
use crate::replay_cache::{Cacheable, Milestones, mix};
use crate::segments::Segments;
use pimattn_core::spec::Due;
use pimattn_core::units::Cycle;

impl Cacheable for CompatController<'_> {
    fn is_blank(&self) -> bool {
        !self.is_pending() && self.segments.is_unused()
    }

    fn milestones(&self) -> Milestones {
        let next_refresh = self.next_refresh.map(|at| Due { at, turn: 0 });
        Milestones { next_refresh, worked: self.done, done: self.done }
    }

    fn set_milestones(&mut self, milestones: Milestones) {
        (self.next_refresh, self.done) = (milestones.next_refresh.map(|due| due.at), milestones.done);
    }

    fn rebase(&mut self, rebase: &mut Rebase<'_>) {
        self.queues.iter_mut().for_each(|q| q.rebase(&self.nodes, rebase));
        self.nodes.rebase(rebase);
        self.data.iter_mut().for_each(|at| rebase.exact(at));
        self.wake = match self.wake {
            Cycle::MAX => Cycle::MAX,
            due => due.max(rebase.from) - rebase.from + rebase.to,
        };
    }

    fn renumber(&mut self, channel: u32) {
        self.id = channel;
        self.segments = Segments::new(channel);
        self.queues.iter_mut().for_each(|q| q.renumber(channel, &self.device.geometry));
    }

    fn digest(&self, digest: &mut u64) {
        self.queues.iter().for_each(|q| q.digest(digest));
        self.nodes.digest(digest);
        mix(digest, self.wake);
    }

    fn equals(&self, other: &Self) -> bool {
        self.queues == other.queues
            && self.nodes.equals(&other.nodes)
            && self.data == other.data
            && (self.write_mode, self.pim_found, self.wake) == (other.write_mode, other.pim_found, other.wake)
            && self.segments.label() == other.segments.label()
    }

    fn bytes(&self) -> usize {
        self.nodes.bytes() + 4096
    }
}
