//! A pod's time: when it lived, and which of that is accounted for. Windows come in order and
//! count once, however they overlap; what no window speaks of is lost, and so is a window that
//! something speaks against, or that is far longer than windows are meant to be.

use std::collections::{BTreeSet, VecDeque};

use sealwire_evidence::record::{GapCause, Pod, StopCause};
use time::{Duration, OffsetDateTime};

use super::losses::Losses;
use crate::account::{BytesAccount, CustodyAccount, LossReason, PodAccount, SLOTS, Slot};

/// Windows that wait for a gap record, which may come after them and speak against them.
const WAITING: usize = 16;

/// Gaps remembered as reasons for holes.
const GAPS: usize = 8;

/// The longest that the sidecar lets windows be made.
const LONGEST: Duration = Duration::HOUR;

/// How much longer than twice what it is meant to be a window may be on a busy machine. Beyond it
/// the clock jumped, or everything stood still: one census at its end does not speak for that.
const LATE: Duration = Duration::seconds(30);

/// Between the last window and the stop record.
const STOPPING: Duration = Duration::seconds(1);

/// See the module.
#[derive(Debug)]
pub(crate) struct Lifetime {
    /// What counts.
    from: OffsetDateTime,
    to: OffsetDateTime,
    /// Since when it is known to have lived.
    born: OffsetDateTime,
    /// Since when it must have lived, by records that were dropped.
    dropped_since: Option<OffsetDateTime>,
    /// Up to here, all is decided.
    cursor: OffsetDateTime,
    waiting: VecDeque<Stretch>,
    gaps: VecDeque<(OffsetDateTime, OffsetDateTime, GapCause)>,
    window: Duration,
    stopped: Option<(OffsetDateTime, StopCause)>,
    alive: Duration,
    accounted: Duration,
    losses: Losses,
    slots: Box<[Slot; SLOTS]>,
    boots: u64,
    windows: u64,
}

#[derive(Debug)]
struct Stretch {
    from: OffsetDateTime,
    to: OffsetDateTime,
    loss: Option<LossReason>,
}

impl Lifetime {
    /// Of a pod whose first record is from `born`.
    pub(crate) fn new((from, to): (OffsetDateTime, OffsetDateTime), born: OffsetDateTime) -> Self {
        Self {
            from,
            to,
            born,
            dropped_since: None,
            cursor: born.max(from),
            waiting: VecDeque::new(),
            gaps: VecDeque::new(),
            window: Duration::MINUTE,
            stopped: None,
            alive: Duration::ZERO,
            accounted: Duration::ZERO,
            losses: Losses::default(),
            slots: Box::new([Slot::default(); SLOTS]),
            boots: 0,
            windows: 0,
        }
    }

    /// A run begins, whose windows are meant to be so long, where its record is proven.
    pub(crate) fn start(&mut self, at: OffsetDateTime, window_seconds: Option<u64>) {
        self.stopped = None;
        if let Some(seconds) = window_seconds {
            let meant = Duration::seconds(i64::try_from(seconds).unwrap_or(i64::MAX));
            self.window = meant.clamp(Duration::SECOND, LONGEST);
        }
        if at < self.to {
            self.boots += 1;
        }
    }

    /// A run ended, by a record that is proven: whoever can write the end of a file could say so.
    pub(crate) fn stop(&mut self, at: OffsetDateTime, cause: StopCause) {
        self.stopped = Some((at, cause));
    }

    /// Any other record after a stop: it lives on.
    pub(crate) fn heard(&mut self, at: OffsetDateTime) {
        if self.stopped.is_some_and(|(stopped, _)| at > stopped) {
            self.stopped = None;
        }
    }

    /// Records from then on were dropped.
    pub(crate) fn lived_since(&mut self, at: OffsetDateTime) {
        self.dropped_since = Some(self.dropped_since.map_or(at, |known| known.min(at)));
    }

    pub(crate) fn window(
        &mut self,
        from: OffsetDateTime,
        to: OffsetDateTime,
        loss: Option<LossReason>,
    ) {
        if to > self.from && from < self.to {
            self.windows += 1;
        }
        let is_long = to - from > self.window * 2 + LATE;
        let loss = loss.or(is_long.then_some(LossReason::TooLong));
        self.waiting.push_back(Stretch { from, to, loss });
        if self.waiting.len() > WAITING {
            self.decide();
        }
    }

