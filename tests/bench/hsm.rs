//! What an HSM that is frozen, and one that is slow, cost between two sealed pods: `make bench-hsm`.

use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use sealwire_keys::{KeyConfig, Pkcs11Config, Scheme};
use sealwire_pods::{
    Mesh, OPEN_MESH, PROXY_UID, Pod, PodCommand, Privilege, Programs, Sealing, Sidecar,
};
use sealwire_tests::load::{Load, Seen, now, tool};
use serde_json::Value;

use crate::{SOON, median};

/// Links that carry data all the time.
const LINKS: usize = 200;

/// How long the device is frozen, and how long it is watched before.
const FREEZE: Duration = Duration::from_secs(30);
const BEFORE: Duration = Duration::from_secs(10);

/// Handshakes at once, and what they meet.
const BURST: usize = 1000;
const BURST_PORT: &str = "7001";
const SLOW: &str = "5ms";
const SESSIONS: usize = 16;

/// A sealed pod whose connections are full handshakes, its key behind a device.
fn sealed(mesh: &Mesh, name: &str, device: Option<&Pod>) -> (Pod, Sidecar) {
    let sealing = Sealing {
        device: Some("soft".to_owned()),
        identity: "  resumption: { enabled: false }\n".to_owned(),
        key: format!("    maxSessions: {SESSIONS}\n"),
        sections: OPEN_MESH.to_owned(),
        ..Sealing::default()
    };
    let pod = mesh.world().pod(name).unwrap();
    let config = mesh.prepare(&pod, &sealing).unwrap();
    let device = mesh.device_directory(device.unwrap_or(&pod));
    let own = mesh.device_directory(&pod).display().to_string();
    let text = mesh.config(&pod, &sealing);
    let text = text.replace(&own, &device.display().to_string());
    mesh.write(&config, &text).unwrap();
    mesh.capture(&pod, &config).unwrap();
    let command = mesh.sidecar_command(&pod, &config).env("HSM_SIM", device);
    let mut sidecar = mesh.start_with(&pod, &config, command).unwrap();
    sidecar.wait_until_ready().unwrap();
    (pod, sidecar)
}

/// Freezes the device under one side and then the other, and prints what became of the links.
pub(crate) fn freeze() {
    let programs = Programs::beside(&std::env::current_exe().unwrap()).unwrap();
    println!(
        "| frozen for {} s under the side that | exchanges a second before | new links a second | their longest wait | exchanges meanwhile | meanwhile over before | new links meanwhile | the longest wait | served again after |\n|---|---|---|---|---|---|---|---|---|",
        FREEZE.as_secs()
    );
    for role in ["dials", "is dialled"] {
        let mesh = Mesh::new(Privilege::available()[0], &programs).unwrap();
        let (dials, _out) = sealed(&mesh, "dials", None);
        let (dialled, _in) = sealed(&mesh, "dialled", None);
        let frozen = if role == "dials" { &dials } else { &dialled };
        let load = Load::start(&mesh, &dials, &dialled, LINKS);
        load.watch(Duration::from_secs(2));
        let before = load.watch(BEFORE);
        mesh.device(frozen, &["freeze"]).unwrap();
        let during = load.watch(FREEZE);
        mesh.device(frozen, &["thaw"]).unwrap();
        let again = load.serves_since(now());
        assert_eq!(during.broken, 0, "an open link broke");
        println!(
            "| {role} | {:.0} | {} | {:.1} s | {:.0} | {:.3} | {} served, {} refused | {:.1} s | {again:.2} s |",
            before.exchanges,
            before.served / BEFORE.as_secs(),
            before.longest,
            during.exchanges,
            during.exchanges / before.exchanges,
            during.served,
            during.refused,
            during.longest,
        );
    }
    println!();
}

