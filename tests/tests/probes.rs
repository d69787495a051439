//! Probes of a sealed pod's applications: the node asks the sidecar's health port, the sidecar does
//! what was declared and nothing else, and the application's own port stays closed to the node.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests fail loudly"
)]

use std::time::Duration;

use sealwire_pods::{Mesh, OPEN_MESH, Pod, Process, Sealing, Sidecar, assert_eventually};
use sealwire_tests::{SOON, curl, in_a_mesh, server_on, with_each_privilege};

/// Answers `/ok`, `/bad`, `/moved` and `/moved-away`, never answers `/slow`, and writes down what it
/// was asked. Arguments: PORT, then the file of a certificate and the newest TLS version.
const APPLICATION: &str = r#"
import http.server, ssl, sys, time

class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        print(self.requestline, dict(self.headers), flush=True)
        path = self.path.split("?")[0]
        if path == "/slow":
            time.sleep(60)
        places = {"/moved": "/ok?moved", "/moved-away": "https://203.0.113.1/"}
        status = {"/ok": 200, "/bad": 503}.get(path, 302 if path in places else 404)
        self.send_response(status)
        if path in places:
            self.send_header("Location", places[path])
        self.end_headers()
        self.wfile.write(b"the application's own words")
    def log_message(self, *_):
        pass

class Server(http.server.ThreadingHTTPServer):
    address_family = __import__("socket").AF_INET6

server = Server(("::", int(sys.argv[1])), Handler)
if len(sys.argv) > 2:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(sys.argv[2])
    context.maximum_version = getattr(ssl.TLSVersion, sys.argv[3])
    server.socket = context.wrap_socket(server.socket, server_side=True)
server.serve_forever()
"#;

/// A sealed pod for which these probes are declared.
fn probed(mesh: &Mesh, declared: &str) -> (Pod, Sidecar) {
    let file = mesh.world().directory().join("probes");
    mesh.write(&file, declared).unwrap();
    let sealing = Sealing {
        sections: format!("{OPEN_MESH}probes: {}\n", file.display()),
        ..Sealing::default()
    };
    mesh.sealed_pod("pod", &sealing).unwrap()
}

fn application(pod: &Pod, port: u16, tls: &[&str]) -> Process {
    let application = pod
        .app("/usr/bin/python3")
        .args(["-c", APPLICATION, &port.to_string()])
        .args(tls.iter().copied())
        .spawn()
        .unwrap();
    assert_eventually("the application listens", SOON, || {
        pod.listens(port).then_some(())
    });
    application
}

fn asked(sidecar: &Sidecar, probe: &str) -> (u16, String) {
    let path = format!("/probe/{probe}");
    sidecar.health(&path).expect("the health port answers")
}

#[test]
fn the_node_asks_the_sidecar_and_the_application_gets_what_was_declared_and_no_more() {
    with_each_privilege(|mesh| {
        let (pod, sidecar) = probed(
            mesh,
            r#"{"web":{
                "startup":{"httpGet":{"path":"/moved","port":8080}},
                "readiness":{"httpGet":{"path":"/ok?full=1","port":8080,
                    "httpHeaders":[{"name":"Host","value":"shop.example"},{"name":"X-Check","value":"yes"}]}},
                "liveness":{"httpGet":{"path":"/bad","port":8080}},
                "preStop":{"httpGet":{"path":"/moved-away","port":8080}}
            }}"#,
        );
        let application = application(&pod, 8080, &[]);
        let answer = asked(&sidecar, "web/readiness?instead=of#that");
        assert_eq!(answer, (200, "web/readiness: 200 OK\n".to_owned()));
        let said = application.stdout();
        assert!(said.contains("GET /ok?full=1 HTTP/1.1"), "{said}");
        assert!(said.contains("'Host': 'shop.example'"), "{said}");
        assert!(said.contains("'X-Check': 'yes'"), "{said}");
        assert!(said.contains("kube-probe/"), "{said}");
        assert!(!said.contains("instead"), "{said}");

        let (status, said) = asked(&sidecar, "web/liveness");
        assert_eq!(status, 503);
        assert!(!said.contains("own words"), "{said}");
        assert_eq!(asked(&sidecar, "web/startup").0, 200, "redirected");
        let said = application.stdout();
        assert!(said.contains("GET /ok?moved HTTP/1.1"), "{said}");
        assert_eq!(asked(&sidecar, "web/preStop").0, 302);

        let metrics = sidecar.metrics();
        for (outcome, times) in [("passed", 3), ("failed", 1)] {
            let line =
                format!(r#"sealwire_probes_total{{kind="http",outcome="{outcome}"}} {times}"#);
            assert!(metrics.contains(&line), "{line} in {metrics}");
        }
    });
}

