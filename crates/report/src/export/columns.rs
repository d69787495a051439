//! The columns of the export, in order. A row has a value for some of them; the others are null.

use std::fmt::Write;

/// A value in a row.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Cell {
    Bool(bool),
    Number(i64),
    /// Milliseconds since 1970.
    Time(i64),
    Text(String),
}

/// What a column holds.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Kind {
    Bool,
    Number,
    Time,
    Text,
}

macro_rules! columns {
    ($($name:ident, $field:literal, $kind:ident, $about:literal;)*) => {
        /// A column.
        #[derive(Clone, Copy, Debug, Eq, PartialEq)]
        pub(super) enum Column { $($name),* }

        impl Column {
            /// All of them, in order.
            pub(super) const ALL: &'static [Self] = &[$(Self::$name),*];

            /// Its name.
            pub(super) fn name(self) -> &'static str {
                match self { $(Self::$name => $field),* }
            }

            /// What it holds.
            pub(super) fn kind(self) -> Kind {
                match self { $(Self::$name => Kind::$kind),* }
            }

            fn about(self) -> &'static str {
                match self { $(Self::$name => $about),* }
            }
        }
    };
}

columns! {
    Log, "log", Text, "name of the log: the first line of its checkpoints";
    Index, "index", Number, "the record's index in it";
    Signed, "signed", Bool, "whether its newest checkpoint covers the record";
    Kind, "kind", Text, "`window`, and of a window `link`, `exception`, `refused`, `socket`; `start`, `stop`, `policy`, `refusal`, `custody`, `certificate`, `gap`, `retention`";
    Time, "time", Time, "when the record was written";
    Namespace, "namespace", Text, "the pod's";
    Pod, "pod", Text, "its name";
    Uid, "uid", Text, "its UID";
    Node, "node", Text, "its node";
    Identity, "identity", Text, "SPIFFE ID of the workload";
    Boot, "boot", Text, "run of the sidecar";
    Seq, "seq", Number, "the record's number in that run";
    From, "from", Time, "begin of the window, gap, validity or dropped records";
    To, "to", Time, "end of it";
    Part, "part", Number, "part of the window, from 1";
    Parts, "parts", Number, "parts that it has";
    Direction, "direction", Text, "`inbound` or `outbound`, seen from the pod";
    Protocol, "protocol", Text, "transport protocol";
    Source, "source", Text, "address and port that it came from; a socket's own";
    Destination, "destination", Text, "address and port that it went to; a socket's other end";
    Peer, "peer", Text, "SPIFFE ID at the other end";
    PeerSerial, "peer_serial", Text, "serial number of its certificate";
    Serial, "serial", Text, "serial number of the own certificate";
    TlsVersion, "tls_version", Text, "TLS version";
    Suite, "suite", Text, "cipher suite";
    KeyExchange, "key_exchange", Text, "key exchange group";
    Resumed, "resumed", Bool, "whether the link resumed an earlier session";
    Opened, "opened", Number, "connections opened in the window";
    Closed, "closed", Number, "connections closed in the window, those of exceptions too";
    Open, "open", Number, "connections open at its end";
    Failed, "failed", Number, "of those closed, how many did not end well";
    BytesSent, "bytes_sent", Number, "bytes from the pod's application to the far side; of a socket, as the kernel counts";
    BytesReceived, "bytes_received", Number, "bytes from the far side to it";
    First, "first", Time, "first event of the row in the window";
    Last, "last", Time, "last event";
    Rule, "rule", Text, "name of the exception";
    ObservedTls, "observed_tls", Text, "what the application's own TLS negotiated";
    Reason, "reason", Text, "reason of a refusal, a gap or the end of a run; state of a socket";
    Count, "count", Number, "how many: refusals, sockets at the census, records lost in a gap";
    Unaccounted, "unaccounted", Number, "sockets that nobody accounts for at the window's census; null without one";
    KernelSent, "kernel_bytes_sent", Number, "bytes that the kernel counted on the pod's interfaces since the last census; null where it did not";
    KernelReceived, "kernel_bytes_received", Number, "the same, received";
    Key, "key", Text, "reference of a key, without secrets";
    PublicKey, "public_key_sha256", Text, "SHA-256 of its public half";
    Detail, "detail", Text, "the whole record as JSON, where it is no window";
}

/// A row, with the values that it has.
#[derive(Clone, Debug)]
pub(super) struct Row(Vec<Option<Cell>>);

impl Row {
    pub(super) fn new() -> Self {
        Self(vec![None; Column::ALL.len()])
    }

    pub(super) fn text(&mut self, column: Column, value: impl ToString) -> &mut Self {
        self.set(column, Cell::Text(value.to_string()))
    }

    pub(super) fn maybe(&mut self, column: Column, value: Option<impl ToString>) -> &mut Self {
        if let Some(value) = value {
            self.text(column, value);
        }
        self
    }

    /// Records hold no number that is greater than 2⁵³.
    pub(super) fn number(&mut self, column: Column, value: u64) -> &mut Self {
        self.set(
            column,
            Cell::Number(i64::try_from(value).unwrap_or(i64::MAX)),
        )
    }

    pub(super) fn bool(&mut self, column: Column, value: bool) -> &mut Self {
        self.set(column, Cell::Bool(value))
    }

    pub(super) fn time(
        &mut self,
        column: Column,
        value: sealwire_evidence::record::Timestamp,
    ) -> &mut Self {
        let milliseconds = value.get().unix_timestamp_nanos() / 1_000_000;
        let milliseconds = i64::try_from(milliseconds).unwrap_or(i64::MAX);
        self.set(column, Cell::Time(milliseconds))
    }

    /// Values by column; null where there is none.
    pub(super) fn into_cells(self) -> impl Iterator<Item = (Column, Option<Cell>)> {
        Column::ALL.iter().copied().zip(self.0)
    }

    fn set(&mut self, column: Column, cell: Cell) -> &mut Self {
        // As many values as columns, by construction.
        if let Some(place) = self.0.get_mut(column as usize) {
            *place = Some(cell);
        }
        self
    }
}

/// For the documentation.
pub(super) fn table() -> String {
    let mut table = "| column | type | |\n|---|---|---|\n".to_owned();
    for column in Column::ALL {
        let kind = match column.kind() {
            Kind::Bool => "boolean",
            Kind::Number => "integer",
            Kind::Time => "time",
            Kind::Text => "text",
        };
        // Writing to a string cannot fail.
        let _ = writeln!(
            table,
            "| `{}` | {kind} | {} |",
            column.name(),
            column.about()
        );
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_documentation_lists_these_columns() {
        let page = include_str!("../../../../docs/audit.md");
        assert!(page.contains(&table()), "docs/audit.md lacks:\n{}", table());
    }
}
