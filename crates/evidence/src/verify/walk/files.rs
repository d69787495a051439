//! The files of tiles and bundles, compared with what the records lead to: every one there is, of
//! whatever width.

use super::{Walk, at};
use crate::log::{LogError, read};
use crate::tile::{Kind, Tile, WIDTH, entries_of};
use crate::verify::finding::{Place, Problem};

impl Walk<'_> {
    /// Compares the partial tiles at the tree's edge.
    pub(super) fn edge_tiles(&mut self) -> Result<(), LogError> {
        let partial: Vec<(Tile, Vec<u8>)> = self.edge.partial_tiles().collect();
        for (tile, bytes) in partial {
            self.compare_tile(tile, &bytes)?;
        }
        Ok(())
    }

    /// Compares every file of a tile with the hashes that the records lead to.
    pub(super) fn compare_tile(&mut self, tile: Tile, bytes: &[u8]) -> Result<(), LogError> {
        let mut files = self.files_of(tile).iter();
        let there = files.any(|other| other.width >= tile.width);
        if !there && tile.index * WIDTH >= self.kept(tile.kind) {
            let detail = "it is missing";
            self.say(Problem::Tile, Place::file(tile.path()), detail);
        }
        self.compare_others(tile, bytes)
    }

    /// Compares every file that has the same beginning: a narrower tile is one of a wider.
    pub(super) fn compare_others(&mut self, tile: Tile, bytes: &[u8]) -> Result<(), LogError> {
        for other in self.files_of(tile).to_vec() {
            let path = self.directory.join(other.path());
            let found = match read(&path)? {
                Some(found) => found,
                // The log is being written, and this one has become too narrow since it was listed.
                None if path.symlink_metadata().is_err() => continue,
                None => Vec::new(),
            };
            let common = found.len().min(bytes.len());
            let whole = match tile.kind {
                Kind::Hashes(_) => u64::try_from(found.len()).ok() == other.width.checked_mul(32),
                Kind::Entries => {
                    let (entries, rest) = entries_of(&found);
                    rest == 0 && u64::try_from(entries.len()).ok() == Some(other.width)
                }
            };
            if !whole || found.get(..common) != bytes.get(..common) {
                let detail = "it does not hold what the records lead to: this file was changed, or they were";
                let place = at(tile.index * WIDTH, &other.path());
                let place = match tile.kind {
                    Kind::Entries => place,
                    Kind::Hashes(_) => Place::file(other.path()),
                };
                self.say(Problem::Tile, place, detail);
            }
        }
        Ok(())
    }

    /// The files of a tile, of every width.
    pub(super) fn files_of(&self, tile: Tile) -> &[Tile] {
        let place = |other: &Tile| (other.kind, other.index);
        let from = self
            .tiles
            .partition_point(|other| place(other) < place(&tile));
        let to = self
            .tiles
            .partition_point(|other| place(other) <= place(&tile));
        self.tiles.get(from..to).unwrap_or_default()
    }

    /// First hash of a level that must still be there.
    fn kept(&self, kind: Kind) -> u64 {
        match kind {
            Kind::Entries => self.verdict.first,
            Kind::Hashes(level) => Tile::hashes(level, self.verdict.first) / WIDTH * WIDTH,
        }
    }

    /// Files of tiles that the newest checkpoint does not need.
    pub(super) fn leftovers(&mut self, size: u64) {
        let beyond = |tile: &&Tile| {
            let level = match tile.kind {
                Kind::Entries => 0,
                Kind::Hashes(level) => level,
            };
            tile.index * WIDTH + tile.width > Tile::hashes(level, size)
        };
        let beyond: Vec<Tile> = self.tiles.iter().filter(beyond).copied().collect();
        for tile in beyond {
            let detail = "it goes beyond the newest checkpoint: left by a write that was interrupted, or the checkpoint was put back to an earlier one";
            self.say(Problem::Interrupted, Place::file(tile.path()), detail);
        }
    }
}
