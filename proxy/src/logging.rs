//! Structured logs on standard output, their level changeable while the process runs.

use std::fmt;
use std::sync::Arc;

use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::reload::{self, Handle};
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, Registry};

use crate::config::{LogFormat, LogSection};

/// Changes the log level.
#[derive(Clone)]
pub struct LogLevel(Arc<dyn Fn(EnvFilter) -> Result<(), String> + Send + Sync>);

impl LogLevel {
    /// Sets the level, or directives such as `info,sealwire_link=debug`.
    ///
    /// # Errors
    /// When it cannot be parsed; the level in force stays.
    pub fn set(&self, level: &str) -> Result<(), String> {
        (self.0)(parse(level)?)
    }

    /// One that nothing is logged by.
    #[cfg(test)]
    pub(crate) fn nobodys() -> Self {
        Self(Arc::new(|_| Ok(())))
    }
}

impl fmt::Debug for LogLevel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LogLevel")
    }
}

/// Begins to log. Once a process.
///
/// # Errors
/// When the level cannot be parsed, or logging has begun already.
pub fn start(section: &LogSection) -> Result<LogLevel, String> {
    let (filter, handle) = reload::Layer::new(parse(&section.level)?);
    let lines = match section.format {
        LogFormat::Json => tracing_subscriber::fmt::layer()
            .json()
            .flatten_event(true)
            .boxed(),
        LogFormat::Text => tracing_subscriber::fmt::layer().boxed(),
    };
    tracing_subscriber::registry()
        .with(filter)
        .with(lines)
        .try_init()
        .map_err(|error| error.to_string())?;
    Ok(LogLevel(Arc::new(move |filter| change(&handle, filter))))
}

fn change(handle: &Handle<EnvFilter, Registry>, filter: EnvFilter) -> Result<(), String> {
    handle.reload(filter).map_err(|error| error.to_string())
}

/// What goes wrong with Vault is logged here, once a change. The libraries beneath log every failed
/// request as an error of its own.
const QUIET: &str = "vaultrs=off,rustify=off";

fn parse(level: &str) -> Result<EnvFilter, String> {
    EnvFilter::try_new(format!("{QUIET},{level}"))
        .map_err(|error| format!("{error}: write error, warn, info, debug or trace"))
}
