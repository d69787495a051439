//! The places of connections. Where all are taken, whoever has been idle longest leaves for whoever
//! comes: callers are not known before they ask, and those that only sit there must not keep the
//! API server out.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use metrics::counter;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

/// How long one that was asked to leave may take before another is asked as well.
const COURTESY: Duration = Duration::from_millis(100);

/// The places, free and taken.
#[derive(Debug)]
pub(super) struct Seats {
    free: Arc<Semaphore>,
    idle: Mutex<Idle>,
}

/// Who is idle, by when they became so.
#[derive(Debug, Default)]
struct Idle {
    turns: u64,
    by_turn: BTreeMap<u64, Arc<Notify>>,
}

/// A place, given back when dropped.
#[derive(Debug)]
pub(super) struct Seat {
    seats: Arc<Seats>,
    leave: Arc<Notify>,
    /// Since when it is idle; nothing while it works.
    turn: Mutex<Option<u64>>,
    _place: OwnedSemaphorePermit,
}

/// A seat at work, until dropped.
#[derive(Debug)]
pub(super) struct Working(Arc<Seat>);

impl Seats {
    pub(super) fn new(count: usize) -> Arc<Self> {
        Arc::new(Self {
            free: Arc::new(Semaphore::new(count)),
            idle: Mutex::default(),
        })
    }

    /// Waits for a place, for as long as all are at work.
    pub(super) async fn take(self: &Arc<Self>) -> Arc<Seat> {
        let place = loop {
            if let Ok(place) = self.free.clone().try_acquire_owned() {
                break place;
            }
            self.send_one_away();
            // The semaphore is never closed.
            if let Ok(Ok(place)) = timeout(COURTESY, self.free.clone().acquire_owned()).await {
                break place;
            }
        };
        let seat = Seat {
            seats: self.clone(),
            leave: Arc::new(Notify::new()),
            turn: Mutex::new(None),
            _place: place,
        };
        seat.rest();
        Arc::new(seat)
    }

    fn send_one_away(&self) {
        let longest = self.lock().by_turn.pop_first();
        if let Some((_, leave)) = longest {
            counter!("sealwire_injector_idle_connections_closed_total").increment(1);
            leave.notify_one();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Idle> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Seat {
    /// Works, and is not asked to leave, until what is returned is dropped.
    pub(super) fn work(self: &Arc<Self>) -> Working {
        self.rise();
        Working(self.clone())
    }

    /// Waits until it has to be given up.
    pub(super) async fn has_to_be_left(&self) {
        loop {
            self.leave.notified().await;
            // Work may have begun after it was asked.
            if self.turn().is_some() {
                return;
            }
        }
    }

    fn rest(&self) {
        let mut idle = self.seats.lock();
        idle.turns += 1;
        let turn = idle.turns;
        idle.by_turn.insert(turn, self.leave.clone());
        *self.turn() = Some(turn);
    }

    fn rise(&self) {
        let mut idle = self.seats.lock();
        if let Some(turn) = self.turn().take() {
            idle.by_turn.remove(&turn);
        }
    }

    fn turn(&self) -> MutexGuard<'_, Option<u64>> {
        self.turn.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.rise();
    }
}

impl Drop for Working {
    fn drop(&mut self) {
        self.0.rest();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn is_asked_to_leave(seat: &Seat) -> bool {
        let asked = timeout(Duration::from_millis(1), seat.has_to_be_left());
        asked.await.is_ok()
    }

    #[tokio::test]
    async fn who_has_been_idle_longest_leaves_for_who_comes() {
        let seats = Seats::new(2);
        let (first, second) = (seats.take().await, seats.take().await);
        drop(first.work());
        let coming = tokio::spawn({
            let seats = seats.clone();
            async move { seats.take().await }
        });
        timeout(Duration::from_secs(20), second.has_to_be_left())
            .await
            .unwrap();
        drop(second);
        let _third = coming.await.unwrap();
        assert!(!is_asked_to_leave(&first).await);
    }

    #[tokio::test]
    async fn nobody_leaves_at_work_and_who_comes_waits() {
        let seats = Seats::new(1);
        let seat = seats.take().await;
        let working = seat.work();
        let coming = tokio::spawn({
            let seats = seats.clone();
            async move { seats.take().await }
        });
        assert!(timeout(COURTESY * 3, seat.has_to_be_left()).await.is_err());
        assert!(!coming.is_finished());
        drop(working);
        timeout(Duration::from_secs(20), seat.has_to_be_left())
            .await
            .unwrap();
        drop(seat);
        coming.await.unwrap();
    }
}
