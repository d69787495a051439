//! The signing threads: every signature and every handshake's arithmetic runs here and nowhere
//! else, so that no runtime worker ever waits for an HSM. One thread for each signature that the
//! key can make at once; more would only wait for a session.

use std::fmt;
use std::io;
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Sender, TrySendError, bounded};
use tokio::sync::oneshot;

use crate::error::LinkError;

/// The start of every signing thread's name (`/proc/PID/task/TID/comm` shows it).
pub const THREAD_NAME: &str = "sealwire-sign";

/// A fixed set of threads behind one bounded queue, served in order of arrival.
///
/// The threads end when the pool is dropped and the queue is empty.
pub struct SigningPool {
    queue: Sender<Job>,
    limit: usize,
}

type Job = Box<dyn FnOnce() + Send>;

impl SigningPool {
    /// Starts `threads` threads behind a queue of at most `queue` waiting steps.
    ///
    /// # Errors
    /// When the system refuses a thread.
    pub fn start(threads: usize, queue: usize) -> io::Result<Self> {
        let (sender, receiver) = bounded::<Job>(queue);
        for number in 0..threads.max(1) {
            let receiver = receiver.clone();
            thread::Builder::new()
                .name(format!("{THREAD_NAME}-{number}"))
                .spawn(move || {
                    for job in receiver {
                        job();
                    }
                })?;
        }
        Ok(Self {
            queue: sender,
            limit: queue,
        })
    }

    /// Runs `step` on a signing thread and waits for its result without holding a worker.
    ///
    /// # Errors
    /// [`LinkError::Overloaded`] at once when the queue is full, [`LinkError::Deadline`] when the
    /// step's turn came after `deadline`. A step that has begun is not interrupted: whoever drops
    /// the future leaves it to finish unheard.
    pub async fn run<T, F>(&self, deadline: Instant, step: F) -> Result<T, LinkError>
    where
        T: Send + 'static,
        F: FnOnce() -> T + Send + 'static,
    {
        let queued = Instant::now();
        let (answer, result) = oneshot::channel();
        let job = Box::new(move || {
            if Instant::now() < deadline && !answer.is_closed() {
                // The asker may have gone meanwhile; then nobody needs the result.
                let _ = answer.send(step());
            }
        });
        self.queue.try_send(job).map_err(|error| match error {
            TrySendError::Full(_) | TrySendError::Disconnected(_) => LinkError::Overloaded {
                what: "the queue of the signing threads",
                limit: self.limit,
            },
        })?;
        result.await.map_err(|_| LinkError::Deadline {
            stage: "waiting for a signing thread",
            waited: queued.elapsed(),
        })
    }

    /// How many steps wait for a thread now.
    pub fn waiting(&self) -> usize {
        self.queue.len()
    }
}

impl fmt::Debug for SigningPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SigningPool")
            .field("waiting", &self.waiting())
            .field("limit", &self.limit)
            .finish()
    }
}

/// How long after a refusal a peer is given to read our alert.
pub(crate) const ALERT_GRACE: Duration = Duration::from_millis(500);

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(5)
    }

    #[tokio::test]
    async fn a_step_runs_on_a_signing_thread() {
        let pool = SigningPool::start(1, 1).unwrap();
        let name = pool
            .run(soon(), || thread::current().name().map(str::to_owned))
            .await
            .unwrap();
        assert!(name.unwrap().starts_with(THREAD_NAME));
    }

    #[tokio::test]
    async fn a_full_queue_refuses_at_once_with_its_limit() {
        let pool = std::sync::Arc::new(SigningPool::start(1, 1).unwrap());
        let (release, held) = mpsc::channel::<()>();
        let (begun, begins) = mpsc::channel();
        let busy = pool.clone();
        let running = tokio::spawn(async move {
            busy.run(soon(), move || {
                begun.send(()).unwrap();
                held.recv().ok();
            })
            .await
        });
        tokio::task::spawn_blocking(move || begins.recv().unwrap())
            .await
            .unwrap();
        let queued = pool.clone();
        let waiting = tokio::spawn(async move { queued.run(soon(), || ()).await });
        while pool.waiting() == 0 {
            tokio::task::yield_now().await;
        }
        let refused = pool.run(soon(), || ()).await.unwrap_err();
        assert!(
            matches!(refused, LinkError::Overloaded { limit: 1, .. }),
            "{refused}"
        );
        release.send(()).unwrap();
        running.await.unwrap().unwrap();
        waiting.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn a_step_whose_turn_comes_too_late_is_not_run() {
        let pool = SigningPool::start(1, 1).unwrap();
        let late = pool
            .run(Instant::now(), || panic!("ran after its deadline"))
            .await;
        assert!(matches!(late, Err(LinkError::Deadline { .. })));
    }
}