#[test]
fn what_was_not_declared_is_not_asked_and_the_port_itself_is_closed_to_the_node() {
    in_a_mesh(|mesh| {
        let declared = r#"{"web":{"readiness":{"httpGet":{"path":"/ok","port":8080}}}}"#;
        let (pod, sidecar) = probed(mesh, declared);
        let application = application(&pod, 8080, &[]);
        for probe in [
            "web/liveness",
            "other/readiness",
            "web/readiness/ok",
            "web/..%2freadiness",
            "web",
        ] {
            assert_eq!(asked(&sidecar, probe).0, 404, "{probe}");
        }
        // The node's own way to the application, which a probe would have taken without a sidecar.
        let direct = mesh
            .world()
            .command("curl")
            .args(["-sS", "-m", "5", &format!("http://{}:8080/ok", pod.v4())])
            .run(SOON)
            .unwrap();
        assert!(!direct.success(), "{}", direct.stdout);
        // Nor does the health port lead to what listens on loopback.
        let inside = curl(&pod, &["http://127.0.0.1:15021/probe/web/readiness"]);
        assert!(inside.stdout.contains("from the node"), "{}", inside.stdout);
        assert_eq!(application.stdout(), "");
    });
}

#[test]
fn an_https_probe_passes_with_whatever_certificate_and_version_the_application_has() {
    in_a_mesh(|mesh| {
        let (pod, sidecar) = probed(
            mesh,
            r#"{"new":{"readiness":{"httpGet":{"path":"/ok","port":8443,"scheme":"HTTPS"}}},
                "old":{"readiness":{"httpGet":{"path":"/ok","port":9443,"scheme":"HTTPS"}}},
                "plain":{"readiness":{"httpGet":{"path":"/ok","port":8080,"scheme":"HTTPS"}}}}"#,
        );
        let file = mesh.world().directory().join("self-signed.pem");
        let make = format!(
            "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 1 \
             -subj /CN=nobody -keyout {0} -out {0}.crt 2>&1 && cat {0}.crt >> {0} && chmod 644 {0}",
            file.display()
        );
        let made = mesh.world().command("sh").args(["-c", &make]).run(SOON);
        let made = made.unwrap();
        assert!(made.success(), "{}", made.stdout);
        let file = file.display().to_string();
        let _new = application(&pod, 8443, &[&file, "TLSv1_3"]);
        let _old = application(&pod, 9443, &[&file, "TLSv1_2"]);
        let _plain = application(&pod, 8080, &[]);
        for probe in ["new/readiness", "old/readiness"] {
            let (status, said) = asked(&sidecar, probe);
            assert_eq!(status, 200, "{said}");
        }
        let (status, said) = asked(&sidecar, "plain/readiness");
        assert_eq!(status, 503);
        assert!(said.contains("no TLS"), "{said}");
    });
}

#[test]
fn a_tcp_probe_passes_while_somebody_listens_at_the_pods_own_address() {
    in_a_mesh(|mesh| {
        let (pod, sidecar) = probed(
            mesh,
            r#"{"db":{"liveness":{"tcpSocket":{"port":5432}},"readiness":{"tcpSocket":{"port":5433}}}}"#,
        );
        assert_eq!(asked(&sidecar, "db/liveness").0, 503);
        let _database = server_on(&pod, "::", 5432, "echo");
        assert_eq!(asked(&sidecar, "db/liveness").0, 200);
        let _private = server_on(&pod, "127.0.0.1", 5433, "echo");
        assert_eq!(asked(&sidecar, "db/readiness").0, 503);
    });
}

/// The health service as gRPC's own library has it. Arguments: where that is, and PORT.
const HEALTH_SERVICE: &str = r#"
import sys
sys.path.insert(0, sys.argv[1])
import grpc
from concurrent import futures
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

service = health.HealthServicer()
for name, status in {"": "SERVING", "shop": "SERVING", "till": "NOT_SERVING"}.items():
    service.set(name, getattr(health_pb2.HealthCheckResponse, status))
server = grpc.server(futures.ThreadPoolExecutor(2))
health_pb2_grpc.add_HealthServicer_to_server(service, server)
server.add_insecure_port("[::]:" + sys.argv[2])
server.start()
server.wait_for_termination()
"#;

