//! Evidence says what happened, no more and no less: a pod lives through everything that can happen
//! to it, and its log is compared with what an independent witness saw on the wire.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests fail loudly"
)]

#[path = "evidence/ports.rs"]
mod ports;
#[path = "evidence/reported.rs"]
mod reported;
#[path = "evidence/users.rs"]
mod users;

use std::collections::BTreeMap;
use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use sealwire_evidence::reconcile::Ledger;
use sealwire_evidence::record::{
    CertificateEvent, Direction, Event, GapCause, Record, SocketClass, StopCause, Window,
};
use sealwire_evidence::{Expect, Log, Trust, verify};
use sealwire_identity::TrustBundle;
use sealwire_pods::{Mesh, OPEN_MESH, Pod, Sealing, Sidecar, Wire, assert_eventually};
use sealwire_tests::{LONG, SOON, client, curl, in_a_mesh, python, record, server, server_on};
use time::OffsetDateTime;

use self::reported::Reported;

/// Seconds that a window is long here.
const WINDOW: u64 = 1;

/// A pod without a sidecar that an exception is declared for.
const LEGACY_PORT: u16 = 9000;

/// A sealed pod that writes evidence.
struct Watched {
    pod: Pod,
    sidecar: Sidecar,
    sealing: Sealing,
}

impl Watched {
    fn new(mesh: &Mesh, name: &str, exceptions: &str, device: Option<&str>) -> Self {
        let pod = mesh.world().pod(name).unwrap();
        Self::seal(mesh, pod, exceptions, device)
    }

    fn seal(mesh: &Mesh, pod: Pod, exceptions: &str, device: Option<&str>) -> Self {
        let sealing = Sealing {
            device: device.map(str::to_owned),
            sections: OPEN_MESH.to_owned() + exceptions + &section(mesh, pod.name()),
            ..Sealing::default()
        };
        let mut sidecar = mesh.seal(&pod, &sealing).unwrap();
        sidecar.wait_until_ready().unwrap();
        Self {
            pod,
            sidecar,
            sealing,
        }
    }

    /// Its records, once the log verifies with nothing wrong. A copy that was made while a window
    /// was being written may have the files of two moments: another one has not.
    fn records(&self, mesh: &Mesh) -> Vec<Record> {
        let bundle = fs::read(mesh.world().directory().join("client/bundle.pem")).unwrap();
        let trust = Trust {
            bundle: Arc::new(TrustBundle::from_pem(&bundle).unwrap()),
        };
        let mut log = readable(mesh, self.pod.name());
        for copies_left in (0..COPIES).rev() {
            let logs = std::slice::from_ref(&log);
            let verdict = verify(logs, &trust, &Expect::default(), &|_| {});
            if verdict.is_good() {
                break;
            }
            assert!(copies_left > 0, "{verdict:#?}");
            log = readable(mesh, self.pod.name());
        }
        let records = Log::open(&log).unwrap().records().unwrap();
        records.map(|entry| entry.unwrap().record).collect()
    }

    /// Waits for a record of which this is so, without asking for proof.
    fn wait_for(&self, mesh: &Mesh, what: &str, is: impl Fn(&Event) -> bool) {
        assert_eventually(what, SOON, || {
            let log = Log::open(&readable(mesh, self.pod.name())).ok()?;
            let mut records = log.records().ok()?;
            records
                .any(|entry| entry.is_ok_and(|entry| is(&entry.record.event)))
                .then_some(())
        });
    }

    /// Has another certificate issued, and waits until it is in force.
    fn rotate(&self, mesh: &Mesh) {
        let epoch = || self.sidecar.admin("/certificates")["epoch"].as_u64();
        let before = epoch();
        mesh.issue(&self.pod, &self.sealing).unwrap();
        assert_eventually("another certificate is in force", SOON, || {
            (epoch() > before).then_some(())
        });
    }
}