    pub(crate) fn gap(
        &mut self,
        from: OffsetDateTime,
        to: OffsetDateTime,
        cause: GapCause,
        lost: Option<u64>,
    ) {
        if self.gaps.len() == GAPS {
            self.gaps.pop_front();
        }
        self.gaps.push_back((from, to, cause));
        let loses = match cause {
            GapCause::Overload | GapCause::Storage | GapCause::Clock | GapCause::Other => {
                lost != Some(0)
            }
            // Of these there are no windows, or windows that say it themselves.
            GapCause::Crash | GapCause::NotRunning | GapCause::Unsigned | GapCause::Census => false,
        };
        if loses {
            for stretch in &mut self.waiting {
                if stretch.from < to && from < stretch.to && stretch.loss.is_none() {
                    stretch.loss = Some(LossReason::Gap(cause));
                }
            }
        }
    }

    /// What it comes to; `ended` is when somebody else says that the pod ended. None when it did
    /// not live in the period. What else there is to say of it is filled in by whoever asks.
    pub(crate) fn finish(mut self, ended: Option<OffsetDateTime>) -> Option<PodAccount> {
        // What was written last may not be signed yet, no more than the next window is due.
        while let Some(last) = self.waiting.back()
            && last.loss == Some(LossReason::Unsigned)
            && self.to - last.from <= self.not_due()
        {
            self.waiting.pop_back();
        }
        while !self.waiting.is_empty() {
            self.decide();
        }
        let end = match (self.stopped, ended) {
            (Some((stopped, _)), _) if stopped - self.cursor <= STOPPING => self.cursor,
            (Some((stopped, _)), _) => stopped,
            // The next window is not due yet.
            (None, None) if self.to - self.cursor <= self.not_due() => self.cursor,
            (None, Some(ended)) if ended - self.cursor <= self.not_due() => self.cursor,
            (None, ended) => ended.unwrap_or(self.to),
        };
        let end = end.min(self.to);
        if end > self.cursor {
            let why = self.why(self.cursor, end).unwrap_or(LossReason::LogEnds);
            self.count(self.cursor, end, Some(why));
        }
        if let Some(since) = self.dropped_since {
            let (from, to) = (since.max(self.from), self.born.min(self.to));
            if from < to {
                self.count(from, to, Some(LossReason::Dropped));
            }
        }
        let losses = self.losses.finish();
        (self.alive > Duration::ZERO).then(|| PodAccount {
            pod: Pod::default(),
            identities: BTreeSet::new(),
            alive: self.alive,
            accounted: self.accounted,
            losses: losses.kept,
            losses_count: losses.count,
            longest_lost: losses.longest,
            custody: CustodyAccount::default(),
            bytes: BytesAccount::default(),
            slots: self.slots,
            boots: self.boots,
            windows: self.windows,
            stopped: self.stopped.filter(|(at, _)| *at <= self.to),
            listed: None,
        })
    }

    /// How long before the end no window has to be there yet: the last may still be open, and the one
    /// before be on its way to the disk.
    fn not_due(&self) -> Duration {
        self.window + self.window.min(Duration::MINUTE)
    }

    /// Decides about the window that has waited longest, and about the hole before it.
    fn decide(&mut self) {
        let Some(stretch) = self.waiting.pop_front() else {
            return;
        };
        let (from, to) = (stretch.from.max(self.cursor), stretch.to.min(self.to));
        if to <= from {
            return;
        }
        if from > self.cursor {
            let why = self.why(self.cursor, from).unwrap_or(LossReason::NoWindow);
            self.count(self.cursor, from, Some(why));
        }
        self.count(from, to, stretch.loss);
        self.cursor = to;
    }

    /// The gap that covers most of a hole.
    fn why(&self, from: OffsetDateTime, to: OffsetDateTime) -> Option<LossReason> {
        let overlaps = self.gaps.iter().filter_map(|&(begin, end, cause)| {
            let overlap = end.min(to) - begin.max(from);
            (overlap > Duration::ZERO).then_some((overlap, cause))
        });
        overlaps
            .max_by_key(|(overlap, _)| *overlap)
            .map(|(_, cause)| LossReason::Gap(cause))
    }

    fn count(&mut self, from: OffsetDateTime, to: OffsetDateTime, loss: Option<LossReason>) {
        self.alive += to - from;
        if loss.is_none() {
            self.accounted += to - from;
        }
        self.draw(from, to, loss.is_none());
        if let Some(why) = loss {
            self.losses.add(from, to, why);
        }
    }

