//! What one process has between C_Initialize and C_Finalize: the device, the real module, slots,
//! sessions, and how many calls are under way.

use std::env;
use std::path::PathBuf;
use std::process;
use std::sync::atomic::Ordering::{AcqRel, Acquire, Release};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use cryptoki_sys::{CK_RV, CKR_CRYPTOKI_ALREADY_INITIALIZED, CKR_GENERAL_ERROR, CKR_OK};

use super::call::nap;
use super::real::Real;
use super::sessions::{Held, Sessions};
use super::slots::{Slot, Slots};
use crate::device::ENVIRONMENT;
use crate::device::log::Log;
use crate::device::settings::LogLevel;
use crate::device::state::{Map, State};
use crate::device::watch::{InForce, LOOK_EVERY, Watch, complain};
use crate::pkcs11::Rv;

/// The device that `HSM_SIM` names, as one process has it open.
#[derive(Debug)]
pub(super) struct Site {
    pub(super) state: Map,
    pub(super) log: Log,
    pub(super) watch: Watch,
}

/// An initialised module.
#[derive(Debug)]
pub(super) struct Live {
    pub(super) site: Site,
    pub(super) real: &'static Real,
    pub(super) slots: Slots,
    pub(super) sessions: Sessions,
    /// The process that initialised it; a fork of it is another.
    pid: u32,
    /// Calls under way.
    calls: AtomicUsize,
    /// Whether C_Finalize waits for them.
    ending: AtomicBool,
    /// How often the module was broken when it was initialised.
    breaks: u64,
    /// The events and the settings that were taken note of.
    events: AtomicU64,
    generation: AtomicU64,
    noting: Mutex<()>,
}

static LIVE: RwLock<Option<Arc<Live>>> = RwLock::new(None);

/// A call under way; the module is not finalised before it ends.
#[derive(Debug)]
pub(super) struct Entered(Arc<Live>);

/// A module that was finalised.
#[derive(Debug)]
pub(super) struct Ended {
    pub(super) live: Arc<Live>,
    /// What the real module answered.
    pub(super) rv: CK_RV,
    /// Whether calls were under way.
    pub(super) disturbed: bool,
}

impl Site {
    /// Opens the device that `HSM_SIM` names.
    pub(super) fn open() -> Result<Self, String> {
        let directory = env::var_os(ENVIRONMENT).map(PathBuf::from).ok_or_else(|| {
            format!("{ENVIRONMENT} is not set: set it to a directory made by `hsm-sim ctl new`")
        })?;
        let failed = |error| format!("{}: {error}", directory.display());
        // Before the state, which would be made: a directory without settings is no device.
        crate::device::watch::read_settings(&directory)?;
        let state = State::open(&directory).map_err(failed)?;
        Ok(Self {
            log: Log::open(&directory).map_err(failed)?,
            watch: Watch::new(&directory, &state)?,
            state,
        })
    }

    /// Whether an operation with this answer is logged.
    pub(super) fn logs(&self, rv: Rv) -> bool {
        match self.watch.last().settings.log {
            LogLevel::Off => false,
            LogLevel::Errors => rv != Rv::OK,
            LogLevel::All => true,
        }
    }
}

impl Live {
    /// Initialises: `begin` initialises the real module.
    pub(super) fn initialize(begin: impl FnOnce(&Site, &Real) -> CK_RV) -> CK_RV {
        let mut live = LIVE.write().unwrap_or_else(PoisonError::into_inner);
        // A fork begins anew, as the standard asks it to.
        if live.as_ref().is_some_and(|live| live.is_ours()) {
            return CKR_CRYPTOKI_ALREADY_INITIALIZED;
        }
        let opened = Site::open().and_then(|site| {
            let module = site.watch.last().settings.module.clone();
            Real::load(module.as_deref()).map(|real| (site, real))
        });
        let (site, real) = match opened {
            Ok(opened) => opened,
            Err(problem) => {
                complain(&problem);
                return CKR_GENERAL_ERROR;
            }
        };
        let breaks = site.state.breaks().0;
        let rv = begin(&site, real);
        if rv != CKR_OK {
            return rv;
        }
        let slots = Slots::default();
        slots.discover(real, &site.state);
        *live = Some(Arc::new(Self {
            site,
            real,
            slots,
            sessions: Sessions::new(),
            pid: process::id(),
            calls: AtomicUsize::new(0),
            ending: AtomicBool::new(false),
            breaks,
            // Not yet taken note of: the first call looks who is present.
            events: AtomicU64::new(u64::MAX),
            generation: AtomicU64::new(0),
            noting: Mutex::default(),
        }));
        CKR_OK
    }

