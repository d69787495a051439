//! Stretches of time that are not as they should be: the longest one by one, and how many there
//! were. Those that come one right after the other for the same reason are one.

use time::{Duration, OffsetDateTime};

use crate::account::{Loss, LossReason};

/// The longest that are kept one by one.
const KEPT: usize = 16;

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Losses {
    /// The one that may still grow.
    losing: Option<Loss>,
    /// What is lost without a break, whatever the reasons.
    stretch: Option<(OffsetDateTime, OffsetDateTime)>,
    longest: Duration,
    kept: Vec<Loss>,
    count: u64,
}

/// What they come to.
#[derive(Clone, Debug, Default)]
pub(crate) struct LossesTotal {
    /// The longest, longest first.
    pub(crate) kept: Vec<Loss>,
    /// How many there were.
    pub(crate) count: u64,
    /// The longest time without a break, whatever the reasons.
    pub(crate) longest: Duration,
}

impl Losses {
    /// Another stretch, later than those before.
    pub(crate) fn add(&mut self, from: OffsetDateTime, to: OffsetDateTime, why: LossReason) {
        let begun = match self.stretch {
            Some((begun, ended)) if ended == from => begun,
            _ => from,
        };
        self.stretch = Some((begun, to));
        self.longest = self.longest.max(to - begun);
        match &mut self.losing {
            Some(losing) if losing.why == why && losing.to == from => losing.to = to,
            _ => {
                self.keep();
                self.losing = Some(Loss { from, to, why });
            }
        }
    }

    /// There are no more.
    pub(crate) fn finish(mut self) -> LossesTotal {
        self.keep();
        LossesTotal {
            kept: self.kept,
            count: self.count,
            longest: self.longest,
        }
    }

    /// Keeps the one that ended if it is among the longest.
    fn keep(&mut self) {
        let Some(lost) = self.losing.take() else {
            return;
        };
        self.count += 1;
        let length = |loss: &Loss| loss.to - loss.from;
        let place = self
            .kept
            .partition_point(|known| length(known) >= length(&lost));
        self.kept.insert(place, lost);
        self.kept.truncate(KEPT);
    }
}

#[cfg(test)]
mod tests {
    use time::macros::datetime;

    use super::*;

    #[test]
    fn what_follows_for_another_reason_is_another_loss_of_one_stretch() {
        let at = |seconds| datetime!(2026-11-25 00:00 UTC) + Duration::seconds(seconds);
        let mut losses = Losses::default();
        losses.add(at(0), at(4), LossReason::NoCensus);
        losses.add(at(4), at(8), LossReason::Sockets);
        losses.add(at(8), at(11), LossReason::Sockets);
        losses.add(at(20), at(21), LossReason::NoCensus);
        let total = losses.finish();
        assert_eq!(total.count, 3);
        assert_eq!(total.longest, Duration::seconds(11));
        assert_eq!(
            (total.kept[0].from, total.kept[0].to),
            (at(4), at(11)),
            "the longest first"
        );
    }
}