    fn draw(&mut self, from: OffsetDateTime, to: OffsetDateTime, accounted: bool) {
        let whole = (self.to - self.from).whole_milliseconds();
        let place = |time: OffsetDateTime| (time - self.from).whole_milliseconds();
        let edge = |slot: usize| whole * i128::try_from(slot).unwrap_or(0) / SLOTS_WIDE;
        let first = usize::try_from(place(from) * SLOTS_WIDE / whole.max(1)).unwrap_or(0);
        for slot in first..SLOTS {
            let begin = edge(slot).max(place(from));
            let end = edge(slot + 1).min(place(to));
            if edge(slot) >= place(to) {
                break;
            }
            let length = u32::try_from((end - begin).max(0)).unwrap_or(u32::MAX);
            let drawn = &mut self.slots[slot];
            drawn.alive = drawn.alive.saturating_add(length);
            if accounted {
                drawn.accounted = drawn.accounted.saturating_add(length);
            }
        }
    }
}

/// [`SLOTS`], for times in milliseconds.
const SLOTS_WIDE: i128 = SLOTS as i128;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use time::macros::datetime;

    use super::*;

    const BEGIN: OffsetDateTime = datetime!(2026-11-25 00:00 UTC);

    fn at(minutes: i64) -> OffsetDateTime {
        BEGIN + Duration::minutes(minutes)
    }

    fn lifetime(born: i64) -> Lifetime {
        let mut lifetime = Lifetime::new((at(0), at(120)), at(born));
        lifetime.start(at(born), Some(60));
        lifetime
    }

    fn windows(lifetime: &mut Lifetime, minutes: std::ops::Range<i64>) {
        for minute in minutes {
            lifetime.window(at(minute), at(minute + 1), None);
        }
    }

    #[test]
    fn windows_without_a_hole_account_for_all_the_time_a_pod_lived() {
        let mut lifetime = lifetime(10);
        windows(&mut lifetime, 10..70);
        lifetime.stop(at(70) + Duration::milliseconds(3), StopCause::Drained);
        let pod = lifetime.finish(None).unwrap();
        assert_eq!(pod.alive, Duration::HOUR);
        assert_eq!(pod.accounted, pod.alive);
        assert!(pod.losses.is_empty());
        // A slot is a minute long here.
        assert_eq!(pod.slots[9], Slot::default());
        let full = Slot {
            alive: 60_000,
            accounted: 60_000,
        };
        assert_eq!(pod.slots[10], full);
        assert_eq!(pod.slots[69], full);
        assert_eq!(pod.slots[70], Slot::default());
    }

    #[test]
    fn a_hole_of_windows_is_lost_with_the_reason_that_a_gap_gives() {
        let mut lifetime = lifetime(0);
        windows(&mut lifetime, 0..30);
        lifetime.gap(at(30), at(35), GapCause::Crash, None);
        windows(&mut lifetime, 35..60);
        windows(&mut lifetime, 61..120);
        let pod = lifetime.finish(None).unwrap();
        assert_eq!(pod.alive, Duration::hours(2));
        assert_eq!(pod.alive - pod.accounted, Duration::minutes(6));
        let lost: Vec<_> = pod
            .losses
            .iter()
            .map(|loss| (loss.from, loss.why))
            .collect();
        assert_eq!(
            lost,
            [
                (at(30), LossReason::Gap(GapCause::Crash)),
                (at(60), LossReason::NoWindow)
            ]
        );
    }

    #[test]
    fn a_log_that_ends_without_a_stop_is_lost_until_the_end_or_until_the_pod_is_known_to_have_ended()
     {
        let mut open = lifetime(0);
        windows(&mut open, 0..30);
        let pod = open.finish(None).unwrap();
        assert_eq!(pod.lost(), Duration::minutes(90));
        assert_eq!(pod.losses[0].why, LossReason::LogEnds);

        let mut ended = lifetime(0);
        windows(&mut ended, 0..30);
        assert_eq!(
            ended.finish(Some(at(40))).unwrap().lost(),
            Duration::minutes(10)
        );
    }

    #[test]
    fn a_window_that_is_not_due_yet_is_not_missed() {
        let mut lifetime = lifetime(0);
        windows(&mut lifetime, 0..119);
        let pod = lifetime.finish(None).unwrap();
        assert_eq!(pod.alive, Duration::minutes(119));
        assert_eq!(pod.lost(), Duration::ZERO);
    }

    #[test]
    fn the_newest_windows_may_wait_for_their_signature_and_older_ones_may_not() {
        let unsigned = Some(LossReason::Unsigned);
        let mut newest = lifetime(0);
        windows(&mut newest, 0..119);
        newest.window(at(119), at(120), unsigned);
        assert_eq!(newest.finish(None).unwrap().lost(), Duration::ZERO);

        let mut older = lifetime(0);
        windows(&mut older, 0..110);
        for minute in 110..120 {
            older.window(at(minute), at(minute + 1), unsigned);
        }
        let pod = older.finish(None).unwrap();
        assert_eq!(pod.lost(), Duration::minutes(8));
        assert_eq!(pod.losses[0].why, LossReason::Unsigned);
    }

    #[test]
    fn a_gap_that_states_lost_records_speaks_against_the_windows_before_it() {
        let mut lifetime = lifetime(0);
        windows(&mut lifetime, 0..120);
        lifetime.gap(at(117), at(118), GapCause::Overload, Some(7));
        let pod = lifetime.finish(None).unwrap();
        assert_eq!(pod.lost(), Duration::MINUTE);
        assert_eq!(pod.losses[0].why, LossReason::Gap(GapCause::Overload));
    }

    #[test]
    fn records_that_were_dropped_leave_time_that_nobody_accounts_for() {
        let mut lifetime = Lifetime::new((at(0), at(120)), at(60));
        windows(&mut lifetime, 60..120);
        lifetime.lived_since(at(-500));
        let pod = lifetime.finish(None).unwrap();
        assert_eq!(pod.alive, Duration::hours(2));
        assert_eq!(pod.accounted, Duration::HOUR);
        assert_eq!(pod.losses[0].why, LossReason::Dropped);
    }

    #[test]
    fn a_pod_of_another_time_is_none_of_this_period() {
        let mut before = lifetime(-60);
        windows(&mut before, -60..-10);
        before.stop(at(-10), StopCause::Drained);
        assert!(before.finish(None).is_none());
    }

    #[test]
    fn a_clock_that_was_set_back_counts_no_time_twice() {
        let mut lifetime = lifetime(0);
        windows(&mut lifetime, 0..60);
        windows(&mut lifetime, 50..120);
        let pod = lifetime.finish(None).unwrap();
        assert_eq!(pod.alive, Duration::hours(2));
        assert_eq!(pod.accounted, Duration::hours(2));
    }

    #[test]
    fn a_window_that_is_far_too_long_accounts_for_nothing() {
        // The clock jumps ahead by an hour, or the machine is suspended for one.
        let mut lifetime = lifetime(0);
        windows(&mut lifetime, 0..30);
        lifetime.window(at(30), at(91), None);
        windows(&mut lifetime, 91..120);
        let pod = lifetime.finish(None).unwrap();
        assert_eq!(pod.lost(), Duration::minutes(61));
        assert_eq!(pod.losses[0].why, LossReason::TooLong);
    }

    #[test]
    fn whatever_a_start_says_of_windows_a_log_that_ends_hours_early_is_missed() {
        let mut lifetime = lifetime(0);
        lifetime.start(at(0), Some(u64::MAX));
        windows(&mut lifetime, 0..50);
        let pod = lifetime.finish(None).unwrap();
        assert_eq!(pod.lost(), Duration::minutes(70));
        assert_eq!(pod.losses[0].why, LossReason::LogEnds);
    }

    proptest! {
        #[test]
        fn what_is_accounted_for_is_never_more_than_the_life(
            windows in prop::collection::vec((-30_i64..150, 1_i64..40, any::<bool>()), 0..40),
            gap in prop::option::of((-30_i64..150, 1_i64..40)),
        ) {
            let mut lifetime = lifetime(-20);
            for &(from, length, good) in &windows {
                let loss = (!good).then_some(LossReason::NoCensus);
                lifetime.window(at(from), at(from + length), loss);
            }
            if let Some((from, length)) = gap {
                lifetime.gap(at(from), at(from + length), GapCause::Overload, None);
            }
            if let Some(pod) = lifetime.finish(None) {
                prop_assert!(pod.accounted <= pod.alive);
                prop_assert!(pod.alive <= Duration::hours(2));
                let drawn = |of: fn(&Slot) -> u32| -> i64 {
                    pod.slots.iter().map(|slot| i64::from(of(slot))).sum()
                };
                prop_assert_eq!(Duration::milliseconds(drawn(|slot| slot.alive)), pod.alive);
                prop_assert_eq!(Duration::milliseconds(drawn(|slot| slot.accounted)), pod.accounted);
            }
        }
    }
}
