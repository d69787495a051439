//! What all processes that use a device share: the file `state`, mapped into each of them. Only
//! atomic numbers are in it, so nobody holds a lock, and a process that dies leaves none behind.
//! For [`super::Device`] and the module.

use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release};

use cryptoki_sys::CK_RV;

use super::script::{Event, Script};
use super::settings::MOST_PLACES;
use crate::device::log::Violation;
use crate::pkcs11::{Function, Rv};

mod map;

pub(crate) use map::Map;

/// The name of the file.
pub(super) const FILE: &str = "state";

/// Changes with the layout below: a process never takes another layout for its own.
const MAGIC: u64 = u64::from_be_bytes(*b"hsmsim\0\x01");

const TOKENS: usize = 64;
const RULES: usize = 128;

/// The state of a device. Every bit pattern of it is a valid one, zeros are a new device.
#[repr(C)]
pub(crate) struct State {
    magic: AtomicU64,
    /// Grows with each change of the settings by [`super::Device`].
    pub(crate) revision: AtomicU64,
    /// Numbers for rules without a name.
    pub(super) numbers: AtomicU64,
    /// How many events there have been, so that one look says whether there is a new one.
    pub(crate) events: AtomicU64,
    /// When the script that was last played was set, and how many of its events have happened.
    script: AtomicU64,
    /// How often the module was broken, and what it answers since.
    breaks: AtomicU64,
    break_rv: AtomicU64,
    /// Errors that were made up.
    pub(crate) injected: AtomicU64,
    /// Misuse, by kind.
    violations: [AtomicU64; Violation::ALL.len()],
    all: Past,
    tokens: [Token; TOKENS],
    rules: [Rule; RULES],
    counts: [[AtomicU64; Rv::PLACES]; Function::ALL.len()],
}

/// What has happened to a token, or to all.
#[repr(C)]
struct Past {
    restarts: AtomicU64,
    /// What the first call on a session from before the restart answers; 0 is nothing special.
    first_rv: AtomicU64,
    logouts: AtomicU64,
    hides: AtomicU64,
}

/// A token, by its label.
#[repr(C)]
pub(crate) struct Token {
    /// Hash of the label; 0 is a free place.
    key: AtomicU64,
    /// The label, padded with zeros. PKCS#11 allows for 32 bytes.
    label: [AtomicU64; 4],
    past: Past,
    /// Wrong PINs since the last right one.
    wrong_pins: AtomicU64,
}

/// What a rule has used up, by its name.
#[repr(C)]
pub(crate) struct Rule {
    /// Hash of the name; 0 is a free place.
    key: AtomicU64,
    /// Calls that a fault has hit.
    fired: AtomicU64,
    /// When the next operation may begin, in nanoseconds of the monotonic clock.
    pub(crate) next_start: AtomicU64,
    /// Until when the device's places are taken, likewise.
    pub(crate) places: [AtomicU64; MOST_PLACES as usize],
}

/// How often what happened to a token, as one process has taken note of it.
#[derive(Copy, Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct Noted {
    pub(crate) restarts: u64,
    pub(crate) logouts: u64,
    pub(crate) hides: u64,
}

