//! What the first message of a handshake says about its cost: whether it asks for a resumption,
//! which needs no signature, or whether that was granted. Read from the network before rustls
//! reads it, and trusted for nothing but the choice of a queue.

/// The start of a stream, seen as a TLS 1.3 hello (RFC 8446 section 4.1).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Hello<'a> {
    /// Not whole yet.
    Incomplete,
    /// A ClientHello; with the first ticket, when it asks to resume with a fresh key exchange.
    Client(Option<&'a [u8]>),
    /// A ServerHello, and whether it grants a resumption.
    Server(bool),
    /// A handshake message in plaintext that is neither, or that is split over records.
    Unclear,
    /// Anything else: encrypted records, alerts, or no TLS at all.
    Other,
}

impl<'a> Hello<'a> {
    /// Looks at the bytes that came first; a ChangeCipherSpec before them means nothing in TLS 1.3
    /// (RFC 8446 section D.4).
    pub(crate) fn read(stream: &'a [u8]) -> Self {
        const HANDSHAKE: u8 = 22;
        const CHANGE_CIPHER_SPEC: &[u8] = &[20, 3, 3, 0, 1, 1];
        const LARGEST_RECORD: usize = 1 << 14;
        if CHANGE_CIPHER_SPEC.starts_with(stream) {
            return Self::Incomplete;
        }
        let mut reader = Reader(stream.strip_prefix(CHANGE_CIPHER_SPEC).unwrap_or(stream));
        match reader.u8() {
            None => return Self::Incomplete,
            Some(HANDSHAKE) => {}
            Some(_) => return Self::Other,
        }
        // The record's own version says nothing (RFC 8446 section 5.1).
        let Some(length) = reader.take(2).and_then(|_| reader.u16()) else {
            return Self::Incomplete;
        };
        let length = usize::from(length);
        match reader.take(length) {
            _ if length > LARGEST_RECORD => Self::Unclear,
            None => Self::Incomplete,
            Some(record) => Self::message(Reader(record)).unwrap_or(Self::Unclear),
        }
    }

    fn message(mut record: Reader<'a>) -> Option<Self> {
        const CLIENT_HELLO: u8 = 1;
        const SERVER_HELLO: u8 = 2;
        let kind = record.u8()?;
        let length = record.u24()?;
        let mut body = Reader(record.take(length)?);
        // Version and random.
        body.take(2 + 32)?;
        body.vector8()?;
        match kind {
            CLIENT_HELLO => {
                // Cipher suites and compression methods.
                body.vector16()?;
                body.vector8()?;
                body.vector16()?.ticket().map(Self::Client)
            }
            SERVER_HELLO => {
                // Cipher suite and compression method.
                body.take(2 + 1)?;
                let granted = body.vector16()?.find(PRE_SHARED_KEY)?;
                Some(Self::Server(granted.is_some()))
            }
            _ => None,
        }
    }
}

const PRE_SHARED_KEY: u16 = 41;
const PSK_KEY_EXCHANGE_MODES: u16 = 45;

