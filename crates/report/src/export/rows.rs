//! From a record to its rows.

use sealwire_evidence::Entry;
use sealwire_evidence::record::{
    Bytes, Census, Direction, Event, ExceptionUse, LinkGroup, Protocol, RefusalCount, Socket,
    Window,
};

use super::columns::{Column, Row};
use crate::error::ReportError;

type Take<'a> = &'a mut dyn FnMut(Row) -> Result<(), ReportError>;

/// Gives each row of a record to `take`.
pub(super) fn rows(log: &str, entry: &Entry, take: Take<'_>) -> Result<(), ReportError> {
    let base = base(log, entry);
    if let Event::Window(found) = &entry.record.event {
        return window(&base, found, take);
    }
    let mut row = base;
    row.text(Column::Kind, entry.record.event.kind());
    let detail = serde_json::to_string(&entry.record).map_err(ReportError::Json)?;
    row.text(Column::Detail, detail);
    single(&mut row, &entry.record.event);
    take(row)
}

/// What every row of a record has.
fn base(log: &str, entry: &Entry) -> Row {
    let record = &entry.record;
    let mut row = Row::new();
    row.text(Column::Log, log)
        .number(Column::Index, entry.index)
        .bool(Column::Signed, entry.signed)
        .time(Column::Time, record.time)
        .text(Column::Namespace, &record.pod.namespace)
        .text(Column::Pod, &record.pod.name)
        .text(Column::Uid, &record.pod.uid)
        .text(Column::Node, &record.pod.node)
        .maybe(Column::Identity, record.identity.as_ref())
        .text(Column::Boot, record.boot)
        .number(Column::Seq, record.seq);
    row
}

/// Columns of what is no window.
fn single(row: &mut Row, event: &Event) {
    match event {
        Event::Start(start) => {
            if let Some(key) = &start.key {
                row.text(Column::Key, &key.reference)
                    .text(Column::PublicKey, &key.public_key_sha256)
                    .maybe(Column::Serial, key.serial.as_ref());
            }
        }
        Event::Stop(stop) => {
            row.text(Column::Reason, &stop.detail)
                .number(Column::Open, stop.open);
        }
        Event::Refusal(refusal) => {
            row.text(Column::Direction, direction(refusal.direction))
                .text(Column::Protocol, protocol(refusal.protocol))
                .text(Column::Reason, &refusal.reason)
                .maybe(Column::Source, refusal.source)
                .maybe(Column::Destination, refusal.destination)
                .maybe(Column::Peer, refusal.peer.as_ref());
        }
        Event::Custody(custody) => {
            row.text(Column::Key, &custody.reference)
                .text(Column::PublicKey, &custody.public_key_sha256);
        }
        Event::Certificate(certificate) => {
            row.text(Column::Serial, &certificate.serial)
                .text(Column::Key, &certificate.key)
                .text(Column::PublicKey, &certificate.public_key_sha256)
                .time(Column::From, certificate.not_before)
                .time(Column::To, certificate.not_after);
        }
        Event::Gap(gap) => {
            row.time(Column::From, gap.from)
                .time(Column::To, gap.to)
                .text(Column::Reason, &gap.detail);
            if let Some(lost) = gap.lost {
                row.number(Column::Count, lost);
            }
        }
        Event::Retention(retention) => {
            row.time(Column::From, retention.from)
                .time(Column::To, retention.to);
        }
        Event::Policy(_) | Event::Window(_) => {}
    }
}

fn window(base: &Row, window: &Window, take: Take<'_>) -> Result<(), ReportError> {
    let mut base = base.clone();
    base.time(Column::From, window.from)
        .time(Column::To, window.to)
        .number(Column::Part, window.part.into())
        .number(Column::Parts, window.parts.into());
    let of = |kind: &str| {
        let mut row = base.clone();
        row.text(Column::Kind, kind);
        row
    };
    let mut row = of("window");
    if let Some(taken) = &window.census {
        census(&mut row, taken);
    }
    take(row)?;
    for group in &window.links {
        let mut row = of("link");
        link(&mut row, group);
        take(row)?;
    }
    for used in &window.exceptions {
        let mut row = of("exception");
        exception(&mut row, used);
        take(row)?;
    }
    for count in &window.refusals {
        let mut row = of("refused");
        refused(&mut row, count);
        take(row)?;
    }
    for found in window.census.iter().flat_map(|census| &census.unaccounted) {
        let mut row = of("socket");
        socket(&mut row, found);
        take(row)?;
    }
    Ok(())
}

