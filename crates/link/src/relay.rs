//! Bytes between a local application and a far side, each direction on its own: an end on one
//! side is passed on as an end, a break as a reset, and never one as the other. For a sealed far
//! side the end is TLS `close_notify` (RFC 8446 section 6.1); a connection that ends without it
//! was cut, and the application learns that.
//!
//! Memory follows the bytes: both directions share two scratch buffers a thread, a connection
//! owns only what it could not pass on, and reads no more before that is gone.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io::{self, Read, Write};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use rustls::Connection;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use crate::driver::Sealed;
use crate::record::{Moved, Outcome};
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
/// `half_closed_idle` bounds how long a connection may stay half closed without a byte.
pub async fn relay_plain(
    app: TcpStream,
    far: TcpStream,
    half_closed_idle: Duration,
    closed: impl Future<Output = CloseReason>,
) -> Ended {
    let relay = Relay::new(app, Far::plain(far));
    relay.run(None, half_closed_idle, closed).await
}

pub(crate) async fn relay_sealed(
    app: TcpStream,
    sealed: Sealed,
    end: End,
    half_closed_idle: Duration,
    closed: impl Future<Output = CloseReason>,
) -> Ended {
    let relay = Relay::new(app, Far::sealed(sealed));
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

struct Relay {
    app: TcpStream,
    far: Far,
    outward: Way,
    inward: Way,
    /// Opened bytes that the application has not taken yet.
    unread: Vec<u8>,
    moved: Moved,
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

/// A side broke off.
struct Broken {
    reason: &'static str,
    error: io::Error,
}

impl Relay {
    fn new(app: TcpStream, far: Far) -> Self {
        Self {
            app,
            far,
            outward: Way::Open,
            inward: Way::Open,
            unread: Vec::new(),
            moved: Moved::default(),
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
    fn next_look(&self, end: Option<End>, half_closed_idle: Duration, quiet_since: Instant) -> Option<Instant> {
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

    fn poll_outward(&mut self, cx: &mut Context<'_>, scratch: &mut [u8]) -> Result<Poll<()>, Broken> {
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
                    self.far.end()?;
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

enum Received {
    Bytes,
    End,
}

/// The far side: sealed when there is a TLS connection, else as it is.
struct Far {
    socket: TcpStream,
    tls: Option<Box<Connection>>,
    /// Bytes for an unsealed far side that the socket has not taken yet.
    unsent: Vec<u8>,
    /// Plaintext may wait in the TLS connection: bytes that came behind its Finished.
    early: bool,
}

impl Far {
    fn plain(socket: TcpStream) -> Self {
        Self {
            socket,
            tls: None,
            unsent: Vec::new(),
            early: false,
        }
    }

    fn sealed(sealed: Sealed) -> Self {
        Self {
            socket: sealed.socket,
            tls: Some(Box::new(sealed.connection)),
            unsent: Vec::new(),
            early: true,
        }
    }

    fn wants_write(&self) -> bool {
        self.tls.as_ref().map_or(!self.unsent.is_empty(), |tls| tls.wants_write())
    }

    /// Takes bytes to send. Called only when everything before has been sent.
    fn send(&mut self, bytes: &[u8]) -> Result<(), Broken> {
        match &mut self.tls {
            Some(tls) => tls
                .writer()
                .write_all(bytes)
                .map_err(|error| Broken::new("link", error)),
            None => {
                self.unsent.extend_from_slice(bytes);
                Ok(())
            }
        }
    }

    /// Queues the end behind what was sent.
    fn end(&mut self) -> Result<(), Broken> {
        if let Some(tls) = &mut self.tls {
            tls.send_close_notify();
        }
        Ok(())
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Result<Poll<()>, Broken> {
        while self.wants_write() {
            let written = match &mut self.tls {
                Some(tls) => {
                    let mut writer = PollWrite {
                        socket: &mut self.socket,
                        cx,
                    };
                    tls.write_tls(&mut writer).map(|_| ())
                }
                None => match Pin::new(&mut self.socket).poll_write(cx, &self.unsent) {
                    Poll::Pending => return Ok(Poll::Pending),
                    Poll::Ready(Ok(written)) if written == self.unsent.len() => {
                        self.unsent = Vec::new();
                        Ok(())
                    }
                    Poll::Ready(Ok(written)) => {
                        self.unsent.drain(..written);
                        Ok(())
                    }
                    Poll::Ready(Err(error)) => Err(error),
                },
            };
            match written {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(Poll::Pending),
                Err(error) => return Err(self.broken_write(error)),
            }
        }
        Ok(Poll::Ready(()))
    }

    fn poll_finish(&mut self, cx: &mut Context<'_>) -> Result<Poll<()>, Broken> {
        match Pin::new(&mut self.socket).poll_shutdown(cx) {
            Poll::Pending => Ok(Poll::Pending),
            // A peer that has gone after its own end needs none of ours.
            Poll::Ready(_) => Ok(Poll::Ready(())),
        }
    }

    /// Reads one piece into `opened`, through `scratch` when sealed.
    fn poll_receive(
        &mut self,
        cx: &mut Context<'_>,
        scratch: &mut [u8],
        opened: &mut Vec<u8>,
    ) -> Result<Poll<Received>, Broken> {
        let Some(tls) = &mut self.tls else {
            let mut buffer = ReadBuf::new(scratch);
            return Ok(match Pin::new(&mut self.socket).poll_read(cx, &mut buffer) {
                Poll::Pending => Poll::Pending,
                Poll::Ready(Err(error)) => return Err(Broken::new("far_side", error)),
                Poll::Ready(Ok(())) if buffer.filled().is_empty() => Poll::Ready(Received::End),
                Poll::Ready(Ok(())) => {
                    opened.extend_from_slice(buffer.filled());
                    Poll::Ready(Received::Bytes)
                }
            });
        };
        if std::mem::take(&mut self.early) {
            match open(tls, opened)? {
                Received::End => return Ok(Poll::Ready(Received::End)),
                Received::Bytes if !opened.is_empty() => return Ok(Poll::Ready(Received::Bytes)),
                Received::Bytes => {}
            }
        }
        let mut buffer = ReadBuf::new(scratch);
        match ready_read(&mut self.socket, cx, &mut buffer) {
            Poll::Pending => return Ok(Poll::Pending),
            Poll::Ready(Err(error)) => return Err(Broken::new("peer", error)),
            Poll::Ready(Ok(())) => {}
        }
        if buffer.filled().is_empty() {
            let cut = io::Error::new(
                io::ErrorKind::UnexpectedEof,
                "the peer's connection ended without close_notify: what came may be incomplete",
            );
            return Err(Broken::new("truncated", cut));
        }
        let mut rest = buffer.filled();
        while !rest.is_empty() {
            tls.read_tls(&mut rest).map_err(|error| Broken::new("link", error))?;
            if let Err(error) = tls.process_new_packets() {
                // The alert is a courtesy to the peer; what counts is that we stop here.
                let _ = self.poll_flush(cx);
                return Err(Broken::tls(error));
            }
            if let Received::End = open(tls, opened)? {
                return Ok(Poll::Ready(Received::End));
            }
        }
        Ok(Poll::Ready(Received::Bytes))
    }

    fn broken_write(&mut self, error: io::Error) -> Broken {
        // A peer that refuses us sends an alert and closes: the alert says more than the broken
        // pipe that the next write meets.
        if let Some(tls) = &mut self.tls {
            let mut alert = [0; 4096];
            if let Ok(length) = self.socket.try_read(&mut alert) {
                let fed = tls.read_tls(&mut &alert[..length]);
                if fed.is_ok()
                    && let Err(error) = tls.process_new_packets()
                {
                    return Broken::tls(error);
                }
            }
        }
        Broken::new("peer", error)
    }
}

/// Takes all plaintext that the connection holds.
fn open(tls: &mut Connection, opened: &mut Vec<u8>) -> Result<Received, Broken> {
    match tls.reader().read_to_end(opened) {
        Ok(_) => Ok(Received::End),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(Received::Bytes),
        Err(error) => Err(Broken::new("link", error)),
    }
}

fn ready_read(socket: &mut TcpStream, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
    ready!(Pin::new(socket).poll_read(cx, buffer))?;
    Poll::Ready(Ok(()))
}

/// A socket as a writer whose `WouldBlock` has registered the task to be woken.
struct PollWrite<'a, 'b> {
    socket: &'a mut TcpStream,
    cx: &'a mut Context<'b>,
}

impl Write for PollWrite<'_, '_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        into_result(Pin::new(&mut *self.socket).poll_write(self.cx, bytes))
    }

    fn write_vectored(&mut self, bytes: &[io::IoSlice<'_>]) -> io::Result<usize> {
        into_result(Pin::new(&mut *self.socket).poll_write_vectored(self.cx, bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn into_result<T>(poll: Poll<io::Result<T>>) -> io::Result<T> {
    match poll {
        Poll::Ready(result) => result,
        Poll::Pending => Err(io::ErrorKind::WouldBlock.into()),
    }
}

impl Broken {
    fn new(reason: &'static str, error: io::Error) -> Self {
        Self { reason, error }
    }

    fn tls(error: rustls::Error) -> Self {
        let reason = match &error {
            rustls::Error::AlertReceived(_) => "refused_by_peer",
            _ => "link",
        };
        Self::new(reason, io::Error::other(error))
    }
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
