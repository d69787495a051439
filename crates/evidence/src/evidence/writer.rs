//! What the writer's thread does: waits for what there is to write, ends windows, and has the key
//! sign. The only one that touches the log.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use sealwire_identity::Credentials;

use super::{CensusTaker, EvidenceConfig, Figures};
use crate::log::{LogError, LogWriter, is_vital};
use crate::record::{
    Certificate, CertificateEvent, CustodyOccasion, Event, Gap, GapCause, Stop, Timestamp,
};
use crate::recorder::{Inbox, Shared, shorten};
use crate::signer::{Job, Signed, Signer};

/// Records that are kept while the disk takes none. At one window a minute, that is hours.
const BACKLOG: usize = 512;

/// How far the clock may jump ahead in a window without a word about it.
const CLOCK_TOLERANCE: Duration = Duration::from_secs(5);

/// Records beyond that without which a key cannot sign: certificates and custody.
const VITAL: usize = 64;

/// The writer's thread.
pub(super) struct Writer {
    config: EvidenceConfig,
    log: LogWriter,
    census: Option<Box<dyn CensusTaker>>,
    shared: Arc<Shared>,
    signer: Signer,
    figures: Arc<Mutex<Figures>>,
    now: Figures,
    /// What the disk has not taken yet, in order.
    backlog: VecDeque<Event>,
    /// What found no room there, and since when.
    lost: Option<(Timestamp, u64)>,
    /// Since when the disk takes nothing, until that has been said.
    unwritten_since: Option<Timestamp>,
    /// Key and certificate that came last.
    newest: Option<Arc<Credentials>>,
    /// Those that sign: the key has shown that it is at hand, and the log says so.
    signing: Option<Arc<Credentials>>,
    /// What custody is to be recorded for.
    custody: Option<CustodyOccasion>,
    custody_due: Instant,
    /// Something is to be signed.
    wanted: bool,
    /// The key has failed, and is left alone until the window ends: the device has its reasons.
    rests: bool,
    window_began: Instant,
    window_ends: Instant,
}

impl Writer {
    pub(super) fn new(
        config: EvidenceConfig,
        log: LogWriter,
        census: Option<Box<dyn CensusTaker>>,
        shared: Arc<Shared>,
        signer: Signer,
        figures: Arc<Mutex<Figures>>,
    ) -> Self {
        let begun = Instant::now();
        Self {
            window_began: begun,
            window_ends: begun + config.window,
            custody_due: begun + config.custody_every,
            config,
            log,
            census,
            shared,
            signer,
            figures,
            now: Figures::default(),
            backlog: VecDeque::new(),
            lost: None,
            unwritten_since: None,
            newest: None,
            signing: None,
            custody: None,
            wanted: false,
            rests: false,
        }
    }

    /// Runs until somebody says how the run ends.
    pub(super) fn run(mut self) -> Result<(), LogError> {
        loop {
            let inbox = self.shared.wait(self.window_ends);
            let (stop, abandoned) = self.take(inbox);
            if let Some((stop, until)) = stop {
                return self.end(stop, until);
            }
            if abandoned {
                return self.flush();
            }
            if Instant::now() >= self.window_ends {
                self.end_window();
                // One that is late does not make the next shorter.
                let window = self.config.window;
                self.window_ends = (self.window_ends + window).max(Instant::now());
            }
            if Instant::now() >= self.custody_due {
                self.custody = self.custody.or(Some(CustodyOccasion::Periodic));
                self.custody_due = Instant::now() + self.config.custody_every;
            }
            self.settle();
        }
    }

    fn take(&mut self, inbox: Inbox) -> (Option<(Stop, Instant)>, bool) {
        for (credentials, event) in inbox.credentials {
            self.use_credentials(credentials, event);
        }
        for event in inbox.events {
            self.put(event);
        }
        if let Some((from, lost)) = inbox.lost {
            self.now.lost += lost;
            let to = self.shared.now();
            self.put(Event::Gap(Gap {
                cause: GapCause::Overload,
                from,
                to,
                lost: Some(lost),
                detail: format!(
                    "more than {} records waited for the writer",
                    self.config.queue
                ),
            }));
        }
        for signed in inbox.signed {
            self.signer.done();
            self.take_signed(signed);
        }
        (inbox.stop, inbox.abandoned)
    }

    fn use_credentials(&mut self, credentials: Arc<Credentials>, event: CertificateEvent) {
        self.log
            .identity(Some(credentials.facts().spiffe_id.to_string()));
        self.put(Event::Certificate(Box::new(Certificate::of(
            &credentials,
            event,
        ))));
        let key = |of: &Arc<Credentials>| of.key().public_key().clone();
        let name = |of: &Arc<Credentials>| of.facts().spiffe_id.to_string();
        if self.signing.as_ref().map(key) == Some(key(&credentials)) {
            self.signing = Some(credentials.clone());
        }
        // Nobody signs for a workload of another name.
        self.signing = self
            .signing
            .take()
            .filter(|signing| name(signing) == name(&credentials));
        self.newest = Some(credentials);
        self.rests = false;
        self.want_custody_of_newest();
    }

