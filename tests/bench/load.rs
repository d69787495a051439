//! The load: one process in a pod that answers, one that measures.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// What is measured, in the order in which it is printed.
pub(crate) const MEASURES: [&str; 6] = [
    "new connections a second, 16 at once",
    "new connection and one exchange, one at a time, p50 µs",
    "the same, p99 µs",
    "exchange on an open connection, p50 µs",
    "the same, p99 µs",
    "bulk, MB a second",
];

const CONNECTIONS: usize = 1500;
const ALONE: usize = 300;
const EXCHANGES: usize = 5000;
const BULK: usize = 256 << 20;

/// Answers each byte `e` with one, and takes everything behind a `b` up to its length.
pub(crate) fn serve() {
    let listener = TcpListener::bind(("::", 7000)).unwrap();
    for socket in listener.incoming() {
        thread::spawn(move || answer(socket.unwrap()));
    }
}

fn answer(mut socket: TcpStream) -> Option<()> {
    socket.set_nodelay(true).ok()?;
    let mut kind = [0];
    let mut buffer = vec![0; 64 << 10];
    loop {
        socket.read_exact(&mut kind).ok()?;
        if kind == *b"b" {
            let mut left = BULK;
            while left > 0 {
                let wanted = left.min(buffer.len());
                left -= socket
                    .read(&mut buffer[..wanted])
                    .ok()
                    .filter(|read| *read > 0)?;
            }
        }
        socket.write_all(b"a").ok()?;
    }
}

/// Prints every measure.
pub(crate) fn measure(address: IpAddr) {
    let address = SocketAddr::new(address, 7000);
    println!("{}", connections_a_second(address));
    let (p50, p99) = percentiles(ALONE, || drop(dial(address)));
    println!("{p50}\n{p99}");
    let mut open = dial(address);
    let (p50, p99) = percentiles(EXCHANGES, || exchange(&mut open));
    println!("{p50}\n{p99}");
    println!("{}", bulk(&mut open));
}

fn connections_a_second(address: SocketAddr) -> f64 {
    let left = AtomicUsize::new(CONNECTIONS);
    let begun = Instant::now();
    thread::scope(|scope| {
        for _ in 0..16 {
            scope.spawn(|| {
                while left
                    .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| {
                        left.checked_sub(1)
                    })
                    .is_ok()
                {
                    drop(dial(address));
                }
            });
        }
    });
    per_second(CONNECTIONS, begun.elapsed())
}

/// Connects and exchanges once, since a sidecar accepts before the link is there.
fn dial(address: SocketAddr) -> TcpStream {
    let mut socket = TcpStream::connect(address).unwrap();
    socket.set_nodelay(true).unwrap();
    exchange(&mut socket);
    socket
}

fn exchange(socket: &mut TcpStream) {
    socket.write_all(b"e").unwrap();
    socket.read_exact(&mut [0]).unwrap();
}

fn bulk(socket: &mut TcpStream) -> f64 {
    let buffer = vec![7; 64 << 10];
    let begun = Instant::now();
    socket.write_all(b"b").unwrap();
    for _ in 0..BULK / buffer.len() {
        socket.write_all(&buffer).unwrap();
    }
    socket.read_exact(&mut [0]).unwrap();
    per_second(BULK, begun.elapsed()) / 1e6
}

fn percentiles(count: usize, mut work: impl FnMut()) -> (f64, f64) {
    let mut times: Vec<_> = (0..count)
        .map(|_| {
            let begun = Instant::now();
            work();
            begun.elapsed().as_secs_f64() * 1e6
        })
        .collect();
    times.sort_by(f64::total_cmp);
    (times[count / 2], times[count * 99 / 100])
}

#[allow(clippy::cast_precision_loss, reason = "counts far below 2^53")]
fn per_second(count: usize, time: Duration) -> f64 {
    count as f64 / time.as_secs_f64()
}
