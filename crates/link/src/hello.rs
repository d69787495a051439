//! What the first message of a handshake says about its cost: whether it asks for a resumption,
//! which needs no signature, or whether that was granted. Read from the network before rustls
//! reads it, and trusted for nothing but the choice of a queue.

use crate::fields::Fields;

/// A hello of TLS 1.3 (RFC 8446 section 4.1).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Hello<'a> {
    /// A ClientHello; with the first ticket, when it asks to resume with a fresh key exchange.
    Client(Option<&'a [u8]>),
    /// A ServerHello, and whether it grants a resumption.
    Server(bool),
    /// A handshake message in plaintext that is neither, or a part of one.
    Unclear,
}

/// What a piece of a stream holds.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Look<'a> {
    /// The beginning of a handshake message in plaintext: it has to be read on.
    Incomplete,
    /// A hello, or what may be one.
    Hello(Hello<'a>),
    /// None: encrypted records, alerts, or no TLS at all.
    Nothing,
}

/// Where in its records a stream is: only where one begins is its type to be read.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Framing {
    /// Bytes of the current record that are still to come.
    left: usize,
    /// Whether that record is a handshake message in plaintext.
    in_hello: bool,
    /// The bytes of a header that is not whole yet.
    header: [u8; HEADER],
    header_length: usize,
}

const HEADER: usize = 5;
const HANDSHAKE: u8 = 22;
const LARGEST_RECORD: usize = 1 << 14;

impl Framing {
    /// Looks for the first hello in the next piece. What comes before it, such as an alert or a
    /// ChangeCipherSpec, is passed over: rustls does so as well.
    pub(crate) fn look<'a>(&self, piece: &'a [u8]) -> Look<'a> {
        if self.in_hello || self.header_length > 0 {
            return Look::Hello(Hello::Unclear);
        }
        let mut rest = piece.get(self.left..).unwrap_or_default();
        while let Some(kind) = rest.first() {
            let length = rest.get(3..HEADER).map(length);
            match (*kind, length) {
                (HANDSHAKE, None) => return Look::Incomplete,
                (HANDSHAKE, Some(length)) if length > LARGEST_RECORD => {
                    return Look::Hello(Hello::Unclear);
                }
                (HANDSHAKE, Some(length)) => {
                    return match rest.get(HEADER..HEADER + length) {
                        None => Look::Incomplete,
                        Some(record) => Look::Hello(Hello::read(record)),
                    };
                }
                (_, None) => return Look::Nothing,
                (_, Some(length)) => rest = rest.get(HEADER + length..).unwrap_or_default(),
            }
        }
        Look::Nothing
    }

    /// Goes on behind a piece.
    pub(crate) fn pass(&mut self, mut piece: &[u8]) {
        while !piece.is_empty() {
            let skipped = self.left.min(piece.len());
            piece = &piece[skipped..];
            self.left -= skipped;
            if self.left > 0 {
                return;
            }
            self.in_hello = false;
            let taken = (HEADER - self.header_length).min(piece.len());
            self.header[self.header_length..self.header_length + taken]
                .copy_from_slice(&piece[..taken]);
            self.header_length += taken;
            piece = &piece[taken..];
            if self.header_length == HEADER {
                self.left = length(&self.header[3..]);
                self.in_hello = self.header[0] == HANDSHAKE && self.left > 0;
                self.header_length = 0;
            }
        }
        if self.left == 0 {
            self.in_hello = false;
        }
    }
}

fn length(bytes: &[u8]) -> usize {
    bytes
        .iter()
        .fold(0, |length, byte| length << 8 | usize::from(*byte))
}

impl<'a> Hello<'a> {
    /// Reads a record's content.
    fn read(record: &'a [u8]) -> Self {
        Self::message(Fields(record)).unwrap_or(Self::Unclear)
    }

    fn message(mut record: Fields<'a>) -> Option<Self> {
        const CLIENT_HELLO: u8 = 1;
        const SERVER_HELLO: u8 = 2;
        let kind = record.u8()?;
        let length = record.u24()?;
        let mut body = Fields(record.take(length)?);
        // Version and random.
        body.take(2 + 32)?;
        body.vector8()?;
        match kind {
            CLIENT_HELLO => {
                // Cipher suites and compression methods.
                body.vector16()?;
                body.vector8()?;
                ticket(body.vector16()?).map(Self::Client)
            }
            SERVER_HELLO => {
                // Cipher suite and compression method.
                body.take(2 + 1)?;
                let granted = body.vector16()?.extension(PRE_SHARED_KEY)?;
                Some(Self::Server(granted.is_some()))
            }
            _ => None,
        }
    }
}

