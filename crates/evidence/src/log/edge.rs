//! The right edge of a tree in tiles: those hashes of each level that do not fill a tile yet. All
//! that is needed to add leaves, and to know the root.

use crate::merkle::{Compact, Hash, root_of};
use crate::tile::{Kind, LEVELS, Tile, WIDTH, hashes_from_bytes, hashes_to_bytes};

/// The right edge of a tree.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Edge {
    size: u64,
    /// From the leaves up; fewer than [`WIDTH`] each.
    levels: Vec<Vec<Hash>>,
}

impl Edge {
    /// The empty tree's.
    pub(crate) fn empty() -> Self {
        Self {
            size: 0,
            levels: vec![Vec::new(); usize::try_from(LEVELS).unwrap_or_default()],
        }
    }

    /// The edge of a tree of `size` leaves, from its partial tiles as `read` finds them. A wider
    /// tile does as well, since it begins the same.
    pub(crate) fn load<E>(
        size: u64,
        mut read: impl FnMut(Tile) -> Result<Vec<u8>, E>,
        malformed: impl Fn(Tile) -> E,
    ) -> Result<Self, E> {
        let mut edge = Self::empty();
        edge.size = size;
        for tile in Tile::edge(size) {
            let Kind::Hashes(level) = tile.kind else {
                continue;
            };
            let mut bytes = read(tile)?;
            let wanted = usize::try_from(tile.width).unwrap_or(usize::MAX);
            bytes.truncate(wanted.saturating_mul(crate::merkle::HASH));
            let hashes = hashes_from_bytes(&bytes, tile.width).ok_or_else(|| malformed(tile))?;
            if let Some(own) = edge.level_mut(level) {
                *own = hashes;
            }
        }
        Ok(edge)
    }

    /// How many leaves the tree has.
    pub(crate) fn size(&self) -> u64 {
        self.size
    }

    /// The hashes of a level that do not fill a tile.
    pub(crate) fn level(&self, level: u32) -> &[Hash] {
        let level = usize::try_from(level).ok();
        let found = level.and_then(|level| self.levels.get(level));
        found.map(Vec::as_slice).unwrap_or_default()
    }

    /// The same tree in compact form.
    pub(crate) fn compact(&self) -> Compact {
        let mut roots = Vec::new();
        for hashes in self.levels.iter().rev() {
            let mut rest = hashes.as_slice();
            // The largest complete subtree first, one for each bit of their number.
            while let Some(bits) = rest.len().checked_ilog2() {
                let (subtree, after) = rest.split_at(1 << bits);
                roots.push(root_of(subtree));
                rest = after;
            }
        }
        Compact::new(self.size, roots).unwrap_or_default()
    }

    /// Adds a leaf, and says which tiles it filled, with their hashes.
    pub(crate) fn push(&mut self, leaf: Hash) -> Vec<(Tile, Vec<u8>)> {
        let mut filled = Vec::new();
        let mut node = leaf;
        self.size += 1;
        for level in 0..LEVELS {
            let index = Tile::hashes(level, self.size).saturating_sub(1) / WIDTH;
            let Some(hashes) = self.level_mut(level) else {
                break;
            };
            hashes.push(node);
            if hashes.len() < 256 {
                break;
            }
            node = root_of(hashes);
            let tile = Tile {
                kind: Kind::Hashes(level),
                index,
                width: WIDTH,
            };
            filled.push((tile, hashes_to_bytes(hashes)));
            hashes.clear();
        }
        filled
    }

    /// Its partial tiles of hashes, as they stand on disk.
    pub(crate) fn partial_tiles(&self) -> impl Iterator<Item = (Tile, Vec<u8>)> {
        Tile::edge(self.size).filter_map(|tile| match tile.kind {
            Kind::Hashes(level) => Some((tile, hashes_to_bytes(self.level(level)))),
            Kind::Entries => None,
        })
    }

    fn level_mut(&mut self, level: u32) -> Option<&mut Vec<Hash>> {
        self.levels.get_mut(usize::try_from(level).ok()?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_edge_and_the_compact_form_agree_on_the_root_at_every_size() {
        let mut edge = Edge::empty();
        let mut compact = Compact::default();
        let mut full = 0;
        for n in 0..66_000_u32 {
            let leaf = Hash::leaf(&n.to_be_bytes());
            full += edge.push(leaf).len();
            compact.push(leaf);
            if n % 97 == 0 || n % 256 > 253 || n > 65_530 && n < 65_540 {
                assert_eq!(edge.compact(), compact, "size {}", n + 1);
                assert_eq!(edge.compact().root(), compact.root(), "size {}", n + 1);
            }
        }
        assert_eq!(full, 66_000 / 256 + 1);
    }
}
