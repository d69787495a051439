//! Slots, and what the device has done to the tokens in them as far as this process has taken note.

use std::collections::BTreeMap;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::{AcqRel, Acquire, Release};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use cryptoki_sys::CK_SLOT_ID;

use super::real::Real;
use crate::device::state::{Noted, State};

/// The slots that were met so far.
#[derive(Debug, Default)]
pub(super) struct Slots(RwLock<BTreeMap<CK_SLOT_ID, Arc<Slot>>>);

/// A slot.
#[derive(Debug)]
pub(super) struct Slot {
    pub(super) id: CK_SLOT_ID,
    /// The token's label, empty where there is no token that has one.
    label: RwLock<Arc<str>>,
    /// Held by each call in the real module, and alone by what happens to the device: the real
    /// module's sessions go only when nobody is in them.
    pub(super) gate: RwLock<()>,
    /// Held while a session is opened: two do not share the last place.
    pub(super) opening: Mutex<()>,
    noted: Mutex<Noted>,
    /// How often its token was hidden when the module was initialised.
    hides: u64,
    present: AtomicBool,
    /// Whether it was when the application last heard of a change.
    told: AtomicBool,
    /// Whether the device ended a login that the application still believes in.
    pub(super) login_lost: AtomicBool,
}

impl Slots {
    /// Takes note of the slots that have a token, so that what happens to them later is seen.
    pub(super) fn discover(&self, real: &Real, state: &State) {
        for slot in real.slots(true).unwrap_or_default() {
            self.get(slot, real, state);
        }
    }

    /// A slot. Whether it exists is for the real module to say.
    pub(super) fn get(&self, id: CK_SLOT_ID, real: &Real, state: &State) -> Arc<Slot> {
        let known = self.read(|slots| slots.get(&id).cloned());
        let slot = known.unwrap_or_else(|| {
            let slot = Slot::new(id, real, state);
            let mut slots = self.0.write().unwrap_or_else(PoisonError::into_inner);
            slots.entry(id).or_insert(slot).clone()
        });
        if slot.label().is_empty() {
            slot.read_label(real, state);
        }
        slot
    }

    /// All.
    pub(super) fn all(&self) -> Vec<Arc<Slot>> {
        self.read(|slots| slots.values().cloned().collect())
    }

    /// A slot whose token has come or gone since the last time, once.
    pub(super) fn changed(&self) -> Option<CK_SLOT_ID> {
        let changed = |slot: &&Arc<Slot>| {
            let present = slot.is_present();
            slot.told.swap(present, AcqRel) != present
        };
        self.all().iter().find(changed).map(|slot| slot.id)
    }

    fn read<T>(&self, look: impl FnOnce(&BTreeMap<CK_SLOT_ID, Arc<Slot>>) -> T) -> T {
        look(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Slot {
    fn new(id: CK_SLOT_ID, real: &Real, state: &State) -> Arc<Self> {
        let label = real.token_label(id).unwrap_or_default();
        let noted = state.noted(&label);
        Arc::new(Self {
            id,
            label: RwLock::new(label.into()),
            gate: RwLock::default(),
            opening: Mutex::default(),
            hides: noted.hides,
            noted: Mutex::new(noted),
            present: AtomicBool::new(true),
            told: AtomicBool::new(true),
            login_lost: AtomicBool::new(false),
        })
    }

    /// The token's label, empty where there is no token that has one.
    pub(super) fn label(&self) -> Arc<str> {
        let label = self.label.read().unwrap_or_else(PoisonError::into_inner);
        label.clone()
    }

    /// Reads the label again, after the token was initialised.
    pub(super) fn read_label(&self, real: &Real, state: &State) {
        let label = real.token_label(self.id).unwrap_or_default();
        self.set_noted(state.noted(&label));
        *self.label.write().unwrap_or_else(PoisonError::into_inner) = label.into();
    }

    /// What happened to its token, as far as it had its effect here.
    pub(super) fn noted(&self) -> Noted {
        *self.noted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes note of what happened.
    pub(super) fn set_noted(&self, noted: Noted) {
        *self.noted.lock().unwrap_or_else(PoisonError::into_inner) = noted;
    }

    /// Whether its token is there.
    pub(super) fn is_present(&self) -> bool {
        self.present.load(Acquire)
    }

    /// Sets whether its token is there.
    pub(super) fn set_present(&self, removed: bool, noted: &Noted) {
        let present = !removed && noted.hides == self.hides;
        self.present.store(present, Release);
    }
}
