//! `sealwire demo`: a token, a CA, two pods with a sidecar each, real exchanges between unchanged
//! programs, and then the questions an auditor would ask: what did the wire carry, who spoke to
//! whom, which key signed and can it leave, and what happens to plaintext.

mod report;

use std::io;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use clap::Args;
use sealwire_pods::{Mesh, Pod, Privilege, Process, Programs, Sealing, Sidecar, Wire};
use serde_json::Value;

use self::report::{Key, Link, Refused, Report, Seen};
use crate::screen::{Steps, say};

/// How the demo is shown.
#[derive(Args)]
pub(crate) struct Options {
    /// Keeps the pods until Enter is pressed, to look around.
    #[arg(long, conflicts_with = "json")]
    keep: bool,
    /// Prints one JSON object instead.
    #[arg(long)]
    json: bool,
    /// Uses a user namespace although this is root.
    #[arg(long)]
    rootless: bool,
}

/// How long a step may take that does not wait for anything.
const SOON: Duration = Duration::from_secs(10);

/// What the pods tell each other; it must not be seen on the wire.
const SECRET: &str = "the account number is 4711";

/// Answers HTTP on one port and says a line first on another.
const APPLICATION: &str = "
import http.server, socketserver, sys, threading
secret = sys.argv[1].encode()
class Page(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.send_header('Content-Length', str(len(secret)))
        self.end_headers()
        self.wfile.write(secret)
    def log_message(self, *_):
        pass
class SpeaksFirst(socketserver.StreamRequestHandler):
    def handle(self):
        self.wfile.write(secret + b'\\n')
        self.wfile.write(self.rfile.readline())
raw = socketserver.ThreadingTCPServer(('0.0.0.0', 9000), SpeaksFirst)
threading.Thread(target=raw.serve_forever, daemon=True).start()
http.server.ThreadingHTTPServer(('0.0.0.0', 8080), Page).serve_forever()
";

/// Reads a line, sends one, and prints both answers.
const RAW_CLIENT: &str = "
import socket, sys
s = socket.create_connection((sys.argv[1], 9000), 5)
f = s.makefile('rw')
print(f.readline().strip())
f.write('and back\\n'); f.flush()
print(f.readline().strip())
";

/// Says what became of a datagram.
const DATAGRAM: &str = "
import socket
try:
    socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'hello', ('198.18.255.1', 9999))
    print('sent')
except PermissionError:
    print('refused')
";

/// Runs the demo; true when everything was as promised.
pub(crate) fn run(options: &Options) -> anyhow::Result<bool> {
    let begun = Instant::now();
    let steps = Steps::new(options.json);
    if !options.json {
        say("\nSealwire: two pods on this machine, sealed by keys in a token\n");
    }
    let stage = Stage::set(&steps, options)?;
    let report = stage.play(&steps, begun)?;
    if options.json {
        say(&serde_json::to_string_pretty(&report)?);
    } else {
        say(&report.to_string());
    }
    if options.keep {
        stage.keep()?;
    }
    Ok(report.ok)
}

/// The pods and what runs in them.
struct Stage {
    client: (Pod, Sidecar),
    server: (Pod, Sidecar),
    outsider: Pod,
    _application: Process,
    /// Last, since everything else lives in it.
    mesh: Mesh,
}

impl Stage {
    fn set(steps: &Steps, options: &Options) -> anyhow::Result<Self> {
        let privilege = match (options.rootless, Privilege::available().as_slice()) {
            (false, [best, ..]) => *best,
            _ => Privilege::UserNamespace,
        };
        let programs = Programs::beside(&std::env::current_exe()?)?;
        let mesh = steps.step(
            "a network of its own, a token store, a CA whose key is in a token",
            || Ok(Mesh::new(privilege, &programs)?),
        )?;
        let sealed = |name: &str| {
            let what = format!(
                "pod {name:?}: key made in its token, certificate, capture, sidecar proven ready"
            );
            steps.step(&what, || Ok(mesh.sealed_pod(name, &Sealing::default())?))
        };
        let client = sealed("client")?;
        let server = sealed("server")?;
        let (application, outsider) = steps.step(
            "an unchanged application, and a pod outside the mesh",
            || {
                let outsider = mesh.world().pod("outsider")?;
                let application = server
                    .0
                    .app("/usr/bin/python3")
                    .args(["-c", APPLICATION, SECRET])
                    .spawn()?;
                let up = Instant::now();
                while !(server.0.listens(8080) && server.0.listens(9000)) {
                    ensure!(
                        up.elapsed() < SOON,
                        "the application does not come up: {}",
                        application.stderr()
                    );
                }
                Ok((application, outsider))
            },
        )?;
        Ok(Self {
            client,
            server,
            outsider,
            _application: application,
            mesh,
        })
    }

    fn play(&self, steps: &Steps, begun: Instant) -> anyhow::Result<Report> {
        let seen = steps.step(
            "HTTP and a server that speaks first, while the wire is watched",
            || self.exchange(),
        )?;
        let refused = steps.step(
            "plaintext in, an unknown destination out, a datagram",
            || self.attempts(),
        )?;
        let (keys, links) =
            steps.step("asking the sidecars", || Ok((self.keys()?, self.links())))?;
        let ok = seen.plaintext_bytes == 0
            && seen.tls_bytes > 0
            && !seen.secret_seen
            && links.len() >= 2
            && keys.iter().all(Key::cannot_leave)
            && refused.iter().all(|attempt| attempt.refused);
        Ok(Report {
            ok,
            seconds: begun.elapsed().as_secs_f64(),
            wire: seen,
            keys,
            links,
            refused,
        })
    }

