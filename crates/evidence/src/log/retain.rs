//! What is dropped, by age or size: whole bundles, oldest first, and only once the log itself says
//! so under a signature. Certificates that still count are said again there, so that what is kept
//! stays verifiable by itself.

use std::fs;

use super::edge::Edge;
use super::files::{Directory, storage};
use super::tree::{Tree, tiles_in};
use super::{LogError, RetentionLimits};
use crate::record::{
    Certificate, CertificateEvent, Custody, Event, Previous, Record, Retention, RetentionRule,
    Timestamp,
};
use crate::tile::{Kind, Tile, WIDTH};

/// Most bytes of certificates and custody that a note carries on: it has to fit an entry.
const MOST_CARRIED: usize = 40 * 1024;

/// Looks after what a log keeps.
#[derive(Clone, Debug)]
pub(super) struct Retain {
    /// The first bundle there is.
    first: u64,
    /// Bytes that full bundles take.
    bytes: u64,
    /// The first bundle, once somebody has looked into it.
    head: Option<Head>,
    planned: Option<Planned>,
}

/// What a bundle says about its end.
#[derive(Clone, Copy, Debug)]
struct Head {
    bytes: u64,
    last: Timestamp,
}

/// What is dropped once the record that says so is signed.
#[derive(Clone, Copy, Debug)]
struct Planned {
    minimum: u64,
    record: Option<u64>,
}

/// What is carried on from what is dropped.
#[derive(Default)]
struct Carried {
    first: Option<Timestamp>,
    last: Option<Previous>,
    certificates: Vec<Certificate>,
    custody: Vec<Custody>,
}

impl Retain {
    /// Of a log whose tree has `size` leaves.
    pub(super) fn of(directory: &Directory, size: u64) -> Result<Self, LogError> {
        let (tiles, _) = tiles_in(&directory.path(""))?;
        let full = |tile: &&Tile| {
            tile.kind == Kind::Entries && tile.width == WIDTH && tile.index < size / WIDTH
        };
        let mut first = None;
        let mut bytes = 0;
        for tile in tiles.iter().filter(full) {
            let path = directory.path(tile.path());
            bytes += fs::metadata(&path)
                .map_err(storage(&path, "look at"))?
                .len();
            first = first.or(Some(tile.index));
        }
        Ok(Self {
            first: first.unwrap_or(size / WIDTH),
            bytes,
            head: None,
            planned: None,
        })
    }

    /// Bytes that full bundles take.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Full bundles take so many bytes more.
    pub(super) fn grown(&mut self, bytes: u64) {
        self.bytes = self.bytes.saturating_add(bytes);
    }

    /// What is to be dropped of the tree with this edge; none when nothing is. What is planned comes
    /// first.
    pub(super) fn plan(
        &mut self,
        directory: &Directory,
        limits: &RetentionLimits,
        now: Timestamp,
        edge: &Edge,
    ) -> Result<Option<Retention>, LogError> {
        if self.planned.is_some() {
            return Ok(None);
        }
        let size = edge.size();
        let mut bundles = Bundles {
            directory,
            tree: Tree::of(&directory.path(""), edge.clone()),
        };
        let mut carried = Carried::default();
        let mut last_rule = None;
        let mut after = self.clone();
        // The last full bundle stays, so that there is always one to go on from.
        while (after.first + 1) * WIDTH < size {
            let head = after.head(&mut bundles)?;
            let Some(rule) = due(limits, head, after.bytes, now) else {
                break;
            };
            last_rule = Some(rule);
            carried.take(bundles.records(after.first)?);
            after.bytes = after.bytes.saturating_sub(head.bytes);
            after.first += 1;
            after.head = None;
        }
        let Some((rule, limit)) = last_rule else {
            self.head = after.head;
            return Ok(None);
        };
        let minimum = after.first * WIDTH;
        let note = carried.note(directory, rule, limit, self.first * WIDTH, minimum, size)?;
        if note.is_some() {
            after.planned = Some(Planned {
                minimum,
                record: None,
            });
            *self = after;
        }
        Ok(note)
    }

    /// The record that says so has this index.
    pub(super) fn planned_at(&mut self, index: u64) {
        if let Some(planned) = &mut self.planned {
            planned.record = Some(index);
        }
    }

    /// Does what is planned, if a tree of `size` leaves, which is signed, says so.
    pub(super) fn drop_planned(&mut self, directory: &Directory, size: u64) {
        let signed = |planned: &Planned| planned.record.is_some_and(|record| record < size);
        let Some(planned) = self.planned.filter(signed) else {
            return;
        };
        self.planned = None;
        let Ok((tiles, _)) = tiles_in(&directory.path("")) else {
            return;
        };
        for tile in tiles.iter().filter(|tile| tile.width == WIDTH) {
            let level = match tile.kind {
                Kind::Entries => 0,
                Kind::Hashes(level) => level,
            };
            // Where the tile ends, counted in hashes of its level.
            if (tile.index + 1) * WIDTH <= Tile::hashes(level, planned.minimum) {
                directory.remove(tile.path());
            }
        }
    }

