//! The threads of handshakes: every signature and every handshake's arithmetic runs here and
//! nowhere else, so that no runtime worker ever waits for an HSM.
//!
//! There are two lanes. Steps that are about to sign have one thread for each signature that the
//! key can make at once; more would only wait for a session. All other steps have threads of
//! their own, so that a slow or frozen HSM stops neither a resumption nor the end of a handshake
//! whose signature is made. Both yield to the runtime's workers: what is already sealed goes first.

use std::fmt;
use std::io;
use std::panic::{self, AssertUnwindSafe};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Sender, TrySendError, bounded};
use tokio::sync::oneshot;

use crate::background::yield_to_others;
use crate::error::LinkError;

/// The start of every signing thread's name (`/proc/PID/task/TID/comm` shows it).
pub const THREAD_NAME: &str = "sealwire-sign";

/// The start of the name of the threads for steps without a signature.
pub const LIGHT_THREAD_NAME: &str = "sealwire-shake";

/// A fixed set of threads behind two bounded queues, each served in order of arrival.
///
/// The threads end when the pool is dropped and the queues are empty.
pub struct SigningPool {
    signing: Sender<Job>,
    light: Sender<Job>,
    limit: usize,
}

/// Which threads a step runs on.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub(crate) enum Lane {
    /// It may sign.
    Signing,
    /// It will not sign.
    Light,
}

type Job = Box<dyn FnOnce() + Send>;

impl SigningPool {
    /// Starts `threads` threads that sign, behind a queue of at most `queue` waiting steps, and
    /// as many others as there are processors, behind another.
    ///
    /// # Errors
    /// When the system refuses a thread.
    pub fn start(threads: usize, queue: usize) -> io::Result<Self> {
        let processors = thread::available_parallelism().map_or(1, usize::from);
        Ok(Self {
            signing: start(Lane::Signing, threads.max(1), queue)?,
            light: start(Lane::Light, processors, queue)?,
            limit: queue,
        })
    }

    /// Runs a `step` that does not sign, and waits for its result without holding a worker.
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
        self.run_in(Lane::Light, deadline, step).await
    }

    /// Runs a `step` on the threads of a lane, as [`SigningPool::run`] does.
    pub(crate) async fn run_in<T, F>(
        &self,
        lane: Lane,
        deadline: Instant,
        step: F,
    ) -> Result<T, LinkError>
    where
        T: Send + 'static,
        F: FnOnce() -> T + Send + 'static,
    {
        let queued = Instant::now();
        let (answer, result) = oneshot::channel();
        let job = Box::new(move || {
            if Instant::now() < deadline && !answer.is_closed() {
                // A step that panics takes no thread with it.
                let step = || sealwire_keys::sign_by(deadline, step);
                let done = panic::catch_unwind(AssertUnwindSafe(step));
                // The asker may have gone meanwhile; then nobody needs the result.
                let _ = answer.send(done);
            }
        });
        let queue = match lane {
            Lane::Signing => &self.signing,
            Lane::Light => &self.light,
        };
        queue.try_send(job).map_err(|error| match error {
            TrySendError::Full(_) | TrySendError::Disconnected(_) => LinkError::Overloaded {
                what: lane.queue(),
                limit: self.limit,
            },
        })?;
        let done = result.await.map_err(|_| LinkError::Deadline {
            stage: lane.stage(),
            waited: queued.elapsed(),
        })?;
        done.map_err(|_| {
            tracing::error!(
                "a step of a handshake panicked: a fault of this program, please report it"
            );
            LinkError::Tls(rustls::Error::General(
                "a step of the handshake panicked".to_owned(),
            ))
        })
    }

    /// How many steps wait for a signing thread now.
    pub fn waiting(&self) -> usize {
        self.signing.len()
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

impl Lane {
    fn queue(self) -> &'static str {
        match self {
            Self::Signing => "the queue of the signing threads",
            Self::Light => "the queue of the handshake threads",
        }
    }

    fn stage(self) -> &'static str {
        match self {
            Self::Signing => "waiting for a signing thread",
            Self::Light => "waiting for a handshake thread",
        }
    }
}

