//! The thread that waits for the key, so that the writer's does not: proofs of custody, and
//! checkpoints. One thing at a time; for the writer's thread alone.

use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, SyncSender, TrySendError};
use std::thread;

use sealwire_identity::Credentials;
use sealwire_keys::SignError;

use crate::log::Cut;
use crate::note::SignedCheckpoint;
use crate::record::{Boot, Custody, CustodyOccasion};
use crate::recorder::Shared;

/// Something for the key to do.
#[derive(Debug)]
pub(crate) enum Job {
    /// Show that it is at hand.
    Custody(Arc<Credentials>, CustodyOccasion),
    /// Sign a tree.
    Checkpoint(Arc<Credentials>, Cut),
}

/// What came of it.
#[derive(Debug)]
pub(crate) enum Signed {
    /// The key has shown that it is at hand.
    Custody(Arc<Credentials>, Box<Custody>),
    /// The tree is signed.
    Checkpoint(SignedCheckpoint),
    /// The key did not do it.
    Failed(SignError),
}

/// The signer's thread, as the writer's sees it.
#[derive(Debug)]
pub(crate) struct Signer {
    jobs: SyncSender<Job>,
    busy: bool,
}

impl Signer {
    /// Starts the thread. What comes of its work goes into the inbox.
    pub(crate) fn start(shared: Arc<Shared>, boot: Boot) -> std::io::Result<Self> {
        let (jobs, work) = mpsc::sync_channel(1);
        thread::Builder::new()
            .name("evidence-key".to_owned())
            .spawn(move || run(&work, &shared, boot))?;
        Ok(Self { jobs, busy: false })
    }

    /// Whether it is at something. It says so before it is at the next.
    pub(crate) fn is_busy(&self) -> bool {
        self.busy
    }

    /// Gives it something to do. It must not be busy.
    pub(crate) fn give(&mut self, job: Job) {
        match self.jobs.try_send(job) {
            Ok(()) => self.busy = true,
            // It is not busy, so there is room; and it ends only after us.
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => {
                tracing::error!("the evidence's signing thread is gone");
            }
        }
    }

    /// It has done what it was given.
    pub(crate) fn done(&mut self) {
        self.busy = false;
    }
}

fn run(work: &Receiver<Job>, shared: &Shared, boot: Boot) {
    while let Ok(job) = work.recv() {
        let done = match job {
            Job::Custody(credentials, occasion) => {
                let key = credentials.key().clone();
                let asked = Custody::ask(key.as_ref(), occasion, boot, shared.now());
                asked.map(|custody| Signed::Custody(credentials, Box::new(custody)))
            }
            Job::Checkpoint(credentials, cut) => {
                let signed = cut.checkpoint().clone().sign(credentials.key().as_ref());
                signed.map(Signed::Checkpoint)
            }
        };
        shared.tell(|inbox| inbox.signed.push(done.unwrap_or_else(Signed::Failed)));
    }
}
