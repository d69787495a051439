//! Structured logs on standard output, their level changeable while the process runs.

mod lines;

use std::sync::Arc;
use std::{fmt, io};

use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::reload::{self, Handle};
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, Registry};

use self::lines::Lines;
pub use self::lines::LogThread;
use crate::config::{LogFormat, LogSection};

/// A log that has begun.
#[derive(Debug)]
pub struct Log {
    /// Changes its level.
    pub level: LogLevel,
    lines: Lines,
}

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

impl Log {
    /// Has a thread write what is logged from now on, so that nobody else waits for who reads it.
    ///
    /// # Errors
    /// When there is no standard output, or no thread can be started.
    pub fn write_by_thread(&self) -> io::Result<LogThread> {
        self.lines.write_by_thread()
    }
}

/// Begins to log. Once a process.
///
/// # Errors
/// When the level cannot be parsed, or logging has begun already.
pub fn start(section: &LogSection) -> Result<Log, String> {
    let lines = Lines::default();
    let (filter, handle) = reload::Layer::new(parse(&section.level)?);
    let layer = tracing_subscriber::fmt::layer().with_writer(lines.clone());
    let layer = match section.format {
        LogFormat::Json => layer.json().flatten_event(true).boxed(),
        LogFormat::Text => layer.boxed(),
    };
    tracing_subscriber::registry()
        .with(filter)
        .with(layer)
        .try_init()
        .map_err(|error| error.to_string())?;
    Ok(Log {
        level: LogLevel(Arc::new(move |filter| change(&handle, filter))),
        lines,
    })
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
