//! A simulated device: a directory with its settings, its state and its log, which every process
//! that has loaded the module follows. For the tool `hsm-sim ctl`, and for tests of software that
//! uses PKCS#11.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering::{AcqRel, Relaxed};

use rustix::fs::{FlockOperation, flock};
use serde::Serialize;

pub(crate) mod log;
pub(crate) mod profile;
pub(crate) mod script;
pub(crate) mod settings;
pub(crate) mod span;
pub(crate) mod state;
pub(crate) mod watch;

use crate::pkcs11::{Function, Rv};
use log::{Operation, Violation};
use script::Event;
use settings::{Fault, Frozen, Removed, Settings};
use state::{Map, State};

/// The name of the settings file.
const FILE: &str = "device.yaml";

/// The environment variable that names a device's directory to the module.
pub const ENVIRONMENT: &str = "HSM_SIM";

/// A simulated device.
///
/// ```no_run
/// use hsm_sim::{Device, Fault, Function, Settings};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let device = Device::create("device".as_ref(), &Settings::default())?;
/// // Now start what is tested, with HSM_SIM set to `device.directory()`.
/// device.fault(Fault::new(&[Function::C_Sign], "CKR_DEVICE_ERROR".parse()?).next(3))?;
/// device.freeze()?;
/// device.thaw()?;
/// device.restart(None, None);
/// assert_eq!(device.counters().signatures, 2);
/// assert!(device.violations()?.is_empty());
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Device {
    directory: PathBuf,
    state: Map,
}

/// What has been counted, over all processes. Calls that only ask for a length are not.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Counters {
    /// Operations by function and return value.
    pub operations: BTreeMap<String, BTreeMap<String, u64>>,
    /// Signatures made: successful C_Sign, C_SignFinal and C_SignMessage.
    pub signatures: u64,
    /// Answers that were made up.
    pub injected: u64,
    /// How often applications broke the rules of PKCS#11, by kind.
    pub violations: BTreeMap<Violation, u64>,
}

/// The tries that a token's user PIN has.
#[derive(Copy, Clone, Debug, Eq, PartialEq, Serialize)]
pub struct PinTries {
    /// Wrong PINs since the last right one.
    pub wrong: u64,
    /// How many lock it; None where nothing does.
    pub allowed: Option<u32>,
    /// How many are left.
    pub left: Option<u64>,
}

/// What is wrong with a device; the message says what to do.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    /// The directory is in use.
    #[error("{0} has a device already: choose another directory, or remove this one")]
    Exists(PathBuf),
    /// A file operation failed.
    #[error("{path}: {source}")]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The settings make no sense.
    #[error("{0}")]
    Settings(String),
}

impl Device {
    /// Makes a device's directory, for its owner alone.
    ///
    /// # Errors
    /// When there is a device already, the directory cannot be made, or the settings make no sense.
    pub fn create(directory: &Path, settings: &Settings) -> Result<Self, DeviceError> {
        if directory.join(FILE).exists() {
            return Err(DeviceError::Exists(directory.to_owned()));
        }
        DirBuilder::new()
            .mode(0o700)
            .recursive(true)
            .create(directory)
            .map_err(at(directory))?;
        let device = Self::at(directory)?;
        // All files are there before a process comes that may write to them but make none.
        log::Log::open(directory).map_err(at(&directory.join(log::FILE)))?;
        let wanted = settings.clone();
        device.change(Settings::default(), |settings| *settings = wanted)?;
        Ok(device)
    }

    /// Takes an existing device.
    ///
    /// # Errors
    /// When there is none, or its settings make no sense.
    pub fn open(directory: &Path) -> Result<Self, DeviceError> {
        watch::read_settings(directory).map_err(DeviceError::Settings)?;
        Self::at(directory)
    }

    /// Its directory, an absolute path: the value for `HSM_SIM`.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Its settings, as they stand in the file.
    ///
    /// # Errors
    /// When they cannot be read or make no sense.
    pub fn settings(&self) -> Result<Settings, DeviceError> {
        watch::read_settings(&self.directory).map_err(DeviceError::Settings)
    }

    /// Changes the settings. When this returns, the next call in any process sees the change.
    ///
    /// Rules that have no name get one. A rule with `next` that is new begins to count anew.
    ///
    /// # Errors
    /// When the new settings make no sense, or the file cannot be written.
    pub fn update(&self, change: impl FnOnce(&mut Settings)) -> Result<Settings, DeviceError> {
        let _alone = self.lock()?;
        self.change(self.settings()?, change)
    }

