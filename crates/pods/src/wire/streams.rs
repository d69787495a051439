//! TCP streams put together by their sequence numbers. What was not captured is counted as
//! missing, never guessed.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;

use etherparse::TcpSlice;

/// Collects segments.
#[derive(Default)]
pub(super) struct Streams {
    open: HashMap<(SocketAddr, SocketAddr), Segments>,
    done: Vec<Stream>,
}

/// One direction of one connection.
pub(super) struct Stream {
    pub(super) source: SocketAddr,
    pub(super) destination: SocketAddr,
    pub(super) bytes: Vec<u8>,
    pub(super) missing: u64,
}

/// Segments by their distance from the stream's first byte.
struct Segments {
    first: u32,
    by_offset: BTreeMap<u64, Vec<u8>>,
    /// The highest offset seen, by which wrapped sequence numbers are told apart.
    highest: u64,
}

impl Streams {
    pub(super) fn take(&mut self, source: SocketAddr, destination: SocketAddr, tcp: &TcpSlice<'_>) {
        self.segment(
            source,
            destination,
            tcp.sequence_number(),
            tcp.syn(),
            tcp.payload(),
        );
    }

    fn segment(
        &mut self,
        source: SocketAddr,
        destination: SocketAddr,
        sequence: u32,
        syn: bool,
        payload: &[u8],
    ) {
        let key = (source, destination);
        // A SYN takes one number itself.
        let first = if syn {
            sequence.wrapping_add(1)
        } else {
            sequence
        };
        if syn
            && self
                .open
                .get(&key)
                .is_some_and(|segments| segments.first != first)
        {
            // The ports are used again.
            if let Some(segments) = self.open.remove(&key) {
                self.done.push(segments.assemble(source, destination));
            }
        }
        let segments = self.open.entry(key).or_insert_with(|| Segments {
            first,
            by_offset: BTreeMap::new(),
            highest: 0,
        });
        if !syn && !payload.is_empty() {
            segments.add(sequence, payload);
        }
    }

    pub(super) fn finish(mut self) -> Vec<Stream> {
        for ((source, destination), segments) in self.open.drain() {
            self.done.push(segments.assemble(source, destination));
        }
        self.done
    }
}

impl Segments {
    fn add(&mut self, sequence: u32, payload: &[u8]) {
        let low = u64::from(sequence.wrapping_sub(self.first));
        // The number that lies nearest to what has been seen.
        let turns = self.highest >> 32;
        let offset = [turns.saturating_sub(1), turns, turns + 1]
            .map(|turn| (turn << 32) + low)
            .into_iter()
            .min_by_key(|offset| offset.abs_diff(self.highest))
            .unwrap_or(low);
        // A keep-alive probe lies before the first byte and carries nothing new.
        if offset > self.highest + (1 << 31) {
            return;
        }
        self.highest = self.highest.max(offset);
        let longer = self
            .by_offset
            .get(&offset)
            .is_none_or(|known| known.len() < payload.len());
        if longer {
            self.by_offset.insert(offset, payload.to_vec());
        }
    }

    fn assemble(self, source: SocketAddr, destination: SocketAddr) -> Stream {
        let mut bytes = Vec::new();
        let mut missing = 0;
        let mut position = 0;
        for (offset, segment) in self.by_offset {
            let length = u64::try_from(segment.len()).unwrap_or(u64::MAX);
            if offset > position {
                missing += offset - position;
                position = offset;
            }
            let known = usize::try_from(position - offset).unwrap_or(usize::MAX);
            if let Some(fresh) = segment.get(known..) {
                bytes.extend_from_slice(fresh);
                position = position.max(offset + length);
            }
        }
        Stream {
            source,
            destination,
            bytes,
            missing,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ends() -> (SocketAddr, SocketAddr) {
        (
            "198.18.0.1:1".parse().unwrap(),
            "198.18.0.2:2".parse().unwrap(),
        )
    }

    proptest! {
        #[test]
        fn a_stream_is_the_same_however_it_was_cut_repeated_and_mixed_up(
            stream in prop::collection::vec(any::<u8>(), 1..400),
            cuts in prop::collection::vec(1..50_usize, 1..50),
            first in any::<u32>(),
            order in any::<u64>(),
        ) {
            let (source, destination) = ends();
            let mut pieces = Vec::new();
            let mut at = 0;
            for cut in cuts.into_iter().cycle() {
                if at >= stream.len() {
                    break;
                }
                let end = (at + cut).min(stream.len());
                pieces.push((at, &stream[at..end]));
                // Some again, from an earlier byte on.
                if cut % 3 == 0 {
                    let earlier = at.saturating_sub(cut / 2);
                    pieces.push((earlier, &stream[earlier..end]));
                }
                at = end;
            }
            pieces.sort_by_key(|(at, piece)| (*at as u64).wrapping_mul(order | 1).rotate_left(7) ^ piece.len() as u64);
            let mut streams = Streams::default();
            streams.segment(source, destination, first.wrapping_sub(1), true, &[]);
            for (at, piece) in pieces {
                streams.segment(source, destination, first.wrapping_add(u32::try_from(at).unwrap()), false, piece);
            }
            let whole = streams.finish().pop().unwrap();
            prop_assert_eq!(whole.bytes, stream);
            prop_assert_eq!(whole.missing, 0);
        }
    }

    #[test]
    fn what_was_not_captured_is_counted_as_missing() {
        let (source, destination) = ends();
        let mut streams = Streams::default();
        streams.segment(source, destination, 99, true, &[]);
        streams.segment(source, destination, 100, false, b"abc");
        streams.segment(source, destination, 110, false, b"xyz");
        let whole = streams.finish().pop().unwrap();
        assert_eq!((whole.bytes.as_slice(), whole.missing), (&b"abcxyz"[..], 7));
    }
}