fn census(row: &mut Row, census: &Census) {
    let sockets = census.sockets.iter().map(|sockets| sockets.count).sum();
    row.number(Column::Count, sockets)
        .number(Column::Unaccounted, crate::ledger::unaccounted(census));
    let whole = census
        .interfaces
        .iter()
        .all(|interface| !interface.absolute);
    if whole && !census.interfaces.is_empty() {
        let sum = |of: fn(&Bytes) -> u64| {
            census
                .interfaces
                .iter()
                .map(|interface| of(&interface.bytes))
                .sum()
        };
        row.number(Column::KernelSent, sum(|bytes| bytes.sent))
            .number(Column::KernelReceived, sum(|bytes| bytes.received));
    }
}

fn link(row: &mut Row, group: &LinkGroup) {
    let flow = &group.flow;
    row.text(Column::Direction, direction(flow.direction))
        .text(Column::Protocol, protocol(Protocol::Tcp))
        .maybe(Column::Destination, flow.destination)
        .maybe(Column::Peer, flow.peer.as_ref())
        .maybe(Column::PeerSerial, flow.peer_serial.as_ref())
        .text(Column::Serial, &flow.serial)
        .text(Column::TlsVersion, &flow.version)
        .text(Column::Suite, &flow.suite)
        .text(Column::KeyExchange, &flow.group)
        .bool(Column::Resumed, flow.resumed)
        .number(Column::Opened, group.opened)
        .number(Column::Closed, group.closed)
        .number(Column::Open, group.open)
        .number(Column::Failed, group.failures.values().sum())
        .number(Column::BytesSent, group.bytes.sent)
        .number(Column::BytesReceived, group.bytes.received)
        .time(Column::First, group.first)
        .time(Column::Last, group.last);
}

fn exception(row: &mut Row, used: &ExceptionUse) {
    row.text(Column::Rule, &used.rule)
        .maybe(Column::Destination, used.destination)
        .maybe(Column::ObservedTls, used.observed_tls.as_ref())
        .number(Column::Closed, used.connections)
        .number(Column::BytesSent, used.bytes.sent)
        .number(Column::BytesReceived, used.bytes.received)
        .time(Column::First, used.first)
        .time(Column::Last, used.last);
}

fn refused(row: &mut Row, refused: &RefusalCount) {
    row.text(Column::Direction, direction(refused.direction))
        .text(Column::Protocol, protocol(refused.protocol))
        .text(Column::Reason, &refused.reason)
        .maybe(Column::Destination, refused.destination)
        .number(Column::Count, refused.count)
        .time(Column::First, refused.first)
        .time(Column::Last, refused.last);
}

fn socket(row: &mut Row, socket: &Socket) {
    row.text(Column::Protocol, protocol(socket.protocol))
        .maybe(Column::Source, socket.local)
        .maybe(Column::Destination, socket.remote)
        .text(Column::Reason, &socket.state);
    if let Some(bytes) = socket.bytes {
        row.number(Column::BytesSent, bytes.sent)
            .number(Column::BytesReceived, bytes.received);
    }
}

fn direction(direction: Direction) -> &'static str {
    match direction {
        Direction::Inbound => "inbound",
        Direction::Outbound => "outbound",
    }
}

fn protocol(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Tcp => "tcp",
        Protocol::Udp => "udp",
        Protocol::UdpLite => "udp-lite",
        Protocol::Sctp => "sctp",
        Protocol::Dccp => "dccp",
        Protocol::Raw => "raw",
        Protocol::Packet => "packet",
        Protocol::Other => "other",
    }
}