    /// What is promised: programs that know nothing of the seal, and nothing but TLS on the wire.
    fn exchange(&self) -> anyhow::Result<Seen> {
        let (client, server) = (&self.client.0, &self.server.0);
        let capture = self.mesh.world().capture(server)?;
        let page = client
            .app("curl")
            .args(["-sS", "-m", "5", &format!("http://{}:8080/", server.v4())])
            .run(SOON)?;
        ensure!(
            page.stdout == SECRET,
            "HTTP through the seal: {}{}",
            page.stdout,
            page.stderr
        );
        let raw = client
            .app("/usr/bin/python3")
            .args(["-c", RAW_CLIENT, &server.v4().to_string()])
            .run(SOON)?;
        ensure!(
            raw.stdout == format!("{SECRET}\nand back\n"),
            "TCP through the seal: {}{}",
            raw.stdout,
            raw.stderr
        );
        let wire: Wire = capture.stop()?;
        let between: Vec<_> = wire.between(client.v4(), server.v4()).collect();
        ensure!(wire.missing_bytes == 0, "the capture is incomplete");
        Ok(Seen {
            packets: wire.packets,
            tls_bytes: between.iter().map(|flow| flow.tls_bytes).sum(),
            plaintext_bytes: between.iter().map(|flow| flow.plaintext_bytes).sum(),
            secret_seen: wire.contains(SECRET.as_bytes()),
        })
    }

    /// What must not work.
    fn attempts(&self) -> anyhow::Result<Vec<Refused>> {
        let (client, server) = (&self.client, &self.server);
        let curl =
            |from: &Pod, url: String| from.app("curl").args(["-sS", "-m", "3", &url]).run(SOON);
        let plaintext = curl(&self.outsider, format!("http://{}:8080/", server.0.v4()))?;
        let unknown = curl(&client.0, "http://203.0.113.1/".to_owned())?;
        let datagram = client
            .0
            .app("/usr/bin/python3")
            .args(["-c", DATAGRAM])
            .run(SOON)?;
        Ok(vec![
            Refused {
                what: "plaintext from a pod outside the mesh".to_owned(),
                reason: reason(&server.1, "inbound"),
                refused: !plaintext.success() && plaintext.stdout.is_empty(),
            },
            Refused {
                what: "a connection to an undeclared destination".to_owned(),
                reason: reason(&client.1, "outbound"),
                refused: !unknown.success(),
            },
            Refused {
                what: "a UDP datagram".to_owned(),
                reason: "dropped by the capture rules".to_owned(),
                refused: datagram.stdout.trim() == "refused",
            },
        ])
    }

    fn keys(&self) -> anyhow::Result<Vec<Key>> {
        [&self.client.1, &self.server.1]
            .into_iter()
            .map(|sidecar| {
                let said = sidecar.admin("/custody");
                let custody = said
                    .get("custody")
                    .context("a sidecar does not tell about its key")?;
                let yes = |name: &str| custody[name].as_bool();
                Ok(Key {
                    uri: text(&custody["reference"]),
                    token: text(&custody["token"]["model"]),
                    sensitive: yes("sensitive"),
                    extractable: yes("extractable"),
                    never_extractable: yes("never_extractable"),
                    local: yes("local"),
                    signatures: said["signatures"].as_u64().unwrap_or_default(),
                })
            })
            .collect()
    }

    fn links(&self) -> Vec<Link> {
        let records = self.client.1.records().into_iter();
        records
            .filter(|record| record["treatment"] == "seal")
            .map(|record| Link {
                source: text(&record["source"]),
                destination: text(&record["destination"]),
                peer: text(&record["peer"]),
                suite: text(&record["suite"]),
                group: text(&record["group"]),
            })
            .collect()
    }

    fn keep(&self) -> anyhow::Result<()> {
        let pid = self.server.1.process.pid();
        say(&format!(
            "\nThe pods stay until you press Enter. Look around, for example:\n  \
             nsenter --target {pid} --net nft list table inet sealwire\n  \
             nsenter --target {pid} --net curl -s http://127.0.0.1:15000/links"
        ));
        if self.mesh.world().privilege() == Privilege::UserNamespace {
            say(
                "  (with --user --preserve-credentials as well: these pods are in a user namespace)",
            );
        }
        io::stdin().read_line(&mut String::new())?;
        Ok(())
    }
}

/// Why a sidecar refused last, by its own log.
fn reason(sidecar: &Sidecar, direction: &str) -> String {
    let asked = Instant::now();
    while asked.elapsed() < SOON {
        let refusal = sidecar
            .records()
            .into_iter()
            .rfind(|record| record["outcome"] == "refused" && record["direction"] == direction);
        if let Some(refusal) = refusal {
            return text(&refusal["detail"]);
        }
    }
    "no record of it".to_owned()
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or("?").to_owned()
}