/// Meets a slow device with many handshakes at once, and prints how fast they were made, and what
/// that cost others.
pub(crate) fn burst(rounds: usize) {
    let own = std::env::current_exe().unwrap();
    let programs = Programs::beside(&own).unwrap();
    let mesh = Mesh::new(Privilege::available()[0], &programs).unwrap();
    let (dials, out) = sealed(&mesh, "dials", None);
    // Both keys are in one device, as the keys of a whole mesh are.
    let (dialled, inn) = sealed(&mesh, "dialled", Some(&dials));
    let slow = [
        "latency",
        "--fixed",
        SLOW,
        "--parallel",
        &SESSIONS.to_string(),
    ];
    mesh.device(&dials, &slow).unwrap();
    let load = Load::start_paced(&mesh, &dials, &dialled, 10);
    // A thousand threads of applications are not what is measured: they are nice to all others.
    let _answering = nicely(&dialled, &mesh)
        .args(["serve", BURST_PORT])
        .spawn()
        .unwrap();
    let bench = mesh.world().directory().join("bench");
    std::fs::copy(own, &bench).unwrap();
    let (mut allowed, mut made, mut quiet, mut busy) = (vec![], vec![], vec![], vec![]);
    let mut threads = 0;
    for _ in 0..rounds {
        allowed.push(signatures_a_second(&mesh, &dials, &bench));
        quiet.push(load.watch(Duration::from_secs(2)));
        let from = now();
        let bursting = nicely(&dials, &mesh)
            .args(["burst", &dialled.v4().to_string(), BURST_PORT])
            .args(["--count", &BURST.to_string(), "--hold"])
            .spawn()
            .unwrap();
        let said: Value = loop {
            let now = [&out, &inn].map(|sidecar| threads_of(sidecar.process.pid()));
            threads = now.into_iter().chain([threads]).max().unwrap_or_default();
            match serde_json::from_str(&bursting.stdout()) {
                Ok(said) => break said,
                Err(_) => pause(Duration::from_millis(20)),
            }
        };
        busy.push(load.since(from));
        drop(bursting);
        // A thousand connections that end at once are another question.
        pause(Duration::from_secs(1));
        assert_eq!(said["failed"], 0, "{said}");
        made.push(1000.0 / said["seconds"].as_f64().unwrap());
    }
    let p99 = |seen: Vec<Seen>| median(seen.iter().map(|seen| seen.p99).collect());
    let (allowed, made) = (median(allowed), median(made));
    let (quiet, busy) = (p99(quiet), p99(busy));
    println!(
        "| {BURST} handshakes at once, {SLOW} a signature, {SESSIONS} at once in the device | |\n|---|---|"
    );
    println!("| signatures a second that the device allows, measured beside | {allowed:.0} |");
    println!("| handshakes a second, two signatures each | {made:.0} |");
    println!(
        "| share of what the device allows | {:.2} |",
        2.0 * made / allowed
    );
    println!("| other exchanges' p99 before, ms | {quiet:.2} |");
    println!("| meanwhile, ms | {busy:.2} |");
    println!("| meanwhile over before | {:.2} |", busy / quiet);
    println!("| threads of a sidecar at the most | {threads} |");
    println!("\nMedians of {rounds} rounds.");
}

/// The load's program, only where nothing else wants to run.
fn nicely(pod: &Pod, mesh: &Mesh) -> PodCommand {
    pod.app("chrt").args(["--idle", "0"]).args([&tool(mesh)])
}

#[allow(
    clippy::disallowed_methods,
    reason = "what is watched goes on by itself"
)]
fn pause(time: Duration) {
    std::thread::sleep(time);
}

fn threads_of(pid: u32) -> usize {
    std::fs::read_dir(format!("/proc/{pid}/task")).map_or(0, Iterator::count)
}

/// What the device allows to a program that does nothing but sign, as the sidecar's user.
fn signatures_a_second(mesh: &Mesh, pod: &Pod, bench: &Path) -> f64 {
    let name = pod.name();
    let hsm = mesh.hsm_directory();
    let uri = format!(
        "pkcs11:token={name};object={name}?pin-source=file:{}/pins/{name}",
        hsm.display()
    );
    let module = mesh.programs().device.clone().unwrap();
    let signed = pod
        .command(bench)
        .user(PROXY_UID)
        .env("SOFTHSM2_CONF", hsm.join("softhsm2.conf"))
        .env("HSM_SIM", mesh.device_directory(pod))
        .args(["sign".into(), module.into_os_string(), uri.into()])
        .run(SOON * 6)
        .unwrap();
    assert!(signed.success(), "{}", signed.stderr);
    signed.stdout.trim().parse().unwrap()
}

/// Signs with as many threads as there are sessions, and prints how many that made a second.
pub(crate) fn sign(module: &Path, uri: &str) {
    const SIGNATURES: usize = 4000;
    let key = sealwire_keys::open(&KeyConfig::Pkcs11(Box::new(Pkcs11Config {
        module: module.to_owned(),
        uri: uri.parse().unwrap(),
        max_sessions: NonZeroUsize::new(SESSIONS).unwrap(),
        queue: SESSIONS,
        wait: SOON,
        generate: None,
        certified: None,
        state: None,
    })))
    .unwrap();
    let left = AtomicUsize::new(SIGNATURES);
    let one_less = |left: usize| left.checked_sub(1);
    let begun = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..SESSIONS {
            scope.spawn(|| {
                while (left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_less)).is_ok() {
                    key.sign(Scheme::EcdsaP256Sha256, b"message").unwrap();
                }
            });
        }
    });
    println!("{}", 4000.0 / begun.elapsed().as_secs_f64());
    drop(key);
    sealwire_keys::finish(SOON);
}
