//! Probes as the injector writes them down: in Kubernetes' own words, as far as they say what is
//! asked, with ports by number.

use std::time::Duration;

use axum::http::header::{ACCEPT, HOST, USER_AGENT};
use axum::http::uri::PathAndQuery;
use axum::http::{HeaderMap, HeaderName, HeaderValue};
use serde::Deserialize;
use serde::de::IgnoredAny;

use super::grpc::GrpcCheck;
use super::http::HttpCheck;
use super::{Check, LONGEST, Occasion, Probe, USUAL};

/// The silence after which a container has ended, unless it is declared.
const SILENCE: Duration = Duration::from_secs(30);

/// One probe, or one lifecycle hook: exactly one of the three checks; none for `alive`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct Declared {
    #[serde(default)]
    http_get: Option<HttpGet>,
    #[serde(default)]
    tcp_socket: Option<TcpSocket>,
    #[serde(default)]
    grpc: Option<Grpc>,
    #[serde(default)]
    timeout_seconds: Option<u64>,
    #[serde(default)]
    silent_seconds: Option<u64>,
    // When to ask and what to make of the answers is the kubelet's own business.
    #[serde(default, rename = "initialDelaySeconds")]
    _initial_delay: IgnoredAny,
    #[serde(default, rename = "periodSeconds")]
    _period: IgnoredAny,
    #[serde(default, rename = "successThreshold")]
    _success_threshold: IgnoredAny,
    #[serde(default, rename = "failureThreshold")]
    _failure_threshold: IgnoredAny,
    #[serde(default, rename = "terminationGracePeriodSeconds")]
    _grace_period: IgnoredAny,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct HttpGet {
    #[serde(default)]
    path: String,
    port: u16,
    #[serde(default)]
    scheme: Scheme,
    #[serde(default)]
    http_headers: Vec<Header>,
}