const PRE_SHARED_KEY: u16 = 41;
const PSK_KEY_EXCHANGE_MODES: u16 = 45;

/// In a ClientHello's extensions: the first ticket offered (RFC 8446 section 4.2.11).
fn ticket(extensions: Fields<'_>) -> Option<Option<&[u8]>> {
    const WITH_KEY_EXCHANGE: u8 = 1;
    let Some(mut offered) = extensions.extension(PRE_SHARED_KEY)? else {
        return Some(None);
    };
    let modes = match extensions.extension(PSK_KEY_EXCHANGE_MODES)? {
        Some(mut modes) => modes.vector8()?.0,
        None => &[],
    };
    let ticket = offered.vector16()?.vector16()?.0;
    Some(modes.contains(&WITH_KEY_EXCHANGE).then_some(ticket))
}

/// For the fuzz target: looks at a stream that comes in pieces. Where it is in its records does not
/// depend on where it was cut.
#[cfg(fuzzing)]
pub fn fuzz(pieces: &[Vec<u8>]) {
    let (mut cut, mut whole) = (Framing::default(), Framing::default());
    for piece in pieces {
        let _ = cut.look(piece);
        cut.pass(piece);
    }
    whole.pass(&pieces.concat());
    let place = |framing: &Framing| (framing.left, framing.in_hello, framing.header_length);
    assert_eq!(place(&cut), place(&whole));
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn vector(bytes: &[u8]) -> Vec<u8> {
        [&u16::try_from(bytes.len()).unwrap().to_be_bytes(), bytes].concat()
    }

    fn extension(kind: u16, value: &[u8]) -> Vec<u8> {
        [&kind.to_be_bytes()[..], &vector(value)].concat()
    }

    fn record(kind: u8, body: &[u8]) -> Vec<u8> {
        let length = u16::try_from(body.len()).unwrap().to_be_bytes();
        let message = [&[kind, 0], &length[..], body].concat();
        [&[22, 3, 3], vector(&message).as_slice()].concat()
    }

    fn client(extensions: &[u8]) -> Vec<u8> {
        let mut body = vec![3; 2 + 32];
        body.push(0);
        body.extend(vector(&[0x13, 1]));
        body.extend([1, 0]);
        body.extend(vector(extensions));
        record(1, &body)
    }

    fn server(extensions: &[u8]) -> Vec<u8> {
        let mut body = vec![3; 2 + 32];
        body.extend([0, 0x13, 1, 0]);
        body.extend(vector(extensions));
        record(2, &body)
    }

    fn offer(ticket: &[u8]) -> Vec<u8> {
        let identity = [vector(ticket), vec![0; 4]].concat();
        extension(41, &[vector(&identity), vector(&[33; 33])].concat())
    }

    fn look(stream: &[u8]) -> Look<'_> {
        Framing::default().look(stream)
    }

    const ALERT: &[u8] = &[21, 3, 3, 0, 2, 1, 90];
    const CHANGE_CIPHER_SPEC: &[u8] = &[20, 3, 3, 0, 1, 1];

    #[test]
    fn a_client_that_offers_a_ticket_shows_it() {
        let modes = extension(45, &[1, 1]);
        let hello = client(&[extension(43, &[2, 3, 4]), modes, offer(b"ticket")].concat());
        assert_eq!(look(&hello), Look::Hello(Hello::Client(Some(b"ticket"))));
        let hello = client(&extension(43, &[2, 3, 4]));
        assert_eq!(look(&hello), Look::Hello(Hello::Client(None)));
    }

    #[test]
    fn a_ticket_without_a_fresh_key_exchange_counts_for_nothing() {
        let hello = client(&[extension(45, &[1, 0]), offer(b"ticket")].concat());
        assert_eq!(look(&hello), Look::Hello(Hello::Client(None)));
    }

    #[test]
    fn a_server_says_whether_it_resumes() {
        let key_share = extension(51, &[0; 4]);
        let resumes = server(&[key_share.clone(), extension(41, &[0, 0])].concat());
        assert_eq!(look(&resumes), Look::Hello(Hello::Server(true)));
        assert_eq!(look(&server(&key_share)), Look::Hello(Hello::Server(false)));
    }

    #[test]
    fn what_could_be_a_hello_in_pieces_is_not_taken_for_something_harmless() {
        let mut split = client(&[]);
        split[8] += 1;
        assert_eq!(look(&split), Look::Hello(Hello::Unclear));
        assert_eq!(look(&[22, 3, 3, 0x40, 1, 1]), Look::Hello(Hello::Unclear));
        let whole = client(&[]);
        for cut in 1..whole.len() {
            let mut framing = Framing::default();
            framing.pass(&whole[..cut]);
            assert_eq!(
                framing.look(&whole[cut..]),
                Look::Hello(Hello::Unclear),
                "{cut}"
            );
        }
    }

    #[test]
    fn a_hello_is_found_behind_alerts_and_change_cipher_specs() {
        for before in [
            ALERT,
            CHANGE_CIPHER_SPEC,
            &[ALERT, CHANGE_CIPHER_SPEC].concat(),
        ] {
            let stream = [before, client(&[]).as_slice()].concat();
            assert_eq!(look(&stream), Look::Hello(Hello::Client(None)));
            assert_eq!(look(&stream[..before.len() + 1]), Look::Incomplete);
            assert_eq!(look(before), Look::Nothing);
        }
    }

    #[test]
    fn the_inside_of_an_encrypted_record_is_not_taken_for_a_hello() {
        // As the middle of a record may look by chance: a long handshake message that never ends.
        let inside = [22, 3, 3, 0x3f, 0, 1, 2, 3];
        let record = [&[23, 3, 3, 0, 16, 0, 0, 0][..], &inside, &[0; 5]].concat();
        let mut framing = Framing::default();
        framing.pass(&record[..8]);
        assert_eq!(framing.look(&record[8..]), Look::Nothing);
        framing.pass(&record[8..]);
        assert_eq!(framing.look(&client(&[])), Look::Hello(Hello::Client(None)));
    }

    #[test]
    fn a_part_of_a_hello_is_waited_for_and_plaintext_is_not() {
        let whole = client(&offer(b"ticket"));
        for length in 1..whole.len() {
            assert_eq!(look(&whole[..length]), Look::Incomplete, "{length}");
        }
        assert_eq!(look(b"GET / HTTP/1.1\r\n"), Look::Nothing);
    }

    proptest! {
        #[test]
        fn no_bytes_panic(mut bytes in prop::collection::vec(any::<u8>(), 0..400), kind in 0..4_u8, cut in 0..400_usize) {
            if bytes.len() > 9 {
                bytes[0] = 22;
                bytes[3] = 0;
                bytes[5] = kind;
                bytes[6] = 0;
                bytes[7] = 0;
            }
            let mut framing = Framing::default();
            let (first, second) = bytes.split_at(cut.min(bytes.len()));
            let _ = framing.look(first);
            framing.pass(first);
            let _ = framing.look(second);
            framing.pass(second);
        }

        #[test]
        fn any_ticket_is_read_as_it_was_written(ticket in prop::collection::vec(any::<u8>(), 1..3000)) {
            let hello = client(&[extension(45, &[2, 0, 1]), offer(&ticket)].concat());
            prop_assert_eq!(look(&hello), Look::Hello(Hello::Client(Some(ticket.as_slice()))));
        }

        #[test]
        fn however_a_stream_is_cut_the_framing_ends_where_it_ends(
            lengths in prop::collection::vec(0..60_usize, 1..6),
            cuts in prop::collection::vec(1..40_usize, 1..60),
        ) {
            let mut stream = Vec::new();
            for length in &lengths {
                stream.extend([23, 3, 3, 0, u8::try_from(*length).unwrap()]);
                stream.extend(vec![22; *length]);
            }
            let mut framing = Framing::default();
            let mut rest = stream.as_slice();
            for cut in cuts.iter().cycle() {
                let (piece, behind) = rest.split_at((*cut).min(rest.len()));
                framing.pass(piece);
                rest = behind;
                if rest.is_empty() {
                    break;
                }
            }
            let hello = client(&[]);
            prop_assert_eq!(framing.look(&hello), Look::Hello(Hello::Client(None)));
        }
    }
}
