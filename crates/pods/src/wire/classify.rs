//! TLS or not: a stream is walked record by record from its first byte.

/// Longest payload of a TLS 1.3 record (RFC 8446 section 5.2).
const MAX_RECORD: usize = 16_384 + 256;

const HEADER: usize = 5;

/// How many bytes of a stream are what.
#[derive(Debug, Default, Eq, PartialEq)]
pub(super) struct Verdict {
    pub(super) tls: u64,
    pub(super) plaintext: u64,
    pub(super) sample: Option<String>,
}

/// Judges every byte. From the first that belongs to no record on, everything is plaintext.
pub(super) fn classify(stream: &[u8]) -> Verdict {
    let mut sealed = 0;
    while let Some(length) = record(&stream[sealed..]) {
        // A record that the stream ends in the middle of was cut by a reset, or is still under way.
        sealed = (sealed + length).min(stream.len());
        if sealed == stream.len() {
            break;
        }
    }
    let rest = &stream[sealed..];
    let count = |length: usize| u64::try_from(length).unwrap_or(u64::MAX);
    Verdict {
        tls: count(sealed),
        plaintext: count(rest.len()),
        sample: (!rest.is_empty())
            .then(|| String::from_utf8_lossy(&rest[..rest.len().min(80)]).into_owned()),
    }
}

/// The length of the record that the bytes begin with, its header included.
fn record(bytes: &[u8]) -> Option<usize> {
    let header: [u8; HEADER] = bytes.get(..HEADER)?.try_into().ok()?;
    let [kind, major, minor, high, low] = header;
    let length = usize::from(u16::from_be_bytes([high, low]));
    // change_cipher_spec, alert, handshake, application_data
    let known = (20..=23).contains(&kind) && major == 3 && (1..=3).contains(&minor);
    (known && length <= MAX_RECORD && length > 0).then_some(HEADER + length)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn records(lengths: &[u16]) -> Vec<u8> {
        let mut stream = Vec::new();
        for length in lengths {
            stream.extend([23, 3, 3]);
            stream.extend(length.to_be_bytes());
            stream.extend(vec![0xaa; usize::from(*length)]);
        }
        stream
    }

    #[test]
    fn records_are_tls_to_the_last_byte() {
        let stream = records(&[100, 1, 16_640]);
        let verdict = classify(&stream);
        assert_eq!((verdict.tls, verdict.plaintext), (stream.len() as u64, 0));
    }

    #[test]
    fn http_is_plaintext_from_its_first_byte() {
        let verdict = classify(b"GET / HTTP/1.1\r\n\r\n");
        assert_eq!((verdict.tls, verdict.plaintext), (0, 18));
        assert!(verdict.sample.unwrap().starts_with("GET /"));
    }

    #[test]
    fn plaintext_behind_records_is_found() {
        let mut stream = records(&[50, 60]);
        let sealed = stream.len() as u64;
        stream.extend(b"secret");
        let verdict = classify(&stream);
        assert_eq!((verdict.tls, verdict.plaintext), (sealed, 6));
    }

    #[test]
    fn a_record_longer_than_tls_allows_is_no_record() {
        assert_eq!(classify(&records(&[16_641])).tls, 0);
    }
}