fn section(mesh: &Mesh, name: &str) -> String {
    format!(
        "evidence:
  directory: {}
  windowSeconds: {WINDOW}
  pod: {{ namespace: demo, name: {name}, uid: uid-of-{name}, node: node-1 }}
",
        directory(mesh, name).display()
    )
}

fn directory(mesh: &Mesh, name: &str) -> PathBuf {
    mesh.world().directory().join(name).join("evidence")
}

/// Copies of a log that is being written, before one has to be of one moment.
const COPIES: u32 = 5;

/// A copy of a log that this process may read: the log itself is its sidecar's alone.
fn readable(mesh: &Mesh, name: &str) -> PathBuf {
    let copy = mesh.world().directory().join(name).join("evidence-copy");
    let script = format!(
        "rm -rf '{1}.fresh'; cp -r '{0}' '{1}.fresh' && chmod -R a+rX '{1}.fresh' && rm -rf '{1}' && mv '{1}.fresh' '{1}'",
        directory(mesh, name).display(),
        copy.display()
    );
    // A file that is being written has another name a moment later, and cp complains.
    assert_eventually("the log is copied", SOON, || {
        let copied = mesh.world().command("sh").args(["-c", &script]).run(SOON);
        copied.ok()?.success().then_some(())
    });
    copy
}

fn windows(records: &[Record]) -> Vec<&Window> {
    let windows = records.iter().filter_map(|record| match &record.event {
        Event::Window(window) => Some(window.as_ref()),
        _ => None,
    });
    windows.collect()
}

/// Refusals that windows count, by direction and reason.
fn refusals(records: &[Record]) -> BTreeMap<(Direction, String), u64> {
    let mut counted = BTreeMap::new();
    for refusal in windows(records)
        .into_iter()
        .flat_map(|window| &window.refusals)
    {
        let kind = (refusal.direction, refusal.reason.clone());
        *counted.entry(kind).or_default() += refusal.count;
    }
    counted
}

/// Connections opened and closed to a place, and application bytes sent and received.
fn sealed(records: &[Record], destination: SocketAddr) -> [u64; 4] {
    let groups = windows(records)
        .into_iter()
        .flat_map(|window| &window.links);
    let mut sum = [0; 4];
    for group in groups.filter(|group| group.flow.destination == Some(destination)) {
        let bytes = &group.bytes;
        for (sum, more) in
            sum.iter_mut()
                .zip([group.opened, group.closed, bytes.sent, bytes.received])
        {
            *sum += more;
        }
    }
    sum
}

/// What the wire carried from one address to a place, and back: connections, and bytes each way.
fn on_the_wire(wire: &Wire, from: IpAddr, to: SocketAddr) -> [u64; 3] {
    let mut sum = [0; 3];
    for flow in &wire.flows {
        let bytes = flow.tls_bytes + flow.plaintext_bytes;
        if flow.source.ip() == from && flow.destination == to {
            sum[0] += 1;
            sum[1] += bytes;
        } else if flow.source == to && flow.destination.ip() == from {
            sum[2] += bytes;
        }
    }
    sum
}

