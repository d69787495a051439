//! An application's own TLS, let through by a `require-tls` exception: the first flight of each
//! side is read, judged and passed on. What follows is sealed by the application's own keys, so
//! there is nothing more to see.

use std::io;

use rustls::CipherSuite;
use rustls::server::Acceptor;
use sealwire_link::Moved;
use sealwire_link::fields::Fields;
use sealwire_link::record::iana_name;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// The most that either side may send before its hello is complete, in bytes.
const MAX_HELLO: usize = 64 * 1024;

/// The oldest version that passes, as it stands in a hello: TLS 1.2.
const OLDEST: u16 = 0x0303;

/// What was negotiated, and how many bytes have been passed on already.
#[derive(Debug)]
pub(crate) struct Observed {
    pub(crate) description: String,
    pub(crate) forwarded: Moved,
}

/// Why an application's connection is not let through.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ObservedTlsError {
    #[error("the application does not speak TLS here, which this exception requires: {0}")]
    NoClientHello(String),
    #[error("the server did not answer with TLS: {0}")]
    NoServerHello(&'static str),
    #[error("the server chose version {0:#06x}, older than TLS 1.2: upgrade it")]
    TooOld(u16),
    #[error("interrupted: {0}")]
    Interrupted(#[from] io::Error),
}

impl ObservedTlsError {
    pub(crate) fn reason(&self) -> &'static str {
        match self {
            Self::NoClientHello(_) | Self::NoServerHello(_) => "no_tls",
            Self::TooOld(_) => "tls_too_old",
            Self::Interrupted(_) => "interrupted",
        }
    }
}

/// Passes both hellos on once each has been judged.
pub(crate) async fn pass_handshake(
    app: &mut TcpStream,
    far: &mut TcpStream,
) -> Result<Observed, ObservedTlsError> {
    let client = read_client_hello(app).await?;
    far.write_all(&client).await?;
    let (server, hello) = read_server_hello(far).await?;
    if hello.version < OLDEST {
        return Err(ObservedTlsError::TooOld(hello.version));
    }
    app.write_all(&server).await?;
    let length = |bytes: &[u8]| u64::try_from(bytes.len()).unwrap_or(u64::MAX);
    Ok(Observed {
        description: hello.describe(),
        forwarded: Moved {
            sent: length(&client),
            received: length(&server),
        },
    })
}

async fn read_client_hello(app: &mut TcpStream) -> Result<Vec<u8>, ObservedTlsError> {
    let mut acceptor = Acceptor::default();
    let mut bytes = Vec::new();
    loop {
        let before = bytes.len();
        read_more(app, &mut bytes).await?;
        let mut fresh = &bytes[before..];
        while !fresh.is_empty() {
            acceptor.read_tls(&mut fresh)?;
            match acceptor.accept() {
                Ok(Some(_)) => return Ok(bytes),
                Ok(None) => {}
                Err((error, _)) => return Err(ObservedTlsError::NoClientHello(error.to_string())),
            }
        }
        if bytes.len() > MAX_HELLO {
            return Err(ObservedTlsError::NoClientHello(
                "its hello does not end".to_owned(),
            ));
        }
    }
}

async fn read_server_hello(
    far: &mut TcpStream,
) -> Result<(Vec<u8>, ServerHello), ObservedTlsError> {
    let mut bytes = Vec::new();
    loop {
        read_more(far, &mut bytes).await?;
        if let Some(hello) = ServerHello::parse(&bytes).map_err(ObservedTlsError::NoServerHello)? {
            return Ok((bytes, hello));
        }
        if bytes.len() > MAX_HELLO {
            return Err(ObservedTlsError::NoServerHello("its hello does not end"));
        }
    }
}

async fn read_more(socket: &mut TcpStream, bytes: &mut Vec<u8>) -> io::Result<()> {
    match socket.read_buf(bytes).await? {
        0 => Err(io::ErrorKind::UnexpectedEof.into()),
        _ => Ok(()),
    }
}

/// The parts of a ServerHello (RFC 8446 section 4.1.3) that say what was negotiated.
#[derive(Debug, Eq, PartialEq)]
struct ServerHello {
    version: u16,
    suite: u16,
}

