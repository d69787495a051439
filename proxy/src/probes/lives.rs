//! Whether the application's containers still run, where nobody else tells: on a cluster without
//! native sidecars the sidecar is a container like any other, and a Job is done only when the
//! sidecar has ended as well.
//!
//! No privilege is needed for it. The kubelet asks after each container that runs, at the health
//! port, and no longer after one that has ended: so each question is a sign of life. One that has
//! never given any may still be waiting for its image, and is waited for.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How often ends are looked for.
const LOOK: Duration = Duration::from_secs(1);

/// The containers that are waited for.
#[derive(Debug, Default)]
pub(crate) struct Lives(BTreeMap<String, Life>);

#[derive(Debug)]
struct Life {
    /// After how much silence it has ended.
    silence: Duration,
    last: Mutex<Option<Instant>>,
}

impl Lives {
    /// Watches containers by their names, each with the silence that means its end.
    pub(super) fn watch(containers: impl IntoIterator<Item = (String, Duration)>) -> Self {
        let life = |(name, silence)| {
            let last = Mutex::default();
            (name, Life { silence, last })
        };
        Self(containers.into_iter().map(life).collect())
    }

    /// Notes a sign of life.
    pub(super) fn sign(&self, container: &str, now: Instant) {
        if let Some(life) = self.0.get(container) {
            *life.last.lock().unwrap_or_else(PoisonError::into_inner) = Some(now);
        }
    }

    /// Waits until every container has ended. For ever, where none is watched.
    pub(crate) async fn ended(&self) {
        if self.0.is_empty() {
            return std::future::pending().await;
        }
        while !self.have_ended(Instant::now()) {
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Whether a container runs, as far as is known.
    pub(crate) fn is_any_alive(&self, now: Instant) -> bool {
        self.0
            .values()
            .any(|life| life.silent_for(now) == Some(false))
    }

    fn have_ended(&self, now: Instant) -> bool {
        !self.0.is_empty()
            && self
                .0
                .values()
                .all(|life| life.silent_for(now) == Some(true))
    }
}

impl Life {
    /// Whether it has been silent for long enough, if it has ever been heard.
    fn silent_for(&self, now: Instant) -> Option<bool> {
        let last = *self.last.lock().unwrap_or_else(PoisonError::into_inner);
        last.map(|last| now.saturating_duration_since(last) >= self.silence)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn the_end_comes_when_every_container_that_has_lived_is_silent() {
        let lives = Lives::watch([("a".to_owned(), 10 * SECOND), ("b".to_owned(), 20 * SECOND)]);
        let start = Instant::now();
        assert!(!lives.have_ended(start + 3600 * SECOND), "none has begun");
        assert!(!lives.is_any_alive(start));
        lives.sign("a", start);
        assert!(lives.is_any_alive(start + 9 * SECOND));
        assert!(!lives.is_any_alive(start + 10 * SECOND));
        assert!(!lives.have_ended(start + 3600 * SECOND), "b has not begun");
        lives.sign("b", start + 5 * SECOND);
        assert!(!lives.have_ended(start + 24 * SECOND));
        assert!(lives.have_ended(start + 25 * SECOND));
        lives.sign("a", start + 26 * SECOND);
        assert!(
            !lives.have_ended(start + 26 * SECOND),
            "it was started again"
        );
    }

    #[test]
    fn where_nobody_is_watched_nothing_ends() {
        let lives = Lives::default();
        lives.sign("web", Instant::now());
        assert!(!lives.have_ended(Instant::now() + 3600 * SECOND));
        assert!(!lives.is_any_alive(Instant::now()));
    }
}
