//! What the seal costs: the same work between two pods without a sidecar and between two sealed
//! ones, in one run, in turn, round after round; medians and ratios. `make bench`.

#![allow(
    clippy::print_stdout,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a tool for people, which fails loudly"
)]

mod burst;
mod evidence;
mod hsm;
mod load;
mod reviews;

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, Subcommand};
use sealwire_pods::{Mesh, Pod, Privilege, Process, Programs, Sealing, Sidecar, assert_eventually};

#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
    /// How often everything is measured.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
}

#[derive(Subcommand)]
enum Command {
    /// Answers, inside a pod.
    Serve,
    /// What a frozen HSM costs.
    Freeze,
    /// What evidence costs.
    Evidence,
    /// What many handshakes at once cost, with a slow HSM.
    Burst {
        /// How long the device takes for a signature.
        #[arg(long, default_value = "5ms")]
        latency: String,
    },
    /// What the injector takes beside an API server.
    Reviews,
    /// Signs by a key in a device, and prints how often it did in a second.
    Sign { module: PathBuf, uri: String },
    /// Measures, inside a pod, and prints one number a line.
    Load { address: IpAddr },
}

fn main() {
    let arguments = Arguments::parse();
    match arguments.command {
        Some(Command::Serve) => load::serve(),
        Some(Command::Load { address }) => load::measure(address),
        Some(Command::Evidence) => evidence::compare(arguments.rounds),
        Some(Command::Freeze) => hsm::freeze(),
        Some(Command::Burst { latency }) => burst::measure(arguments.rounds, &latency),
        Some(Command::Reviews) => reviews::measure(),
        Some(Command::Sign { module, uri }) => hsm::sign(&module, &uri),
        None => compare(arguments.rounds),
    }
}

/// How long something may take that happens at once.
const SOON: Duration = Duration::from_secs(10);

/// Two pods, and a server in one of them.
struct Pair {
    client: Pod,
    server: Pod,
    _server: Process,
    /// Of the client and the server, when they are sealed.
    sidecars: Vec<Sidecar>,
}

fn compare(rounds: usize) {
    let own = std::env::current_exe().unwrap();
    let programs = Programs::beside(&own).unwrap();
    let mesh = Mesh::new(Privilege::available()[0], &programs).unwrap();
    let tool = mesh.world().directory().join("bench");
    std::fs::copy(&own, &tool).unwrap();
    let serve = |client: Pod, server: Pod, sidecars: Vec<Sidecar>| {
        let process = server.app(&tool).args(["serve"]).spawn().unwrap();
        assert_eventually("the server listens", SOON, || {
            server.listens(7000).then_some(())
        });
        Pair {
            client,
            server,
            _server: process,
            sidecars,
        }
    };
    let world = mesh.world();
    let direct = serve(
        world.pod("client").unwrap(),
        world.pod("server").unwrap(),
        Vec::new(),
    );
    let sealed = |name: &str| mesh.sealed_pod(name, &Sealing::default()).unwrap();
    let (client, out) = sealed("sclient");
    let (server, inn) = sealed("sserver");
    let sealed = serve(client, server, vec![out, inn]);

    for pair in [&direct, &sealed] {
        // Thousands of connections to one destination: else their ports, all waiting for a late
        // packet, run out within the minute.
        let reuse = ["-c", "echo 1 > /proc/sys/net/ipv4/tcp_tw_reuse"];
        let set = pair.client.command("sh").args(reuse).run(SOON).unwrap();
        assert!(set.success(), "{}", set.stderr);
    }

    let mut results = [Vec::new(), Vec::new()];
    for round in 0..=rounds {
        for (pair, results) in [&direct, &sealed].into_iter().zip(&mut results) {
            let measured = run(&tool, pair);
            // The first round warms up.
            if round > 0 {
                results.push(measured);
            }
        }
    }
    println!("| | direct | sealed | sealed over direct |\n|---|---|---|---|");
    for (i, name) in load::MEASURES.iter().enumerate() {
        let [direct, sealed] =
            [0, 1].map(|side| median(results[side].iter().map(|round| round[i]).collect()));
        println!(
            "| {name} | {direct:.1} | {sealed:.1} | {:.3} |",
            sealed / direct
        );
    }
    println!("\nMedians of {rounds} rounds, direct and sealed in turn.");
}

fn run(tool: &PathBuf, pair: &Pair) -> Vec<f64> {
    let finished = pair
        .client
        .app(tool)
        .args(["load", &pair.server.v4().to_string()])
        .run(Duration::from_secs(120))
        .unwrap();
    let refusals = || {
        let mut records = pair.sidecars.iter().flat_map(Sidecar::records);
        records.rfind(|record| record["outcome"] != "complete")
    };
    assert!(finished.success(), "{}{:#?}", finished.stderr, refusals());
    finished
        .stdout
        .lines()
        .map(|line| line.parse().unwrap())
        .collect()
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
