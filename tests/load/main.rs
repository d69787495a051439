//! Applications under load, inside a pod: one that answers, and one that keeps connections busy,
//! opens new ones meanwhile, and says what it sees, a line of JSON every 100 ms.

#![allow(
    clippy::print_stdout,
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a tool for tests, which fails loudly"
)]

use std::convert::Infallible;
use std::future;
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use clap::{Parser, Subcommand};
use serde_json::json;
use socket2::{Domain, Socket, Type};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::JoinSet;

#[derive(Parser)]
enum Arguments {
    /// Sends back what comes.
    Serve {
        /// Where to listen.
        port: u16,
        /// With one thread for all connections, which costs the machine less.
        #[arg(long)]
        one_thread: bool,
    },
    #[command(flatten)]
    Load(Load),
}

#[derive(Subcommand)]
enum Load {
    /// Exchanges on open connections, and opens others, until it is killed.
    Run {
        /// Who answers.
        address: IpAddr,
        /// Where.
        port: u16,
        /// Connections that are kept busy.
        #[arg(long, default_value_t = 20)]
        links: usize,
        /// Milliseconds between two exchanges on an open connection.
        #[arg(long, default_value_t = 0)]
        pace: u64,
        /// Threads that open one connection after another.
        #[arg(long, default_value_t = 2)]
        dialers: usize,
        /// Milliseconds between two connections of a dialer.
        #[arg(long, default_value_t = 20)]
        pause: u64,
    },
    /// Opens many connections at once, by one thread, and prints how long that took in seconds.
    Burst {
        /// Who answers.
        address: IpAddr,
        /// Where.
        port: u16,
        /// How many.
        #[arg(long, default_value_t = 1000)]
        count: usize,
        /// Keeps them open until it is killed.
        #[arg(long)]
        hold: bool,
    },
}

/// What one exchange moves each way.
const PIECE: usize = 1024;

/// How long a new connection may take before it is given up.
const PATIENCE: Duration = Duration::from_secs(20);

fn main() {
    match Arguments::parse() {
        Arguments::Serve {
            port,
            one_thread: false,
        } => serve(&listen(port)),
        Arguments::Serve { port, .. } => alone(serve_all(listen(port))),
        Arguments::Load(Load::Run {
            address,
            port,
            links,
            pace,
            dialers,
            pause,
        }) => {
            let seen = Arc::new(Seen::default());
            let server = SocketAddr::new(address, port);
            for _ in 0..links {
                let seen = seen.clone();
                small_thread(move || {
                    let ended = keep_busy(server, &seen, Duration::from_millis(pace));
                    seen.broken.fetch_add(1, Relaxed);
                    ended
                });
            }
            for _ in 0..dialers {
                let seen = seen.clone();
                small_thread(move || open_others(server, &seen, Duration::from_millis(pause)));
            }
            report(&seen);
        }
        Arguments::Load(Load::Burst {
            address,
            port,
            count,
            hold,
        }) => alone(burst(SocketAddr::new(address, port), count, hold)),
    }
}

fn listen(port: u16) -> TcpListener {
    let listener = Socket::new(Domain::IPV6, Type::STREAM, None).unwrap();
    let address = SocketAddr::from((Ipv6Addr::UNSPECIFIED, port));
    listener.bind(&address.into()).unwrap();
    // The library's own is short: a burst would wait for connections to be tried again.
    listener.listen(4096).unwrap();
    TcpListener::from(listener)
}

fn serve(listener: &TcpListener) {
    for socket in listener.incoming() {
        small_thread(move || -> io::Result<()> {
            let mut socket = socket?;
            socket.set_nodelay(true)?;
            let mut piece = [0; PIECE];
            loop {
                socket.read_exact(&mut piece)?;
                socket.write_all(&piece)?;
            }
        });
    }
}

async fn serve_all(listener: TcpListener) {
    listener.set_nonblocking(true).unwrap();
    let listener = tokio::net::TcpListener::from_std(listener).unwrap();
    loop {
        let accepted = listener.accept().await;
        tokio::spawn(async move { send_back(accepted?.0).await });
    }
}

async fn send_back(mut socket: tokio::net::TcpStream) -> io::Result<Infallible> {
    socket.set_nodelay(true)?;
    let mut piece = [0; PIECE];
    loop {
        socket.read_exact(&mut piece).await?;
        socket.write_all(&piece).await?;
    }
}

