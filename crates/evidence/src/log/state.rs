//! What a writer finds on disk, and goes on from: the tree that is signed, the records that wait, and
//! the last record of whoever wrote before. For the writer alone.

use std::path::Path;

use super::edge::Edge;
use super::files::{CHECKPOINT, Directory, JOURNAL, is_new};
use super::journal::Journal;
use super::reader::checkpoint_in;
use super::tree::tiles_in;
use super::{LogConfig, LogError};
use crate::merkle::{Compact, Hash};
use crate::record::{Event, Previous, Record};
use crate::tile::{Kind, Tile, WIDTH, entries_of};

/// What is on disk.
#[derive(Debug)]
pub(super) struct State {
    pub(super) origin: String,
    /// The tree that is signed.
    pub(super) edge: Edge,
    /// The tree with what waits in the journal.
    pub(super) tree: Compact,
    pub(super) journal: Journal,
    pub(super) last: Option<Previous>,
    /// The newest checkpoint, until a record carries it.
    pub(super) unembedded: Option<String>,
    /// Bytes of a record that a crash left half written.
    pub(super) torn: u64,
}

impl State {
    /// Reads it, and demands that it is as a writer left it.
    pub(super) fn load(directory: &Directory, config: &LogConfig) -> Result<Self, LogError> {
        let path = directory.path(CHECKPOINT);
        let signed = checkpoint_in(&directory.path(""))?;
        let size = signed.as_ref().map_or(0, |signed| signed.checkpoint().size);
        let edge = Edge::load(
            size,
            |tile| {
                let found = directory.read(tile.path())?;
                found.ok_or_else(|| missing(directory, &tile))
            },
            |tile| {
                LogError::damaged(
                    directory.path(tile.path()),
                    "it is not as wide as its name says",
                )
            },
        )?;
        let mut tree = edge.compact();
        if let Some(signed) = &signed
            && tree.root() != signed.checkpoint().root
        {
            return Err(LogError::damaged(&path, "the tiles lead to another root"));
        }
        let mut last_entry = None;
        let (mut journal, torn) = Journal::open(directory, size, |index, entry| {
            if index == tree.size() {
                tree.push(Hash::leaf(entry));
                last_entry = Some(entry.to_vec());
            } else if index > tree.size() {
                let problem = format!("it begins with record {index}, signed are {size}");
                return Err(LogError::damaged(directory.path(JOURNAL), problem));
            }
            Ok(())
        })?;
        if journal.next() != tree.size() {
            let problem = format!("it goes to record {}, signed are {size}", journal.next());
            return Err(LogError::damaged(directory.path(JOURNAL), problem));
        }
        // A crash, or a full disk, came between a checkpoint and the journal that follows it. What is
        // signed must not count as waiting, or nothing more might find room.
        journal.trim(directory, size)?;
        let last = match last_entry {
            Some(entry) => Some(last_of(&entry, &directory.path(JOURNAL))?),
            None => last_signed(directory, size)?,
        };
        Ok(Self {
            origin: signed.as_ref().map_or_else(
                || config.origin.clone(),
                |signed| signed.checkpoint().origin.clone(),
            ),
            edge,
            tree,
            journal,
            last,
            unembedded: signed.map(|signed| signed.to_string()),
            torn,
        })
    }

    /// Removes partial tiles that a crash left beside those in force, and files half written.
    pub(super) fn clear_leftovers(&self, directory: &Directory) -> Result<(), LogError> {
        let kept: Vec<Tile> = Tile::edge(self.edge.size()).collect();
        let (tiles, others) = tiles_in(&directory.path(""))?;
        for half in others.iter().filter(|path| is_new(path)) {
            directory.remove(half);
        }
        let partial = tiles.iter().filter(|tile| tile.width < WIDTH);
        for tile in partial.filter(|tile| !kept.contains(tile)) {
            directory.remove(tile.path());
        }
        Ok(())
    }
}

/// The last record that is signed.
fn last_signed(directory: &Directory, size: u64) -> Result<Option<Previous>, LogError> {
    let Some(index) = size.checked_sub(1).map(|last| last / WIDTH) else {
        return Ok(None);
    };
    let width = match size % WIDTH {
        0 => WIDTH,
        width => width,
    };
    let tile = Tile {
        kind: Kind::Entries,
        index,
        width,
    };
    let found = directory.read(tile.path())?;
    let bundle = found.ok_or_else(|| missing(directory, &tile))?;
    let path = directory.path(tile.path());
    let (entries, _) = entries_of(&bundle);
    let entry = entries.last();
    let entry = entry.ok_or_else(|| LogError::damaged(&path, "there is no record in it"))?;
    last_of(entry, &path).map(Some)
}

fn last_of(entry: &[u8], path: &Path) -> Result<Previous, LogError> {
    let record = Record::decode(entry).map_err(|error| LogError::damaged(path, error))?;
    Ok(Previous {
        boot: record.boot,
        seq: record.seq,
        time: record.time,
        stopped: matches!(record.event, Event::Stop(_)),
    })
}

pub(super) fn missing(directory: &Directory, tile: &Tile) -> LogError {
    LogError::damaged(directory.path(tile.path()), "it is not there")
}
