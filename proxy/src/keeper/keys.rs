//! The key in use and the one that is to follow it. Looked after by the trust keeper alone, which
//! waits for a device only as long as there is no key at all: later on keys are opened on a thread
//! of their own, so that a device that is slow or frozen holds up neither lists nor policy.

use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, TryRecvError};
use std::thread;
use std::time::{Duration, Instant};

use sealwire_keys::{KeyHealth, PrivateKey, SignError};

use crate::metered::Metered;
use crate::source::Opener;
use crate::state::{Condition, Need, State};

/// How long a key that follows may wait for its certificate before it is opened anew.
const PATIENCE: Duration = Duration::from_secs(120);

/// How long a key that is there again may take to recover before it is opened anew: longer than the
/// pauses between its own attempts.
const RECOVERY: Duration = Duration::from_secs(20);

/// How long after a look for the key of a certificate, which was not there, the next one follows.
const SEARCH: Duration = Duration::from_secs(30);

/// The keys of this workload; none at first.
#[derive(Default)]
pub(super) struct Keys {
    in_use: Option<Arc<dyn PrivateKey>>,
    /// The key that follows, until there is a certificate for it.
    next: Option<Successor>,
    opening: Option<Opening>,
    /// Since when the key in use, gone by its own account, is known to be there again.
    there_again: Option<Instant>,
    /// The public key that a certificate has come for, which is not the one in use, and when it was
    /// last looked for.
    searched: Option<(String, Option<Instant>)>,
}

/// A key that is to follow the one in use.
struct Successor {
    key: Arc<dyn PrivateKey>,
    since: Instant,
}

impl Keys {
    /// The key to sign with, though its certificate may not be there yet.
    pub(super) fn in_use(&self) -> Option<&Arc<dyn PrivateKey>> {
        self.in_use.as_ref()
    }

    /// The key that is to follow it.
    pub(super) fn next(&self) -> Option<&Arc<dyn PrivateKey>> {
        self.next.as_ref().map(|next| &next.key)
    }

    /// Uses the key that follows: it has a certificate.
    pub(super) fn rotate(&mut self, state: &State) {
        if let Some(next) = self.next.take() {
            tracing::info!(key = next.key.reference(), "rotates to the key's successor");
            self.in_use = Some(next.key);
            state.note("rotation", None);
        }
    }

    /// Has the key opened while there is none, again when it is gone for good (somebody may have
    /// made a new one by the same name), and when another is to follow it: by its own account, or
    /// because a certificate has come for another key by its name. `certified` is the key of the
    /// certificate in force, `wanted` the public key of the one in its file.
    pub(super) fn look(
        &mut self,
        state: &State,
        certified: Option<&Arc<dyn PrivateKey>>,
        wanted: Option<String>,
        opener: impl FnOnce() -> Result<Opener, String>,
    ) {
        self.lose_patience(state);
        self.search(wanted);
        if self.in_use.as_deref().is_some_and(|key| !is_gone(key)) {
            self.there_again = None;
        }
        let opened = match self.opening.take() {
            Some(opening) => opening.result(),
            None if self.wants_another() || self.begins_search() => match opener() {
                Ok(open) if self.in_use.is_none() => Ok(open()),
                Ok(open) => Opening::start(open),
                Err(problem) => Ok(Err(problem)),
            },
            None => return,
        };
        match opened {
            Ok(Ok(key)) => self.take(key, certified, state),
            Ok(Err(problem)) => self.say_why_not(problem, state),
            Err(opening) => self.opening = Some(opening),
        }
    }

    fn wants_another(&self) -> bool {
        self.in_use
            .as_deref()
            .is_none_or(|key| is_gone(key) || (self.next.is_none() && key.has_successor()))
    }

    /// Takes note of the public key that the certificate is for, unless that is the key in use.
    fn search(&mut self, wanted: Option<String>) {
        let in_use = self.in_use.as_ref();
        let other = wanted
            .filter(|wanted| in_use.is_some_and(|key| key.public_key().fingerprint() != wanted));
        let searched = self.searched.take();
        self.searched = other.map(|other| match searched {
            Some((before, since)) if before == other => (other, since),
            _ => (other, None),
        });
    }

    /// Whether it is time to look for the key that the certificate is for.
    fn begins_search(&mut self) -> bool {
        match &mut self.searched {
            Some((_, last))
                if self.next.is_none() && last.is_none_or(|last| last.elapsed() > SEARCH) =>
            {
                *last = Some(Instant::now());
                true
            }
            _ => false,
        }
    }

    fn is_searched(&self, key: &dyn PrivateKey) -> bool {
        let searched = self.searched.as_ref();
        searched.is_some_and(|(searched, _)| key.public_key().fingerprint() == searched)
    }