impl State {
    /// Opens the file in a device's directory, and makes it where there is none.
    pub(crate) fn open(directory: &Path) -> io::Result<Map> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(directory.join(FILE))?;
        let map = Map::new(&file)?;
        match map.magic.compare_exchange(0, MAGIC, AcqRel, Acquire) {
            Ok(_) | Err(MAGIC) => Ok(map),
            Err(_) => Err(io::Error::other(
                "made by another version of hsm-sim: remove the file while nobody uses the device",
            )),
        }
    }

    /// Lets an event happen to a token, or to all.
    pub(crate) fn happen(&self, event: Event, token: Option<&str>) {
        let past = match token.map(|label| self.token(label)) {
            Some(Some(token)) => &token.past,
            _ => &self.all,
        };
        match event {
            Event::Restart(first_rv) => {
                let first_rv = first_rv.map_or(0, |rv| rv.0);
                past.first_rv.store(first_rv, Release);
                past.restarts.fetch_add(1, AcqRel);
            }
            Event::LogOut => _ = past.logouts.fetch_add(1, AcqRel),
            Event::Hide => _ = past.hides.fetch_add(1, AcqRel),
            Event::Break(rv) => {
                self.break_rv.store(rv.0, Release);
                self.breaks.fetch_add(1, AcqRel);
            }
        }
        self.events.fetch_add(1, AcqRel);
    }

    /// Lets the events of a script happen that are due, each once, whoever is first.
    pub(crate) fn play(&self, script: &Script, now: std::time::SystemTime) {
        let started = script.started.unwrap_or_default() << 16;
        for (index, event) in (0..).zip(script.events(now)) {
            let played = self.script.load(Acquire);
            let before = started | index;
            let fresh = played & !0xffff != started && index == 0;
            if (fresh || played == before)
                && self
                    .script
                    .compare_exchange(played, before + 1, AcqRel, Acquire)
                    .is_ok()
            {
                self.happen(event, None);
            }
        }
    }

    /// How often what has happened to a token.
    pub(crate) fn noted(&self, token: &str) -> Noted {
        let all = self.all.noted();
        let own = self.token(token).map(|token| token.past.noted());
        let own = own.unwrap_or_default();
        Noted {
            restarts: all.restarts + own.restarts,
            logouts: all.logouts + own.logouts,
            hides: all.hides + own.hides,
        }
    }

    /// What the first call on a session of a token from before its restart answers.
    pub(crate) fn first_rv(&self, token: &str) -> Option<Rv> {
        let own = self.token(token).map(|token| &token.past);
        let mut pasts = own.into_iter().chain([&self.all]);
        pasts.find_map(|past| match past.first_rv.load(Acquire) {
            0 => None,
            rv => CK_RV::try_from(rv).ok().map(Rv),
        })
    }

    /// How often the module was broken, and what it answers since.
    pub(crate) fn breaks(&self) -> (u64, Rv) {
        let rv = CK_RV::try_from(self.break_rv.load(Acquire));
        let rv = rv.unwrap_or(cryptoki_sys::CKR_GENERAL_ERROR);
        (self.breaks.load(Acquire), Rv(rv))
    }

    /// A token's place, found or taken. None when there are too many tokens, or for a slot
    /// without one.
    pub(crate) fn token(&self, label: &str) -> Option<&Token> {
        if label.is_empty() {
            return None;
        }
        let token = take_place(&self.tokens, label, |token| &token.key)?;
        if token.label[0].load(Relaxed) == 0 {
            token.write_label(label);
        }
        Some(token)
    }

    /// The tokens that were met so far, and their labels.
    pub(super) fn tokens(&self) -> impl Iterator<Item = (String, &Token)> {
        let met = |token: &&Token| token.key.load(Acquire) != 0;
        let labelled = |token| (Token::read_label(token), token);
        self.tokens.iter().filter(met).map(labelled)
    }

    /// A rule's place, found or taken. None when there are too many.
    pub(crate) fn rule(&self, name: &str) -> Option<&Rule> {
        take_place(&self.rules, name, |rule| &rule.key)
    }

    /// Forgets what rules have used up, but for those named.
    pub(super) fn keep_rules(&self, names: &[&str]) {
        let keys: Vec<u64> = names.iter().map(|name| hash(name)).collect();
        for rule in &self.rules {
            if !keys.contains(&rule.key.load(Acquire)) {
                rule.fired.store(0, Relaxed);
                rule.next_start.store(0, Relaxed);
                rule.places.iter().for_each(|place| place.store(0, Relaxed));
                rule.key.store(0, Release);
            }
        }
    }

    /// Counts an operation.
    pub(crate) fn count(&self, function: Function, rv: Rv) {
        self.counts[function as usize][rv.place()].fetch_add(1, Relaxed);
    }

    /// Counts a misuse.
    pub(crate) fn count_violation(&self, violation: Violation) {
        self.violations[violation as usize].fetch_add(1, Relaxed);
    }

    /// The operations counted, those that there were.
    pub(super) fn counted(&self) -> impl Iterator<Item = (Function, &'static str, u64)> {
        Function::ALL.iter().flat_map(|function| {
            let counts = self.counts[*function as usize].iter().enumerate();
            counts
                .map(|(place, count)| (*function, Rv::name_of_place(place), count.load(Relaxed)))
                .filter(|(_, _, count)| *count > 0)
        })
    }

    /// The misuses counted, those that there were.
    pub(super) fn counted_violations(&self) -> impl Iterator<Item = (Violation, u64)> {
        let count = |violation: &Violation| self.violations[*violation as usize].load(Relaxed);
        Violation::ALL
            .iter()
            .map(move |violation| (*violation, count(violation)))
            .filter(|(_, count)| *count > 0)
    }

    /// Sets all counters back.
    pub(super) fn reset_counts(&self) {
        let counts = self.counts.iter().flatten();
        for count in counts.chain(&self.violations).chain([&self.injected]) {
            count.store(0, Relaxed);
        }
    }
}

impl Past {
    fn noted(&self) -> Noted {
        Noted {
            restarts: self.restarts.load(Acquire),
            logouts: self.logouts.load(Acquire),
            hides: self.hides.load(Acquire),
        }
    }
}

impl Token {
    fn write_label(&self, label: &str) {
        let mut bytes = label.bytes();
        for word in &self.label {
            let part: [u8; 8] = std::array::from_fn(|_| bytes.next().unwrap_or(0));
            word.store(u64::from_ne_bytes(part), Relaxed);
        }
    }

    fn read_label(&self) -> String {
        let words = self.label.iter().map(|word| word.load(Relaxed));
        let bytes: Vec<u8> = words.flat_map(u64::to_ne_bytes).collect();
        String::from_utf8_lossy(&bytes)
            .trim_end_matches('\0')
            .to_owned()
    }