    /// Begins a call. None when the module is not initialised.
    pub(super) fn enter() -> Option<Entered> {
        let live = LIVE.read().unwrap_or_else(PoisonError::into_inner);
        live.as_ref().map(|live| {
            live.calls.fetch_add(1, AcqRel);
            Entered(live.clone())
        })
    }

    /// Ends it for all: waits for the calls under way, which give up, and then lets `end` finalise
    /// the real module. None when the module is not initialised.
    pub(super) fn finalize(end: impl FnOnce(&Self) -> CK_RV) -> Option<Ended> {
        let live = {
            let mut live = LIVE.write().unwrap_or_else(PoisonError::into_inner);
            live.take_if(|live| live.is_ours())
        }?;
        let disturbed = live.calls.load(Acquire) > 0;
        live.ending.store(true, Release);
        while live.calls.load(Acquire) > 0 {
            nap(LOOK_EVERY);
        }
        let rv = end(&live);
        Some(Ended {
            live,
            rv,
            disturbed,
        })
    }

    /// Whether C_Finalize waits for the calls under way.
    pub(super) fn is_ending(&self) -> bool {
        self.ending.load(Acquire)
    }

    /// Whether this process initialised it, not one that it was forked from.
    pub(super) fn is_ours(&self) -> bool {
        self.pid == process::id()
    }

    /// What the broken module answers, until it is initialised anew.
    pub(super) fn broken(&self) -> Option<Rv> {
        let (breaks, rv) = self.site.state.breaks();
        (breaks != self.breaks).then_some(rv)
    }

    /// The settings now, after everything that happened to the device has had its effect here.
    pub(super) fn settings(&self) -> Arc<InForce> {
        let in_force = self.site.watch.current(&self.site.state);
        let noted = || {
            self.events.load(Acquire) == self.site.state.events.load(Acquire)
                && self.generation.load(Acquire) == in_force.generation
        };
        if !noted() {
            let _noting = self.noting.lock().unwrap_or_else(PoisonError::into_inner);
            if !noted() {
                let events = self.site.state.events.load(Acquire);
                for slot in self.slots.all() {
                    self.take_note(&slot, &in_force);
                }
                self.events.store(events, Release);
                self.generation.store(in_force.generation, Release);
            }
        }
        in_force
    }

    /// Lets what happened to a token have its effect on its sessions and its login.
    pub(super) fn take_note(&self, slot: &Slot, in_force: &InForce) {
        let label = slot.label();
        let state = &self.site.state;
        let now = state.noted(&label);
        slot.set_present(in_force.settings.is_removed(&label), &now);
        if slot.noted() == now && slot.is_present() {
            return;
        }
        let _alone = slot.gate.write().unwrap_or_else(PoisonError::into_inner);
        // Another thread may have been first.
        let before = slot.noted();
        let sessions = self.sessions.open_in(slot);
        if before.restarts != now.restarts || !slot.is_present() {
            let first_rv = state.first_rv(&label).filter(|_| slot.is_present());
            for session in sessions {
                session.lose(self.real, first_rv);
            }
            slot.login_lost.store(false, Release);
        } else if before.logouts != now.logouts
            && let Some(session) = sessions.first()
            && let Held::Open(session) = *session.lock()
            && self.real.log_out(session) == CKR_OK
        {
            slot.login_lost.store(true, Release);
        }
        slot.set_noted(now);
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        self.0.calls.fetch_sub(1, AcqRel);
    }
}

impl std::ops::Deref for Entered {
    type Target = Live;

    fn deref(&self) -> &Live {
        &self.0
    }
}