/// Where `scripts/setup` has put it.
const GRPC: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../.cache/grpc-1.85.3");

#[test]
fn a_grpc_probe_passes_while_the_service_says_that_it_serves() {
    in_a_mesh(|mesh| {
        let (pod, sidecar) = probed(
            mesh,
            r#"{"web":{
                "startup":{"grpc":{"port":9090},"timeoutSeconds":5},
                "readiness":{"grpc":{"port":9090,"service":"shop"},"timeoutSeconds":5},
                "liveness":{"grpc":{"port":9090,"service":"till"},"timeoutSeconds":5}
            },"other":{
                "readiness":{"grpc":{"port":9090,"service":"unknown"},"timeoutSeconds":5},
                "liveness":{"grpc":{"port":8080},"timeoutSeconds":5}
            }}"#,
        );
        assert_eq!(asked(&sidecar, "web/startup").0, 503, "before it listens");
        let service = pod
            .app("/usr/bin/python3")
            .args(["-c", HEALTH_SERVICE, GRPC, "9090"])
            .spawn()
            .unwrap();
        assert_eventually("the service listens", SOON, || {
            pod.listens(9090).then_some(())
        });
        let _http = application(&pod, 8080, &[]);
        for (probe, status, said) in [
            ("web/startup", 200, "200"),
            ("web/readiness", 200, "200"),
            ("web/liveness", 503, "state 2"),
            ("other/readiness", 503, "gRPC status 5"),
            ("other/liveness", 503, "gRPC"),
        ] {
            let answer = asked(&sidecar, probe);
            assert!(
                answer.0 == status && answer.1.contains(said),
                "{probe}: {answer:?}, {}",
                service.stderr()
            );
        }
    });
}

#[test]
fn an_application_that_does_not_answer_fails_its_probe_in_the_declared_time() {
    in_a_mesh(|mesh| {
        let declared =
            r#"{"web":{"liveness":{"httpGet":{"path":"/slow","port":8080},"timeoutSeconds":1}}}"#;
        let (pod, sidecar) = probed(mesh, declared);
        let _application = application(&pod, 8080, &[]);
        let (status, said) = asked(&sidecar, "web/liveness");
        assert_eq!(status, 504, "{said}");
        assert!(said.contains("1s"), "{said}");
    });
}

#[test]
fn a_sidecar_ends_by_itself_when_nobody_asks_after_the_application_any_more() {
    in_a_mesh(|mesh| {
        let (_pod, mut sidecar) = probed(mesh, r#"{"job":{"alive":{"silentSeconds":3}}}"#);
        assert_eq!(asked(&sidecar, "job/alive").0, 200);
        let ended = sidecar.process.wait(SOON).expect("it ends");
        assert_eq!(ended.code(), Some(0), "{}", sidecar.process.stdout());
        let said = sidecar.process.stdout();
        assert!(said.contains("containers have ended"), "{said}");
    });
}

#[test]
fn a_sidecar_that_is_told_to_end_stays_while_the_application_is_asked_after() {
    in_a_mesh(|mesh| {
        let (_pod, mut sidecar) = probed(mesh, r#"{"web":{"alive":{"silentSeconds":8}}}"#);
        asked(&sidecar, "web/alive");
        sidecar.process.signal("TERM");
        assert_eventually("it drains", SOON, || (!sidecar.is_ready()).then_some(()));
        // Longer than without an application that lives: drain.quietSeconds is 2.
        let ended = sidecar.process.wait(Duration::from_secs(4));
        assert!(ended.is_none(), "{ended:?}");
        let ended = sidecar.process.wait(SOON).expect("it ends");
        assert_eq!(ended.code(), Some(0));
    });
}

#[test]
fn a_declaration_that_is_not_the_injectors_ends_the_sidecar_and_says_so() {
    in_a_mesh(|mesh| {
        let pod = mesh.world().pod("pod").unwrap();
        let file = mesh.world().directory().join("probes");
        let declared = r#"{"web":{"readiness":{"exec":{"command":["true"]}}}}"#;
        mesh.write(&file, declared).unwrap();
        let sealing = Sealing {
            sections: format!("{OPEN_MESH}probes: {}\n", file.display()),
            ..Sealing::default()
        };
        let mut sidecar = mesh.seal(&pod, &sealing).unwrap();
        let ended = sidecar.process.wait(SOON).expect("it ends");
        assert_eq!(ended.code(), Some(1));
        let said = sidecar.process.stderr();
        assert!(said.contains("exec"), "{said}");
    });
}
