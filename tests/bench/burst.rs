//! What many handshakes at once cost others between two sealed pods, with a slow HSM:
//! `make bench-hsm`.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use sealwire_pods::{Mesh, PROXY_UID, Pod, PodCommand, Privilege, Programs, Sidecar};
use sealwire_tests::load::{Load, now, tool};
use serde_json::Value;

use crate::hsm::{SESSIONS, sealed};
use crate::{SOON, median};

/// Handshakes at once.
const BURST: usize = 1000;
const PORT: &str = "7001";

/// Meets a device that takes `latency` with many handshakes at once, and prints how fast they were
/// made, and what that cost others: as the system has all threads share the processors, and with
/// the relays and those others before everybody else. The second says what they wait for inside
/// Sealwire; the first adds what they wait for where there are fewer processors than work.
pub(crate) fn measure(rounds: usize, latency: &str) {
    let own = std::env::current_exe().unwrap();
    let programs = Programs::beside(&own).unwrap();
    // Whoever is not root cannot say who comes first.
    let mesh = Mesh::new(Privilege::Root, &programs).unwrap();
    let (client, out) = sealed(&mesh, "dials", None);
    // Both keys are in one device, as the keys of a whole mesh are.
    let (server, inn) = sealed(&mesh, "dialled", Some(&client));
    let sessions = SESSIONS.to_string();
    let slow = ["latency", "--fixed", latency, "--parallel", &sessions];
    mesh.device(&client, &slow).unwrap();
    let load = Load::start_paced(&mesh, &client, &server, 10);
    let _answering = nicely(&server, &mesh)
        .args(["serve", PORT, "--one-thread"])
        .spawn()
        .unwrap();
    let bench = mesh.world().directory().join("bench");
    std::fs::copy(own, &bench).unwrap();

    let between = Between {
        mesh: &mesh,
        client: &client,
        server: &server,
        sidecars: [&out, &inn],
        load: &load,
    };
    let mut allowed = Vec::new();
    let mut seen: [Vec<Burst>; 2] = Default::default();
    for _ in 0..rounds {
        allowed.push(signatures_a_second(&mesh, &client, &bench));
        for (first, seen) in [false, true].into_iter().zip(&mut seen) {
            between.schedule(first);
            seen.push(between.burst());
        }
    }
    print(median(allowed), &seen, latency);
    println!("\nMedians of {rounds} rounds.");
}

/// What one burst came to.
struct Burst {
    /// Handshakes a second.
    made: f64,
    /// p99 of other exchanges before and meanwhile, ms.
    quiet: f64,
    busy: f64,
    /// Threads of a sidecar at the most.
    threads: usize,
}

fn print(allowed: f64, seen: &[Vec<Burst>; 2], latency: &str) {
    println!(
        "| {BURST} handshakes at once, {latency} a signature, {SESSIONS} at once in the device | processors shared | relays first |\n|---|---|---|"
    );
    let line = |what: &str, figure: &dyn Fn(&Burst) -> f64| {
        let medians = seen.each_ref().map(|seen: &Vec<Burst>| {
            let figures = seen.iter().map(figure);
            median(figures.collect())
        });
        println!("| {what} | {:.2} | {:.2} |", medians[0], medians[1]);
    };
    line("handshakes a second, two signatures each", &|one| one.made);
    line("share of what the device allows", &|one| {
        2.0 * one.made / allowed
    });
    line("other exchanges' p99 before, ms", &|one| one.quiet);
    line("meanwhile, ms", &|one| one.busy);
    line("meanwhile over before", &|one| one.busy / one.quiet);
    println!("| signatures a second that the device allows, measured beside | {allowed:.0} | |");
    let threads = seen.iter().flatten().map(|one| one.threads).max();
    println!(
        "| threads of a sidecar at the most | {} | |",
        threads.unwrap_or_default()
    );
}

/// Where the bursts happen.
struct Between<'a> {
    mesh: &'a Mesh,
    client: &'a Pod,
    server: &'a Pod,
    sidecars: [&'a Sidecar; 2],
    load: &'a Load,
}

impl Between<'_> {
    fn burst(&self) -> Burst {
        let quiet = self.load.watch(Duration::from_secs(2)).p99;
        let from = now();
        let bursting = nicely(self.client, self.mesh)
            .args(["burst", &self.server.v4().to_string(), PORT])
            .args(["--count", &BURST.to_string(), "--hold"])
            .spawn()
            .unwrap();
        let mut threads = 0;
        let said: Value = loop {
            let now = self.pids().map(|pid| threads_of(pid).len());
            threads = now.into_iter().fold(threads, usize::max);
            match serde_json::from_str(&bursting.stdout()) {
                Ok(said) => break said,
                Err(_) => pause(Duration::from_millis(20)),
            }
        };
        let busy = self.load.since(from).p99;
        drop(bursting);
        // A thousand connections that end at once are another question.
        pause(Duration::from_secs(1));
        assert_eq!(said["failed"], 0, "{said}");
        let made = 1000.0 / said["seconds"].as_f64().unwrap();
        Burst {
            made,
            quiet,
            busy,
            threads,
        }
    }

    /// Has the relays, and the applications that are watched, run before all others
    /// (`SCHED_FIFO`), or as everybody does.
    fn schedule(&self, first: bool) {
        let [policy, priority] = if first {
            ["--fifo", "1"]
        } else {
            ["--other", "0"]
        };
        let relays = self.pids().into_iter().flat_map(relaying);
        let watched = self.load.pids().into_iter().flat_map(threads_of);
        for thread in relays.chain(watched) {
            let changed = Command::new("chrt")
                .args([policy, "--pid", priority, &thread.to_string()])
                .output()
                .unwrap();
            // A thread of an application may have ended meanwhile.
            let ended = !Path::new(&format!("/proc/{thread}")).exists();
            assert!(changed.status.success() || ended, "{changed:?}");
        }
    }

    fn pids(&self) -> [u32; 2] {
        self.sidecars.map(|sidecar| sidecar.process.pid())
    }
}

/// The load's program, only where nothing else wants to run: what a thousand connections cost
/// their applications is not what is measured.
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

fn threads_of(pid: u32) -> Vec<u32> {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task"));
    let number =
        |task: std::io::Result<std::fs::DirEntry>| task.ok()?.file_name().to_str()?.parse().ok();
    tasks.into_iter().flatten().filter_map(number).collect()
}

/// The threads of a sidecar that relay.
fn relaying(pid: u32) -> Vec<u32> {
    let relays = |thread: &u32| {
        let name = std::fs::read_to_string(format!("/proc/{pid}/task/{thread}/comm"));
        name.is_ok_and(|name| name.starts_with("sealwire-relay"))
    };
    threads_of(pid).into_iter().filter(relays).collect()
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
