//! gRPC checks: one call of `grpc.health.v1.Health/Check` over HTTP/2 without TLS, as a kubelet does
//! it. The two messages have one field each that counts, so they are written and read here.

use std::net::{IpAddr, SocketAddr};

use axum::body::Bytes;
use axum::http::header::{CONTENT_TYPE, TE, USER_AGENT};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Request, StatusCode};
use h2::RecvStream;
use tokio::task::JoinSet;

use super::not_there;
use crate::inbound::hand_over;

/// The largest answer that is read, in bytes; a good one has seven.
const MAX_ANSWER: usize = 4096;

/// The largest head of an answer, in bytes.
const MAX_HEAD: u32 = 16 * 1024;

const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");

/// `SERVING`, among the states of a service.
const SERVING: u64 = 1;

/// A call of the health service.
#[derive(Debug)]
pub(super) struct GrpcCheck {
    pub(super) port: u16,
    pub(super) service: String,
}

impl GrpcCheck {
    /// Passes when the service says that it is serving.
    pub(super) async fn run(&self, pod: IpAddr) -> Result<(), String> {
        let failed = |error: h2::Error| format!("no answer in gRPC: {error}");
        let address = SocketAddr::new(pod, self.port);
        let socket = hand_over(address)
            .await
            .map_err(|error| not_there(self.port, &error))?;
        let (sender, connection) = h2::client::Builder::new()
            .max_header_list_size(MAX_HEAD)
            .enable_push(false)
            .handshake(socket)
            .await
            .map_err(failed)?;
        // It ends with this call, however this ends.
        let mut driving = JoinSet::new();
        driving.spawn(connection);
        let request = Request::post(format!("http://{address}/grpc.health.v1.Health/Check"))
            .header(CONTENT_TYPE, "application/grpc")
            .header(TE, "trailers")
            .header(USER_AGENT, "kube-probe/sealwire")
            .body(())
            .map_err(|error| error.to_string())?;
        let mut sender = sender.ready().await.map_err(failed)?;
        let (answer, mut question) = sender.send_request(request, false).map_err(failed)?;
        question
            .send_data(framed(&asked(&self.service)), true)
            .map_err(failed)?;
        let (head, mut body) = answer.await.map_err(failed)?.into_parts();
        if head.status != StatusCode::OK {
            return Err(format!("not a gRPC service: HTTP status {}", head.status));
        }
        let message = read(&mut body).await?;
        let trailers = body.trailers().await.map_err(failed)?.unwrap_or_default();
        // An answer without a message has its status in the head.
        let status = |headers: &HeaderMap| headers.get(GRPC_STATUS).map(number);
        match status(&trailers).or_else(|| status(&head.headers)) {
            Some(Some(0)) => verdict(&message, &self.service),
            // Its message is the application's own words.
            Some(Some(number)) => Err(format!("gRPC status {number}")),
            Some(None) => Err("a gRPC status that is no number".to_owned()),
            None => Err("an answer without a gRPC status".to_owned()),
        }
    }
}

fn number(status: &HeaderValue) -> Option<u16> {
    status.to_str().ok()?.parse().ok()
}

async fn read(body: &mut RecvStream) -> Result<Vec<u8>, String> {
    let mut message = Vec::new();
    while let Some(chunk) = body.data().await {
        let chunk = chunk.map_err(|error| format!("the answer broke off: {error}"))?;
        if message.len() + chunk.len() > MAX_ANSWER {
            return Err(format!("an answer of more than {MAX_ANSWER} bytes"));
        }
        // What is read makes room for as much.
        let _ = body.flow_control().release_capacity(chunk.len());
        message.extend_from_slice(&chunk);
    }
    Ok(message)
}

/// `HealthCheckRequest`: field 1, the service's name, unless it is empty.
fn asked(service: &str) -> Vec<u8> {
    if service.is_empty() {
        return Vec::new();
    }
    let mut message = vec![0x0a];
    let mut length = service.len();
    while length >= 0x80 {
        message.push(u8::try_from(length & 0x7f).unwrap_or_default() | 0x80);
        length >>= 7;
    }
    message.push(u8::try_from(length).unwrap_or_default());
    message.extend_from_slice(service.as_bytes());
    message
}

/// With the five bytes that gRPC puts before each message: not compressed, and so long.
fn framed(message: &[u8]) -> Bytes {
    let length = u32::try_from(message.len()).unwrap_or(u32::MAX);
    let mut frame = vec![0];
    frame.extend_from_slice(&length.to_be_bytes());
    frame.extend_from_slice(message);
    frame.into()
}

fn verdict(frame: &[u8], service: &str) -> Result<(), String> {
    match status(frame) {
        Some(SERVING) => Ok(()),
        Some(state) => Err(format!(
            "service {service:?} is in state {state}, not serving"
        )),
        None => Err("an answer that is no HealthCheckResponse".to_owned()),
    }
}

