//! What becomes of a call: whether the device answers at all, what it answers, when, and what is
//! written down of it. Every function of the module goes through here.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::Ordering::{Acquire, Relaxed};
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use cryptoki_sys::{
    CK_RV, CK_SESSION_HANDLE, CK_SLOT_ID, CK_ULONG, CKR_CRYPTOKI_NOT_INITIALIZED,
    CKR_DEVICE_REMOVED, CKR_GENERAL_ERROR, CKR_SESSION_HANDLE_INVALID, CKR_TOKEN_NOT_PRESENT,
    CKR_USER_NOT_LOGGED_IN,
};
use time::OffsetDateTime;

use super::abandon;
use super::latency::{self, Moment};
use super::live::{Live, Site};
use super::sessions::{Held, Session, Unknown};
use super::slots::Slot;
use crate::device::log::{Operation, Violation};
use crate::device::settings::{Fault, Latency, Settings};
use crate::device::watch::{InForce, LOOK_EVERY};
use crate::pkcs11::{Function, Reach, Rv};

/// A call of an application.
#[derive(Debug)]
pub(super) struct Call {
    function: Function,
    length_query: bool,
    begun: Instant,
    slot: Option<Arc<Slot>>,
    handle: Option<CK_SESSION_HANDLE>,
    injected: Option<String>,
    violation: Option<Violation>,
}

/// What a call is about, as the application names it.
#[derive(Copy, Clone, Debug)]
pub(super) enum Target {
    /// The module.
    Module,
    /// A slot.
    Slot(CK_SLOT_ID),
    /// A slot, whether a token is in it or not.
    AnySlot(CK_SLOT_ID),
    /// A session.
    Session(CK_SESSION_HANDLE),
}

/// A call on its way into the real module.
pub(super) struct Passage<'a> {
    pub(super) live: &'a Live,
    pub(super) in_force: &'a InForce,
    pub(super) slot: Option<&'a Arc<Slot>>,
    /// The session of the real module, or the slot.
    pub(super) target: CK_ULONG,
}

/// A call on its way to the device.
struct Errand<'a> {
    live: &'a Live,
    target: Target,
    session: Option<&'a Session>,
    in_force: Arc<InForce>,
}

/// How long a call is delayed, and the rules that say so.
struct Delay {
    end: Moment,
    rules: (Vec<Latency>, Vec<Fault>),
}

/// An answer to a call.
#[derive(Debug)]
pub(super) enum Answer {
    /// Of the real module.
    Real(CK_RV),
    /// Made up, and by what.
    MadeUp(Rv, String),
}

impl Call {
    /// Begins.
    pub(super) fn new(function: Function, length_query: bool) -> Self {
        Self {
            function,
            length_query,
            begun: Instant::now(),
            slot: None,
            handle: None,
            injected: None,
            violation: None,
        }
    }