/// Reads big-endian fields; `None` at the end.
#[derive(Clone, Copy)]
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    /// In a ClientHello's extensions: the first ticket offered (RFC 8446 section 4.2.11).
    fn ticket(self) -> Option<Option<&'a [u8]>> {
        const WITH_KEY_EXCHANGE: u8 = 1;
        let Some(mut offered) = self.find(PRE_SHARED_KEY)? else {
            return Some(None);
        };
        let modes = match self.find(PSK_KEY_EXCHANGE_MODES)? {
            Some(mut modes) => modes.vector8()?.0,
            None => &[],
        };
        let ticket = offered.vector16()?.vector16()?.0;
        Some(modes.contains(&WITH_KEY_EXCHANGE).then_some(ticket))
    }

    /// An extension's value, if it is among these extensions.
    fn find(mut self, wanted: u16) -> Option<Option<Self>> {
        while let Some(kind) = self.u16() {
            let value = self.vector16()?;
            if kind == wanted {
                return Some(Some(value));
            }
        }
        Some(None)
    }

    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }

    fn u8(&mut self) -> Option<u8> {
        self.take(1).map(|bytes| bytes[0])
    }

    fn u16(&mut self) -> Option<u16> {
        self.take(2)
            .map(|bytes| u16::from_be_bytes([bytes[0], bytes[1]]))
    }

    fn u24(&mut self) -> Option<usize> {
        self.take(3).map(|bytes| {
            usize::from(bytes[0]) << 16 | usize::from(bytes[1]) << 8 | usize::from(bytes[2])
        })
    }

    fn vector8(&mut self) -> Option<Self> {
        let length = self.u8()?;
        self.take(usize::from(length)).map(Reader)
    }

    fn vector16(&mut self) -> Option<Self> {
        let length = self.u16()?;
        self.take(usize::from(length)).map(Reader)
    }
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

    #[test]
    fn a_client_that_offers_a_ticket_shows_it() {
        let modes = extension(45, &[1, 1]);
        let hello = client(&[extension(43, &[2, 3, 4]), modes, offer(b"ticket")].concat());
        assert_eq!(Hello::read(&hello), Hello::Client(Some(b"ticket")));
        let hello = client(&extension(43, &[2, 3, 4]));
        assert_eq!(Hello::read(&hello), Hello::Client(None));
    }

    #[test]
    fn a_ticket_without_a_fresh_key_exchange_counts_for_nothing() {
        let hello = client(&[extension(45, &[1, 0]), offer(b"ticket")].concat());
        assert_eq!(Hello::read(&hello), Hello::Client(None));
    }

    #[test]
    fn a_server_says_whether_it_resumes() {
        let key_share = extension(51, &[0; 4]);
        let resumes = server(&[key_share.clone(), extension(41, &[0, 0])].concat());
        assert_eq!(Hello::read(&resumes), Hello::Server(true));
        assert_eq!(Hello::read(&server(&key_share)), Hello::Server(false));
    }

    #[test]
    fn what_could_be_a_hello_in_pieces_is_not_taken_for_something_harmless() {
        let mut split = client(&[]);
        split[8] += 1;
        assert_eq!(Hello::read(&split), Hello::Unclear);
        assert_eq!(Hello::read(&[22, 3, 3, 0x40, 1, 1]), Hello::Unclear);
    }

    #[test]
    fn a_change_cipher_spec_before_a_hello_is_passed_over() {
        let second = [&[20, 3, 3, 0, 1, 1], client(&offer(b"x")).as_slice()].concat();
        assert_eq!(Hello::read(&second), Hello::Client(None));
        assert_eq!(Hello::read(&second[..6]), Hello::Incomplete);
        assert_eq!(Hello::read(&[20, 3, 3, 0, 1, 1, 23]), Hello::Other);
    }

    #[test]
    fn a_part_of_a_hello_is_waited_for_and_plaintext_is_not() {
        let whole = client(&offer(b"ticket"));
        for length in 0..whole.len() {
            assert_eq!(Hello::read(&whole[..length]), Hello::Incomplete, "{length}");
        }
        assert_eq!(Hello::read(b"GET / HTTP/1.1\r\n"), Hello::Other);
        assert_eq!(Hello::read(&[21, 3, 3, 0, 2, 2, 40]), Hello::Other);
    }

    proptest! {
        #[test]
        fn no_bytes_panic(mut bytes in prop::collection::vec(any::<u8>(), 0..400), kind in 0..4_u8) {
            if bytes.len() > 9 {
                bytes[0] = 22;
                bytes[3] = 0;
                bytes[5] = kind;
                bytes[6] = 0;
                bytes[7] = 0;
            }
            let _ = Hello::read(&bytes);
        }

        #[test]
        fn any_ticket_is_read_as_it_was_written(ticket in prop::collection::vec(any::<u8>(), 1..3000)) {
            let hello = client(&[extension(45, &[2, 0, 1]), offer(&ticket)].concat());
            prop_assert_eq!(Hello::read(&hello), Hello::Client(Some(ticket.as_slice())));
        }
    }
}