    /// Takes a key that was opened for what it is needed for now: meanwhile the one in use may
    /// have come back.
    fn take(
        &mut self,
        opened: Arc<dyn PrivateKey>,
        certified: Option<&Arc<dyn PrivateKey>>,
        state: &State,
    ) {
        let Some(in_use) = self.in_use.clone() else {
            return self.use_now(opened, state);
        };
        let same = [Some(&in_use), certified]
            .into_iter()
            .flatten()
            .find(|there| there.public_key() == opened.public_key())
            .cloned();
        match (same, is_gone(in_use.as_ref())) {
            // It recovers by itself, and two would be in each other's way.
            (Some(same), true) if !self.recovers_too_long() => self.in_use = Some(same),
            (_, true) => self.use_now(opened, state),
            (None, false)
                if self.next.is_none()
                    && (in_use.has_successor() || self.is_searched(opened.as_ref())) =>
            {
                tracing::info!("the key has a successor: a certificate is asked for");
                say_opened(opened.as_ref());
                self.next = Some(Successor {
                    key: Arc::new(Metered::new(opened)),
                    since: Instant::now(),
                });
            }
            (_, false) => {}
        }
    }

    /// Whether the key in use should have recovered by now: put back in another way, it may be out
    /// of its reach.
    fn recovers_too_long(&mut self) -> bool {
        let since = self.there_again.get_or_insert_with(Instant::now);
        since.elapsed() > RECOVERY
    }

    fn use_now(&mut self, opened: Arc<dyn PrivateKey>, state: &State) {
        say_opened(opened.as_ref());
        if opened.development() {
            let problem = "the key is in memory: anybody who reads this process has it";
            state.note("development", Some(problem.to_owned()));
        }
        if self.in_use.is_none() {
            state.key_health(opened.health());
        }
        self.there_again = None;
        self.in_use = Some(Arc::new(Metered::new(opened)));
    }

    fn say_why_not(&self, problem: String, state: &State) {
        match &self.in_use {
            None => state.set(Need::Key, Condition::Unmet(problem)),
            // Its own health says what is wrong with it.
            Some(in_use) if is_gone(in_use.as_ref()) => {
                tracing::debug!(problem, "no other key is in its place");
            }
            Some(_) => state.note("rotation", Some(problem)),
        }
    }

    /// A key that gets no certificate is let go: its home may have yet another by now.
    fn lose_patience(&mut self, state: &State) {
        if self
            .next
            .as_ref()
            .is_some_and(|next| next.since.elapsed() > PATIENCE)
        {
            let problem = "no certificate for the key's successor: it is tried again";
            state.note("rotation", Some(problem.to_owned()));
            self.next = None;
        }
    }
}

/// A key that is being opened on a thread of its own.
struct Opening(Receiver<Opened>);

/// What came of opening a key.
type Opened = Result<Arc<dyn PrivateKey>, String>;

impl Opening {
    /// Begins; what comes of it is for a later look.
    fn start(open: Opener) -> Result<Opened, Self> {
        let (tell, told) = mpsc::sync_channel(1);
        let started = thread::Builder::new()
            .name("sealwire-open".to_owned())
            .spawn(move || {
                // Nobody listens any more when the keeper has ended.
                let _ = tell.send(open());
            });
        match started {
            Ok(_) => Err(Self(told)),
            Err(error) => Ok(Err(format!(
                "no thread can be started to open the key: {error}"
            ))),
        }
    }

    /// What came of it, or itself again while it goes on. Does not block.
    fn result(self) -> Result<Opened, Self> {
        match self.0.try_recv() {
            Ok(opened) => Ok(opened),
            Err(TryRecvError::Empty) => Err(self),
            Err(TryRecvError::Disconnected) => {
                Ok(Err("opening the key ended without a result".to_owned()))
            }
        }
    }
}

fn say_opened(key: &dyn PrivateKey) {
    tracing::info!(
        key = key.reference(),
        algorithm = %key.public_key().algorithm(),
        public_key_sha256 = key.public_key().fingerprint(),
        schemes = ?key.schemes(),
        "key signs"
    );
}