fn start(lane: Lane, threads: usize, queue: usize) -> io::Result<Sender<Job>> {
    let name = match lane {
        Lane::Signing => THREAD_NAME,
        Lane::Light => LIGHT_THREAD_NAME,
    };
    let (sender, receiver) = bounded::<Job>(queue);
    for number in 0..threads {
        let receiver = receiver.clone();
        thread::Builder::new()
            .name(format!("{name}-{number}"))
            .spawn(move || {
                yield_to_others();
                if lane == Lane::Light {
                    sealwire_keys::never_sign_on_this_thread();
                }
                for job in receiver {
                    job();
                }
            })?;
    }
    Ok(sender)
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
    async fn no_signature_is_waited_for_beyond_the_deadline_of_its_step() {
        let pool = SigningPool::start(1, 1).unwrap();
        let later = soon() + Duration::from_secs(60);
        for deadline in [soon(), soon() + Duration::from_secs(1)] {
            let step = move || sealwire_keys::deadline_to_sign(later);
            let seen = pool.run_in(Lane::Signing, deadline, step).await.unwrap();
            assert_eq!(seen, deadline);
        }
        assert_eq!(sealwire_keys::deadline_to_sign(later), later);
    }

    #[tokio::test]
    async fn a_step_runs_on_a_thread_of_its_lane() {
        let pool = SigningPool::start(1, 1).unwrap();
        for (lane, expected) in [
            (Lane::Signing, THREAD_NAME),
            (Lane::Light, LIGHT_THREAD_NAME),
        ] {
            let step = || thread::current().name().map(str::to_owned);
            let name = pool.run_in(lane, soon(), step).await.unwrap();
            assert!(name.unwrap().starts_with(expected));
        }
    }

    #[tokio::test]
    async fn steps_that_do_not_sign_pass_those_that_are_stuck_signing() {
        let pool = std::sync::Arc::new(SigningPool::start(1, 1).unwrap());
        let (release, held) = mpsc::channel::<()>();
        let stuck = pool.clone();
        let stuck = tokio::spawn(async move {
            let step = move || held.recv().ok();
            stuck.run_in(Lane::Signing, soon(), step).await
        });
        pool.run(soon(), || ()).await.unwrap();
        release.send(()).unwrap();
        stuck.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn a_full_queue_refuses_at_once_with_its_limit() {
        let pool = std::sync::Arc::new(SigningPool::start(1, 1).unwrap());
        let (release, held) = mpsc::channel::<()>();
        let (begun, begins) = mpsc::channel();
        let busy = pool.clone();
        let running = tokio::spawn(async move {
            let step = move || {
                begun.send(()).unwrap();
                held.recv().ok();
            };
            busy.run_in(Lane::Signing, soon(), step).await
        });
        tokio::task::spawn_blocking(move || begins.recv().unwrap())
            .await
            .unwrap();
        let queued = pool.clone();
        let waiting =
            tokio::spawn(async move { queued.run_in(Lane::Signing, soon(), || ()).await });
        while pool.waiting() == 0 {
            tokio::task::yield_now().await;
        }
        let refused = pool.run_in(Lane::Signing, soon(), || ()).await.unwrap_err();
        assert!(
            matches!(refused, LinkError::Overloaded { limit: 1, .. }),
            "{refused}"
        );
        release.send(()).unwrap();
        running.await.unwrap().unwrap();
        waiting.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn a_step_that_panics_is_an_error_and_costs_no_thread() {
        let pool = SigningPool::start(1, 1).unwrap();
        for _ in 0..3 {
            let failed = pool
                .run_in(Lane::Signing, soon(), || panic!("a fault"))
                .await;
            assert!(
                matches!(failed, Err::<(), _>(LinkError::Tls(_))),
                "{failed:?}"
            );
        }
        pool.run_in(Lane::Signing, soon(), || ()).await.unwrap();
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
