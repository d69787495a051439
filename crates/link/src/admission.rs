//! The places of handshakes that sign, given out in order of arrival from a bounded queue: how
//! many wait for the HSM, and for how long, is decided here and not by whoever connects.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use tokio::sync::{Semaphore, SemaphorePermit};

use crate::error::LinkError;

/// The places and the queue before them.
#[derive(Debug)]
pub(crate) struct Admission {
    places: Semaphore,
    waiting: AtomicUsize,
    queue: usize,
}

/// A place, given back when dropped.
#[derive(Debug)]
pub(crate) struct Place<'a>(#[allow(dead_code, reason = "held, not used")] SemaphorePermit<'a>);

impl Admission {
    /// `places` at once, and `queue` that wait for one.
    pub(crate) fn new(places: usize, queue: usize) -> Self {
        Self {
            places: Semaphore::new(places),
            waiting: AtomicUsize::new(0),
            queue,
        }
    }

    /// Waits for a place until `deadline`.
    ///
    /// # Errors
    /// [`LinkError::Overloaded`] at once when too many wait, [`LinkError::Deadline`] when none
    /// became free.
    pub(crate) async fn admit(&self, deadline: Instant) -> Result<Place<'_>, LinkError> {
        if let Ok(place) = self.places.try_acquire() {
            return Ok(Place(place));
        }
        let waiting = Waiting::enter(&self.waiting, self.queue)?;
        let begun = Instant::now();
        let place = tokio::time::timeout_at(deadline.into(), self.places.acquire()).await;
        drop(waiting);
        match place {
            Ok(Ok(place)) => Ok(Place(place)),
            // The semaphore is never closed, so what is left is the deadline.
            Ok(Err(_)) | Err(_) => Err(LinkError::Deadline {
                stage: "waiting for a place among the handshakes",
                waited: begun.elapsed(),
            }),
        }
    }

    /// How many wait for a place now.
    pub(crate) fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }
}

/// A place in the bounded waiting room.
struct Waiting<'a>(&'a AtomicUsize);

impl<'a> Waiting<'a> {
    fn enter(count: &'a AtomicUsize, limit: usize) -> Result<Self, LinkError> {
        let room = Self(count);
        if count.fetch_add(1, Ordering::Relaxed) >= limit {
            return Err(LinkError::Overloaded {
                what: "the handshakes waiting",
                limit,
            });
        }
        Ok(room)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(20)
    }

    #[tokio::test]
    async fn places_are_given_in_order_of_arrival() {
        let admission = std::sync::Arc::new(Admission::new(1, 10));
        let first = admission.admit(soon()).await.unwrap();
        let (told, mut order) = tokio::sync::mpsc::unbounded_channel();
        for number in 0..5 {
            let (waits, told) = (admission.clone(), told.clone());
            tokio::spawn(async move {
                let _place = waits.admit(soon()).await.unwrap();
                told.send(number).unwrap();
            });
            while admission.waiting() <= number {
                tokio::task::yield_now().await;
            }
        }
        drop(first);
        for number in 0..5 {
            assert_eq!(order.recv().await, Some(number));
        }
    }

    #[tokio::test]
    async fn beyond_the_queue_overload_is_said_at_once_and_a_deadline_when_it_passes() {
        let admission = Admission::new(1, 1);
        let _taken = admission.admit(soon()).await.unwrap();
        let waits = admission.admit(Instant::now() + Duration::from_millis(50));
        let overloaded = async {
            tokio::task::yield_now().await;
            admission.admit(soon()).await
        };
        let (waited, refused) = tokio::join!(waits, overloaded);
        assert!(matches!(waited, Err(LinkError::Deadline { .. })));
        assert!(matches!(
            refused,
            Err(LinkError::Overloaded { limit: 1, .. })
        ));
        assert_eq!(admission.waiting(), 0);
    }
}
