//! What is wrong with PEM (RFC 7468), in words.

use rustls_pki_types::pem::Error;

/// Says what is wrong, and nothing of what stands there: it may be a key whose lines were joined, or
/// any text of any length from a server. The library's own words repeat it.
pub fn pem_problem(error: &Error) -> &'static str {
    match error {
        Error::MissingSectionEnd { .. } => {
            "a block is not closed: put each of BEGIN, content and END on lines of their own"
        }
        Error::IllegalSectionStart { .. } => {
            "a BEGIN line is malformed: put each of BEGIN, content and END on lines of their own"
        }
        Error::Base64Decode(_) => "the base64 of a block is malformed: copy it anew",
        Error::SectionTooLarge => "a block is larger than 256 MB",
        Error::NoItemsFound => "no block of the kind that is needed",
        _ => "it cannot be read",
    }
}

#[cfg(test)]
mod tests {
    use rustls_pki_types::PrivateKeyDer;
    use rustls_pki_types::pem::PemObject;

    use super::*;

    #[test]
    fn a_key_whose_lines_were_joined_is_not_repeated() {
        const SECRET: &str = "MIGHAgEAMBMG";
        for (text, problem) in [
            (
                format!("-----BEGIN PRIVATE KEY-----\\n{SECRET}\\n"),
                "BEGIN line",
            ),
            (
                format!("-----BEGIN PRIVATE KEY-----{SECRET}-----END PRIVATE KEY-----\n"),
                "not closed",
            ),
            (
                format!("-----BEGIN PRIVATE KEY-----\n{SECRET}!\n-----END PRIVATE KEY-----\n"),
                "base64",
            ),
            (SECRET.to_owned(), "no block"),
        ] {
            let error = PrivateKeyDer::from_pem_slice(text.as_bytes()).unwrap_err();
            let said = pem_problem(&error);
            assert!(said.contains(problem) && !said.contains(SECRET), "{said}");
        }
    }
}
