//! The evidence of a running sidecar: a thread that writes, another that waits for the key, and
//! recorders for whoever has something to say.
//!
//! When the key does not sign, records are written all the same and signed once it does; a gap says
//! so. When the disk takes nothing, what was to be written is kept, up to a limit, and written once
//! it does; a gap says how much was lost.

use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::log::{LogConfig, LogError, LogWriter, Standing};
use crate::record::{Bytes, Census, Start, Stop, Timestamp};
use crate::recorder::{Gathering, Recorder, Shared, shorten_policy};
use crate::signer::Signer;

mod writer;

use self::writer::Writer;

/// How evidence is made.
#[derive(Clone, Debug)]
pub struct EvidenceConfig {
    /// The log.
    pub log: LogConfig,
    /// How long a window is.
    pub window: Duration,
    /// Groups of each kind that a window tells apart.
    pub groups: usize,
    /// Single records that may wait for the writer.
    pub queue: usize,
    /// How often custody is recorded for a key that stays.
    pub custody_every: Duration,
}

/// Takes the census at a window's end, on the writer's thread.
pub trait CensusTaker: Send {
    /// `sealed` and `excepted` are what the proxy moved in the window.
    fn take(&mut self, sealed: Bytes, excepted: Bytes) -> Census;
}

/// Evidence in the making.
#[derive(Debug)]
pub struct Evidence {
    shared: Arc<Shared>,
    figures: Arc<Mutex<Figures>>,
    writer: Option<JoinHandle<Result<(), LogError>>>,
}

/// How evidence stands.
#[derive(Clone, Debug, Default)]
pub struct Figures {
    /// The log.
    pub log: Standing,
    /// Checkpoints signed in this run.
    pub checkpoints: u64,
    /// Signatures asked of the key in this run, proofs of custody included.
    pub signatures: u64,
    /// Records of this run that were lost.
    pub lost: u64,
    /// Records that wait for the disk.
    pub waiting: u64,
    /// Since when nothing has been signed that should have been.
    pub unsigned_since: Option<Timestamp>,
    /// What the disk said, while it takes nothing.
    pub storage: Option<String>,
    /// What the key said, while it does not sign.
    pub key: Option<String>,
    /// End of the last window that is written.
    pub covered_until: Option<Timestamp>,
}

impl Evidence {
    /// Opens the log, writes the start, and begins the first window. Waits for the disk.
    ///
    /// # Errors
    /// When the log cannot be opened, or there are no threads to be had.
    pub fn open(
        config: EvidenceConfig,
        mut start: Start,
        census: Option<Box<dyn CensusTaker>>,
    ) -> Result<Self, LogError> {
        shorten_policy(&mut start.policy);
        start.window_seconds = config.window.as_secs();
        let boot = config.log.boot;
        let clock = config.log.clock.clone();
        let directory = config.log.directory.clone();
        let log = LogWriter::open(config.log.clone(), start)?;
        let gathering = Gathering::new(config.groups, log.now());
        let shared = Arc::new(Shared::new(clock, gathering, config.queue));
        let no_thread = |source| LogError::Storage {
            path: directory.clone(),
            doing: "start a thread for",
            source,
        };
        let signer = Signer::start(shared.clone(), boot).map_err(no_thread)?;
        let figures = Arc::new(Mutex::new(Figures {
            log: log.standing(),
            ..Figures::default()
        }));
        let writer = Writer::new(config, log, census, shared.clone(), signer, figures.clone());
        let writer = thread::Builder::new()
            .name("evidence-log".to_owned())
            .spawn(move || writer.run())
            .map_err(no_thread)?;
        Ok(Self {
            shared,
            figures,
            writer: Some(writer),
        })
    }

    /// Takes down what happens.
    pub fn recorder(&self) -> Recorder {
        Recorder::new(self.shared.clone())
    }

    /// How it stands. Does not block.
    pub fn figures(&self) -> Figures {
        let figures = self.figures.lock();
        figures.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Ends the last window, writes how the run ends, and has it signed. Waits for disk and key, for
    /// the key no longer than `patience`.
    ///
    /// # Errors
    /// When the disk does not take it. That the key does not sign is none: it is stated in the log.
    pub fn stop(mut self, stop: Stop, patience: Duration) -> Result<(), LogError> {
        let until = Instant::now() + patience;
        self.shared.tell(|inbox| inbox.stop = Some((stop, until)));
        match self.writer.take().map(JoinHandle::join) {
            Some(Ok(ended)) => ended,
            // It has panicked, which the log shows as a crash; there is nothing more to write.
            Some(Err(_)) | None => Ok(()),
        }
    }
}

/// Whoever drops it without a word leaves a log that ends as after a crash.
impl Drop for Evidence {
    fn drop(&mut self) {
        if self.writer.is_some() {
            self.shared.tell(|inbox| inbox.abandoned = true);
        }
    }
}

#[cfg(test)]
mod tests;