    /// Does it all: `forward` makes the call in the real module, if it comes to that.
    pub(super) fn perform(
        mut self,
        target: Target,
        forward: &mut dyn FnMut(&Passage<'_>) -> Answer,
    ) -> CK_RV {
        guarded(|| {
            if let Target::Session(handle) = target {
                self.handle = Some(handle);
            }
            let Some(live) = Live::enter() else {
                return self.refuse(None, Violation::NotInitialized);
            };
            if !live.is_ours() {
                return self.refuse(Some(&live.site), Violation::Forked);
            }
            let answer = self.answer(&live, target, forward);
            self.finish(&live.site, answer)
        })
    }

    /// Ends: counts and logs it, and gives what the application gets.
    pub(super) fn finish(&mut self, site: &Site, answer: Answer) -> CK_RV {
        let rv = match answer {
            Answer::Real(rv) => Rv(rv),
            Answer::MadeUp(rv, by) => {
                self.injected = Some(by);
                site.state.injected.fetch_add(1, Relaxed);
                rv
            }
        };
        if !self.length_query {
            site.state.count(self.function, rv);
        }
        if let Some(violation) = self.violation {
            site.state.count_violation(violation);
        }
        if self.violation.is_some() || site.logs(rv) {
            site.log.write(&self.operation(rv));
        }
        rv.0
    }

    /// The fault that hits a call that begins or ends the module, if one does.
    pub(super) fn fault(&self, site: &Site) -> Option<Answer> {
        let fault = self.make_up(&site.watch.current(&site.state).settings, site, None)?;
        if let Some(after) = fault.after {
            nap(after.0);
        }
        Some(fault.into())
    }

    /// Takes note of a misuse.
    pub(super) fn violates(&mut self, violation: Violation) {
        self.violation.get_or_insert(violation);
    }

    pub(super) fn refuse(&mut self, site: Option<&Site>, violation: Violation) -> CK_RV {
        self.violates(violation);
        let answer = Answer::Real(CKR_CRYPTOKI_NOT_INITIALIZED);
        match site {
            Some(site) => self.finish(site, answer),
            // Not initialised, or not well: the log may still be within reach.
            None => match Site::open() {
                Ok(site) => self.finish(&site, answer),
                Err(_) => CKR_CRYPTOKI_NOT_INITIALIZED,
            },
        }
    }

    fn operation(&self, rv: Rv) -> Operation {
        let took = self.begun.elapsed();
        Operation {
            time: OffsetDateTime::now_utc() - took,
            pid: std::process::id(),
            thread: thread(),
            function: self.function,
            slot: self.slot.as_ref().map(|slot| slot.id),
            token: self.token().map(|label| label.to_string()),
            session: self.handle,
            rv,
            micros: u64::try_from(took.as_micros()).unwrap_or(u64::MAX),
            injected: self.injected.clone(),
            length_query: self.length_query,
            violation: self.violation,
        }
    }

    fn answer(
        &mut self,
        live: &Live,
        target: Target,
        forward: &mut dyn FnMut(&Passage<'_>) -> Answer,
    ) -> Answer {
        // Before anything is looked up: what happened to the device has its effect first.
        let in_force = live.settings();
        if let Some(rv) = live.broken() {
            return made_up(rv.0, "broken");
        }
        let mut errand = Errand {
            live,
            target,
            session: None,
            in_force,
        };
        match target {
            Target::Module => self.device(errand, forward),
            Target::Slot(id) | Target::AnySlot(id) => {
                let slot = live.slots.get(id, live.real, &live.site.state);
                // It may be one that nobody has met before.
                live.take_note(&slot, &errand.in_force);
                self.slot = Some(slot);
                self.device(errand, forward)
            }
            Target::Session(handle) => {
                let session = match live.sessions.get(handle) {
                    Ok(session) => session,
                    Err(unknown) => {
                        if unknown == Unknown::Closed {
                            self.violates(Violation::ClosedSession);
                        }
                        return Answer::Real(CKR_SESSION_HANDLE_INVALID);
                    }
                };
                self.slot = Some(session.slot.clone());
                expire(live, &errand.in_force.settings, &session);
                let thread = thread();
                if !live.sessions.begin(&session, thread) {
                    self.violates(Violation::SharedSession);
                }
                errand.session = Some(&session);
                let answer = self.device(errand, forward);
                self.clean_up(live, &session, &answer);
                live.sessions.end(&session, thread);
                answer
            }
        }
    }

    /// What the device makes of it.
    fn device(
        &self,
        mut errand: Errand<'_>,
        forward: &mut dyn FnMut(&Passage<'_>) -> Answer,
    ) -> Answer {
        if let Some(answer) = self.wait(&mut errand, None) {
            return answer;
        }
        let site = &errand.live.site;
        let settings = &errand.in_force.settings;
        let token = self.token();
        let fault = self.make_up(settings, site, token.as_deref());
        let end = match &fault {
            _ if self.length_query => None,
            Some(fault) => fault.after.map(|after| Moment::now().after(after.0)),
            None => latency::book(settings, &site.state, self.function, token.as_deref()),
        };
        if let Some(end) = end {
            let rules = self.delaying(settings, token.as_deref());
            if let Some(answer) = self.wait(&mut errand, Some(Delay { end, rules })) {
                return answer;
            }
        }
        if let Some(fault) = fault {
            return fault.into();
        }
        let slot = self.slot.as_ref();
        let _gate = slot.map(|slot| slot.gate.read().unwrap_or_else(PoisonError::into_inner));
        let held = errand.session.map(Session::lock);
        let target = match (errand.target, held.as_deref()) {
            (_, Some(Held::Open(real))) => *real,
            (_, Some(Held::Lost(_))) => {
                return made_up(CKR_SESSION_HANDLE_INVALID, "session lost");
            }
            (Target::Slot(id) | Target::AnySlot(id), None) => id,
            (Target::Module | Target::Session(_), None) => 0,
        };
        forward(&Passage {
            live: errand.live,
            in_force: &errand.in_force,
            slot,
            target,
        })
    }

    /// Leaves a session as the answer says it is, where the real module does not know it.
    fn clean_up(&self, live: &Live, session: &Session, answer: &Answer) {
        if !matches!(answer, Answer::MadeUp(..)) {
            return;
        }
        if abandon::has_operation(self.function) {
            let gate = session.slot.gate.read();
            let _gate = gate.unwrap_or_else(PoisonError::into_inner);
            if let Held::Open(real) = *session.lock() {
                abandon::end_operation(live.real, self.function, real);
            }
        }
        if self.function == Function::C_CloseSession && !session.is_open() {
            live.sessions.remove(session.handle);
        }
    }

    /// Waits while the device hangs, and as long as a delay says; some answer when there is nothing
    /// to wait for any more.
    fn wait(&self, errand: &mut Errand<'_>, delay: Option<Delay>) -> Option<Answer> {
        loop {
            if let Some(answer) = self.unreachable(errand) {
                return Some(answer);
            }
            let settings = &errand.in_force.settings;
            let token = self.token();
            let token = token.as_deref();
            let frozen = !self.length_query && settings.is_frozen(self.function, token);
            // Whoever changes how long a call takes does not mean to wait for those under way.
            let left = delay
                .as_ref()
                .filter(|delay| delay.rules == self.delaying(settings, token))
                .map_or(Duration::ZERO, |delay| Moment::now().until(delay.end));
            match (frozen, left.is_zero()) {
                (true, _) => nap(LOOK_EVERY),
                (false, false) => nap(left.min(LOOK_EVERY)),
                (false, true) => return None,
            }
            errand.in_force = errand.live.settings();
        }
    }

    /// The rules that can delay the call.
    fn delaying(&self, settings: &Settings, token: Option<&str>) -> (Vec<Latency>, Vec<Fault>) {
        let latencies = settings.latency.iter();
        let faults = settings.faults.iter();
        (
            latencies
                .filter(|rule| rule.matches(self.function, token))
                .cloned()
                .collect(),
            faults
                .filter(|rule| rule.after.is_some() && rule.matches(self.function, token))
                .cloned()
                .collect(),
        )
    }

    /// The answer when the device cannot be reached by this call.
    fn unreachable(&self, errand: &Errand<'_>) -> Option<Answer> {
        if errand.live.is_ending() {
            return Some(Answer::Real(CKR_CRYPTOKI_NOT_INITIALIZED));
        }
        if let Some(rv) = errand.live.broken() {
            return Some(made_up(rv.0, "broken"));
        }
        let slot = self.slot.as_ref()?;
        match (slot.is_present(), errand.target) {
            (false, Target::Session(_)) => return Some(made_up(CKR_DEVICE_REMOVED, "removed")),
            (false, Target::Slot(_)) => return Some(made_up(CKR_TOKEN_NOT_PRESENT, "removed")),
            _ => {}
        }
        if let Some(rv) = errand.session.and_then(Session::lost) {
            return Some(made_up(rv.0, "session lost"));
        }
        let needs_login =
            self.function.reach() == Reach::Key || NEED_LOGIN.contains(&self.function);
        (needs_login && slot.login_lost.load(Acquire))
            .then(|| made_up(CKR_USER_NOT_LOGGED_IN, "login lost"))
    }

    /// The fault that hits the call, if one does.
    fn make_up(&self, settings: &Settings, site: &Site, token: Option<&str>) -> Option<Fault> {
        if self.length_query {
            return None;
        }
        let hits = |fault: &&Fault| {
            let rule = || fault.name.as_deref().and_then(|name| site.state.rule(name));
            let taken = |calls| rule().is_some_and(|rule| rule.take_call(calls));
            fault.matches(self.function, token)
                && fault
                    .probability
                    .is_none_or(|share| fastrand::f64() < share)
                && fault.next.is_none_or(taken)
        };
        settings.faults.iter().find(hits).cloned()
    }

    /// The label of the token that the call is for.
    fn token(&self) -> Option<Arc<str>> {
        let label = self.slot.as_ref()?.label();
        Some(label).filter(|label| !label.is_empty())
    }
}

impl From<Fault> for Answer {
    fn from(fault: Fault) -> Self {
        Self::MadeUp(fault.rv, fault.name.unwrap_or_default())
    }
}

/// Functions that begin what only a logged-in user may do, besides those that use a key.
const NEED_LOGIN: [Function; 8] = [
    Function::C_SignInit,
    Function::C_SignRecoverInit,
    Function::C_DecryptInit,
    Function::C_MessageSignInit,
    Function::C_MessageDecryptInit,
    Function::C_SignUpdate,
    Function::C_DecryptUpdate,
    Function::C_SignMessageNext,
];

/// Drops a session that has not been used for too long.
fn expire(live: &Live, settings: &Settings, session: &Session) {
    let limits = settings.session_limits(&session.slot.label());
    let idle = limits.and_then(|limits| limits.idle);
    if idle.is_some_and(|idle| live.sessions.is_idle(session, idle.0)) {
        session.lose(live.real, None);
    }
}

/// Drops the sessions with a slot that have not been used for too long, and counts the others.
pub(super) fn expire_all(live: &Live, settings: &Settings, slot: &Slot) -> usize {
    for session in live.sessions.open_in(slot) {
        expire(live, settings, &session);
    }
    live.sessions.open_in(slot).len()
}

pub(super) fn made_up(rv: CK_RV, by: &str) -> Answer {
    Answer::MadeUp(Rv(rv), by.to_owned())
}

/// Never lets a panic out into foreign code.
pub(super) fn guarded(work: impl FnOnce() -> CK_RV) -> CK_RV {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or(CKR_GENERAL_ERROR)
}

/// Pauses a call, as the device would.
#[allow(
    clippy::disallowed_methods,
    reason = "the point of a slow device is that calls take time; nobody can wake them but a file"
)]
pub(super) fn nap(time: Duration) {
    std::thread::sleep(time);
}

fn thread() -> u32 {
    rustix::thread::gettid()
        .as_raw_nonzero()
        .get()
        .cast_unsigned()
}