/// Whether the key cannot come back by itself, but a new one by its name may.
fn is_gone(key: &dyn PrivateKey) -> bool {
    matches!(
        key.health(),
        KeyHealth::Down(SignError::KeyGone | SignError::KeyChanged)
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::FakeKey;

    /// Keys of which `first` is in use.
    struct World {
        keys: Keys,
        state: Arc<State>,
        first: Arc<FakeKey>,
        /// The public key of the certificate in its file.
        wanted: Option<String>,
    }

    impl World {
        fn new() -> Self {
            let mut world = Self {
                keys: Keys::default(),
                state: State::new(),
                first: FakeKey::new(),
                wanted: None,
            };
            let first = world.first.clone();
            // Without a key, opening is waited for.
            world.look(None, move || Ok(first));
            assert!(world.uses(&world.first));
            world
        }

        fn look(
            &mut self,
            certified: Option<&Arc<dyn PrivateKey>>,
            open: impl FnOnce() -> Opened + Send + 'static,
        ) {
            let wanted = self.wanted.clone();
            self.keys
                .look(&self.state, certified, wanted, || Ok(Box::new(open)));
        }

        /// Begins to open `key`, and looks until that has come to an end.
        fn open(&mut self, key: &Arc<FakeKey>, certified: Option<&Arc<dyn PrivateKey>>) {
            let opened = key.clone();
            self.look(certified, move || Ok(opened));
            self.wait(certified);
        }

        fn wait(&mut self, certified: Option<&Arc<dyn PrivateKey>>) {
            let deadline = Instant::now() + Duration::from_secs(20);
            while self.keys.opening.is_some() {
                assert!(Instant::now() < deadline, "not in time");
                thread::yield_now();
                self.look(certified, || panic!("opened once more"));
            }
        }

        fn uses(&self, key: &FakeKey) -> bool {
            self.keys.in_use().unwrap().public_key() == key.public_key()
        }
    }

    #[test]
    fn a_key_that_is_gone_gives_way_to_the_one_in_its_place() {
        let (mut world, other) = (World::new(), FakeKey::new());
        world.first.is_gone();
        world.open(&other, None);
        assert!(world.uses(&other));
    }

    #[test]
    fn a_key_that_comes_back_is_not_opened_a_second_time() {
        let mut world = World::new();
        let before = world.keys.in_use().unwrap().clone();
        world.first.is_gone();
        world.open(&FakeKey::of(world.first.public.clone()), None);
        assert!(Arc::ptr_eq(&before, world.keys.in_use().unwrap()));
        // Unless it does not recover.
        world.keys.there_again = Instant::now().checked_sub(2 * RECOVERY);
        world.open(&FakeKey::of(world.first.public.clone()), None);
        assert!(!Arc::ptr_eq(&before, world.keys.in_use().unwrap()));
    }

    #[test]
    fn a_key_that_came_back_while_another_was_opened_stays_in_use() {
        let (mut world, other) = (World::new(), FakeKey::new());
        let (go_on, wait) = mpsc::channel();
        world.first.is_gone();
        let opened = other.clone();
        world.look(None, move || {
            let _ = wait.recv();
            Ok(opened)
        });
        world.first.is(KeyHealth::Ready);
        drop::<mpsc::Sender<()>>(go_on);
        world.wait(None);
        assert!(world.uses(&world.first) && world.keys.next().is_none());
    }

    #[test]
    fn the_certified_key_is_taken_again_when_it_is_there_again() {
        let (mut world, other) = (World::new(), FakeKey::new());
        let certified = world.keys.in_use().unwrap().clone();
        world.first.is_gone();
        world.open(&other, Some(&certified));
        other.is_gone();
        world.open(&FakeKey::of(world.first.public.clone()), Some(&certified));
        assert!(Arc::ptr_eq(&certified, world.keys.in_use().unwrap()));
    }

    #[test]
    fn a_device_that_does_not_answer_holds_nothing_up_and_is_asked_once() {
        let mut world = World::new();
        let (answer, device) = mpsc::channel::<()>();
        world.first.is_gone();
        world.look(None, move || {
            let _ = device.recv();
            Err("the device came back without a key".to_owned())
        });
        for _ in 0..3 {
            world.look(None, || panic!("asked once more"));
        }
        drop(answer);
        world.wait(None);
        assert!(world.uses(&world.first));
    }

    #[test]
    fn a_successor_waits_for_its_certificate_and_then_follows() {
        let (mut world, other) = (World::new(), FakeKey::new());
        *world.first.successor.lock().unwrap() = true;
        // Its home may not give it yet.
        world.open(&FakeKey::of(world.first.public.clone()), None);
        assert!(world.keys.next().is_none());
        world.open(&other, None);
        assert!(world.uses(&world.first));
        assert_eq!(world.keys.next().unwrap().public_key(), &other.public);
        world.keys.rotate(&world.state);
        assert!(world.uses(&other) && world.keys.next().is_none());
    }

    #[test]
    fn a_key_that_a_certificate_has_come_for_follows_and_is_not_looked_for_all_the_time() {
        let (mut world, other) = (World::new(), FakeKey::new());
        let fingerprint = |key: &FakeKey| Some(key.public.fingerprint().to_owned());
        // As long as it is for the key in use there is nothing to look for.
        world.wanted = fingerprint(&world.first);
        world.look(None, || panic!("looked for"));
        world.wanted = fingerprint(&other);
        world.open(&FakeKey::of(world.first.public.clone()), None);
        assert!(world.keys.next().is_none(), "it is not there yet");
        world.look(None, || panic!("looked for again at once"));
        world.keys.searched = Some((fingerprint(&other).unwrap(), None));
        world.open(&other, None);
        assert_eq!(world.keys.next().unwrap().public_key(), &other.public);
        world.keys.rotate(&world.state);
        assert!(world.uses(&other));
        world.look(None, || panic!("looked for what is in use"));
    }

    #[test]
    fn opening_that_panics_is_a_failure_like_any_other() {
        let mut world = World::new();
        *world.first.successor.lock().unwrap() = true;
        world.look(None, || panic!("as a library may"));
        world.wait(None);
        let note = world.state.health().notes["rotation"].clone();
        assert!(note.contains("without a result"), "{note}");
    }

    #[test]
    fn without_a_key_the_need_for_one_says_why() {
        let mut world = World::new();
        world.keys = Keys::default();
        world.look(None, || Err("no token".to_owned()));
        assert_eq!(
            world.state.health().needs[&Need::Key],
            Condition::Unmet("no token".to_owned())
        );
    }
}
