//! What the kernel counted on a pod's interfaces against what its sidecar says that it moved: over
//! each run of the sidecar, and over each hour of it, since in a month much can pass within what is
//! allowed for a month. [`reconcile`] says how far apart the two may be.

use sealwire_evidence::reconcile;
use sealwire_evidence::record::Window;
use time::{Duration, OffsetDateTime};

use crate::account::BytesAccount;

/// What is looked at by itself.
const SPAN: Duration = Duration::HOUR;

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct BytesLedger {
    run: reconcile::Ledger,
    span: reconcile::Ledger,
    span_begun: Option<OffsetDateTime>,
    /// What does not add up in spans of this run, sent and never left.
    in_spans: (u64, u64),
    total: BytesAccount,
}

impl BytesLedger {
    /// A run begins.
    pub(crate) fn starts(&mut self) {
        self.end_span();
        let run = std::mem::take(&mut self.run);
        let (unexplained, missing) = std::mem::take(&mut self.in_spans);
        self.span = reconcile::Ledger::default();
        let sent = run.sent();
        let had = run.windows > 0;
        self.total = self.total.plus(BytesAccount {
            windows: run.windows,
            left_out: run.left_out,
            moved: run.moved,
            excepted: run.excepted,
            counted: run.counted,
            overhead: if had {
                sent.overhead.saturating_add(sent.carried)
            } else {
                0
            },
            // Both hold: no more than this can be explained.
            unexplained: sent.unexplained.max(unexplained),
            missing: sent.missing.max(missing),
        });
    }

    /// A window, or a part of one, which counts here or only stands between others that do.
    pub(crate) fn window(&mut self, window: &Window, counts: bool) {
        if counts {
            self.run.add(window);
            self.span.add(window);
        } else {
            self.run.skip(window);
            self.span.skip(window);
        }
        let begun = *self.span_begun.get_or_insert(window.from.get());
        if window.part >= window.parts && window.to.get() - begun >= SPAN {
            self.end_span();
        }
    }

    /// Everything has come.
    pub(crate) fn finish(mut self) -> BytesAccount {
        self.starts();
        self.total
    }

    fn end_span(&mut self) {
        let sent = self.span.sent();
        let (unexplained, missing) = &mut self.in_spans;
        *unexplained = unexplained.saturating_add(sent.unexplained);
        *missing = missing.saturating_add(sent.missing);
        self.span = self.span.follow();
        self.span_begun = None;
    }
}