/// Runs on this thread and no other.
fn alone(work: impl Future<Output = ()>) {
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    runtime.enable_all().build().unwrap().block_on(work);
}

/// What has been seen since the last line.
#[derive(Default)]
struct Seen {
    exchanges: AtomicU64,
    broken: AtomicU64,
    served: AtomicU64,
    refused: AtomicU64,
    /// Times of exchanges on open connections, in microseconds, a sample of them.
    times: Mutex<Vec<u64>>,
    /// The longest wait for a new connection, served or refused, in milliseconds.
    longest: AtomicU64,
}

/// Exchanges again and again; one in eight is timed.
fn keep_busy(server: SocketAddr, seen: &Seen, pace: Duration) -> io::Result<()> {
    let mut socket = dial(server)?;
    let mut number = 0_u64;
    loop {
        let begun = Instant::now();
        exchange(&mut socket)?;
        seen.exchanges.fetch_add(1, Relaxed);
        number += 1;
        if number.is_multiple_of(8) || !pace.is_zero() {
            let time = u64::try_from(begun.elapsed().as_micros()).unwrap();
            seen.times.lock().unwrap().push(time);
        }
        pause(pace);
    }
}

fn open_others(server: SocketAddr, seen: &Seen, between: Duration) -> io::Result<()> {
    loop {
        let begun = Instant::now();
        let counted = match dial(server) {
            Ok(_) => &seen.served,
            Err(_) => &seen.refused,
        };
        counted.fetch_add(1, Relaxed);
        seen.longest.fetch_max(millis(begun.elapsed()), Relaxed);
        pause(between);
    }
}

fn report(seen: &Seen) {
    loop {
        pause(Duration::from_millis(100));
        let times = std::mem::take(&mut *seen.times.lock().unwrap());
        let at = SystemTime::UNIX_EPOCH.elapsed().unwrap();
        println!(
            "{}",
            json!({
                "at": millis(at),
                "exchanges": seen.exchanges.swap(0, Relaxed),
                "broken": seen.broken.load(Relaxed),
                "served": seen.served.swap(0, Relaxed),
                "refused": seen.refused.swap(0, Relaxed),
                "longest": seen.longest.swap(0, Relaxed),
                "times": times,
            })
        );
    }
}

#[allow(clippy::disallowed_methods, reason = "a load has a pace")]
fn pause(time: Duration) {
    thread::sleep(time);
}

async fn burst(server: SocketAddr, count: usize, hold: bool) {
    let begun = Instant::now();
    let dialling = (0..count).map(|_| tokio::time::timeout(PATIENCE, dial_beside(server)));
    let dialled = dialling.collect::<JoinSet<_>>().join_all().await;
    let seconds = begun.elapsed().as_secs_f64();
    let failed = dialled.iter().filter(|one| !matches!(one, Ok(Ok(_))));
    println!(
        "{}",
        json!({ "seconds": seconds, "failed": failed.count() })
    );
    if hold {
        future::pending().await
    }
}

/// [`dial`], beside others of the same thread.
async fn dial_beside(server: SocketAddr) -> io::Result<tokio::net::TcpStream> {
    let mut socket = tokio::net::TcpStream::connect(server).await?;
    socket.set_nodelay(true)?;
    let mut piece = [7; PIECE];
    socket.write_all(&piece).await?;
    socket.read_exact(&mut piece).await?;
    Ok(socket)
}

/// Connects and exchanges once, since a sidecar accepts before the link is there.
fn dial(server: SocketAddr) -> io::Result<TcpStream> {
    let mut socket = TcpStream::connect(server)?;
    socket.set_nodelay(true)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    exchange(&mut socket)?;
    Ok(socket)
}

fn exchange(socket: &mut TcpStream) -> io::Result<()> {
    let mut piece = [7; PIECE];
    socket.write_all(&piece)?;
    socket.read_exact(&mut piece)
}

/// Hundreds of them fit.
fn small_thread<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> thread::JoinHandle<io::Result<T>> {
    thread::Builder::new()
        .stack_size(128 << 10)
        .spawn(work)
        .unwrap()
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap()
}
