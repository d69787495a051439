//! The application's sessions: handles of our own, each for a session of the real module, for as
//! long as the device keeps it.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, Instant};

use cryptoki_sys::{CK_SESSION_HANDLE, CKR_SESSION_HANDLE_INVALID};

use super::real::Real;
use super::slots::Slot;
use crate::pkcs11::Rv;

/// The first handle. Not 1, so that handles of the real module are not mistaken for ours.
const FIRST: u64 = 0x10001;

/// The next. Never one that was given before, whatever was finalised in between: a handle that was
/// kept for too long is found out.
static NEXT: AtomicU64 = AtomicU64::new(FIRST);

/// How many sessions are remembered, lost ones included.
const MOST: usize = 65_536;

/// All sessions.
#[derive(Debug)]
pub(super) struct Sessions {
    table: RwLock<BTreeMap<CK_SESSION_HANDLE, Arc<Session>>>,
    begun: Instant,
}

/// A session.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) handle: CK_SESSION_HANDLE,
    pub(super) slot: Arc<Slot>,
    held: Mutex<Held>,
    /// Whether it is open, to be read while a call holds it.
    open: AtomicBool,
    /// The thread that uses it, 0 when none does.
    user: AtomicU32,
    /// When it was used last, in milliseconds since the table was made.
    used: AtomicU64,
}

/// What a handle stands for.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub(super) enum Held {
    /// A session of the real module.
    Open(CK_SESSION_HANDLE),
    /// Nothing any more: the device dropped it. The next call answers the value, where there is
    /// one, and those after it that the handle is invalid.
    Lost(Option<Rv>),
}

/// Why a handle cannot be used.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub(super) enum Unknown {
    /// The application closed it.
    Closed,
    /// There never was such a session.
    Never,
}

impl Sessions {
    /// None yet.
    pub(super) fn new() -> Self {
        Self {
            table: RwLock::default(),
            begun: Instant::now(),
        }
    }

    /// Takes a session of the real module in, and gives our handle for it.
    pub(super) fn add(&self, real: CK_SESSION_HANDLE, slot: Arc<Slot>) -> CK_SESSION_HANDLE {
        let handle = NEXT.fetch_add(1, AcqRel);
        let session = Session {
            handle,
            slot,
            held: Mutex::new(Held::Open(real)),
            open: AtomicBool::new(true),
            user: AtomicU32::new(0),
            used: AtomicU64::new(self.now()),
        };
        let mut table = self.table.write().unwrap_or_else(PoisonError::into_inner);
        if table.len() >= MOST {
            table.retain(|_, session| session.is_open());
        }
        table.insert(handle, Arc::new(session));
        handle
    }

    /// The session of a handle.
    pub(super) fn get(&self, handle: CK_SESSION_HANDLE) -> Result<Arc<Session>, Unknown> {
        let table = self.table.read().unwrap_or_else(PoisonError::into_inner);
        table.get(&handle).cloned().ok_or_else(|| {
            let given = FIRST..NEXT.load(Acquire);
            if given.contains(&handle) {
                Unknown::Closed
            } else {
                Unknown::Never
            }
        })
    }

    /// Forgets a session that the application has closed.
    pub(super) fn remove(&self, handle: CK_SESSION_HANDLE) {
        let mut table = self.table.write().unwrap_or_else(PoisonError::into_inner);
        table.remove(&handle);
    }

    /// Forgets all sessions with a slot: the application has closed them.
    pub(super) fn remove_all(&self, slot: &Slot) {
        let mut table = self.table.write().unwrap_or_else(PoisonError::into_inner);
        table.retain(|_, session| session.slot.id != slot.id);
    }

    /// The open sessions with a slot.
    pub(super) fn open_in(&self, slot: &Slot) -> Vec<Arc<Session>> {
        let table = self.table.read().unwrap_or_else(PoisonError::into_inner);
        let open = |session: &&Arc<Session>| session.slot.id == slot.id && session.is_open();
        table.values().filter(open).cloned().collect()
    }

    /// Whether nobody uses a session, nor has for so long.
    pub(super) fn is_idle(&self, session: &Session, limit: Duration) -> bool {
        let unused = self.now().saturating_sub(session.used.load(Relaxed));
        session.user.load(Acquire) == 0 && u128::from(unused) >= limit.as_millis()
    }

    /// Begins the use of a session by a thread. False when another is using it.
    pub(super) fn begin(&self, session: &Session, thread: u32) -> bool {
        session.used.store(self.now(), Relaxed);
        let user = &session.user;
        user.compare_exchange(0, thread, AcqRel, Acquire).is_ok()
    }

    /// Ends it.
    pub(super) fn end(&self, session: &Session, thread: u32) {
        session.used.store(self.now(), Relaxed);
        let user = &session.user;
        // A thread that found it in use leaves it to the other.
        let _ = user.compare_exchange(thread, 0, AcqRel, Acquire);
    }

    fn now(&self) -> u64 {
        u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

impl Session {
    /// What it stands for, for one thread at a time.
    pub(super) fn lock(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What a call on it answers, now that the device has dropped it.
    pub(super) fn lost(&self) -> Option<Rv> {
        match &mut *self.lock() {
            Held::Open(_) => None,
            Held::Lost(first) => Some(first.take().unwrap_or(Rv(CKR_SESSION_HANDLE_INVALID))),
        }
    }

    /// Lets the device drop it: the real session is closed, its objects and perhaps its login
    /// with it.
    pub(super) fn lose(&self, real: &Real, first_rv: Option<Rv>) {
        let mut held = self.lock();
        if let Held::Open(handle) = *held {
            real.close_session(handle);
            *held = Held::Lost(first_rv);
            self.open.store(false, Release);
        }
    }

    /// Whether the device still has it.
    pub(super) fn is_open(&self) -> bool {
        self.open.load(Acquire)
    }
}
