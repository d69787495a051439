//! What the sidecar says as things happen. Whoever has something to say holds a [`Recorder`]: it
//! never waits for disk or key, and takes a bounded amount of memory whatever comes. What happens
//! often is counted in groups, and in coarser ones when there are too many; what happens seldom is
//! queued, and counted as lost when the queue is full.

mod gathering;

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use sealwire_identity::Credentials;

pub(crate) use self::gathering::Gathering;
use crate::log::Clock;
use crate::record::{
    Bytes, Certificate, CertificateEvent, Event, Flow, Gap, Policy, Refusal, Stop, Timestamp,
};
use crate::signer::Signed;

/// Longest free text in a record, in bytes.
const LONGEST_DETAIL: usize = 512;

/// Most exceptions that a record lists.
const MOST_EXCEPTIONS: usize = 128;

/// Certificates that may wait for the writer. More than one a second is a fault elsewhere.
const MOST_CREDENTIALS: usize = 16;

/// Takes down what happens. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Recorder {
    shared: Arc<Shared>,
}

impl Recorder {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    /// A sealed connection of an application begins.
    pub fn opened(&self, flow: &Flow) {
        let now = self.shared.now();
        self.shared.gathering().opened(flow, now);
    }

    /// It has moved bytes since it was last spoken of. May be left out: then they count when it
    /// ends.
    pub fn moved(&self, flow: &Flow, bytes: Bytes) {
        let now = self.shared.now();
        self.shared.gathering().moved(flow, bytes, now);
    }

    /// It has ended, having moved `rest` since it was last spoken of; `failure` is the reason why
    /// it did not end well, as in metrics.
    pub fn closed(&self, flow: &Flow, rest: Bytes, failure: Option<&str>) {
        let now = self.shared.now();
        self.shared.gathering().closed(flow, rest, failure, now);
    }

    /// A connection that an exception let through has ended.
    pub fn excepted(
        &self,
        rule: &str,
        destination: Option<SocketAddr>,
        observed_tls: Option<&str>,
        bytes: Bytes,
    ) {
        let now = self.shared.now();
        self.shared
            .gathering()
            .excepted(rule, destination, observed_tls, bytes, now);
    }

    /// A connection that an exception lets through has moved bytes since it was last spoken of. May
    /// be left out: then they count when it ends.
    pub fn passed(
        &self,
        rule: &str,
        destination: Option<SocketAddr>,
        observed_tls: Option<&str>,
        bytes: Bytes,
    ) {
        let now = self.shared.now();
        self.shared
            .gathering()
            .passed(rule, destination, observed_tls, bytes, now);
    }

    /// Something was refused. The first of its kind in a window is a record of its own, all are
    /// counted.
    pub fn refused(&self, refusal: Refusal) {
        self.refused_times(refusal, 1);
    }

    /// The same was refused so many times, where somebody else has counted.
    pub fn refused_times(&self, mut refusal: Refusal, count: u64) {
        let now = self.shared.now();
        let mut gathering = self.shared.gathering();
        let spelled_out = gathering.refused(&refusal, now);
        gathering.refused_again(&refusal, count.saturating_sub(1));
        drop(gathering);
        if spelled_out {
            shorten(&mut refusal.detail);
            self.shared.queue(Event::Refusal(Box::new(refusal)));
        }
    }

    /// Other configuration or policy is in force.
    pub fn policy(&self, mut policy: Policy) {
        shorten_policy(&mut policy);
        self.shared.queue(Event::Policy(Box::new(policy)));
    }

    /// A certificate came into force. From now on windows are signed with its key, once the key has
    /// shown that it is at hand; custody is recorded then, at each change of key, and from time to
    /// time.
    pub fn credentials(&self, credentials: &Arc<Credentials>, event: CertificateEvent) {
        let mut inbox = self.shared.inbox();
        if inbox.credentials.len() == MOST_CREDENTIALS {
            // The newest counts.
            inbox.credentials.pop_front();
            let now = self.shared.now();
            inbox.lose(now);
        }
        inbox.credentials.push_back((credentials.clone(), event));
        self.shared.wake.notify_all();
    }

    /// Something else became of a certificate: it was revoked, or ended.
    pub fn certificate(&self, certificate: Certificate) {
        self.shared.queue(Event::Certificate(Box::new(certificate)));
    }

    /// Something is missing or late that the log does not know of by itself.
    pub fn gap(&self, mut gap: Gap) {
        shorten(&mut gap.detail);
        self.shared.queue(Event::Gap(gap));
    }
}

