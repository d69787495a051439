//! How a log ends: records that no checkpoint covers yet, and what is known of the end from elsewhere.

use super::{Walk, at};
use crate::log::{CHECKPOINT, Ending, JOURNAL, JournalReader, LogError};
use crate::merkle::Hash;
use crate::note::SignedCheckpoint;
use crate::record::Record;
use crate::verify::finding::{Finding, Place, Problem};

impl Walk<'_> {
    /// Everything that waits for the next checkpoint. There may be no journal, or something in its
    /// place that is none.
    pub(super) fn waiting_records(
        &mut self,
        size: u64,
        journal: Option<Option<JournalReader>>,
    ) -> Result<(), LogError> {
        let place = || Place::file(JOURNAL);
        let Some(journal) = journal else {
            let detail = "it is missing: records that were not signed yet are not in this copy";
            self.say(Problem::Interrupted, place(), detail);
            return Ok(());
        };
        let Some(mut journal) = journal else {
            let detail = "it does not begin as a journal does";
            self.say(Problem::Journal, place(), detail);
            return Ok(());
        };
        if journal.base() > size {
            let detail = format!(
                "it begins with record {}, signed are {size}: what is between is missing",
                journal.base()
            );
            self.say(Problem::Journal, place(), detail);
            self.chain.skip();
        }
        let since = self.chain.last_time();
        let mut waiting = 0;
        loop {
            let index = journal.next();
            let Some(entry) = journal.next_entry()? else {
                break;
            };
            if index < size {
                continue;
            }
            waiting += 1;
            match Record::decode(&entry) {
                Ok(record) => {
                    self.verdict.records += 1;
                    self.begins(index, &record);
                    if let Some(note) = &record.checkpoint {
                        self.embedded(note, index, &record);
                    }
                    for mut finding in self.chain.take(index, &record) {
                        finding.place.file = Some(JOURNAL.into());
                        self.verdict.add(finding);
                    }
                }
                Err(error) => {
                    self.say(
                        Problem::Schema,
                        at(index, JOURNAL.as_ref()),
                        error.to_string(),
                    );
                    self.chain.skip();
                }
            }
            self.pass(Hash::leaf(&entry));
        }
        match journal.ending() {
            Ending::Whole => {}
            Ending::Torn { bytes } => {
                let detail = format!(
                    "{bytes} bytes at its end are half a record: a crash cut it short before anybody was told that it was written"
                );
                self.say(Problem::Interrupted, place(), detail);
            }
            Ending::Damaged { index } => {
                let detail = "it is not what was written; what follows cannot be read";
                self.say(Problem::Journal, at(index, JOURNAL.as_ref()), detail);
            }
        }
        if waiting > 0 {
            let detail = format!(
                "{waiting} records are not signed yet: nothing shows whether they were edited"
            );
            let place = Place {
                index: Some(size),
                ..place()
            };
            let finding = Finding::new(Problem::Unsigned, place, detail);
            self.verdict.add(finding.since(since));
        }
        Ok(())
    }

    /// Compares with a checkpoint from elsewhere, when the walk is at its size.
    pub(super) fn contained(&mut self) {
        let size = self.tree.size();
        let origin = self.verdict.origin.clone();
        for kept in &self.expect.checkpoints {
            let kept = kept.checkpoint();
            if kept.size == size
                && Some(&kept.origin) == origin.as_ref()
                && kept.root != self.tree.root()
            {
                let problem = format!(
                    "a checkpoint kept elsewhere has the root {} at {size} records, this log has {}",
                    kept.root,
                    self.tree.root()
                );
                let place = at(size.saturating_sub(1), CHECKPOINT.as_ref());
                self.verdict
                    .add(Finding::new(Problem::Contradicted, place, problem).since(self.certain));
            }
        }
    }

    /// What is known from elsewhere of records that were dropped.
    pub(super) fn contained_before(&mut self) {
        self.contained();
        let first = self.verdict.first;
        let own = self.verdict.origin.clone();
        for kept in &self.expect.checkpoints {
            let kept = kept.checkpoint();
            if kept.size < first && Some(&kept.origin) == own.as_ref() {
                let detail = format!(
                    "a checkpoint kept elsewhere names {} records, which were dropped: it cannot be compared",
                    kept.size
                );
                let place = Place::file(CHECKPOINT);
                self.verdict
                    .add(Finding::new(Problem::Dropped, place, detail));
            }
        }
    }

    /// What is known from elsewhere of the log's end.
    pub(super) fn expected(&mut self, signed: &Option<SignedCheckpoint>) {
        let place = Place::file(CHECKPOINT);
        let size = self.verdict.signed;
        let own = signed.as_ref().map(|signed| &signed.checkpoint().origin);
        for kept in &self.expect.checkpoints {
            let kept = kept.checkpoint();
            if Some(&kept.origin) == own && kept.size > size {
                let problem = format!(
                    "a checkpoint kept elsewhere names {} records, this log has {size} signed: its end is missing",
                    kept.size
                );
                let finding = Finding::new(Problem::Truncated, place.clone(), problem);
                self.verdict.add(finding.since(self.verdict.signed_to));
            }
        }
        if let Some(until) = self.expect.until
            && !self.stopped
            && self.verdict.signed_to.is_none_or(|to| to < until)
        {
            let problem = match self.verdict.signed_to {
                Some(to) => format!("signed records end at {to}, expected until {until}"),
                None => format!("there are no signed records, expected until {until}"),
            };
            let finding = Finding::new(Problem::Truncated, place, problem);
            self.verdict.add(finding.since(self.verdict.signed_to));
        }
    }
}
