//! `sealwire`, for people: see it work on this machine.

mod cluster;
mod demo;
mod doctor;
mod evidence;
mod inject;
mod keys;
mod report;
mod screen;
mod status;
mod vault;
mod verify;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Every connection of a pod sealed in mutual TLS, by a key that never leaves an HSM.
#[derive(Parser)]
#[command(version, about)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Seals a connection between two pods on this machine, and shows what the wire carried.
    ///
    /// Everything happens in namespaces that end with it: nothing of this machine is changed.
    Demo(demo::Options),
    /// Says what is wrong with a cluster, a pod or this machine, and what to do about it.
    ///
    /// Changes nothing. Exit code: 0 when nothing is at fault.
    Doctor(Box<doctor::Doctor>),
    /// Lists pods: sealed, not sealed, and why.
    ///
    /// Exit code: 0 when every pod that ought to be sealed is.
    Status(status::Status),
    /// Seals the pods in manifests, as the webhook seals them in a cluster, and prints them.
    Inject(inject::Options),
    /// Shows what sidecars have written down.
    #[command(subcommand)]
    Evidence(evidence::Command),
    /// Looks after the key of a sidecar, inside its pod.
    #[command(subcommand)]
    Keys(keys::Command),
    /// Says what logs of evidence come to, in one page for people and in files for auditors' tools.
    ///
    /// Ends with 0 when the answer is yes and every clause is satisfied, otherwise with 1.
    Report(Box<report::Report>),
    /// Sets up HashiCorp Vault or OpenBao for a mesh.
    #[command(subcommand)]
    Vault(vault::Command),
    /// Checks logs of evidence, offline: that nothing was edited, and who says so.
    ///
    /// Ends with 0 when nothing is wrong, otherwise with 1, having said what is wrong, where, and since when.
    Verify(verify::Verify),
}

fn main() -> ExitCode {
    let done = match Arguments::parse().command {
        Command::Demo(options) => demo::run(&options),
        Command::Doctor(doctor) => doctor.run(),
        Command::Status(status) => status.run(),
        Command::Inject(options) => inject::run(&options).map(|()| true),
        Command::Evidence(command) => command.run().map(|()| true),
        Command::Keys(command) => command.run().map(|()| true),
        Command::Report(report) => report.run(),
        Command::Vault(command) => command.run().map(|()| true),
        Command::Verify(verify) => verify.run(),
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            screen::complain(&error);
            ExitCode::FAILURE
        }
    }
}