    /// Takes out everything that is wrong with the device, and the script. What limits it or makes
    /// it slow stays.
    ///
    /// # Errors
    /// As [`Self::update`].
    pub fn heal(&self) -> Result<(), DeviceError> {
        self.update(|settings| {
            settings.heal();
            settings.script = None;
        })
        .map(drop)
    }

    /// Adds a fault.
    ///
    /// # Errors
    /// As [`Self::update`].
    pub fn fault(&self, fault: Fault) -> Result<(), DeviceError> {
        self.update(|settings| settings.faults.push(fault))
            .map(drop)
    }

    /// Lets calls hang: all that reach the device.
    ///
    /// # Errors
    /// As [`Self::update`].
    pub fn freeze(&self) -> Result<(), DeviceError> {
        self.update(|settings| settings.frozen = vec![Frozen::default()])
            .map(drop)
    }

    /// Lets all calls that hang go on.
    ///
    /// # Errors
    /// As [`Self::update`].
    pub fn thaw(&self) -> Result<(), DeviceError> {
        self.update(|settings| settings.frozen.clear()).map(drop)
    }

    /// Takes a token out, or all. Sessions and logins are gone, also in a process that does not look
    /// before the token is back.
    ///
    /// # Errors
    /// As [`Self::update`].
    pub fn remove(&self, token: Option<&str>) -> Result<(), DeviceError> {
        let removed = token.map(str::to_owned);
        self.update(|settings| settings.removed.push(Removed { token: removed }))?;
        self.happen(Event::Restart(None), token);
        Ok(())
    }

    /// Puts a token back, or all.
    ///
    /// # Errors
    /// As [`Self::update`].
    pub fn insert(&self, token: Option<&str>) -> Result<(), DeviceError> {
        let stays_out = |removed: &Removed| token.is_some() && removed.token.as_deref() != token;
        self.update(|settings| settings.removed.retain(stays_out))
            .map(drop)
    }

    /// Restarts the device, or what holds one token: sessions, session objects and logins are gone.
    /// The first call on each old session answers `first_rv`, where one is given.
    pub fn restart(&self, token: Option<&str>, first_rv: Option<Rv>) {
        self.happen(Event::Restart(first_rv), token);
    }

    /// Ends the logins to a token, or to all. Sessions stay.
    pub fn log_out(&self, token: Option<&str>) {
        self.happen(Event::LogOut, token);
    }

    /// Hides a token, or all, from every process that has initialised the module before.
    pub fn hide_until_reinitialised(&self, token: Option<&str>) {
        self.happen(Event::Hide, token);
    }

    /// Lets every call answer `rv`, in every process, until it initialises the module anew.
    pub fn break_until_reinitialised(&self, rv: Rv) {
        self.happen(Event::Break(rv), None);
    }

    /// What has been counted.
    pub fn counters(&self) -> Counters {
        let mut counters = Counters {
            injected: self.state.injected.load(Relaxed),
            violations: self.state.counted_violations().collect(),
            ..Counters::default()
        };
        for (function, rv, count) in self.state.counted() {
            let by_rv = counters.operations.entry(function.to_string()).or_default();
            by_rv.insert(rv.to_owned(), count);
        }
        counters.signatures = SIGNATURES
            .iter()
            .map(|function| counters.count(*function, Rv::OK))
            .sum();
        counters
    }

    /// Sets the counters back.
    pub fn reset_counters(&self) {
        self.state.reset_counts();
    }

    /// The tries that a token's user PIN has.
    ///
    /// # Errors
    /// As [`Self::settings`].
    pub fn pin_tries(&self, token: &str) -> Result<PinTries, DeviceError> {
        let wrong = self
            .state
            .token(token)
            .map_or(0, |token| token.wrong_pins());
        Ok(PinTries::new(self.settings()?.pin_tries(token), wrong))
    }

    /// The tries of all tokens that were met so far, by label.
    ///
    /// # Errors
    /// As [`Self::settings`].
    pub fn all_pin_tries(&self) -> Result<BTreeMap<String, PinTries>, DeviceError> {
        let settings = self.settings()?;
        let tries = |(label, token): (String, &state::Token)| {
            let tries = PinTries::new(settings.pin_tries(&label), token.wrong_pins());
            (label, tries)
        };
        Ok(self.state.tokens().map(tries).collect())
    }

