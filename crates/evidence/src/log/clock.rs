//! The clock by which records are dated. Comes from outside, so that a test can let a month pass.

use std::fmt;

use time::OffsetDateTime;

/// A clock.
pub trait Clock: Send + Sync + fmt::Debug {
    /// The time.
    fn now(&self) -> OffsetDateTime;
}

/// The machine's.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> OffsetDateTime {
        OffsetDateTime::now_utc()
    }
}
