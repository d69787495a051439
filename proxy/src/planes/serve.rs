//! HTTP within bounds. Health and metrics are open to strangers, who must not take descriptors or
//! memory from the data path, nor keep the node's probes out.
//!
//! What the planes are there for is asked and answered in a moment. So there is one request a
//! connection, and where too many are open, the oldest goes, not the newest.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Duration;

use axum::{Extension, Router};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::AbortHandle;

/// Most connections that are open at once on one socket of a plane.
pub(crate) const CONNECTIONS: usize = 32;

/// How long a request's head may take to arrive.
const HEAD: Duration = Duration::from_secs(10);

/// How long a connection may take altogether; a token that is asked for custody has its time.
const WHOLE: Duration = Duration::from_secs(60);

/// The pause after an error.
const PAUSE: Duration = Duration::from_millis(100);

/// The pod's own address at which a request arrived, among its extensions.
#[derive(Clone, Copy, Debug)]
pub struct Reached(pub SocketAddr);

/// Serves a plane on each of the sockets, until the process ends.
pub fn serve(listeners: Vec<TcpListener>, router: &Router) {
    for listener in listeners {
        let bounds = Bounds {
            head: HEAD,
            whole: WHOLE,
        };
        tokio::spawn(bounds.accept(listener, router.clone()));
    }
}

/// How long connections may take.
#[derive(Clone, Copy)]
struct Bounds {
    head: Duration,
    whole: Duration,
}

impl Bounds {
    async fn accept(self, listener: TcpListener, router: Router) {
        let mut open = VecDeque::<AbortHandle>::with_capacity(CONNECTIONS);
        loop {
            match listener.accept().await {
                Ok((socket, _)) => {
                    open.retain(|connection| !connection.is_finished());
                    if open.len() == CONNECTIONS
                        && let Some(oldest) = open.pop_front()
                    {
                        oldest.abort();
                    }
                    let answering = self.answer(socket, router.clone());
                    open.push_back(tokio::spawn(answering).abort_handle());
                }
                Err(error) => {
                    tracing::warn!(%error, "an HTTP plane cannot accept, pausing");
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }

    async fn answer(self, socket: TcpStream, router: Router) {
        let Ok(reached) = socket.local_addr() else {
            return;
        };
        let router = router.layer(Extension(Reached(reached)));
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(self.head)
            .keep_alive(false)
            .serve_connection(TokioIo::new(socket), TowerToHyperService::new(router));
        match tokio::time::timeout(self.whole, connection).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::debug!(%error, "a connection to an HTTP plane failed"),
            Err(_) => tracing::debug!("a connection to an HTTP plane took too long"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use axum::routing::get;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: plane\r\n\r\n";

    /// Far from what is tested.
    const LONG: Duration = Duration::from_secs(600);

    const SOON: Duration = Duration::from_secs(20);

    async fn plane(bounds: Bounds) -> SocketAddr {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let slow = get(|| async { tokio::time::sleep(LONG).await });
        let router = Router::new()
            .route("/", get(|| async { "here\n" }))
            .route("/slow", slow);
        tokio::spawn(bounds.accept(listener, router));
        address
    }

    /// What comes after this was said, until the plane hangs up.
    async fn said(address: SocketAddr, request: &[u8]) -> String {
        let mut socket = TcpStream::connect(address).await.unwrap();
        socket.write_all(request).await.unwrap();
        rest(&mut socket).await
    }

    async fn rest(socket: &mut TcpStream) -> String {
        let mut answer = Vec::new();
        let read = tokio::time::timeout(SOON, socket.read_to_end(&mut answer)).await;
        // A reset is a way to hang up.
        let _ = read.expect("the plane hangs up");
        String::from_utf8(answer).unwrap()
    }

    fn is_here(answer: &str) -> bool {
        answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.ends_with("\r\n\r\nhere\n")
    }

    #[tokio::test]
    async fn a_request_is_answered_and_the_connection_ends() {
        let address = plane(Bounds {
            head: LONG,
            whole: LONG,
        })
        .await;
        let answer = said(address, REQUEST).await;
        assert!(is_here(&answer), "{answer}");
        let twice = said(address, &REQUEST.repeat(2)).await;
        assert!(is_here(&twice), "{twice}");
    }

    #[tokio::test]
    async fn strangers_who_say_nothing_keep_nobody_out_and_the_oldest_of_them_goes() {
        let address = plane(Bounds {
            head: LONG,
            whole: LONG,
        })
        .await;
        let mut strangers = Vec::new();
        for _ in 0..CONNECTIONS {
            strangers.push(TcpStream::connect(address).await.unwrap());
        }
        let answer = said(address, REQUEST).await;
        assert!(is_here(&answer), "{answer}");
        assert_eq!(rest(&mut strangers[0]).await, "");
        let last = strangers.last_mut().unwrap();
        last.write_all(REQUEST).await.unwrap();
        let answer = rest(last).await;
        assert!(is_here(&answer), "{answer}");
    }

    #[tokio::test]
    async fn whoever_does_not_ask_in_time_is_hung_up_on() {
        let head = Duration::from_millis(20);
        let address = plane(Bounds { head, whole: LONG }).await;
        for begun in [&b""[..], b"GET / HTT"] {
            let answer = said(address, begun).await;
            assert!(!answer.contains("200"), "{answer}");
        }
    }

    #[tokio::test]
    async fn an_answer_that_takes_too_long_is_given_up() {
        let whole = Duration::from_millis(20);
        let address = plane(Bounds { head: LONG, whole }).await;
        let request = b"GET /slow HTTP/1.1\r\nHost: plane\r\n\r\n";
        assert_eq!(said(address, request).await, "");
    }
}