    /// Gives a token's user PIN all its tries back.
    pub fn reset_pin(&self, token: &str) {
        if let Some(token) = self.state.token(token) {
            token.forget_wrong_pins();
        }
    }

    /// The operations in the log, as far as [`Settings::log`] lets them in.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub fn log(&self) -> Result<Vec<Operation>, DeviceError> {
        log::read(&self.directory).map_err(at(&self.directory.join(log::FILE)))
    }

    /// The operations in the log that broke the rules of PKCS#11. They are there at every level.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub fn violations(&self) -> Result<Vec<Operation>, DeviceError> {
        let broke_a_rule = |operation: &Operation| operation.violation.is_some();
        Ok(self.log()?.into_iter().filter(broke_a_rule).collect())
    }

    /// Empties the log.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn clear_log(&self) -> Result<(), DeviceError> {
        let path = self.directory.join(log::FILE);
        match OpenOptions::new().write(true).truncate(true).open(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(at(&path)(error)),
            _ => Ok(()),
        }
    }

    fn at(directory: &Path) -> Result<Self, DeviceError> {
        let directory = std::path::absolute(directory).map_err(at(directory))?;
        let state = State::open(&directory).map_err(at(&directory.join(state::FILE)))?;
        Ok(Self { directory, state })
    }

    fn happen(&self, event: Event, token: Option<&str>) {
        self.state.happen(event, token);
    }

    /// One at a time changes the settings, whether in this process or in another.
    fn lock(&self) -> Result<File, DeviceError> {
        let path = self.directory.join(state::FILE);
        let file = File::open(&path).map_err(at(&path))?;
        flock(&file, FlockOperation::LockExclusive).map_err(|error| at(&path)(error.into()))?;
        Ok(file)
    }

    fn change(
        &self,
        before: Settings,
        change: impl FnOnce(&mut Settings),
    ) -> Result<Settings, DeviceError> {
        let mut settings = before.clone();
        change(&mut settings);
        settings.name_rules(|kind, _| {
            let number = self.state.numbers.fetch_add(1, AcqRel) + 1;
            format!("{kind}-{number}")
        });
        if let Some(script) = &mut settings.script {
            script.started.get_or_insert_with(milliseconds_now);
        }
        settings.check().map_err(DeviceError::Settings)?;
        let unchanged = |fault: &&Fault| before.faults.contains(fault);
        let faults = settings.faults.iter().filter(unchanged);
        let latencies = settings.latency.iter();
        let steps = before.script == settings.script;
        let script = settings.script.iter().filter(|_| steps);
        let names: Vec<&str> = faults
            .chain(script.flat_map(script::Script::faults))
            .map(|fault| &fault.name)
            .chain(latencies.map(|latency| &latency.name))
            .filter_map(Option::as_deref)
            .collect();
        self.state.keep_rules(&names);
        self.write(&settings)?;
        self.state.revision.fetch_add(1, AcqRel);
        Ok(settings)
    }

    /// In one step: a process that reads the settings never sees a part of them.
    fn write(&self, settings: &Settings) -> Result<(), DeviceError> {
        let text = serde_saphyr::to_string(settings)
            .map_err(|error| DeviceError::Settings(error.to_string()))?;
        let path = self.directory.join(FILE);
        let fresh = self.directory.join("device.fresh");
        OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&fresh)
            .and_then(|mut file| file.write_all(text.as_bytes()))
            .and_then(|()| fs::rename(&fresh, &path))
            .map_err(at(&path))
    }
}

impl PinTries {
    fn new(allowed: Option<u32>, wrong: u64) -> Self {
        Self {
            wrong,
            allowed,
            left: allowed.map(|allowed| u64::from(allowed).saturating_sub(wrong)),
        }
    }
}

impl Counters {
    /// How often a function answered a value.
    pub fn count(&self, function: Function, rv: Rv) -> u64 {
        let by_rv = self.operations.get(function.name());
        let count = by_rv.and_then(|by_rv| by_rv.get(&rv.to_string()));
        count.copied().unwrap_or(0)
    }
}

const SIGNATURES: [Function; 3] = [
    Function::C_Sign,
    Function::C_SignFinal,
    Function::C_SignMessage,
];

fn at(path: &Path) -> impl Fn(io::Error) -> DeviceError {
    let path = path.to_owned();
    move |source| DeviceError::File {
        path: path.clone(),
        source,
    }
}

fn milliseconds_now() -> u64 {
    let since = std::time::SystemTime::UNIX_EPOCH.elapsed();
    since.map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(0))
}
