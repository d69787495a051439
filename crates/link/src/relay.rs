//! Bytes between a local application and a far side, each direction on its own: an end on one
//! side is passed on as an end, a break as a reset, and never one as the other. For a sealed far
//! side the end is TLS `close_notify` (RFC 8446 section 6.1); a connection that ends without it
//! was cut, and the application learns that.
//!
//! Memory follows the bytes: both directions share two scratch buffers a thread, a connection
//! owns only what it could not pass on, and reads no more before that is gone.

mod far;

use std::cell::RefCell;
use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use self::far::{Broken, Far, Received};
use crate::driver::Sealed;
use crate::record::{Moved, Moving, Outcome};
use crate::registry::CloseReason;
use crate::socket::reset;

/// How a relay ended, and what it moved.
#[derive(Clone, Debug)]
pub struct Ended {
    /// Application bytes each way.
    pub moved: Moved,
    /// How it ended.
    pub outcome: Outcome,
}

/// Relays between an application and an unsealed far side, for declared exceptions.
///
/// `half_closed_idle` bounds how long a connection may stay half closed without a byte. How far it
/// has come is said in `moving`.
pub async fn relay_plain(
    app: TcpStream,
    far: TcpStream,
    half_closed_idle: Duration,
    closed: impl Future<Output = CloseReason>,
    moving: &Moving,
) -> Ended {
    let relay = Relay::new(app, Far::plain(far), moving);
    relay.run(None, half_closed_idle, closed).await
}

pub(crate) async fn relay_sealed(
    app: TcpStream,
    sealed: Sealed,
    end: End,
    half_closed_idle: Duration,
    closed: impl Future<Output = CloseReason>,
    moving: &Moving,
) -> Ended {
    let relay = Relay::new(app, Far::sealed(sealed), moving);
    relay.run(Some(end), half_closed_idle, closed).await
}

/// When a link must end. From `drain` on it is closed at the first quiet moment, at `at` in any
/// case.
#[derive(Copy, Clone, Debug)]
pub(crate) struct End {
    pub(crate) drain: Instant,
    pub(crate) at: Instant,
}

/// How long nothing must move for a moment to count as quiet.
const QUIET: Duration = Duration::from_secs(1);

/// The size of each of a thread's two scratch buffers, and the most that is read at once.
const SCRATCH: usize = 64 * 1024;

thread_local! {
    static SCRATCHES: RefCell<(Vec<u8>, Vec<u8>)> = RefCell::new((vec![0; SCRATCH], vec![0; SCRATCH]));
}

struct Relay<'a> {
    app: TcpStream,
    far: Far,
    outward: Way,
    inward: Way,
    /// Opened bytes that the application has not taken yet.
    unread: Vec<u8>,
    moved: Moved,
    /// Where others see how much that is.
    moving: &'a Moving,
}

/// How far one direction has come.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
enum Way {
    /// Bytes may come.
    Open,
    /// The source has ended; the end is still to be passed on.
    Ending,
    /// The end has been passed on.
    Done,
}

impl<'a> Relay<'a> {
    fn new(app: TcpStream, far: Far, moving: &'a Moving) -> Self {
        Self {
            app,
            far,
            outward: Way::Open,
            inward: Way::Open,
            unread: Vec::new(),
            moved: Moved::default(),
            moving,
        }
    }

    async fn run(
        mut self,
        end: Option<End>,
        half_closed_idle: Duration,
        closed: impl Future<Output = CloseReason>,
    ) -> Ended {
        let outcome = self.until_ended(end, half_closed_idle, closed).await;
        let moved = self.moved;
        self.moving.is_at(moved);
        if outcome != Outcome::Complete {
            // Whoever still listens must not take what it has for the whole.
            reset(self.app);
            reset(self.far.socket);
        }
        Ended { moved, outcome }
    }

    async fn until_ended(
        &mut self,
        end: Option<End>,
        half_closed_idle: Duration,
        closed: impl Future<Output = CloseReason>,
    ) -> Outcome {
        let mut closed = std::pin::pin!(closed);
        let mut quiet_since = (self.moved, Instant::now());
        loop {
            let half_closed = self.half_closed();
            let wake = self.next_look(end, half_closed_idle, quiet_since.1);
            tokio::select! {
                biased;
                reason = &mut closed => return Outcome::Closed { reason },
                result = poll_fn(|cx| self.poll(cx, half_closed)) => match result {
                    Ok(Step::Complete) => return Outcome::Complete,
                    Ok(Step::HalfClosed) => quiet_since = (self.moved, Instant::now()),
                    Err(broken) => return Outcome::Reset {
                        reason: broken.reason,
                        detail: broken.error.to_string(),
                    },
                },
                () = sleep_until(wake) => {
                    let now = Instant::now();
                    if quiet_since.0 != self.moved {
                        quiet_since = (self.moved, now);
                    }
                    let quiet = now.duration_since(quiet_since.1);
                    if let Some(end) = end
                        && (now >= end.at || (now >= end.drain && quiet >= QUIET))
                    {
                        return Outcome::Closed { reason: CloseReason::Expiry };
                    }
                    if half_closed && quiet >= half_closed_idle {
                        return Outcome::Closed { reason: CloseReason::Idle };
                    }
                }
            }
        }
    }

