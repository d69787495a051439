//! How long a call takes in the device. Places and rates are kept in the shared state as moments of
//! the monotonic clock, so they hold over all processes: a call books the place that is free
//! first, and waits for its end. Booking is in order of arrival, and nobody holds a lock.

use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::{AcqRel, Acquire};
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

use crate::device::settings::{Distribution, Latency, Settings};
use crate::device::state::State;
use crate::pkcs11::Function;

/// A moment of the monotonic clock, in nanoseconds; the same for every process.
#[derive(Copy, Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(super) struct Moment(u64);

impl Moment {
    /// This moment.
    pub(super) fn now() -> Self {
        let now = clock_gettime(ClockId::Monotonic);
        let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
        Self(seconds * 1_000_000_000 + u64::try_from(now.tv_nsec).unwrap_or(0))
    }

    /// So much later.
    pub(super) fn after(self, time: Duration) -> Self {
        Self(self.0.saturating_add(nanoseconds(time)))
    }

    /// How long it is until a later one.
    pub(super) fn until(self, later: Self) -> Duration {
        Duration::from_nanos(later.0.saturating_sub(self.0))
    }
}

/// Books a call's time in the device, and gives its end. None when nothing delays it.
pub(super) fn book(
    settings: &Settings,
    state: &State,
    function: Function,
    token: Option<&str>,
) -> Option<Moment> {
    let now = Moment::now();
    let rules = settings.latency.iter();
    let end = rules
        .filter(|rule| rule.matches(function, token))
        .fold(now, |begin, rule| rule.book(state, begin));
    (end > now).then_some(end)
}

impl Latency {
    fn book(&self, state: &State, begin: Moment) -> Moment {
        let length = self.time.map_or(Duration::ZERO, Distribution::sample);
        let Some(rule) = self.name.as_deref().and_then(|name| state.rule(name)) else {
            return begin.after(length);
        };
        let begin = match self.per_second {
            Some(rate) => book_start(&rule.next_start, begin, rate, self.burst.unwrap_or(1)),
            None => begin,
        };
        match self.parallel {
            Some(places) => {
                let places = usize::try_from(places).unwrap_or(usize::MAX);
                let places = places.min(rule.places.len());
                book_place(&rule.places[..places], begin, length)
            }
            None => begin.after(length),
        }
    }
}

impl Distribution {
    fn sample(self) -> Duration {
        match self {
            Self::Fixed(time) => time.0,
            Self::Normal { mean, deviation } => {
                seconds(mean.0.as_secs_f64() + deviation.0.as_secs_f64() * standard_normal())
            }
            Self::LongTailed { median, p99 } => {
                let (median, p99) = (median.0.as_secs_f64(), p99.0.as_secs_f64());
                // The 99th percentile of the standard normal distribution.
                let sigma = (p99 / median).ln() / 2.326_347_874;
                seconds(median * (sigma * standard_normal()).exp())
            }
        }
    }
}

/// Books a start by the rate: a burst begins at once, the others one interval after another.
fn book_start(next: &AtomicU64, begin: Moment, rate: f64, burst: u32) -> Moment {
    let interval = nanoseconds(Duration::from_secs_f64(1.0 / rate));
    let ahead = interval.saturating_mul(u64::from(burst.saturating_sub(1)));
    let book = |next: u64| Some(next.max(begin.0).saturating_add(interval));
    let next = next.fetch_update(AcqRel, Acquire, book).unwrap_or(begin.0);
    Moment(next.saturating_sub(ahead).max(begin.0))
}

/// Books the place that is free first, and gives the end of the booking.
fn book_place(places: &[AtomicU64], begin: Moment, length: Duration) -> Moment {
    loop {
        let free = places.iter().map(|place| (place.load(Acquire), place));
        let Some((free, place)) = free.min_by_key(|(free, _)| *free) else {
            return begin.after(length);
        };
        let end = Moment(free).max(begin).after(length);
        let booked = place.compare_exchange(free, end.0, AcqRel, Acquire);
        if booked.is_ok() {
            return end;
        }
    }
}

/// From two even numbers to a normal one (Box and Muller).
fn standard_normal() -> f64 {
    let (radius, angle) = (1.0 - fastrand::f64(), fastrand::f64());
    (-2.0 * radius.ln()).sqrt() * (std::f64::consts::TAU * angle).cos()
}

fn seconds(seconds: f64) -> Duration {
    Duration::try_from_secs_f64(seconds.max(0.0)).unwrap_or(Duration::ZERO)
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::span::Span;

    const SECOND: u64 = 1_000_000_000;

    /// The time, in milliseconds, that so many of 10,000 do not exceed.
    fn quantile(time: Distribution, of_ten_thousand: usize) -> f64 {
        let mut times: Vec<Duration> = (0..10_000).map(|_| time.sample()).collect();
        times.sort();
        times[of_ten_thousand].as_secs_f64() * 1e3
    }

    #[test]
    fn a_long_tail_has_the_median_and_the_99th_percentile_that_were_asked_for() {
        fastrand::seed(7);
        let time = Distribution::LongTailed {
            median: Span::millis(10),
            p99: Span::millis(100),
        };
        assert!((9.0..11.0).contains(&quantile(time, 5_000)));
        assert!((80.0..125.0).contains(&quantile(time, 9_900)));
    }

    #[test]
    fn a_normal_time_has_its_mean_and_is_never_negative() {
        fastrand::seed(7);
        let time = Distribution::Normal {
            mean: Span::millis(10),
            deviation: Span::millis(10),
        };
        assert!((9.0..11.0).contains(&quantile(time, 5_000)));
        assert!(quantile(time, 0).abs() < f64::EPSILON);
    }

    #[test]
    fn places_are_given_in_order_of_arrival() {
        let places = [AtomicU64::new(0), AtomicU64::new(0)];
        let ends: Vec<u64> = (0..5)
            .map(|_| book_place(&places, Moment(SECOND), Duration::from_secs(1)).0 / SECOND)
            .collect();
        assert_eq!(ends, [2, 2, 3, 3, 4]);
        let later = book_place(&places, Moment(10 * SECOND), Duration::from_secs(1));
        assert_eq!(later, Moment(11 * SECOND));
    }

    #[test]
    fn a_rate_lets_a_burst_through_and_then_one_after_another() {
        let next = AtomicU64::new(0);
        let starts: Vec<u64> = (0..6)
            .map(|_| book_start(&next, Moment(SECOND), 1.0, 3).0 / SECOND)
            .collect();
        assert_eq!(starts, [1, 1, 1, 2, 3, 4]);
        let rested = book_start(&next, Moment(100 * SECOND), 1.0, 3);
        assert_eq!(rested, Moment(100 * SECOND));
    }
}