impl ServerHello {
    /// Reads it from the start of a stream; `None` while it is incomplete.
    fn parse(stream: &[u8]) -> Result<Option<Self>, &'static str> {
        const HANDSHAKE: u8 = 22;
        const SERVER_HELLO: u8 = 2;
        let mut records = Fields(stream);
        match records.u8() {
            None => return Ok(None),
            Some(HANDSHAKE) => {}
            Some(21) => return Err("it answered with an alert"),
            Some(_) => return Err("its first byte is not that of a handshake"),
        }
        // The record's own version says nothing (RFC 8446 section 5.1).
        let Some(mut record) = records.take(2).and_then(|_| records.vector16()) else {
            return Ok(None);
        };
        match record.u8() {
            Some(SERVER_HELLO) => {}
            _ => return Err("its first message is not a ServerHello"),
        }
        // A ServerHello is small: one that is split over records is no server's.
        Self::body(&mut record)
            .ok_or("its ServerHello is malformed")
            .map(Some)
    }

    fn body(record: &mut Fields<'_>) -> Option<Self> {
        const SUPPORTED_VERSIONS: u16 = 43;
        let length = record.u24()?;
        let mut body = Fields(record.take(length)?);
        let mut version = body.u16()?;
        body.take(32)?;
        body.vector8()?;
        let suite = body.u16()?;
        body.u8()?;
        if let Some(extensions) = body.vector16()
            && let Some(mut supported) = extensions.extension(SUPPORTED_VERSIONS)?
        {
            version = supported.u16()?;
        }
        Some(Self { version, suite })
    }

    fn describe(&self) -> String {
        let version = match self.version {
            0x0303 => "TLSv1.2",
            0x0304 => "TLSv1.3",
            _ => "TLS of unknown version",
        };
        let suite = format!("{:?}", CipherSuite::from(self.suite));
        format!("{version} {}", iana_name(&suite))
    }
}

/// For the fuzz target: what is read of an answer, and how it is told. Once it is judged, what
/// follows changes nothing.
#[cfg(fuzzing)]
pub fn fuzz(stream: &[u8]) {
    let judged = ServerHello::parse(stream);
    if judged == Ok(None) {
        return;
    }
    assert_eq!(judged, ServerHello::parse(&[stream, &[22]].concat()));
    if let Ok(Some(hello)) = judged {
        assert!(hello.describe().len() < 100);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn hello(version: u16, extensions: &[u8]) -> Vec<u8> {
        let mut body = version.to_be_bytes().to_vec();
        body.extend([7; 32]);
        body.push(0);
        body.extend([0x13, 0x01, 0]);
        body.extend(u16::try_from(extensions.len()).unwrap().to_be_bytes());
        body.extend(extensions);
        let mut message = vec![2, 0];
        message.extend(u16::try_from(body.len()).unwrap().to_be_bytes());
        message.extend(body);
        let mut record = vec![22, 3, 3];
        record.extend(u16::try_from(message.len()).unwrap().to_be_bytes());
        record.extend(message);
        record
    }

    #[test]
    fn the_version_is_taken_from_the_extension_where_there_is_one() {
        let tls13 = hello(0x0303, &[0, 43, 0, 2, 3, 4]);
        let parsed = ServerHello::parse(&tls13).unwrap().unwrap();
        assert_eq!(parsed.describe(), "TLSv1.3 TLS_AES_128_GCM_SHA256");
        let tls12 = ServerHello::parse(&hello(0x0303, &[])).unwrap().unwrap();
        assert_eq!(tls12.version, 0x0303);
        assert!(
            ServerHello::parse(&hello(0x0301, &[]))
                .unwrap()
                .unwrap()
                .version
                < OLDEST
        );
    }

    #[test]
    fn a_part_of_a_hello_is_not_judged_yet_and_plaintext_is_refused_at_once() {
        let whole = hello(0x0303, &[0, 43, 0, 2, 3, 4]);
        for length in 0..whole.len() {
            assert_eq!(ServerHello::parse(&whole[..length]), Ok(None), "{length}");
        }
        assert!(ServerHello::parse(b"HTTP/1.1 200 OK").is_err());
        assert!(ServerHello::parse(&[21, 3, 3, 0, 2, 2, 40]).is_err());
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..300), handshake in any::<bool>()) {
            let mut bytes = bytes;
            if handshake && !bytes.is_empty() {
                bytes[0] = 22;
            }
            let _ = ServerHello::parse(&bytes);
        }
    }
}
