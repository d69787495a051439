//! What evidence costs between two sealed pods: the same work with it and without, in turn in one
//! run; signatures and bytes of an idle pod and of a busy one; what a census of many sockets takes.
//! `make bench-evidence`.

use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::time::{Duration, Instant};

use sealwire_pods::{Mesh, OPEN_MESH, Privilege, Programs, Sealing, Sidecar, assert_eventually};

use crate::{Pair, SOON, load, median, run};

/// Seconds that a window is long.
const WINDOW: u64 = 60;

/// How long an idle pod, and a busy one, are watched: whole windows of `QUICK` seconds.
const WATCHED: Duration = Duration::from_secs(20);
const QUICK: u64 = 2;

/// Sockets of a large census, two for each connection.
const SOCKETS: usize = 10_000;

pub(crate) fn compare(rounds: usize) {
    let own = std::env::current_exe().unwrap();
    let programs = Programs::beside(&own).unwrap();
    let mesh = Mesh::new(Privilege::available()[0], &programs).unwrap();
    let tool = mesh.world().directory().join("bench");
    std::fs::copy(&own, &tool).unwrap();
    let without = pair(&mesh, &tool, ["off-c", "off-s"], None);
    let with = pair(&mesh, &tool, ["on-c", "on-s"], Some(WINDOW));

    let mut results = [Vec::new(), Vec::new()];
    for round in 0..=rounds {
        // Who begins changes, since whoever comes second finds a warmer machine.
        let mut turns = [(0, &without), (1, &with)];
        if round % 2 == 1 {
            turns.reverse();
        }
        for (side, pair) in turns {
            let measured = run(&tool, pair);
            // The first round warms up.
            if round > 0 {
                results[side].push(measured);
            }
        }
    }
    println!("| | without evidence | with | with over without |\n|---|---|---|---|");
    for (i, name) in load::MEASURES.iter().enumerate() {
        let [off, on] = [0, 1].map(|side| {
            median(
                results[side]
                    .iter()
                    .map(|round: &Vec<f64>| round[i])
                    .collect(),
            )
        });
        println!("| {name} | {off:.1} | {on:.1} | {:.3} |", on / off);
    }
    println!("\nMedians of {rounds} rounds, with and without in turn.\n");
    drop((without, with));

    let quick = pair(&mesh, &tool, ["quick-c", "quick-s"], Some(QUICK));
    println!(
        "| pod | windows | signatures a window | bytes a window | bytes a day, a window a minute | processor, % | evidence's threads, % |\n|---|---|---|---|---|---|---|"
    );
    // What is written once is none of it.
    assert_eventually("the log has begun", SOON, || {
        (figure(&quick.sidecars[0], "signatures_total") >= 2.0).then_some(())
    });
    watch(&mesh, &quick, "idle", || std::thread::park_timeout(WATCHED));
    watch(&mesh, &quick, "busy", || {
        let end = Instant::now() + WATCHED;
        while Instant::now() < end {
            run(&tool, &quick);
        }
    });
    census();
}

fn pair(mesh: &Mesh, tool: &Path, names: [&str; 2], window: Option<u64>) -> Pair {
    let [(client, out), (server, inn)] = names.map(|name| {
        let directory = mesh.world().directory().join(name).join("evidence");
        let evidence = window.map_or_else(String::new, |seconds| {
            format!(
                "evidence: {{ directory: {}, windowSeconds: {seconds} }}\n",
                directory.display()
            )
        });
        let sealing = Sealing {
            sections: OPEN_MESH.to_owned() + &evidence,
            ..Sealing::default()
        };
        mesh.sealed_pod(name, &sealing).unwrap()
    });
    let process = server.app(tool).args(["serve"]).spawn().unwrap();
    assert_eventually("the server listens", SOON, || {
        server.listens(7000).then_some(())
    });
    let reuse = ["-c", "echo 1 > /proc/sys/net/ipv4/tcp_tw_reuse"];
    let set = client.command("sh").args(reuse).run(SOON).unwrap();
    assert!(set.success(), "{}", set.stderr);
    Pair {
        client,
        server,
        _server: process,
        sidecars: vec![out, inn],
    }
}