#[derive(Copy, Clone, Default, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
enum Scheme {
    #[default]
    Http,
    Https,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Header {
    name: String,
    value: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TcpSocket {
    port: u16,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Grpc {
    port: u16,
    #[serde(default)]
    service: String,
}

impl Declared {
    pub(super) fn check(self, occasion: Occasion) -> Result<Probe, String> {
        let within = match self.timeout_seconds {
            None | Some(0) => USUAL,
            Some(seconds) => Duration::from_secs(seconds).min(LONGEST),
        };
        if occasion != Occasion::Alive && self.silent_seconds.is_some() {
            return Err("silentSeconds is for alive alone".to_owned());
        }
        let check = match (self.http_get, self.tcp_socket, self.grpc) {
            (None, None, None) if occasion == Occasion::Alive => {
                let silence = self.silent_seconds.map(Duration::from_secs);
                Check::Alive(silence.unwrap_or(SILENCE))
            }
            _ if occasion == Occasion::Alive => {
                return Err("nothing is asked of the application here".to_owned());
            }
            (Some(get), None, None) => Check::Http(get.check()?),
            (None, Some(tcp), None) => Check::Tcp(open(tcp.port)?),
            (None, None, Some(grpc)) => Check::Grpc(GrpcCheck {
                port: open(grpc.port)?,
                service: grpc.service,
            }),
            _ => return Err("exactly one of httpGet, tcpSocket and grpc is needed".to_owned()),
        };
        Ok(Probe { check, within })
    }
}

impl HttpGet {
    fn check(self) -> Result<HttpCheck, String> {
        Ok(HttpCheck {
            tls: matches!(self.scheme, Scheme::Https),
            port: open(self.port)?,
            path: path(&self.path)?,
            headers: headers(&self.http_headers)?,
        })
    }
}

/// A port that can be connected to.
fn open(port: u16) -> Result<u16, String> {
    if port == 0 {
        return Err("port 0 is none".to_owned());
    }
    Ok(port)
}

/// With the slash that a kubelet puts before it.
fn path(written: &str) -> Result<PathAndQuery, String> {
    let slash = if written.starts_with('/') { "" } else { "/" };
    format!("{slash}{written}")
        .parse()
        .map_err(|error| format!("path {written:?}: {error}"))
}

/// The declared ones, and those that a kubelet adds: one declared empty is a wish to leave it out.
fn headers(written: &[Header]) -> Result<HeaderMap, String> {
    let mut headers = HeaderMap::new();
    for Header { name, value } in written {
        let parsed: HeaderName = name
            .parse()
            .map_err(|error| format!("header {name:?}: {error}"))?;
        let value = HeaderValue::from_str(value)
            .map_err(|error| format!("value of header {name:?}: {error}"))?;
        if parsed == HOST {
            headers.insert(parsed, value);
        } else {
            headers
                .try_append(parsed, value)
                .map_err(|error| format!("header {name:?}: {error}"))?;
        }
    }
    for (name, usual) in [(USER_AGENT, "kube-probe/sealwire"), (ACCEPT, "*/*")] {
        match headers.get(&name) {
            Some(value) if value.is_empty() => drop(headers.remove(&name)),
            Some(_) => {}
            None => drop(headers.insert(name, HeaderValue::from_static(usual))),
        }
    }
    Ok(headers)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::Probes;
    use super::*;

    fn http(text: &str) -> HttpCheck {
        let declared: Declared = serde_json::from_str(text).unwrap();
        match declared.check(Occasion::Liveness).unwrap().check {
            Check::Http(check) => check,
            other => panic!("{other:?}"),
        }
    }

    fn refusal(text: &str) -> String {
        Probes::parse(text).unwrap_err().to_string()
    }

    #[test]
    fn what_is_left_out_is_what_a_kubelet_takes() {
        let check = http(r#"{"httpGet":{"port":8080}}"#);
        assert_eq!((check.tls, check.path.as_str()), (false, "/"));
        assert_eq!(check.headers[USER_AGENT], "kube-probe/sealwire");
        assert_eq!(check.headers[ACCEPT], "*/*");
        let declared: Declared = serde_json::from_str(r#"{"tcpSocket":{"port":1}}"#).unwrap();
        assert_eq!(
            declared.check(Occasion::Liveness).unwrap().within,
            Duration::from_secs(1)
        );
    }

    #[test]
    fn a_probe_is_taken_as_it_stands_in_a_pod() {
        Probes::parse(
            r#"{"web":{"liveness":{"httpGet":{"path":"/","port":80,"scheme":"HTTP"},
                "initialDelaySeconds":5,"timeoutSeconds":2,"periodSeconds":10,"successThreshold":1,
                "failureThreshold":3,"terminationGracePeriodSeconds":30}}}"#,
        )
        .unwrap();
    }

    #[test]
    fn headers_replace_leave_out_and_add_as_a_kubelets_do() {
        let check = http(
            r#"{"httpGet":{"port":1,"path":"health?full=1","scheme":"HTTPS","httpHeaders":[
                {"name":"host","value":"shop.example"},{"name":"User-Agent","value":""},
                {"name":"X-Two","value":"a"},{"name":"x-two","value":"b"}]}}"#,
        );
        assert_eq!((check.tls, check.path.as_str()), (true, "/health?full=1"));
        assert_eq!(check.headers[HOST], "shop.example");
        assert!(!check.headers.contains_key(USER_AGENT));
        let both: Vec<_> = check.headers.get_all("x-two").iter().collect();
        assert_eq!(both, ["a", "b"]);
    }

    #[test]
    fn a_timeout_beyond_what_the_health_port_waits_is_cut() {
        let declared: Declared =
            serde_json::from_str(r#"{"tcpSocket":{"port":1},"timeoutSeconds":600}"#).unwrap();
        assert_eq!(declared.check(Occasion::Liveness).unwrap().within, LONGEST);
    }

    #[test]
    fn a_declaration_that_is_no_probe_is_refused_with_its_place() {
        for (text, place) in [
            (r#"{"web":{"readiness":{}}}"#, "web/readiness"),
            (
                r#"{"web":{"liveness":{"tcpSocket":{"port":1},"grpc":{"port":1}}}}"#,
                "web/liveness",
            ),
            (r#"{"web":{"startup":{"tcpSocket":{"port":0}}}}"#, "port 0"),
            (
                r#"{"web":{"startup":{"tcpSocket":{"port":"http"}}}}"#,
                "u16",
            ),
            (r#"{"web":{"often":{"tcpSocket":{"port":1}}}}"#, "often"),
            (
                r#"{"web":{"startup":{"tcpSocket":{"port":1,"host":"203.0.113.1"}}}}"#,
                "host",
            ),
            (
                r#"{"web":{"startup":{"httpGet":{"port":1,"httpHeaders":[{"name":"a b","value":""}]}}}}"#,
                "a b",
            ),
            (
                r#"{"web":{"startup":{"httpGet":{"port":1,"httpHeaders":[{"name":"a","value":"x\r\ny"}]}}}}"#,
                "value of header",
            ),
            (
                r#"{"web":{"startup":{"httpGet":{"port":1,"path":"/a b"}}}}"#,
                "/a b",
            ),
            (r#"{"web":{"alive":{"tcpSocket":{"port":1}}}}"#, "web/alive"),
            (
                r#"{"web":{"startup":{"tcpSocket":{"port":1},"silentSeconds":5}}}"#,
                "silentSeconds",
            ),
            ("[]", "not as the injector"),
        ] {
            let said = refusal(text);
            assert!(said.contains(place), "{text}: {said}");
        }
    }

    #[test]
    fn a_pod_without_the_annotation_declares_nothing() {
        let probes = Probes::parse("\n").unwrap();
        for occasion in Occasion::ALL {
            assert!(probes.find("web", occasion.name()).is_none());
        }
    }

    proptest! {
        #[test]
        fn no_declaration_makes_the_proxy_panic(text in "\\PC{0,200}") {
            let _ = Probes::parse(&text);
        }

        #[test]
        fn whatever_path_is_accepted_stays_one_request_target(written in "\\PC{0,40}") {
            if let Ok(path) = path(&written) {
                prop_assert!(path.as_str().starts_with('/'));
                prop_assert!(!path.as_str().contains([' ', '\r', '\n']));
            }
        }
    }
}
