//! The settings that are in force in one process, followed as they change. For the module.
//!
//! A change by [`super::Device`] is seen by the next call, since a number in the shared state tells
//! of it. A change by an editor is seen within [`LOOK_EVERY`], by the file's stamp. Neither needs a
//! thread or a socket, only the device's directory.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant, SystemTime};

use super::FILE;
use super::settings::Settings;
use super::state::State;

/// How often the file is looked at.
pub(crate) const LOOK_EVERY: Duration = Duration::from_millis(5);

/// Settings that follow their file.
#[derive(Debug)]
pub(crate) struct Watch {
    file: PathBuf,
    in_force: RwLock<Arc<InForce>>,
    /// The revision that was read last.
    revision: AtomicU64,
    /// When the file was looked at last, in microseconds since `opened`.
    looked: AtomicU64,
    opened: Instant,
    /// Held by the thread that reads the file.
    reading: Mutex<()>,
}

/// Settings at a moment.
#[derive(Debug)]
pub(crate) struct InForce {
    /// As the script has left them, if there is one.
    pub(crate) settings: Settings,
    /// Changes whenever they do.
    pub(crate) generation: u64,
    written: Settings,
    stamp: Stamp,
    /// When the script goes on.
    next: Option<SystemTime>,
}

/// What tells one version of the file from another.
#[derive(Copy, Clone, Debug, Default, Eq, PartialEq)]
struct Stamp {
    modified: (i64, i64),
    inode: u64,
    size: u64,
}

impl Watch {
    /// Reads the settings for the first time.
    pub(crate) fn new(directory: &Path, state: &State) -> Result<Self, String> {
        let file = directory.join(FILE);
        let revision = state.revision.load(Acquire);
        let (stamp, written) = read(&file)?;
        let watch = Self {
            in_force: RwLock::new(Arc::new(InForce {
                settings: written.clone(),
                generation: 0,
                written,
                stamp,
                next: None,
            })),
            file,
            revision: AtomicU64::new(revision),
            looked: AtomicU64::new(0),
            opened: Instant::now(),
            reading: Mutex::default(),
        };
        watch.put(stamp, watch.last().written.clone(), state);
        Ok(watch)
    }

    /// The settings now.
    pub(crate) fn current(&self, state: &State) -> Arc<InForce> {
        let in_force = self.last();
        let revised = self.revision.load(Acquire) != state.revision.load(Acquire);
        let goes_on = in_force.next.is_some_and(|next| SystemTime::now() >= next);
        if revised || goes_on || self.is_time_to_look() {
            self.look(state);
            return self.last();
        }
        in_force
    }

    /// The settings as they were read last.
    pub(crate) fn last(&self) -> Arc<InForce> {
        let in_force = self.in_force.read();
        in_force.unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn is_time_to_look(&self) -> bool {
        let now = u64::try_from(self.opened.elapsed().as_micros()).unwrap_or(u64::MAX);
        let looked = self.looked.load(Relaxed);
        u128::from(now.saturating_sub(looked)) >= LOOK_EVERY.as_micros()
            && self
                .looked
                .compare_exchange(looked, now, Relaxed, Relaxed)
                .is_ok()
    }

    /// Looks at the file and the script. Settings that cannot be read leave those before in force.
    fn look(&self, state: &State) {
        let _reading = self.reading.lock().unwrap_or_else(PoisonError::into_inner);
        let before = self.last();
        let revision = state.revision.load(Acquire);
        // A file that is not there is a version as well: it is complained about once.
        let stamp = Stamp::of(&self.file).unwrap_or_default();
        if stamp == before.stamp {
            self.revision.store(revision, Release);
            if before.next.is_some_and(|next| SystemTime::now() >= next) {
                self.put(before.stamp, before.written.clone(), state);
            }
            return;
        }
        match read(&self.file) {
            Ok((stamp, written)) => self.put(stamp, written, state),
            Err(problem) => {
                complain(&format!("{problem}; the settings before stay in force"));
                self.put(stamp, before.written.clone(), state);
            }
        }
        self.revision.store(revision, Release);
    }

    fn put(&self, stamp: Stamp, written: Settings, state: &State) {
        let now = SystemTime::now();
        let (settings, next) = match &written.script {
            Some(script) => {
                state.play(script, now);
                (script.apply(&written, now), script.next(now))
            }
            None => (written.clone(), None),
        };
        let mut in_force = self
            .in_force
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        *in_force = Arc::new(InForce {
            settings,
            generation: in_force.generation + 1,
            written,
            stamp,
            next,
        });
    }
}

impl Stamp {
    fn of(file: &Path) -> io::Result<Self> {
        let metadata = fs::metadata(file)?;
        Ok(Self {
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            inode: metadata.ino(),
            size: metadata.size(),
        })
    }

    fn milliseconds(&self) -> u64 {
        let milliseconds = self.modified.0 * 1_000 + self.modified.1 / 1_000_000;
        u64::try_from(milliseconds).unwrap_or(0)
    }
}

/// Reads the settings, and from when a script counts that does not say it.
fn read(file: &Path) -> Result<(Stamp, Settings), String> {
    let failed = |error: io::Error| {
        format!(
            "{}: {error}: make a device with `hsm-sim ctl new`",
            file.display()
        )
    };
    // The stamp first: a file that changes in between is read again.
    let stamp = Stamp::of(file).map_err(failed)?;
    let text = fs::read_to_string(file).map_err(failed)?;
    let mut settings =
        Settings::parse(&text).map_err(|problem| format!("{}: {problem}", file.display()))?;
    if let Some(script) = &mut settings.script {
        script.started.get_or_insert(stamp.milliseconds());
    }
    Ok((stamp, settings))
}

/// Reads the settings in a directory.
pub(crate) fn read_settings(directory: &Path) -> Result<Settings, String> {
    read(&directory.join(FILE)).map(|(_, settings)| settings)
}

/// The module's only way to tell people something.
#[allow(
    clippy::print_stderr,
    reason = "a module has no other way to say what is wrong"
)]
pub(crate) fn complain(problem: &str) {
    eprintln!("hsm-sim: {problem}");
}