    fn half_closed(&self) -> bool {
        self.outward == Way::Done || self.inward == Way::Done
    }

    /// When to look at the clock again; `None` while no time limit can apply.
    fn next_look(
        &self,
        end: Option<End>,
        half_closed_idle: Duration,
        quiet_since: Instant,
    ) -> Option<Instant> {
        let now = Instant::now();
        let ending = end.map(|end| {
            if now < end.drain {
                end.drain
            } else {
                end.at.min(now + QUIET)
            }
        });
        let idle = self
            .half_closed()
            .then(|| (quiet_since + half_closed_idle).max(now + Duration::from_millis(10)));
        ending.into_iter().chain(idle).min()
    }

    /// Moves what can be moved. Ready when both directions are done, when the first of them is
    /// (told once: `was_half_closed`), or when a side broke off.
    fn poll(&mut self, cx: &mut Context<'_>, was_half_closed: bool) -> Poll<Result<Step, Broken>> {
        SCRATCHES.with_borrow_mut(|(near, far)| {
            let outward = self.poll_outward(cx, near)?;
            let inward = self.poll_inward(cx, near, far)?;
            self.moving.is_at(self.moved);
            // Reading can produce bytes to send (a KeyUpdate's answer), after their turn.
            if self.far.wants_write() {
                let _ = self.far.poll_flush(cx)?;
            }
            match (outward, inward) {
                (Poll::Ready(()), Poll::Ready(())) => Poll::Ready(Ok(Step::Complete)),
                _ if !was_half_closed && self.half_closed() => Poll::Ready(Ok(Step::HalfClosed)),
                _ => Poll::Pending,
            }
        })
    }

    fn poll_outward(
        &mut self,
        cx: &mut Context<'_>,
        scratch: &mut [u8],
    ) -> Result<Poll<()>, Broken> {
        loop {
            if self.far.poll_flush(cx)?.is_pending() {
                return Ok(Poll::Pending);
            }
            match self.outward {
                Way::Open => {}
                Way::Ending => {
                    let Poll::Ready(()) = self.far.poll_finish(cx)? else {
                        return Ok(Poll::Pending);
                    };
                    self.outward = Way::Done;
                }
                Way::Done => return Ok(Poll::Ready(())),
            }
            if self.outward != Way::Open {
                continue;
            }
            let mut buffer = ReadBuf::new(scratch);
            match Pin::new(&mut self.app).poll_read(cx, &mut buffer) {
                Poll::Pending => return Ok(Poll::Pending),
                Poll::Ready(Err(error)) => return Err(Broken::new("application", error)),
                Poll::Ready(Ok(())) if buffer.filled().is_empty() => {
                    self.outward = Way::Ending;
                    self.far.end();
                }
                Poll::Ready(Ok(())) => {
                    self.moved.sent += as_u64(buffer.filled().len());
                    self.far.send(buffer.filled())?;
                }
            }
        }
    }

    fn poll_inward(
        &mut self,
        cx: &mut Context<'_>,
        sealed: &mut [u8],
        opened: &mut Vec<u8>,
    ) -> Result<Poll<()>, Broken> {
        loop {
            while !self.unread.is_empty() {
                match Pin::new(&mut self.app).poll_write(cx, &self.unread) {
                    Poll::Pending => return Ok(Poll::Pending),
                    Poll::Ready(Err(error)) => return Err(Broken::new("application", error)),
                    Poll::Ready(Ok(written)) => {
                        self.moved.received += as_u64(written);
                        if written == self.unread.len() {
                            self.unread = Vec::new();
                        } else {
                            self.unread.drain(..written);
                        }
                    }
                }
            }
            match self.inward {
                Way::Open => {}
                Way::Ending => match Pin::new(&mut self.app).poll_shutdown(cx) {
                    Poll::Pending => return Ok(Poll::Pending),
                    // An application that has gone needs no end.
                    Poll::Ready(_) => self.inward = Way::Done,
                },
                Way::Done => return Ok(Poll::Ready(())),
            }
            if self.inward != Way::Open {
                continue;
            }
            opened.clear();
            match self.far.poll_receive(cx, sealed, opened)? {
                Poll::Pending => return Ok(Poll::Pending),
                Poll::Ready(Received::End) => self.inward = Way::Ending,
                Poll::Ready(Received::Bytes) => {}
            }
            // Straight from the scratch; only what the application does not take is kept.
            let mut rest = opened.as_slice();
            while !rest.is_empty() {
                match Pin::new(&mut self.app).poll_write(cx, rest) {
                    Poll::Pending => {
                        self.unread = rest.to_vec();
                        break;
                    }
                    Poll::Ready(Err(error)) => return Err(Broken::new("application", error)),
                    Poll::Ready(Ok(written)) => {
                        self.moved.received += as_u64(written);
                        rest = &rest[written..];
                    }
                }
            }
        }
    }
}

enum Step {
    HalfClosed,
    Complete,
}

async fn sleep_until(when: Option<Instant>) {
    match when {
        Some(when) => tokio::time::sleep_until(when.into()).await,
        None => std::future::pending().await,
    }
}

fn as_u64(length: usize) -> u64 {
    // usize is at most 64 bits wide on every platform Rust knows.
    u64::try_from(length).unwrap_or(u64::MAX)
}