#[test]
fn a_log_tells_the_life_of_a_pod_and_a_witness_on_the_wire_agrees() {
    in_a_mesh(|mesh| {
        let begun = OffsetDateTime::now_utc();
        let world = mesh.world();
        let legacy = world.pod("legacy").unwrap();
        let _legacy_server = server_on(&legacy, "::", LEGACY_PORT, "echo");
        let stranger = world.pod("stranger").unwrap();
        let server_side = Watched::new(mesh, "server", "", None);
        let _application = server(&server_side.pod, 7000, "echo");

        // An application that was there before capture was.
        let pod = world.pod("client").unwrap();
        let early = pod
            .app("/usr/bin/python3")
            .args(["-c", &holds_open(legacy.v4())])
            .spawn()
            .unwrap();
        assert_eventually("a connection from before capture", SOON, || {
            early.stdout().contains("open").then_some(())
        });
        let exceptions = format!(
            "exceptions: [{{ name: legacy, kind: passthrough, destination: {}/32, ports: [{LEGACY_PORT}], \
             reason: moves next year, owner: data-team, expires: 2099-12-31T00:00:00Z }}]\n",
            legacy.v4()
        );
        let mut watched = Watched::seal(mesh, pod, &exceptions, Some("soft"));
        let to_server = SocketAddr::new(server_side.pod.v4(), 7000);

        let capture = world.capture(&watched.pod).unwrap();
        for _ in 0..3 {
            let said = client(&watched.pod, to_server.ip(), 7000, "echo")
                .run(SOON)
                .unwrap();
            assert_eq!(said.stdout.trim(), "there and back");
        }
        let said = client(&watched.pod, legacy.v4(), LEGACY_PORT, "echo")
            .run(SOON)
            .unwrap();
        assert_eq!(said.stdout.trim(), "there and back");
        // Refused: to nowhere declared, and from outside the mesh, into both pods.
        assert!(!curl(&watched.pod, &["http://203.0.113.1/"]).success());
        assert!(!curl(&stranger, &[&format!("http://{}:7000/", to_server.ip())]).success());
        assert!(!curl(&stranger, &[&format!("http://{}:80/", watched.pod.v4())]).success());
        let datagrams = "import socket
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
for _ in range(3):
    try: s.sendto(b'x', ('203.0.113.9', 4433))
    except PermissionError: print('refused')";
        assert_eq!(
            python(&watched.pod, datagrams).stdout,
            "refused\n".repeat(3)
        );
        watched.rotate(mesh);
        watched.rotate(mesh);
        let said = client(&watched.pod, to_server.ip(), 7000, "echo")
            .run(SOON)
            .unwrap();
        assert_eq!(said.stdout.trim(), "there and back");

        // The HSM is away: windows go on, and are signed later.
        mesh.device(&watched.pod, &["fault", "C_Sign", "CKR_DEVICE_ERROR"])
            .unwrap();
        mesh.device(&watched.pod, &["fault", "C_SignInit", "CKR_DEVICE_ERROR"])
            .unwrap();
        // Not asked over the network, which would be on the wire as well.
        assert_eventually("it says that evidence is not signed", SOON, || {
            let log = watched.sidecar.log();
            let mut notes = log.iter().filter(|line| line["name"] == "evidence");
            notes.find(|line| {
                line["note"]
                    .as_str()
                    .is_some_and(|note| note.contains("not signed"))
            })?;
            Some(())
        });
        mesh.device(&watched.pod, &["clear"]).unwrap();
        watched.wait_for(
            mesh,
            "what was signed late is said to be",
            |event| matches!(event, Event::Gap(gap) if gap.cause == GapCause::Unsigned),
        );
        let wire = capture.stop().unwrap();

        // Nobody is there for a while.
        watched.sidecar.process.signal("KILL");
        watched.sidecar.process.wait(SOON);
        assert!(!curl(&watched.pod, &[&format!("http://{}:7000/", to_server.ip())]).success());
        let config = watched.sidecar.config.clone();
        watched.sidecar = mesh.start(&watched.pod, &config).unwrap();
        watched.sidecar.wait_until_ready().unwrap();
        drop(early);
        watched.sidecar.process.signal("TERM");
        assert!(watched.sidecar.process.wait(LONG).unwrap().success());

        let records = watched.records(mesh);
        tells_of_the_runs(&records);
        tells_of_the_connections(&records, &wire, &watched.pod, to_server, legacy.v4());
        tells_what_else_there_was(&records, legacy.v4());
        let servers = server_side.records_so_far(mesh);
        let plaintext = (Direction::Inbound, "plaintext".to_owned());
        assert_eq!(refusals(&servers).get(&plaintext), Some(&1), "{servers:#?}");
        assert_eq!(sealed(&servers, to_server)[..2], [4, 4]);

        // And whoever has no more than the report sees all of it.
        let reported = Reported::of(mesh, &["client", "server"], begun);
        let to_legacy = SocketAddr::new(legacy.v4(), LEGACY_PORT);
        reported.tells_of_the_links(&wire, watched.pod.v4(), to_server);
        reported.tells_of_the_exception(&wire, watched.pod.v4(), to_legacy);
        reported.tells_the_rest(to_legacy);
    });
}

