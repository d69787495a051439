//! The injector's program.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use sealwire_injector::config::InjectorConfig;
use sealwire_injector::{reference, run};

/// Seals the pods of a cluster: admission webhooks, and the sidecars' configuration.
#[derive(Parser)]
#[command(version, about)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Serves the webhooks and writes the sidecars' configuration.
    Run {
        /// The configuration.
        #[arg(long, default_value = "/etc/sealwire/injector.yaml")]
        config: PathBuf,
        /// How to reach the API server, outside of a cluster.
        #[arg(long)]
        kubeconfig: Option<PathBuf>,
    },
    /// Says what is wrong with a configuration.
    Check {
        /// The configuration.
        #[arg(long, default_value = "/etc/sealwire/injector.yaml")]
        config: PathBuf,
    },
    /// Prints the reference of the configuration.
    Reference {
        /// As JSON Schema instead of Markdown.
        #[arg(long)]
        json: bool,
    },
}

fn main() -> ExitCode {
    match Arguments::parse().command.execute() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            complain(&error);
            ExitCode::FAILURE
        }
    }
}

impl Command {
    fn execute(self) -> anyhow::Result<()> {
        match self {
            Self::Run { config, kubeconfig } => {
                let runtime = tokio::runtime::Builder::new_multi_thread()
                    .enable_all()
                    .build()?;
                let done = runtime.block_on(run::run(&config, kubeconfig.as_deref()));
                // What is still being answered has had its time.
                runtime.shutdown_background();
                done?;
            }
            Self::Check { config } => {
                InjectorConfig::load(&config)?;
                say(&format!("{} is good\n", config.display()));
            }
            Self::Reference { json: false } => say(&reference::markdown()),
            Self::Reference { json: true } => {
                let schema = serde_json::to_string_pretty(&reference::json_schema())?;
                say(&format!("{schema}\n"));
            }
        }
        Ok(())
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
    eprintln!("sealwire-injector: {error:#}");
}
