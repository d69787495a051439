//! Whether records follow one another: numbers without a hole, runs that name the one before them,
//! windows that meet, keys that were shown to be at hand before they were used. Knows records, and
//! nothing of files.

use std::sync::Arc;

use super::finding::{Finding, Place, Problem};
use super::signers::Signers;
use crate::record::{
    Boot, Event, GapCause, Pod, Previous, Record, Retention, Start, Timestamp, Window,
};

/// How far a clock may be set back without a word about it.
const CLOCK_TOLERANCE: std::time::Duration = std::time::Duration::from_secs(1);

/// The records of a log, as far as they were read.
#[derive(Debug)]
pub(super) struct Chain {
    pub(super) signers: Signers,
    last: Option<Previous>,
    /// Whether records before are unknown, so that the next need not follow any.
    hole: bool,
    window: Option<Part>,
    /// Whether records were dropped, and with them certificates that nothing is signed under any more.
    dropped: bool,
    /// The certificate that was last said to be unknown.
    unknown: Option<String>,
    /// Whether the clock was said to have been set back.
    clock: bool,
    identity: Option<Arc<str>>,
    pub(super) pod: Option<Pod>,
    pub(super) boots: u64,
    pub(super) from: Option<Timestamp>,
}

/// Where the last window left off.
#[derive(Debug)]
struct Part {
    from: Timestamp,
    to: Timestamp,
    part: u32,
    parts: u32,
}

impl Chain {
    pub(super) fn new(signers: Signers) -> Self {
        Self {
            signers,
            last: None,
            hole: false,
            window: None,
            dropped: false,
            unknown: None,
            clock: false,
            identity: None,
            pod: None,
            boots: 0,
            from: None,
        }
    }

    /// Goes on from the last record that was dropped.
    pub(super) fn go_on_from(&mut self, last: Previous) {
        self.last = Some(last);
        self.boots = 1;
    }

    /// Takes up what a note carries on from records that were dropped.
    pub(super) fn carry_on(&mut self, note: &Retention) -> Vec<Finding> {
        self.dropped = true;
        let mut findings = Vec::new();
        for certificate in &note.certificates {
            if let Err(problem) = self.signers.certificate(0, certificate) {
                let problem = format!("a certificate that it carries on: {problem}");
                findings.push(Finding::new(
                    Problem::CertificateRecord,
                    Place::default(),
                    problem,
                ));
            }
        }
        for custody in &note.custody {
            if let Err(problem) = self.signers.custody(0, custody) {
                let problem = format!("a proof of custody that it carries on: {problem}");
                findings.push(Finding::new(Problem::Custody, Place::default(), problem));
            }
        }
        findings
    }

    /// What comes next need not follow: records before it are missing, and that has been said.
    pub(super) fn skip(&mut self) {
        self.hole = true;
        self.window = None;
    }

    /// When the last record was written.
    pub(super) fn last_time(&self) -> Option<Timestamp> {
        self.last.map(|last| last.time)
    }

    /// The SPIFFE ID that the last record was written under.
    pub(super) fn identity(&self) -> Option<Arc<str>> {
        self.identity.clone()
    }

    /// Takes up the record with this index, and says what does not follow.
    pub(super) fn take(&mut self, index: u64, record: &Record) -> Vec<Finding> {
        let mut says = Says {
            place: Place {
                index: Some(index),
                file: None,
                boot: Some(record.boot),
                seq: Some(record.seq),
            },
            since: self.last_time(),
            findings: Vec::new(),
        };
        self.from = self.from.or(Some(record.time));
        if self.hole {
            self.boots = self.boots.max(1);
        } else {
            self.follows(record, &mut says);
        }
        self.hole = false;
        self.on_time(record, &mut says);
        self.meet(index, record, &mut says);
        if self.pod.as_ref().is_some_and(|pod| *pod != record.pod)
            && !matches!(record.event, Event::Start(_))
        {
            says.that(
                Problem::Boot,
                "it speaks of another pod than the record before",
            );
        }
        self.pod = Some(record.pod.clone());
        if self.identity.as_deref() != record.identity.as_deref() {
            self.identity = record.identity.as_deref().map(Arc::from);
        }
        self.last = Some(Previous {
            boot: record.boot,
            seq: record.seq,
            time: record.time,
            stopped: matches!(record.event, Event::Stop(_)),
        });
        says.findings
    }

    /// Says how the records that were read so far end, unless they end in order.
    pub(super) fn end(&self) -> Option<Finding> {
        let last = self.last?;
        let place = Place {
            boot: Some(last.boot),
            seq: Some(last.seq),
            ..Place::default()
        };
        (!last.stopped).then(|| {
            let detail = format!(
                "signed records end at {} without a stop record: the proxy runs, was killed, or the end is missing",
                last.time
            );
            Finding::new(Problem::OpenEnd, place, detail)
        })
    }

    /// Whether the log ends with a stop record.
    pub(super) fn is_stopped(&self) -> bool {
        self.last.is_some_and(|last| last.stopped)
    }