impl Watched {
    /// Its records, once every connection so far has been told of.
    fn records_so_far(&self, mesh: &Mesh) -> Vec<Record> {
        let windows = |records: &[Record]| windows(records).len();
        let log = || readable(mesh, self.pod.name());
        let count = |log: &Path| {
            let records = Log::open(log).ok()?.records().ok()?;
            let records: Result<Vec<_>, _> =
                records.map(|entry| entry.map(|it| it.record)).collect();
            records.ok().map(|records| windows(&records))
        };
        let before = count(&log()).unwrap();
        assert_eventually("two windows have gone by", SOON, || {
            (count(&log())? >= before + 2).then_some(())
        });
        self.records(mesh)
    }
}

/// Start and stop, the gap between the two runs, and whose key signed.
fn tells_of_the_runs(records: &[Record]) {
    let kinds: Vec<_> = records.iter().map(|record| record.event.kind()).collect();
    assert_eq!(kinds.first(), Some(&"start"), "{kinds:?}");
    assert_eq!(kinds.last(), Some(&"stop"), "{kinds:?}");
    let starts: Vec<_> = records
        .iter()
        .filter_map(|record| match &record.event {
            Event::Start(start) => Some(start),
            _ => None,
        })
        .collect();
    let [first, second] = starts.as_slice() else {
        panic!("{kinds:?}");
    };
    assert!(first.previous.is_none() && !second.previous.unwrap().stopped);
    assert_eq!(first.build_sha256.as_ref().unwrap().len(), 64);
    assert_eq!(first.policy.exceptions[0].owner, "data-team");
    let crash = records
        .iter()
        .any(|record| matches!(&record.event, Event::Gap(gap) if gap.cause == GapCause::Crash));
    assert!(crash, "{kinds:?}");
    let stop = records.iter().find_map(|record| match &record.event {
        Event::Stop(stop) => Some(stop.cause),
        _ => None,
    });
    assert_eq!(stop, Some(StopCause::Drained));
    let certificates: Vec<_> = records
        .iter()
        .filter_map(|record| match &record.event {
            Event::Certificate(certificate) => Some(certificate.event),
            _ => None,
        })
        .collect();
    use CertificateEvent::{Issued, Renewed};
    assert_eq!(certificates, [Issued, Renewed, Renewed, Issued]);
    let pods: Vec<_> = records
        .iter()
        .map(|record| record.pod.uid.as_str())
        .collect();
    assert!(pods.iter().all(|uid| *uid == "uid-of-client"), "{pods:?}");
    let custody = records.iter().find_map(|record| match &record.event {
        Event::Custody(custody) => Some(custody),
        _ => None,
    });
    let custody = custody.unwrap();
    assert_eq!(custody.extractable, Some(false));
    custody.check().unwrap();
    // Windows follow one another without a hole within a run.
    let mut before: Option<(String, &Window)> = None;
    for record in records {
        if let Event::Window(window) = &record.event {
            let boot = record.boot.to_string();
            if let Some((_, earlier)) = before.as_ref().filter(|(run, _)| *run == boot)
                && window.part == 1
            {
                assert_eq!(window.from, earlier.to);
            }
            before = Some((boot, window));
        }
    }
}