    /// A key that has not shown that it is at hand does not sign.
    fn want_custody_of_newest(&mut self) {
        self.custody = match (&self.newest, &self.signing) {
            (Some(_), None) => Some(CustodyOccasion::Start),
            (Some(newest), Some(signing)) if !Arc::ptr_eq(newest, signing) => {
                Some(CustodyOccasion::Rotation)
            }
            _ => self.custody,
        };
    }

    fn take_signed(&mut self, signed: Signed) {
        match signed {
            Signed::Custody(credentials, custody) => {
                self.now.key = None;
                self.put(Event::Custody(custody));
                self.signing = Some(credentials);
            }
            Signed::Checkpoint(signed) => match self.log.commit(&signed) {
                Ok(()) => {
                    self.now.key = None;
                    self.now.checkpoints += 1;
                    self.say_written_late();
                    self.say_signed_late();
                    self.keep_within_limits();
                }
                Err(error) => self.storage_fails(&error),
            },
            Signed::Failed(error) => {
                tracing::warn!(%error, "evidence cannot be signed now: it is written on, and signed once it can be");
                self.now.key = Some(error.to_string());
                self.rests = true;
                self.unsigned();
                self.want_custody_of_newest();
            }
        }
    }

    /// Ends the window that is open.
    fn end_window(&mut self) {
        if let Some(census) = &mut self.census {
            census.window_ends();
        }
        let to = self.shared.now();
        let gathered = self.shared.gathering().take(to);
        let passed = std::mem::replace(&mut self.window_began, Instant::now()).elapsed();
        let (from, to) = (gathered.from, gathered.to);
        let census = self
            .census
            .as_mut()
            .map(|census| census.take(gathered.sealed, gathered.excepted));
        // A window of which a part is missing would be none.
        let windows = gathered.windows(census).into_iter();
        self.put_all(windows.map(|part| Event::Window(Box::new(part))).collect());
        if to.since(from) > passed + CLOCK_TOLERANCE {
            self.put(Event::Gap(Gap {
                cause: GapCause::Clock,
                from,
                to,
                lost: None,
                detail: format!(
                    "the clock jumped ahead: {} seconds passed in this window",
                    passed.as_secs()
                ),
            }));
        }
        if self.wanted && self.now.storage.is_none() {
            // What was to be signed a window ago is not yet.
            self.unsigned();
        }
        self.wanted = true;
        self.rests = false;
    }

    /// Writes what waits, waits for the disk, and gives the key something to do.
    fn settle(&mut self) {
        match self.flush() {
            Ok(()) => {
                self.now.storage = None;
                self.give_work();
            }
            Err(error) => {
                self.storage_fails(&error);
                // Room comes from a signature, and from nothing else.
                if matches!(error, LogError::Full { .. }) {
                    self.give_work();
                }
            }
        }
        self.show();
    }

    fn give_work(&mut self) {
        if self.signer.is_busy() || self.rests {
            return;
        }
        if let (Some(occasion), Some(newest)) = (self.custody, self.newest.clone()) {
            self.custody = None;
            self.now.signatures += 1;
            return self.signer.give(Job::Custody(newest, occasion));
        }
        let Some(signing) = self.signing.clone().filter(|_| self.wanted) else {
            return;
        };
        if Timestamp::from(signing.facts().not_after) <= self.shared.now() {
            self.now.key = Some("its certificate has ended, and there is no other".to_owned());
            return self.unsigned();
        }
        match self.log.cut() {
            Ok(cut) => {
                self.wanted = false;
                self.now.signatures += 1;
                self.signer.give(Job::Checkpoint(signing, cut));
            }
            Err(error) => self.storage_fails(&error),
        }
    }

    /// Ends the run.
    fn end(&mut self, stop: Stop, until: Instant) -> Result<(), LogError> {
        self.end_window();
        let mut stop = stop;
        stop.open = self.shared.gathering().open();
        shorten(&mut stop.detail);
        if self.now.unsigned_since.is_some() {
            self.say_unsigned_at_end();
        }
        self.put(Event::Stop(stop));
        self.wanted = true;
        self.settle();
        if self.backlog.is_empty() {
            self.wait_for_signature(until)?;
        }
        self.flush()
    }

    /// Has everything signed, as far as the key does so in time. Nothing is written meanwhile: the
    /// stop is the last record.
    fn wait_for_signature(&mut self, until: Instant) -> Result<(), LogError> {
        self.custody = None;
        while self.signer.is_busy() && Instant::now() < until {
            for signed in self.shared.wait(until).signed {
                self.signer.done();
                match signed {
                    Signed::Checkpoint(signed) => self.log.commit(&signed)?,
                    Signed::Custody(..) => {}
                    Signed::Failed(error) => {
                        tracing::warn!(%error, "the last records are not signed");
                        return Ok(());
                    }
                }
            }
            self.give_work();
        }
        Ok(())
    }

