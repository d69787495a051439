//! The far side of a relay: sealed when there is a TLS connection, else as it is. It takes bytes
//! only when all before them are gone, so what it holds is bounded by one read.

use std::io::{self, Read, Write};
use std::pin::Pin;
use std::task::{Context, Poll};

use rustls::Connection;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use crate::driver::Sealed;

/// The socket towards the peer, and what seals it.
pub(super) struct Far {
    pub(super) socket: TcpStream,
    tls: Option<Box<Connection>>,
    /// Bytes for an unsealed far side that the socket has not taken yet.
    unsent: Vec<u8>,
    /// Plaintext may wait in the TLS connection: bytes that came behind its Finished.
    early: bool,
}

impl Far {
    pub(super) fn plain(socket: TcpStream) -> Self {
        Self {
            socket,
            tls: None,
            unsent: Vec::new(),
            early: false,
        }
    }

    pub(super) fn sealed(sealed: Sealed) -> Self {
        Self {
            socket: sealed.socket,
            tls: Some(Box::new(sealed.connection)),
            unsent: Vec::new(),
            early: true,
        }
    }

    pub(super) fn wants_write(&self) -> bool {
        self.tls
            .as_ref()
            .map_or(!self.unsent.is_empty(), |tls| tls.wants_write())
    }

    /// Takes bytes to send. Called only when everything before has been sent.
    pub(super) fn send(&mut self, bytes: &[u8]) -> Result<(), Broken> {
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
    pub(super) fn end(&mut self) {
        if let Some(tls) = &mut self.tls {
            tls.send_close_notify();
        }
    }

    pub(super) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Result<Poll<()>, Broken> {
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
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    return Ok(Poll::Pending);
                }
                Err(error) => return Err(self.broken_write(error)),
            }
        }
        Ok(Poll::Ready(()))
    }

    pub(super) fn poll_finish(&mut self, cx: &mut Context<'_>) -> Result<Poll<()>, Broken> {
        match Pin::new(&mut self.socket).poll_shutdown(cx) {
            Poll::Pending => Ok(Poll::Pending),
            // A peer that has gone after its own end needs none of ours.
            Poll::Ready(_) => Ok(Poll::Ready(())),
        }
    }

    /// Reads one piece into `opened`, through `scratch` when sealed.
    pub(super) fn poll_receive(
        &mut self,
        cx: &mut Context<'_>,
        scratch: &mut [u8],
        opened: &mut Vec<u8>,
    ) -> Result<Poll<Received>, Broken> {
        let Some(tls) = &mut self.tls else {
            let mut buffer = ReadBuf::new(scratch);
            return Ok(
                match Pin::new(&mut self.socket).poll_read(cx, &mut buffer) {
                    Poll::Pending => Poll::Pending,
                    Poll::Ready(Err(error)) => return Err(Broken::new("far_side", error)),
                    Poll::Ready(Ok(())) if buffer.filled().is_empty() => Poll::Ready(Received::End),
                    Poll::Ready(Ok(())) => {
                        opened.extend_from_slice(buffer.filled());
                        Poll::Ready(Received::Bytes)
                    }
                },
            );
        };
        if std::mem::take(&mut self.early) {
            match open(tls, opened)? {
                Received::End => return Ok(Poll::Ready(Received::End)),
                Received::Bytes if !opened.is_empty() => return Ok(Poll::Ready(Received::Bytes)),
                Received::Bytes => {}
            }
        }
        let mut buffer = ReadBuf::new(scratch);
        match Pin::new(&mut self.socket).poll_read(cx, &mut buffer) {
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
            tls.read_tls(&mut rest)
                .map_err(|error| Broken::new("link", error))?;
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

/// What a read brought.
pub(super) enum Received {
    Bytes,
    End,
}

/// A side broke off.
pub(super) struct Broken {
    pub(super) reason: &'static str,
    pub(super) error: io::Error,
}

impl Broken {
    pub(super) fn new(reason: &'static str, error: io::Error) -> Self {
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

/// Takes all plaintext that the connection holds.
fn open(tls: &mut Connection, opened: &mut Vec<u8>) -> Result<Received, Broken> {
    match tls.reader().read_to_end(opened) {
        Ok(_) => Ok(Received::End),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(Received::Bytes),
        Err(error) => Err(Broken::new("link", error)),
    }
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