/// Shortens what a policy says to what a record can hold.
pub(crate) fn shorten_policy(policy: &mut Policy) {
    let more = policy.exceptions.len().saturating_sub(MOST_EXCEPTIONS);
    policy.exceptions.truncate(MOST_EXCEPTIONS);
    let more = u64::try_from(more).unwrap_or(u64::MAX);
    // Whoever made the list may have left some out already.
    policy.exceptions_more = policy.exceptions_more.saturating_add(more);
    for exception in &mut policy.exceptions {
        shorten(&mut exception.reason);
        shorten(&mut exception.owner);
    }
}

/// Cuts a text off at a character's border.
pub(crate) fn shorten(text: &mut String) {
    if text.len() > LONGEST_DETAIL {
        let room = LONGEST_DETAIL - '…'.len_utf8();
        let fits = (0..=room).rev().find(|at| text.is_char_boundary(*at));
        text.truncate(fits.unwrap_or_default());
        text.push('…');
    }
}

/// What recorders and the writer's thread share.
#[derive(Debug)]
pub(crate) struct Shared {
    clock: Arc<dyn Clock>,
    gathering: Mutex<Gathering>,
    inbox: Mutex<Inbox>,
    wake: Condvar,
    queue: usize,
}

/// What waits for the writer's thread.
#[derive(Debug, Default)]
pub(crate) struct Inbox {
    pub(crate) events: VecDeque<Event>,
    pub(crate) credentials: VecDeque<(Arc<Credentials>, CertificateEvent)>,
    /// What came of the signer's work.
    pub(crate) signed: Vec<Signed>,
    /// Records that found no room, and since when.
    pub(crate) lost: Option<(Timestamp, u64)>,
    /// The run ends: how, and until when it may take.
    pub(crate) stop: Option<(Stop, Instant)>,
    /// Nobody is there any more to say how the run ends.
    pub(crate) abandoned: bool,
}

impl Inbox {
    fn lose(&mut self, now: Timestamp) {
        let (_, lost) = self.lost.get_or_insert((now, 0));
        *lost += 1;
    }

    fn is_empty(&self) -> bool {
        self.events.is_empty()
            && self.credentials.is_empty()
            && self.signed.is_empty()
            && self.lost.is_none()
            && self.stop.is_none()
            && !self.abandoned
    }
}

impl Shared {
    pub(crate) fn new(clock: Arc<dyn Clock>, gathering: Gathering, queue: usize) -> Self {
        Self {
            clock,
            gathering: Mutex::new(gathering),
            inbox: Mutex::default(),
            wake: Condvar::new(),
            queue,
        }
    }

    pub(crate) fn now(&self) -> Timestamp {
        Timestamp::new(self.clock.now())
    }

    pub(crate) fn gathering(&self) -> MutexGuard<'_, Gathering> {
        // Nothing under the lock can leave it half changed.
        self.gathering
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts something into the inbox.
    pub(crate) fn tell(&self, put: impl FnOnce(&mut Inbox)) {
        put(&mut self.inbox());
        self.wake.notify_all();
    }

    /// Waits until there is something, or until `deadline`, and takes it.
    pub(crate) fn wait(&self, deadline: Instant) -> Inbox {
        let mut inbox = self.inbox();
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if !inbox.is_empty() || left.is_zero() {
                return std::mem::take(&mut inbox);
            }
            inbox = match self.wake.wait_timeout(inbox, left) {
                Ok((inbox, _)) => inbox,
                Err(poisoned) => poisoned.into_inner().0,
            };
        }
    }

    fn queue(&self, event: Event) {
        let mut inbox = self.inbox();
        if inbox.events.len() < self.queue {
            inbox.events.push_back(event);
        } else {
            let now = self.now();
            inbox.lose(now);
        }
        drop(inbox);
        self.wake.notify_all();
    }

    fn inbox(&self) -> MutexGuard<'_, Inbox> {
        self.inbox.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::DeclaredException;
    use crate::testing::start;

    #[test]
    fn exceptions_that_somebody_left_out_before_are_still_counted() {
        let declared = DeclaredException {
            rule: "legacy".to_owned(),
            what: "passthrough".to_owned(),
            destination: "203.0.113.7/32".to_owned(),
            ports: vec![5432],
            reason: "r".to_owned(),
            owner: "o".to_owned(),
            expires: Timestamp::EPOCH,
        };
        let mut policy = start().policy;
        policy.exceptions = vec![declared; MOST_EXCEPTIONS + 2];
        policy.exceptions_more = 40;
        shorten_policy(&mut policy);
        assert_eq!(policy.exceptions.len(), MOST_EXCEPTIONS);
        assert_eq!(policy.exceptions_more, 42);
    }
}