/// Sealed links, the exception, and what was refused.
fn tells_of_the_connections(
    records: &[Record],
    wire: &Wire,
    pod: &Pod,
    to_server: SocketAddr,
    legacy: IpAddr,
) {
    let message = u64::try_from("there and back".len()).unwrap();
    let [opened, closed, sent, received] = sealed(records, to_server);
    assert_eq!(
        [opened, closed, sent, received],
        [4, 4, 4 * message, 4 * message]
    );
    let [connections, out, back] = on_the_wire(wire, pod.v4(), to_server);
    assert_eq!(connections, opened);
    assert!(out > sent && back > received, "{out} {back}");
    let group = &windows(records)
        .into_iter()
        .find(|window| !window.links.is_empty())
        .unwrap()
        .links[0];
    assert_eq!(
        group.flow.peer.as_deref(),
        Some("spiffe://mesh.example/ns/demo/sa/server")
    );
    assert!(group.flow.version.contains("1_3"), "{group:?}");

    let to_legacy = SocketAddr::new(legacy, LEGACY_PORT);
    let used: Vec<_> = windows(records)
        .into_iter()
        .flat_map(|window| &window.exceptions)
        .collect();
    let [used] = used.as_slice() else {
        panic!("{used:#?}");
    };
    assert_eq!((used.rule.as_str(), used.connections), ("legacy", 1));
    // What is not sealed is on the wire as it is, to the byte.
    let seen = on_the_wire(wire, pod.v4(), to_legacy);
    assert_eq!(
        [used.connections, used.bytes.sent, used.bytes.received],
        seen
    );
    let planes = [15_020, 15_021];
    let unsealed = wire
        .flows
        .iter()
        .filter(|flow| flow.source.ip() == pod.v4() && !planes.contains(&flow.source.port()));
    assert_eq!(
        unsealed.map(|flow| flow.plaintext_bytes).sum::<u64>(),
        used.bytes.sent
    );

    let refused = refusals(records);
    let count = |direction, reason: &str| refused.get(&(direction, reason.to_owned())).copied();
    assert_eq!(
        count(Direction::Outbound, "undeclared"),
        Some(1),
        "{refused:?}"
    );
    assert_eq!(
        count(Direction::Inbound, "plaintext"),
        Some(1),
        "{refused:?}"
    );
    assert_eq!(
        count(Direction::Outbound, "datagram"),
        Some(3),
        "{refused:?}"
    );
    assert!(
        wire.datagrams.keys().all(|to| !to.ends_with(":4433")),
        "{:?}",
        wire.datagrams
    );
}

/// The socket from before capture, and how the kernel's counters add up.
fn tells_what_else_there_was(records: &[Record], legacy: IpAddr) {
    let to = SocketAddr::new(legacy, LEGACY_PORT);
    let censuses: Vec<_> = windows(records)
        .into_iter()
        .filter_map(|one| one.census.as_ref())
        .collect();
    let first = censuses.first().unwrap();
    let listed: Vec<_> = first.unaccounted.iter().collect();
    let [early] = listed.as_slice() else {
        panic!("{first:#?}");
    };
    assert_eq!((early.remote, early.process.uid), (Some(to), Some(1000)));
    assert_eq!(early.state, "ESTABLISHED");
    assert!(early.process.inode.is_some());
    // Its application has ended before the last window did, and nothing else was ever unaccounted.
    for census in &censuses {
        assert!(
            census.unaccounted.iter().all(|one| one.remote == Some(to)),
            "{census:#?}"
        );
        assert_eq!(census.unaccounted_more, 0);
        assert!(census.unavailable.is_empty(), "{census:#?}");
        assert!(census.took_micros < 1_000_000, "{census:#?}");
    }
    let last = censuses.last().unwrap();
    let unaccounted = |count: &&_| {
        matches!(
            count,
            sealwire_evidence::record::SocketCount {
                class: SocketClass::Unaccounted,
                ..
            }
        )
    };
    assert_eq!(last.sockets.iter().find(unaccounted), None);

    let mut ledger = Ledger::default();
    for window in windows(records) {
        ledger.add(window);
    }
    let balance = ledger.sent();
    assert!(
        balance.moved > 0 && balance.counted > balance.moved,
        "{balance:?}"
    );
    assert_eq!(
        (balance.unexplained, balance.missing),
        (0, 0),
        "{balance:?} {ledger:?}"
    );
}

fn holds_open(legacy: IpAddr) -> String {
    format!(
        "import socket, time
s = socket.create_connection(('{legacy}', {LEGACY_PORT}))
print('open', flush=True)
time.sleep(600)"
    )
}