    fn head(&mut self, bundles: &mut Bundles<'_>) -> Result<Head, LogError> {
        if let Some(head) = self.head {
            return Ok(head);
        }
        let records = bundles.records(self.first)?;
        let last = records
            .last()
            .map_or(Timestamp::EPOCH, |record| record.time);
        let path = bundles.directory.path(bundle(self.first).path());
        let bytes = fs::metadata(&path)
            .map_err(storage(&path, "look at"))?
            .len();
        let head = Head { bytes, last };
        self.head = Some(head);
        Ok(head)
    }
}

impl Carried {
    fn take(&mut self, records: Vec<Record>) {
        for record in records {
            self.first = self.first.or(Some(record.time));
            self.last = Some(Previous {
                boot: record.boot,
                seq: record.seq,
                time: record.time,
                stopped: matches!(record.event, Event::Stop(_)),
            });
            match record.event {
                Event::Certificate(certificate) => self.certificate(*certificate),
                Event::Custody(custody) => self.custody(*custody),
                Event::Retention(note) => {
                    note.certificates
                        .into_iter()
                        .for_each(|one| self.certificate(one));
                    note.custody.into_iter().for_each(|one| self.custody(one));
                }
                _ => {}
            }
        }
    }

    fn certificate(&mut self, certificate: Certificate) {
        let counts = matches!(
            certificate.event,
            CertificateEvent::Issued | CertificateEvent::Renewed
        );
        if counts {
            self.certificates
                .retain(|other| other.chain != certificate.chain);
            self.certificates.push(certificate);
        }
    }

    fn custody(&mut self, custody: Custody) {
        self.custody
            .retain(|other| other.public_key_sha256 != custody.public_key_sha256);
        self.custody.push(custody);
    }

    fn note(
        mut self,
        directory: &Directory,
        rule: RetentionRule,
        limit: u64,
        dropped_from: u64,
        minimum: u64,
        size: u64,
    ) -> Result<Option<Retention>, LogError> {
        let (Some(from), Some(last)) = (self.first, self.last) else {
            return Ok(None);
        };
        // A checkpoint that is kept was signed no earlier than this.
        self.certificates.retain(|one| one.not_after > last.time);
        let mut room = MOST_CARRIED;
        let mut certificates = Vec::new();
        let mut custody = Vec::new();
        for certificate in self.certificates.into_iter().rev() {
            let key = &certificate.public_key_sha256;
            let own = self
                .custody
                .iter()
                .find(|one| one.public_key_sha256 == *key);
            let taken = certificate.chain.iter().map(String::len).sum::<usize>() + 4096;
            room = match room.checked_sub(taken) {
                Some(room) => room,
                None => break,
            };
            if let Some(own) = own
                && !custody.contains(own)
            {
                custody.push(own.clone());
            }
            certificates.push(certificate);
        }
        // The youngest has the first claim to room, and comes last, as it would in the log.
        certificates.reverse();
        Ok(Some(Retention {
            rule,
            limit,
            minimum,
            dropped_from,
            from,
            to: last.time,
            root: root_at(directory, minimum, size)?,
            last,
            certificates,
            custody,
        }))
    }
}

/// Which limit a bundle is beyond.
fn due(
    limits: &RetentionLimits,
    head: Head,
    bytes: u64,
    now: Timestamp,
) -> Option<(RetentionRule, u64)> {
    if let Some(age) = limits.age.filter(|age| now.since(head.last) > *age) {
        return Some((RetentionRule::Age, age.as_secs()));
    }
    let most = limits.bytes.filter(|most| bytes > *most)?;
    Some((RetentionRule::Size, most))
}

/// Root of the tree of the first `minimum` leaves, of one with `size`.
fn root_at(directory: &Directory, minimum: u64, size: u64) -> Result<String, LogError> {
    let read = |tile: Tile| {
        let edge = Tile::edge(size).find(|edge| edge.kind == tile.kind && edge.index == tile.index);
        let there = edge.unwrap_or(Tile {
            width: WIDTH,
            ..tile
        });
        let found = directory.read(there.path())?;
        found.ok_or_else(|| LogError::damaged(directory.path(there.path()), "it is not there"))
    };
    let edge = Edge::load(minimum, read, |tile| {
        LogError::damaged(
            directory.path(tile.path()),
            "it is not as wide as its name says",
        )
    })?;
    Ok(edge.compact().root().to_string())
}

fn bundle(index: u64) -> Tile {
    Tile {
        kind: Kind::Entries,
        index,
        width: WIDTH,
    }
}

/// What is in full bundles. Only what was signed is carried on under another signature, or an edit
/// would pass for a record once the bundle is gone.
struct Bundles<'a> {
    directory: &'a Directory,
    tree: Tree,
}

impl Bundles<'_> {
    fn records(&mut self, index: u64) -> Result<Vec<Record>, LogError> {
        let path = self.directory.path(bundle(index).path());
        let entries = self.tree.entries(bundle(index));
        entries
            .map_err(|error| error.into_log_error(&self.directory.path("")))?
            .iter()
            .map(|entry| Record::decode(entry).map_err(|error| LogError::damaged(&path, error)))
            .collect()
    }
}
