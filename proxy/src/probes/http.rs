//! HTTP and HTTPS checks, as a kubelet does them: a GET, redirects followed, any status from 200 to
//! 399 a pass. Over TLS nothing is verified, as a kubelet verifies nothing: what is sent is what
//! anybody who may read the pod knows, and what comes back is a status. The one place in Sealwire
//! that does so; it cannot be reached but from the declared probes.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use axum::body::Bytes;
use axum::http::header::{CONNECTION, HOST, LOCATION};
use axum::http::uri::PathAndQuery;
use axum::http::{HeaderMap, HeaderValue, Request, StatusCode, Uri};
use http_body_util::Empty;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;

use super::not_there;
use crate::inbound::hand_over;

/// Most redirects that are followed: as many as a kubelet follows.
const REDIRECTS: usize = 10;

/// The largest head of an answer, in bytes.
const MAX_HEAD: usize = 64 * 1024;

/// A GET.
#[derive(Debug)]
pub(super) struct HttpCheck {
    pub(super) tls: bool,
    pub(super) port: u16,
    pub(super) path: PathAndQuery,
    pub(super) headers: HeaderMap,
}

struct Answer {
    status: StatusCode,
    location: Option<HeaderValue>,
}

impl HttpCheck {
    /// The status that the application answers with in the end. A redirect to another host, port or
    /// scheme is not followed, and is the answer.
    pub(super) async fn run(&self, pod: IpAddr) -> Result<StatusCode, String> {
        let mut path = self.path.clone();
        for _ in 0..=REDIRECTS {
            let answer = self.ask(pod, &path).await?;
            match self.redirected(pod, &path, &answer) {
                Some(next) => path = next,
                None => return Ok(answer.status),
            }
        }
        Err(format!("more than {REDIRECTS} redirects"))
    }

    async fn ask(&self, pod: IpAddr, path: &PathAndQuery) -> Result<Answer, String> {
        let address = SocketAddr::new(pod, self.port);
        let mut request = Request::new(Empty::<Bytes>::new());
        *request.uri_mut() = Uri::from(path.clone());
        *request.headers_mut() = self.headers.clone();
        let host = HeaderValue::from_str(&address.to_string()).map_err(|e| e.to_string())?;
        request.headers_mut().entry(HOST).or_insert(host);
        request
            .headers_mut()
            .insert(CONNECTION, HeaderValue::from_static("close"));
        let socket = hand_over(address)
            .await
            .map_err(|error| not_there(self.port, &error))?;
        if !self.tls {
            return exchange(socket, request).await;
        }
        // For an address there is no name to ask for.
        let connector = TlsConnector::from(unverified()?);
        let sealed = connector.connect(ServerName::IpAddress(pod.into()), socket);
        let sealed = sealed.await.map_err(|error| format!("no TLS: {error}"))?;
        exchange(sealed, request).await
    }

    /// Where an answer leads, on the very port that was asked.
    fn redirected(
        &self,
        pod: IpAddr,
        from: &PathAndQuery,
        answer: &Answer,
    ) -> Option<PathAndQuery> {
        if !answer.status.is_redirection() {
            return None;
        }
        let location = answer.location.as_ref()?.to_str().ok()?;
        // What follows the fragment's sign is for browsers.
        let location = location.split('#').next().unwrap_or_default();
        if location.starts_with('/') && !location.starts_with("//") {
            return location.parse().ok();
        }
        match location.parse::<Uri>() {
            Ok(uri) if uri.scheme().is_some() => {
                let (scheme, usual) = if self.tls {
                    ("https", 443)
                } else {
                    ("http", 80)
                };
                let here = uri.scheme_str() == Some(scheme)
                    && uri.port_u16().unwrap_or(usual) == self.port
                    && uri.host()?.trim_matches(['[', ']']).parse() == Ok(pod);
                here.then(|| {
                    let there = uri.path_and_query().cloned();
                    there.unwrap_or_else(|| PathAndQuery::from_static("/"))
                })
            }
            // Relative to the directory of what was asked for.
            _ if !location.is_empty() && !location.starts_with("//") => {
                let directory = from.path().rsplit_once('/').map_or("", |(start, _)| start);
                format!("{directory}/{location}").parse().ok()
            }
            _ => None,
        }
    }
}

async fn exchange<S>(stream: S, request: Request<Empty<Bytes>>) -> Result<Answer, String>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let failed = |error: hyper::Error| format!("no answer in HTTP: {error}");
    let (mut sender, connection) = http1::Builder::new()
        .max_buf_size(MAX_HEAD)
        // As Go writes them, for applications that look no closer.
        .title_case_headers(true)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(failed)?;
    // It ends with this call, however this ends.
    let mut driving = JoinSet::new();
    driving.spawn(connection);
    let mut answer = sender.send_request(request).await.map_err(failed)?;
    Ok(Answer {
        status: answer.status(),
        location: answer.headers_mut().remove(LOCATION),
    })
}

fn unverified() -> Result<Arc<ClientConfig>, String> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anybody(provider)))
        .with_no_client_auth();
    Ok(Arc::new(config))
}

/// Accepts every certificate.
#[derive(Debug)]
struct Anybody(Arc<CryptoProvider>);

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
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use super::*;

    const POD: IpAddr = IpAddr::V4(Ipv4Addr::new(198, 18, 0, 10));

    fn led(tls: bool, pod: IpAddr, location: &'static str) -> Option<String> {
        let check = HttpCheck {
            tls,
            port: if tls { 443 } else { 8080 },
            path: PathAndQuery::from_static("/"),
            headers: HeaderMap::new(),
        };
        let answer = Answer {
            status: StatusCode::FOUND,
            location: Some(HeaderValue::from_static(location)),
        };
        let from = PathAndQuery::from_static("/app/health?full");
        let next = check.redirected(pod, &from, &answer);
        next.map(|next| next.as_str().to_owned())
    }

    #[test]
    fn a_redirect_is_followed_on_the_same_port_alone() {
        for (location, wanted) in [
            ("/live?x#top", Some("/live?x")),
            ("ok", Some("/app/ok")),
            ("http://198.18.0.10:8080/live", Some("/live")),
            ("http://198.18.0.10:8080", Some("/")),
            ("https://198.18.0.10:8080/live", None),
            ("http://198.18.0.10/live", None),
            ("http://198.18.0.11:8080/live", None),
            ("http://shop.example:8080/live", None),
            ("//203.0.113.1/live", None),
            ("", None),
        ] {
            assert_eq!(led(false, POD, location).as_deref(), wanted, "{location}");
        }
        assert_eq!(
            led(true, POD, "https://198.18.0.10/a").as_deref(),
            Some("/a")
        );
        let pod = IpAddr::V6(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 1));
        let led = led(false, pod, "http://[fd00::1]:8080/six");
        assert_eq!(led.as_deref(), Some("/six"));
    }
}
