//! The sidecar's program.

use std::path::PathBuf;

use anyhow::Context;
use clap::{Parser, Subcommand};
use sealwire_proxy::leave::leave;
use sealwire_proxy::run::Exit;
use sealwire_proxy::{capture, config::Config, reference, run};

/// Seals every connection of a pod in mutual TLS, with a private key that never leaves an HSM.
#[derive(Parser)]
#[command(version, about)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Runs the sidecar.
    ///
    /// Exit codes: 0 drained, 1 bad configuration, 2 key or certificate not usable in time,
    /// 3 capture not proven in time.
    Run {
        /// The configuration.
        #[arg(long, default_value = "/etc/sealwire/proxy.yaml")]
        config: PathBuf,
        /// The node that the pod runs on, for evidence. Kubernetes fills it in: $(NODE_NAME).
        #[arg(long)]
        node: Option<String>,
    },
    /// Applies the kernel's capture rules and ends. Needs NET_ADMIN.
    Capture {
        /// The configuration.
        #[arg(long, default_value = "/etc/sealwire/proxy.yaml")]
        config: PathBuf,
        /// Prints the rules instead of applying them.
        #[arg(long, conflicts_with = "remove")]
        print: bool,
        /// Removes the rules: nothing is captured or sealed any more.
        #[arg(long)]
        remove: bool,
    },
    /// Says what is wrong with a configuration.
    Check {
        /// The configuration.
        #[arg(long, default_value = "/etc/sealwire/proxy.yaml")]
        config: PathBuf,
    },
    /// Prints the reference of the configuration.
    Reference {
        /// As JSON Schema instead of Markdown.
        #[arg(long)]
        json: bool,
    },
}

fn main() {
    leave(
        Arguments::parse()
            .command
            .execute()
            .unwrap_or_else(|error| {
                complain(&error);
                Exit::Configuration
            }),
    )
}

impl Command {
    fn execute(self) -> anyhow::Result<Exit> {
        match self {
            Self::Run { config, node } => return run::run(&config, node.as_deref()),
            Self::Capture { remove: true, .. } => capture::remove()?,
            Self::Capture { config, print, .. } => {
                let spec = Config::load(&config)?.settings()?.capture;
                if print {
                    say(&spec.ruleset());
                } else {
                    capture::apply(&spec)?;
                    say(&format!(
                        "capture rules in place, sha256 {}\n",
                        spec.digest()
                    ));
                }
            }
            Self::Check { config } => {
                Config::load(&config)?.settings()?;
                say(&format!("{} is good\n", config.display()));
            }
            Self::Reference { json: false } => say(&reference::markdown()),
            Self::Reference { json: true } => {
                let schema = serde_json::to_string_pretty(&reference::json_schema())
                    .context("JSON Schema")?;
                say(&format!("{schema}\n"));
            }
        }
        Ok(Exit::Drained)
    }
}

#[allow(
    clippy::print_stdout,
    reason = "a command's answer goes to standard output"
)]
fn say(text: &str) {
    print!("{text}");
}

#[allow(
    clippy::print_stderr,
    reason = "the one place where the program says why it ended"
)]
fn complain(error: &anyhow::Error) {
    eprintln!("sealwire-proxy: {error:#}");
}
