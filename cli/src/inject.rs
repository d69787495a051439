//! `sealwire inject`: does to manifests, without a cluster, what the webhook does to pods.

use std::fs;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::Args;
use sealwire_injector::config::InjectorConfig;
use sealwire_injector::inject::Injector;
use sealwire_injector::offline;

use crate::screen::remark;

/// The largest manifest that is read, in bytes.
const MAX_BYTES: u64 = 64 * 1024 * 1024;

/// Options of `sealwire inject`.
#[derive(Args)]
pub(crate) struct Options {
    /// The manifests: pods, and workloads with templates of pods. `-` for standard input.
    #[arg(short, long, default_value = "-")]
    file: PathBuf,
    /// The injector's configuration: key `injector.yaml` of its ConfigMap.
    #[arg(long, default_value = "injector.yaml")]
    config: PathBuf,
    /// Namespace of what says none.
    #[arg(short, long, default_value = "default")]
    namespace: String,
    /// For clusters without native sidecars.
    #[arg(long)]
    no_native_sidecars: bool,
}

/// Prints the sealed manifests; what was done goes to standard error.
pub(crate) fn run(options: &Options) -> anyhow::Result<()> {
    let injector = Injector::new(
        InjectorConfig::load(&options.config)?,
        !options.no_native_sidecars,
    );
    let text = read(&options.file)?;
    let offline = offline::inject(&injector, &text, &options.namespace)?;
    for done in &offline.done {
        remark(&format!("{}: {}", done.what, done.status.label()));
        for warning in &done.warnings {
            remark(&format!("{}: {warning}", done.what));
        }
    }
    match io::stdout().write_all(offline.text.as_bytes()) {
        // Whoever reads it has seen enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        written => Ok(written?),
    }
}

fn read(path: &Path) -> anyhow::Result<String> {
    let mut text = String::new();
    let read = if path == Path::new("-") {
        io::stdin().take(MAX_BYTES).read_to_string(&mut text)
    } else {
        fs::File::open(path).and_then(|file| file.take(MAX_BYTES).read_to_string(&mut text))
    };
    read.with_context(|| format!("cannot read {}", path.display()))?;
    Ok(text)
}