    /// Wrong PINs since the last right one.
    pub(crate) fn wrong_pins(&self) -> u64 {
        self.wrong_pins.load(Acquire)
    }

    /// Takes one of so many tries, before the PIN is looked at: two processes cannot share one.
    pub(crate) fn take_try(&self, tries: u32) -> bool {
        let take = |wrong| (wrong < u64::from(tries)).then_some(wrong + 1);
        self.wrong_pins.fetch_update(AcqRel, Acquire, take).is_ok()
    }

    /// Gives a try back that said nothing about the PIN.
    pub(crate) fn give_try_back(&self) {
        let give = |wrong: u64| Some(wrong.saturating_sub(1));
        let _ = self.wrong_pins.fetch_update(AcqRel, Acquire, give);
    }

    /// Forgets all wrong PINs.
    pub(crate) fn forget_wrong_pins(&self) {
        self.wrong_pins.store(0, Release);
    }
}

impl Rule {
    /// Takes one of so many calls that a fault hits.
    pub(crate) fn take_call(&self, calls: u64) -> bool {
        let take = |fired| (fired < calls).then_some(fired + 1);
        self.fired.fetch_update(AcqRel, Acquire, take).is_ok()
    }
}

/// The place of a name in a table, or a free one, which becomes its own.
fn take_place<'a, T>(table: &'a [T], name: &str, key: impl Fn(&T) -> &AtomicU64) -> Option<&'a T> {
    let wanted = hash(name);
    let own = |entry: &&T| key(entry).load(Acquire) == wanted;
    // Two that look for the same name at once find the same free place.
    let taken = |entry: &&T| {
        let taken = key(entry).compare_exchange(0, wanted, AcqRel, Acquire);
        taken.is_ok() || taken == Err(wanted)
    };
    let mut entries = table.iter();
    entries.find(own).or_else(|| table.iter().find(taken))
}

/// FNV-1a, never 0: the same in every process, whatever it was built with.
fn hash(name: &str) -> u64 {
    let step = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3);
    name.bytes().fold(0xcbf2_9ce4_8422_2325, step).max(1)
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use super::*;
    use crate::device::script::{Action, Step};
    use crate::device::span::Span;

    fn state(directory: &Path) -> Map {
        State::open(directory).unwrap()
    }

    #[test]
    fn two_processes_share_the_tries_of_a_pin() {
        let directory = tempfile::tempdir().unwrap();
        let (one, other) = (state(directory.path()), state(directory.path()));
        assert!(one.token("web").unwrap().take_try(2));
        assert!(other.token("web").unwrap().take_try(2));
        assert!(!one.token("web").unwrap().take_try(2));
        assert!(one.token("db").unwrap().take_try(2));
        other.token("web").unwrap().forget_wrong_pins();
        assert!(one.token("web").unwrap().take_try(2));
        let labels: Vec<String> = other.tokens().map(|(label, _)| label).collect();
        assert_eq!(labels, ["web", "db"]);
    }

    #[test]
    fn an_event_of_a_script_happens_once_whoever_plays_it() {
        let directory = tempfile::tempdir().unwrap();
        let (one, other) = (state(directory.path()), state(directory.path()));
        let step = |after| Step {
            after: Span::millis(after),
            action: Action::Restart,
        };
        let mut script = Script {
            started: Some(1_000),
            steps: vec![step(0), step(10)],
        };
        let at = |ms| SystemTime::UNIX_EPOCH + Duration::from_millis(1_000_u64 + ms);
        one.play(&script, at(5));
        other.play(&script, at(5));
        assert_eq!(one.noted("web").restarts, 1);
        other.play(&script, at(15));
        one.play(&script, at(20));
        assert_eq!(one.noted("web").restarts, 2);
        script.started = Some(2_000);
        one.play(&script, at(1_000));
        assert_eq!(other.noted("web").restarts, 3);
    }

    #[test]
    fn what_happens_to_one_token_does_not_happen_to_another() {
        let directory = tempfile::tempdir().unwrap();
        let state = state(directory.path());
        state.happen(Event::LogOut, Some("web"));
        assert_eq!(state.noted("web").logouts, 1);
        assert_eq!(state.noted("db").logouts, 0);
        state.happen(Event::LogOut, None);
        assert_eq!(state.noted("db").logouts, 1);
    }

    #[test]
    fn a_rule_that_is_gone_leaves_its_place_to_others() {
        let directory = tempfile::tempdir().unwrap();
        let state = state(directory.path());
        assert!(state.rule("kept").unwrap().take_call(1));
        for number in 0..1000 {
            let name = format!("rule-{number}");
            assert!(state.rule(&name).unwrap().take_call(1));
            state.keep_rules(&["kept"]);
        }
        assert!(!state.rule("kept").unwrap().take_call(1));
    }

    #[test]
    fn a_file_of_another_version_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join(FILE), [7; 64]).unwrap();
        let error = State::open(directory.path()).unwrap_err();
        assert!(error.to_string().contains("another version"));
    }
}
