//! What the wire carried: an independent witness (tcpdump) writes it down, and every TCP payload
//! byte is judged as part of a TLS record or as plaintext.

mod classify;
mod streams;

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use etherparse::{NetSlice, SlicedPacket, TransportSlice};
use pcap_file::pcap::PcapReader;
use serde::Serialize;

use self::streams::Streams;
use crate::command::{PodCommand, Process, pause};
use crate::world::{Inner, WorldError, run_error};

/// A capture under way.
#[derive(Debug)]
pub struct Capture {
    process: Process,
    file: PathBuf,
}

/// What was captured.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Wire {
    /// Packets of every kind.
    pub packets: usize,
    /// Payload bytes of TCP that are parts of TLS records.
    pub tls_bytes: u64,
    /// Payload bytes of TCP that are not.
    pub plaintext_bytes: u64,
    /// Payload bytes of TCP that were sent, judging by the numbering, but not captured.
    pub missing_bytes: u64,
    /// One for each direction of each connection that carried anything.
    pub flows: Vec<Flow>,
    /// Payload bytes of UDP, by destination.
    pub datagrams: BTreeMap<String, u64>,
    #[serde(skip)]
    payloads: Vec<Vec<u8>>,
}

/// One direction of a TCP connection.
#[derive(Clone, Debug, Serialize)]
pub struct Flow {
    /// Who sent.
    pub source: SocketAddr,
    /// Who was sent to.
    pub destination: SocketAddr,
    /// Bytes in TLS records.
    pub tls_bytes: u64,
    /// Other bytes.
    pub plaintext_bytes: u64,
    /// The first of the other bytes, for people.
    pub plaintext_sample: Option<String>,
}

impl Capture {
    pub(crate) fn start(
        world: &Arc<Inner>,
        interface: &str,
        file: PathBuf,
    ) -> Result<Self, WorldError> {
        let process = PodCommand::new(world.clone(), None, "tcpdump".into())
            .args([
                "--immediate-mode",
                "-U",
                "-n",
                "-s",
                "0",
                "-Z",
                "root",
                "-B",
                "65536",
                "-i",
                interface,
                "-w",
            ])
            .args([&file])
            .spawn()?;
        let deadline = Instant::now() + Duration::from_secs(5);
        while !process.stderr().contains("listening on") {
            if Instant::now() > deadline {
                return Err(WorldError::Step {
                    step: "tcpdump".to_owned(),
                    message: process.stderr(),
                });
            }
            pause();
        }
        Ok(Self { process, file })
    }

    /// Ends the capture and judges it.
    ///
    /// # Errors
    /// When the file cannot be read, or packets were lost.
    pub fn stop(mut self) -> Result<Wire, WorldError> {
        self.process.signal("INT");
        self.process.wait(Duration::from_secs(5));
        let summary = self.process.stderr();
        if !summary.contains("\n0 packets dropped by kernel") {
            return Err(WorldError::Step {
                step: "tcpdump".to_owned(),
                message: format!("the capture is not complete: {summary}"),
            });
        }
        let file = File::open(&self.file).map_err(|source| run_error("tcpdump", source))?;
        Wire::read(file)
    }
}

impl Wire {
    /// Reads and judges a capture in pcap format with Ethernet frames.
    ///
    /// # Errors
    /// When the file is malformed.
    pub fn read(file: impl io::Read) -> Result<Self, WorldError> {
        let malformed = |error: &dyn std::fmt::Display| WorldError::Step {
            step: "reading the capture".to_owned(),
            message: error.to_string(),
        };
        let mut reader = PcapReader::new(file).map_err(|error| malformed(&error))?;
        let mut wire = Self::default();
        let mut streams = Streams::default();
        while let Some(packet) = reader.next_packet() {
            let packet = packet.map_err(|error| malformed(&error))?;
            wire.packets += 1;
            wire.take(&packet.data, &mut streams);
        }
        for stream in streams.finish() {
            wire.missing_bytes += stream.missing;
            let verdict = classify::classify(&stream.bytes);
            wire.tls_bytes += verdict.tls;
            wire.plaintext_bytes += verdict.plaintext;
            if stream.bytes.is_empty() {
                continue;
            }
            wire.flows.push(Flow {
                source: stream.source,
                destination: stream.destination,
                tls_bytes: verdict.tls,
                plaintext_bytes: verdict.plaintext,
                plaintext_sample: verdict.sample,
            });
            wire.payloads.push(stream.bytes);
        }
        Ok(wire)
    }

    /// Whether these bytes occur in any payload, reassembled.
    pub fn contains(&self, needle: &[u8]) -> bool {
        self.payloads
            .iter()
            .any(|payload| payload.windows(needle.len()).any(|window| window == needle))
    }

    /// The flows between two addresses, both directions.
    pub fn between(&self, one: IpAddr, other: IpAddr) -> impl Iterator<Item = &Flow> {
        self.flows.iter().filter(move |flow| {
            let ends = (flow.source.ip(), flow.destination.ip());
            ends == (one, other) || ends == (other, one)
        })
    }

    fn take(&mut self, frame: &[u8], streams: &mut Streams) {
        let Ok(packet) = SlicedPacket::from_ethernet(frame) else {
            return;
        };
        let (source, destination) = match &packet.net {
            Some(NetSlice::Ipv4(ip)) => (
                IpAddr::V4(ip.header().source_addr()),
                IpAddr::V4(ip.header().destination_addr()),
            ),
            Some(NetSlice::Ipv6(ip)) => (
                IpAddr::V6(ip.header().source_addr()),
                IpAddr::V6(ip.header().destination_addr()),
            ),
            _ => return,
        };
        match &packet.transport {
            Some(TransportSlice::Tcp(tcp)) => streams.take(
                SocketAddr::new(source, tcp.source_port()),
                SocketAddr::new(destination, tcp.destination_port()),
                tcp,
            ),
            Some(TransportSlice::Udp(udp)) => {
                let to = SocketAddr::new(destination, udp.destination_port()).to_string();
                *self.datagrams.entry(to).or_default() +=
                    u64::try_from(udp.payload().len()).unwrap_or(u64::MAX);
                self.payloads.push(udp.payload().to_vec());
            }
            _ => {}
        }
    }
}