    /// Adds a record, after those that wait.
    fn put(&mut self, event: Event) {
        if !is_vital(&event) {
            return self.put_all(vec![event]);
        }
        // The newest are those that count.
        let count = self.backlog.iter().filter(|one| is_vital(one)).count();
        let oldest = self.backlog.iter().position(is_vital);
        if let Some(oldest) = oldest.filter(|_| count >= VITAL) {
            self.backlog.remove(oldest);
            self.lose(1);
        }
        self.backlog.push_back(event);
    }

    /// Adds records that say nothing one without the other.
    fn put_all(&mut self, events: Vec<Event>) {
        if self.backlog.len() + events.len() <= BACKLOG {
            self.backlog.extend(events);
        } else {
            self.lose(events.len());
        }
    }

    fn lose(&mut self, records: usize) {
        let records = u64::try_from(records).unwrap_or(u64::MAX);
        let now = self.shared.now();
        let (_, lost) = self.lost.get_or_insert((now, 0));
        *lost += records;
        self.now.lost += records;
    }

    /// Writes what waits, and waits for the disk.
    fn flush(&mut self) -> Result<(), LogError> {
        let mut written = false;
        while let Some(event) = self.backlog.front() {
            let until = match event {
                Event::Window(window) if window.part == window.parts => Some(window.to),
                _ => None,
            };
            match self.log.append(event.clone()) {
                Ok(_) => {}
                Err(LogError::Record(error)) => {
                    // It will never fit; that is our own fault, and is said.
                    tracing::error!(%error, kind = event.kind(), "a record cannot be written");
                    self.lose(1);
                }
                Err(error @ LogError::Full { .. }) => {
                    self.flush_vital()?;
                    return Err(error);
                }
                Err(error) => return Err(error),
            }
            self.backlog.pop_front();
            self.now.covered_until = until.or(self.now.covered_until);
            written = true;
        }
        if let Some((from, lost)) = self.lost {
            self.log.append(Event::Gap(Gap {
                cause: GapCause::Storage,
                from,
                to: self.shared.now(),
                lost: Some(lost),
                detail: "records could not be written for too long".to_owned(),
            }))?;
            self.lost = None;
            written = true;
        }
        if written {
            self.log.sync()?;
        }
        Ok(())
    }

    /// Writes what the key needs to sign before what finds no room until it has.
    fn flush_vital(&mut self) -> Result<(), LogError> {
        while let Some(at) = self.backlog.iter().position(is_vital) {
            self.log.append(self.backlog[at].clone())?;
            self.backlog.remove(at);
        }
        self.log.sync()
    }

    fn keep_within_limits(&mut self) {
        if let Err(error) = self.log.retain() {
            tracing::error!(%error, "old records cannot be dropped: the log grows beyond its limits");
        }
    }

    fn unsigned(&mut self) {
        let now = self.shared.now();
        self.now.unsigned_since.get_or_insert(now);
    }

    /// Something was written later than it should have been.
    fn say_written_late(&mut self) {
        if let Some(from) = self.unwritten_since.take() {
            let to = self.shared.now();
            self.put(Event::Gap(Gap {
                cause: GapCause::Storage,
                from,
                to,
                lost: Some(0),
                detail: "nothing could be written: records of this time were written at its end"
                    .to_owned(),
            }));
        }
    }

    /// Something was signed later than it should have been.
    fn say_signed_late(&mut self) {
        if let Some(from) = self.now.unsigned_since.take() {
            let to = self.shared.now();
            self.put(Event::Gap(Gap {
                cause: GapCause::Unsigned,
                from,
                to,
                lost: Some(0),
                detail: "the key did not sign: records of this time were signed at its end"
                    .to_owned(),
            }));
        }
    }

    fn say_unsigned_at_end(&mut self) {
        if let Some(from) = self.now.unsigned_since {
            let to = self.shared.now();
            let key = self.now.key.clone().unwrap_or_default();
            let mut detail = format!("the key did not sign up to the end of the run: {key}");
            shorten(&mut detail);
            self.put(Event::Gap(Gap {
                cause: GapCause::Unsigned,
                from,
                to,
                lost: Some(0),
                detail,
            }));
        }
    }

    fn storage_fails(&mut self, error: &LogError) {
        if self.now.storage.is_none() {
            tracing::error!(%error, "evidence cannot be written now: it is kept, up to a limit, and written once it can be");
        }
        self.now.storage = Some(error.to_string());
        let now = self.shared.now();
        self.unwritten_since.get_or_insert(now);
    }

    fn show(&mut self) {
        self.now.log = self.log.standing();
        self.now.waiting = u64::try_from(self.backlog.len()).unwrap_or(u64::MAX);
        let mut figures = self.figures.lock().unwrap_or_else(PoisonError::into_inner);
        figures.clone_from(&self.now);
    }
}
