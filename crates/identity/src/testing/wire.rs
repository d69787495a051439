//! Peers that follow no rule of ours, and handshakes in memory.

use std::io::{Read, Write};
use std::net::IpAddr;
use std::sync::Arc;

use rcgen::KeyPair;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{aws_lc_rs, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::version::TLS13;
use rustls::{
    ClientConfig, ClientConnection, Connection, DigitallySignedStruct,
    DistinguishedName as TlsName, HandshakeKind, ServerConfig, ServerConnection, SignatureScheme,
};

use super::{At, NOW};

/// A peer that follows no rule of ours: it presents and signs whatever it is given, and accepts
/// everybody.
#[derive(Debug)]
pub(crate) struct Stranger(pub(crate) Arc<CertifiedKey>);

impl Stranger {
    pub(crate) fn new(chain: Vec<CertificateDer<'static>>, key: &KeyPair) -> Self {
        let key =
            aws_lc_rs::sign::any_supported_type(&key.serialize_der().try_into().unwrap()).unwrap();
        Self(Arc::new(CertifiedKey::new(chain, key)))
    }

    pub(crate) fn client(&self) -> Arc<ClientConfig> {
        let builder = ClientConfig::builder_with_details(everything(), Arc::new(At(NOW)))
            .with_protocol_versions(&[&TLS13])
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Anybody));
        if self.0.cert.is_empty() {
            return Arc::new(builder.with_no_client_auth());
        }
        Arc::new(
            builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(self.0.clone()))),
        )
    }

    pub(crate) fn server(&self) -> Arc<ServerConfig> {
        let config = ServerConfig::builder_with_details(everything(), Arc::new(At(NOW)))
            .with_protocol_versions(&[&TLS13])
            .unwrap()
            .with_client_cert_verifier(Arc::new(Anybody))
            .with_cert_resolver(Arc::new(SingleCertAndKey::from(self.0.clone())));
        Arc::new(config)
    }
}

/// Everything that rustls can do, whatever a profile says.
pub(crate) fn everything() -> Arc<rustls::crypto::CryptoProvider> {
    let mut provider = aws_lc_rs::default_provider();
    provider.kx_groups = aws_lc_rs::ALL_KX_GROUPS.to_vec();
    Arc::new(provider)
}

#[derive(Debug)]
pub(crate) struct Anybody;

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        panic!("TLS 1.2 was spoken");
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = aws_lc_rs::default_provider().signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, &algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        aws_lc_rs::default_provider()
            .signature_verification_algorithms
            .supported_schemes()
    }
}

impl ClientCertVerifier for Anybody {
    fn root_hint_subjects(&self) -> &[TlsName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        ServerCertVerifier::verify_tls12_signature(self, message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        ServerCertVerifier::verify_tls13_signature(self, message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        ServerCertVerifier::supported_verify_schemes(self)
    }
}

/// How a handshake ended on both sides, and what was delivered to the applications.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) client: Result<(), rustls::Error>,
    pub(crate) server: Result<(), rustls::Error>,
    /// Application bytes that each side was handed.
    pub(crate) delivered: (Vec<u8>, Vec<u8>),
    /// Whether it resumed a session.
    pub(crate) resumed: bool,
    /// The chain that the server has of the client.
    pub(crate) client_chain: Vec<CertificateDer<'static>>,
    /// The chain that the client has of the server.
    pub(crate) server_chain: Vec<CertificateDer<'static>>,
}

/// Lets two sides speak in memory until neither has more to say. Both have application bytes
/// ready from the first moment.
pub(crate) fn handshake(
    client: Arc<ClientConfig>,
    server: Arc<ServerConfig>,
    dialled: &str,
) -> Outcome {
    let name = ServerName::IpAddress(dialled.parse::<IpAddr>().unwrap().into());
    let mut client = Connection::from(ClientConnection::new(client, name).unwrap());
    let mut server = Connection::from(ServerConnection::new(server).unwrap());
    client.writer().write_all(b"from the client").unwrap();
    server.writer().write_all(b"from the server").unwrap();
    let (mut from_client, mut from_server) = (Ok(()), Ok(()));
    while client.wants_write() || server.wants_write() {
        pass(&mut client, &mut server, &mut from_server);
        pass(&mut server, &mut client, &mut from_client);
    }
    let chain = |connection: &Connection| {
        let chain = connection.peer_certificates().unwrap_or_default();
        chain.iter().map(|one| one.clone().into_owned()).collect()
    };
    Outcome {
        resumed: server.handshake_kind() == Some(HandshakeKind::Resumed),
        client_chain: chain(&server),
        server_chain: chain(&client),
        delivered: (delivered(&mut client), delivered(&mut server)),
        client: from_client,
        server: from_server,
    }
}

/// Carries what `from` has to say to `to`, which keeps its first error.
fn pass(from: &mut Connection, to: &mut Connection, result: &mut Result<(), rustls::Error>) {
    let mut wire = Vec::new();
    while from.wants_write() {
        from.write_tls(&mut wire).unwrap();
    }
    let mut rest = wire.as_slice();
    while !rest.is_empty() && result.is_ok() {
        to.read_tls(&mut rest).unwrap();
        *result = to.process_new_packets().map(|_| ());
    }
}

fn delivered(connection: &mut Connection) -> Vec<u8> {
    let mut bytes = vec![0; 1024];
    let length = connection.reader().read(&mut bytes).unwrap_or(0);
    bytes.truncate(length);
    bytes
}