/// Prints what the client's sidecar wrote while something went on.
fn watch(mesh: &Mesh, pair: &Pair, name: &str, work: impl FnOnce()) {
    let sidecar = &pair.sidecars[0];
    let bytes = || bytes(mesh, pair.client.name());
    let used = || [cpu(sidecar, ""), cpu(sidecar, "evidence")];
    let before = (figure(sidecar, "signatures_total"), bytes(), used());
    let begun = Instant::now();
    work();
    let took = begun.elapsed().as_secs_f64();
    let windows = (took / f64::from(u32::try_from(QUICK).unwrap())).round();
    let signatures = figure(sidecar, "signatures_total") - before.0;
    let grown = bytes() - before.1;
    let now = used();
    let [all, evidence] = [0, 1].map(|which| (now[which] - before.2[which]) / took * 100.0);
    println!(
        "| {name} | {windows} | {:.2} | {:.0} | {:.0} | {all:.1} | {evidence:.2} |",
        signatures / windows,
        grown / windows,
        grown / windows * 1440.0,
    );
}

fn figure(sidecar: &Sidecar, name: &str) -> f64 {
    let metrics = sidecar.metrics();
    let name = format!("sealwire_evidence_{name} ");
    let mut lines = metrics.lines();
    let found = lines.find_map(|line| line.strip_prefix(&name));
    found.map_or(0.0, |value| value.parse().unwrap())
}

/// Bytes in the files of a pod's log.
fn bytes(mesh: &Mesh, pod: &str) -> f64 {
    let directory = mesh.world().directory().join(pod).join("evidence");
    let sizes = mesh
        .world()
        .command("find")
        .args([directory])
        .args(["-type", "f", "-printf", "%s\n"])
        .run(SOON)
        .unwrap();
    // A file that has its real name by now is complained about, and is of no weight.
    let sizes = sizes.stdout.lines();
    sizes.map(|size| size.parse::<f64>().unwrap()).sum()
}

/// Seconds of processor time that the threads of a sidecar have used whose names hold a part.
fn cpu(sidecar: &Sidecar, part: &str) -> f64 {
    let threads = std::fs::read_dir(format!("/proc/{}/task", sidecar.process.pid())).unwrap();
    let of = |stat: &str| {
        let (name, fields) = stat.rsplit_once(')').unwrap();
        let fields: Vec<&str> = fields.split_ascii_whitespace().collect();
        let ticks = |field: usize| fields[field].parse::<f64>().unwrap();
        // Fields 14 and 15 of proc_pid_stat(5), in hundredths of a second.
        name.contains(part).then(|| (ticks(11) + ticks(12)) / 100.0)
    };
    threads
        .filter_map(|thread| std::fs::read_to_string(thread.ok()?.path().join("stat")).ok())
        .filter_map(|stat| of(&stat))
        .sum()
}

/// Prints what a census of many sockets takes, in this process's own namespace.
fn census() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let mut open = Vec::with_capacity(SOCKETS);
    while open.len() + 1 < SOCKETS {
        open.push(TcpStream::connect(address).unwrap());
        open.push(listener.accept().unwrap().0);
    }
    let text = include_str!("../../proxy/src/config/example.yaml");
    let settings = sealwire_proxy::config::Config::parse(text)
        .unwrap()
        .settings()
        .unwrap();
    let known = sealwire_proxy::census::Known {
        settings: std::sync::Arc::new(settings),
        // Those of this process stand for applications.
        sockets: std::collections::HashSet::new(),
        links: std::collections::HashSet::new(),
        captured: std::collections::HashMap::new(),
        exceptions: std::collections::HashSet::new(),
        now: time::OffsetDateTime::now_utc(),
    };
    let mut taker = sealwire_proxy::census::Taker::default();
    let times = (0..11).map(|_| {
        let begun = Instant::now();
        let known = || {
            assert!(sealwire_proxy::census::own_sockets().len() >= SOCKETS - 1);
            known.clone()
        };
        let census = taker.take(known).record;
        assert!(census.sockets.iter().map(|count| count.count).sum::<u64>() >= 9_000);
        begun.elapsed().as_secs_f64() * 1e3
    });
    println!(
        "\nA census of {} sockets: {:.1} ms (median of 11).",
        open.len() + 1,
        median(times.collect())
    );
}