/// Field 1 of a `HealthCheckResponse` in its frame; zero when it is not there, as the format has it.
fn status(frame: &[u8]) -> Option<u64> {
    let (head, mut rest) = frame.split_at_checked(5)?;
    let length = u32::from_be_bytes(head[1..].try_into().ok()?);
    if head[0] != 0 || usize::try_from(length) != Ok(rest.len()) {
        return None;
    }
    let mut status = 0;
    while !rest.is_empty() {
        let key = varint(&mut rest)?;
        match (key >> 3, key & 7) {
            (1, 0) => status = varint(&mut rest)?,
            (_, 0) => drop(varint(&mut rest)?),
            (_, 1) => rest = rest.get(8..)?,
            (_, 2) => {
                let length = usize::try_from(varint(&mut rest)?).ok()?;
                rest = rest.get(length..)?;
            }
            (_, 5) => rest = rest.get(4..)?,
            _ => return None,
        }
    }
    Some(status)
}

/// The number at the start, of 64 bits at most.
fn varint(rest: &mut &[u8]) -> Option<u64> {
    let mut number = 0;
    for shift in (0..64).step_by(7) {
        let (byte, tail) = rest.split_first()?;
        *rest = tail;
        number |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(number);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use axum::http::Response;
    use proptest::prelude::*;
    use tokio::net::TcpListener;

    use super::*;

    /// What a check says of a server that gives this answer, once it was asked for `shop`.
    async fn checked(frame: &'static [u8], status: &'static str) -> Result<(), String> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let server = async move {
            let (socket, _) = listener.accept().await.unwrap();
            let mut connection = h2::server::handshake(socket).await.unwrap();
            let (request, mut respond) = connection.accept().await.unwrap().unwrap();
            let driving = tokio::spawn(async move { connection.accept().await.is_none() });
            assert_eq!(request.uri().path(), "/grpc.health.v1.Health/Check");
            let asked = read(&mut request.into_body()).await.unwrap();
            assert_eq!(asked, b"\0\0\0\0\x06\x0a\x04shop");
            let mut answer = respond.send_response(Response::new(()), false).unwrap();
            answer.send_data(frame.into(), false).unwrap();
            let status = status.parse().unwrap();
            let words = HeaderName::from_static("grpc-message");
            let words = (words, HeaderValue::from_static("own words"));
            answer
                .send_trailers(HeaderMap::from_iter([(GRPC_STATUS, status), words]))
                .unwrap();
            driving.await.unwrap();
        };
        let service = "shop".to_owned();
        let check = GrpcCheck { port, service };
        let (verdict, ()) = tokio::join!(check.run(Ipv4Addr::LOCALHOST.into()), server);
        verdict
    }

    #[tokio::test]
    async fn a_service_is_asked_over_http_2_and_its_state_and_grpc_status_decide() {
        checked(b"\0\0\0\0\x02\x08\x01", "0").await.unwrap();
        let refused = checked(b"\0\0\0\0\x02\x08\x02", "0").await.unwrap_err();
        assert!(refused.contains("state 2"), "{refused}");
        let refused = checked(b"", "12").await.unwrap_err();
        assert!(
            refused.contains("gRPC status 12") && !refused.contains("own words"),
            "{refused}"
        );
    }

    #[test]
    fn a_question_names_the_service_and_no_service_is_the_server_itself() {
        assert_eq!(asked(""), b"");
        assert_eq!(asked("shop"), b"\x0a\x04shop");
        let long = "s".repeat(300);
        assert_eq!(asked(&long)[..3], [0x0a, 0xac, 0x02]);
        assert_eq!(&framed(b"abc")[..], b"\0\0\0\0\x03abc");
    }

    #[test]
    fn serving_passes_and_no_other_state_does() {
        verdict(b"\0\0\0\0\x02\x08\x01", "").unwrap();
        // Behind fields of another time.
        verdict(b"\0\0\0\0\x08\x12\x02hi\x18\x05\x08\x01", "").unwrap();
        for (frame, said) in [
            (&b"\0\0\0\0\x00"[..], "state 0"),
            (b"\0\0\0\0\x02\x08\x02", "state 2"),
            (b"\0\0\0\0\x02\x08", "no HealthCheckResponse"),
            (b"\x01\0\0\0\x02\x08\x01", "no HealthCheckResponse"),
            (b"", "no HealthCheckResponse"),
        ] {
            let refused = verdict(frame, "shop").unwrap_err();
            assert!(refused.contains(said), "{frame:?}: {refused}");
        }
    }

    proptest! {
        #[test]
        fn no_answer_makes_the_proxy_panic(frame in proptest::collection::vec(any::<u8>(), 0..64)) {
            let _ = status(&frame);
            let _ = status(&framed(&frame));
        }

        #[test]
        fn a_state_is_read_as_it_was_written(state in any::<u64>(), noise in any::<u64>()) {
            let mut message = vec![0x10];
            write(&mut message, noise);
            message.push(0x08);
            write(&mut message, state);
            prop_assert_eq!(status(&framed(&message)), Some(state));
        }
    }

    fn write(message: &mut Vec<u8>, mut number: u64) {
        while number >= 0x80 {
            message.push(u8::try_from(number & 0x7f).unwrap() | 0x80);
            number >>= 7;
        }
        message.push(u8::try_from(number).unwrap());
    }
}