#[test]
fn a_disk_that_takes_nothing_is_said_and_where_evidence_is_required_nothing_flows() {
    in_a_mesh(|mesh| {
        let pod = mesh.world().pod("client").unwrap();
        let full = mesh.world().directory().join("full");
        let (size, owner) = ("size=1m,mode=700", sealwire_pods::PROXY_UID);
        let mount = format!(
            "mkdir '{0}' && mount -t tmpfs -o {size},uid={owner} tmpfs '{0}'",
            full.display()
        );
        let mounted = mesh
            .world()
            .command("sh")
            .args(["-c", &mount])
            .run(SOON)
            .unwrap();
        assert!(mounted.success(), "{}", mounted.stderr);
        let sealing = Sealing {
            sections: format!(
                "{OPEN_MESH}evidence: {{ directory: {}, windowSeconds: 1, required: true }}\n",
                full.display()
            ),
            ..Sealing::default()
        };
        let mut sidecar = mesh.seal(&pod, &sealing).unwrap();
        sidecar.wait_until_ready().unwrap();
        let fill = format!(
            "dd if=/dev/zero of='{}/filler' bs=4k count=1024 || true",
            full.display()
        );
        mesh.world()
            .command("sh")
            .args(["-c", &fill])
            .run(SOON)
            .unwrap();
        assert_eventually("it is not ready any more, and says why", SOON, || {
            let (status, body) = sidecar.health("/readyz")?;
            (status == 503 && body.contains("evidence:")).then_some(())
        });
        assert!(!curl(&pod, &["http://198.18.0.200:7000/"]).success());
        record(&sidecar, &[("reason", "not_ready")]);
        let metrics = sidecar.metrics();
        assert!(metrics.contains("sealwire_evidence_written 0"), "{metrics}");
        let free = format!("rm '{}/filler'", full.display());
        mesh.world()
            .command("sh")
            .args(["-c", &free])
            .run(SOON)
            .unwrap();
        sidecar.wait_until_ready().unwrap();
        assert_eventually("the log says what was missing", SOON, || {
            let copy = mesh.world().directory().join("client/copy");
            let script = format!(
                "rm -rf '{1}'; cp -r '{0}' '{1}' && chmod -R a+rX '{1}'",
                full.display(),
                copy.display()
            );
            mesh.world()
                .command("sh")
                .args(["-c", &script])
                .run(SOON)
                .ok()?;
            let mut records = Log::open(&copy).ok()?.records().ok()?;
            let is_gap =
                |event: &Event| matches!(event, Event::Gap(gap) if gap.cause == GapCause::Storage);
            records
                .any(|entry| entry.is_ok_and(|entry| is_gap(&entry.record.event)))
                .then_some(())
        });
    });
}

#[test]
fn a_link_that_stays_open_says_what_it_moves_while_it_does() {
    in_a_mesh(|mesh| {
        let server_side = Watched::new(mesh, "server", "", None);
        let watched = Watched::new(mesh, "client", "", None);
        let _application = server(&server_side.pod, 7000, "drip");
        let mut reading = client(&watched.pod, server_side.pod.v4(), 7000, "until-it-ends")
            .spawn()
            .unwrap();
        watched.wait_for(mesh, "two windows speak of the open link", |event| {
            let Event::Window(window) = event else {
                return false;
            };
            let group = window.links.iter().find(|group| group.opened == 0);
            group.is_some_and(|group| group.open == 1 && group.bytes.received > 0)
        });
        let window = watched.records(mesh);
        let window = windows(&window)
            .into_iter()
            .rfind(|window| !window.links.is_empty())
            .unwrap();
        let census = window.census.as_ref().unwrap();
        assert!(census.sealed.received > 0);
        let links = census
            .sockets
            .iter()
            .find(|count| count.class == SocketClass::SealedLink);
        assert_eq!(links.unwrap().count, 1, "{census:#?}");
        reading.signal("KILL");
        reading.wait(Duration::from_secs(5));
    });
}