    fn follows(&mut self, record: &Record, says: &mut Says) {
        match (&record.event, self.last) {
            (Event::Start(start), before) => self.begins(record, start, before, says),
            (_, None) => says.that(
                Problem::Boot,
                "the first record of a log must be a start: what came before it is missing",
            ),
            (_, Some(last)) if last.boot != record.boot => says.that(
                Problem::Boot,
                format!(
                    "a run begins without a start record, after seq {} of boot {}",
                    last.seq, last.boot
                ),
            ),
            (_, Some(last)) if last.stopped => {
                says.that(Problem::Boot, "it comes after the stop record of its run");
            }
            (_, Some(last)) => {
                let wanted = last.seq + 1;
                if record.seq != wanted {
                    says.that(
                        Problem::Sequence,
                        format!(
                            "its number is {}, {wanted} is due: records are missing, repeated or in another order",
                            record.seq
                        ),
                    );
                }
            }
        }
    }

    fn begins(
        &mut self,
        record: &Record,
        start: &Start,
        before: Option<Previous>,
        says: &mut Says,
    ) {
        self.boots += 1;
        self.window = None;
        let same = |boot: Boot| before.is_some_and(|before| before.boot == boot);
        if record.seq != 0 || same(record.boot) {
            says.that(
                Problem::Sequence,
                format!(
                    "a start must be the first record of a run, it has the number {}",
                    record.seq
                ),
            );
        }
        let named = |previous: &Previous| format!("seq {} of boot {}", previous.seq, previous.boot);
        match (start.previous, before) {
            (said, found) if said == found => {}
            (Some(said), Some(found)) => says.that(
                Problem::Boot,
                format!(
                    "it follows {}, and says that it follows {}: records are missing or in another order",
                    named(&found),
                    named(&said)
                ),
            ),
            (None, Some(found)) => says.that(
                Problem::Boot,
                format!("it follows {}, and says that it is the first", named(&found)),
            ),
            (Some(said), None) => says.that(
                Problem::Boot,
                format!("it says that it follows {}, which is missing", named(&said)),
            ),
            (None, None) => {}
        }
    }

    fn on_time(&mut self, record: &Record, says: &mut Says) {
        if let Event::Gap(gap) = &record.event
            && gap.cause == GapCause::Clock
        {
            self.clock = true;
        }
        let before = self.last_time().unwrap_or(record.time);
        if before.since(record.time) > CLOCK_TOLERANCE && !std::mem::take(&mut self.clock) {
            says.that(
                Problem::Clock,
                format!("written at {}, the record before at {before}", record.time),
            );
        }
    }

    fn meet(&mut self, index: u64, record: &Record, says: &mut Says) {
        match &record.event {
            Event::Window(window) => self.window(window, says),
            Event::Certificate(certificate) => {
                if let Err(problem) = self.signers.certificate(index, certificate) {
                    says.that(Problem::CertificateRecord, problem);
                }
            }
            Event::Custody(custody) => {
                if custody.proof.boot != record.boot {
                    says.that(Problem::Custody, "its proof was made in another run");
                } else if let Err(problem) = self.signers.custody(index, custody) {
                    says.that(Problem::Custody, problem);
                }
            }
            Event::Gap(gap) => {
                let lost = match gap.lost {
                    Some(0) => "nothing was lost".to_owned(),
                    Some(lost) => format!("{lost} records were lost"),
                    None => "what was lost is not known".to_owned(),
                };
                says.that(
                    Problem::Gap,
                    format!("from {} to {}, {lost}: {}", gap.from, gap.to, gap.detail),
                );
            }
            Event::Start(_)
            | Event::Stop(_)
            | Event::Policy(_)
            | Event::Refusal(_)
            | Event::Retention(_) => {}
        }
    }

    fn window(&mut self, window: &Window, says: &mut Says) {
        let wrong = match &self.window {
            _ if window.part == 0 || window.part > window.parts || window.to < window.from => {
                Some("it is no part of a window".to_owned())
            }
            Some(last) if last.part < last.parts => {
                let next = last.part + 1;
                let fits = window.part == next
                    && window.parts == last.parts
                    && (window.from, window.to) == (last.from, last.to);
                (!fits).then(|| {
                    format!(
                        "part {next} of {} of the window before is missing",
                        last.parts
                    )
                })
            }
            _ if window.part != 1 => Some("its first part is missing".to_owned()),
            Some(last) if window.from < last.to => Some(format!(
                "it begins at {}, the window before ended at {}",
                window.from, last.to
            )),
            Some(last) if window.from > last.to => {
                says.that(
                    Problem::Gap,
                    format!("no window covers {} to {}", last.to, window.from),
                );
                None
            }
            _ => None,
        };
        if let Some(wrong) = wrong {
            says.that(Problem::Window, wrong);
        }
        let unknown = |serial: &&str| !self.signers.knows_serial(serial);
        let mut serials = window.links.iter().map(|group| group.flow.serial.as_str());
        if let Some(serial) = serials.find(unknown)
            && !self.dropped
            && self.unknown.as_deref() != Some(serial)
        {
            // Once will do; every window may speak of it.
            self.unknown = Some(serial.to_owned());
            says.that(
                Problem::Custody,
                format!(
                    "it speaks of links under the certificate {serial}, which the log does not have"
                ),
            );
        }
        self.window = Some(Part {
            from: window.from,
            to: window.to,
            part: window.part,
            parts: window.parts,
        });
    }
}

/// What is said of one record.
struct Says {
    place: Place,
    since: Option<Timestamp>,
    findings: Vec<Finding>,
}

impl Says {
    fn that(&mut self, problem: Problem, detail: impl Into<String>) {
        let finding = Finding::new(problem, self.place.clone(), detail);
        self.findings.push(finding.since(self.since));
    }
}
