//! The CA's revocation list, signed by its key in the token. The list before is the memory of what
//! was revoked: its entries stay, and its number counts on.

use std::path::PathBuf;

use rcgen::{
    CertificateRevocationListParams, Issuer, KeyIdMethod, RevokedCertParams, SerialNumber,
};
use rustls_pki_types::CertificateRevocationListDer;
use rustls_pki_types::pem::PemObject;
use sealwire_identity::RemoteKey;
use serde::Serialize;
use time::{Duration, OffsetDateTime};
use x509_parser::prelude::{CertificateRevocationList, FromDer};

use crate::store::{CA, Error, Store};

/// A list that was issued.
#[derive(Debug, Serialize)]
pub struct IssuedCrl {
    /// Where it was written.
    pub crl: PathBuf,
    /// The list in PEM.
    #[serde(skip)]
    pub pem: String,
    /// Its CRL number.
    pub number: u64,
    /// How many certificates it revokes.
    pub entries: usize,
    /// When the next is due.
    #[serde(with = "time::serde::rfc3339")]
    pub next_update: OffsetDateTime,
}

impl Store {
    /// Issues a list that revokes these serial numbers beside those of the list before. The next
    /// is due in `lifetime`.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn revoke(&self, serials: &[Vec<u8>], lifetime: Duration) -> Result<IssuedCrl, Error> {
        let now = OffsetDateTime::now_utc();
        let (number, mut revoked) = self.revoked_before()?;
        let number = number + 1;
        for serial in serials {
            let serial_number = SerialNumber::from_slice(serial);
            if revoked
                .iter()
                .all(|known| known.serial_number != serial_number)
            {
                revoked.push(RevokedCertParams {
                    serial_number,
                    revocation_time: now,
                    reason_code: None,
                    invalidity_date: None,
                });
            }
        }
        let entries = revoked.len();
        let next_update = now + lifetime;
        let params = CertificateRevocationListParams {
            this_update: now,
            next_update,
            crl_number: SerialNumber::from(number),
            issuing_distribution_point: None,
            revoked_certs: revoked,
            key_identifier_method: KeyIdMethod::Sha256,
        };
        let ca_key = self.open_key(CA, CA)?;
        let ca_pem = std::fs::read_to_string(self.ca_certificate()).map_err(failed)?;
        let remote = RemoteKey::new(ca_key.as_ref()).map_err(failed)?;
        let issuer = Issuer::from_ca_cert_pem(&ca_pem, remote).map_err(failed)?;
        let list = params.signed_by(&issuer).map_err(failed)?;
        let pem = list.pem().map_err(failed)?;
        self.write(&self.crl(), pem.as_bytes())?;
        Ok(IssuedCrl {
            crl: self.crl(),
            pem,
            number,
            entries,
            next_update,
        })
    }

    /// The newest list.
    fn crl(&self) -> PathBuf {
        self.ca_certificate().with_file_name("crl.pem")
    }

    /// Number and entries of the list before; none at first.
    fn revoked_before(&self) -> Result<(u64, Vec<RevokedCertParams>), Error> {
        if !self.crl().exists() {
            return Ok((0, Vec::new()));
        }
        let der = CertificateRevocationListDer::from_pem_file(self.crl()).map_err(failed)?;
        let (_, list) = CertificateRevocationList::from_der(&der).map_err(failed)?;
        let number = list.crl_number().and_then(|number| number.try_into().ok());
        let number = number.ok_or_else(|| failed("the list before has no number"))?;
        let entry =
            |entry: &x509_parser::revocation_list::RevokedCertificate<'_>| RevokedCertParams {
                serial_number: SerialNumber::from_slice(entry.raw_serial()),
                revocation_time: entry.revocation_date.to_datetime(),
                reason_code: None,
                invalidity_date: None,
            };
        Ok((
            number,
            list.iter_revoked_certificates().map(entry).collect(),
        ))
    }
}

fn failed(error: impl ToString) -> Error {
    Error::Certificate(error.to_string())
}
