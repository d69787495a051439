//! Tiles and bundles of C2SP tlog-tiles: where they are, how wide they are, what is in them.

use std::path::{Path, PathBuf};

use crate::merkle::{HASH, Hash};

/// Width of a full tile, in hashes, and of a full bundle, in entries.
pub(crate) const WIDTH: u64 = 256;

/// The highest level that a tree of 2^63 leaves needs.
pub(crate) const LEVELS: u32 = 8;

/// Most records that a log can have: more than any, and few enough to calculate with.
pub(crate) const MOST_RECORDS: u64 = 1 << 53;

/// Where a tile or a bundle stands.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) enum Kind {
    /// A bundle of entries.
    Entries,
    /// A tile of hashes, at its level.
    Hashes(u32),
}

/// A tile or a bundle.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) struct Tile {
    pub(crate) kind: Kind,
    /// Its number in its level.
    pub(crate) index: u64,
    /// How many hashes or entries it has: 1 to [`WIDTH`].
    pub(crate) width: u64,
}

impl Tile {
    /// Every tile and the bundle that hold the right edge of a tree of `size` leaves, and so are not
    /// full; lowest level first, the bundle before all.
    pub(crate) fn edge(size: u64) -> impl Iterator<Item = Self> {
        let entries = Self::partial(Kind::Entries, size);
        let hashes = (0..LEVELS).map(move |level| Self::partial(Kind::Hashes(level), size));
        std::iter::once(entries).chain(hashes).flatten()
    }

    /// How many complete hashes a level has in a tree of `size` leaves.
    pub(crate) fn hashes(level: u32, size: u64) -> u64 {
        size.checked_shr(8 * level).unwrap_or(0)
    }

    fn partial(kind: Kind, size: u64) -> Option<Self> {
        let hashes = match kind {
            Kind::Entries => size,
            Kind::Hashes(level) => Self::hashes(level, size),
        };
        let width = hashes % WIDTH;
        (width > 0).then_some(Self {
            kind,
            index: hashes / WIDTH,
            width,
        })
    }

    /// Where it is, from the log's directory.
    pub(crate) fn path(&self) -> PathBuf {
        let mut path = self.full_path().into_os_string();
        if self.width < WIDTH {
            path.push(format!(".p/{}", self.width));
        }
        path.into()
    }

    /// Where it is once it is full.
    pub(crate) fn full_path(&self) -> PathBuf {
        let mut path = PathBuf::from("tile");
        match self.kind {
            Kind::Entries => path.push("entries"),
            Kind::Hashes(level) => path.push(level.to_string()),
        }
        let mut groups = Vec::new();
        let mut rest = self.index;
        loop {
            groups.push(rest % 1000);
            rest /= 1000;
            if rest == 0 {
                break;
            }
        }
        for (place, group) in groups.iter().enumerate().rev() {
            let mark = if place == 0 { "" } else { "x" };
            path.push(format!("{mark}{group:03}"));
        }
        path
    }

    /// Which tile a path, from the log's directory, is of; none when it is of none.
    pub(crate) fn at(path: &Path) -> Option<Self> {
        let parts: Option<Vec<&str>> = path.iter().map(|part| part.to_str()).collect();
        let parts = parts?;
        let (kind, numbers) = match parts.as_slice() {
            ["tile", "entries", numbers @ ..] => (Kind::Entries, numbers),
            ["tile", level, numbers @ ..] => (Kind::Hashes(level.parse().ok()?), numbers),
            _ => return None,
        };
        let (numbers, width) = match numbers {
            [front @ .., last, width] if last.ends_with(".p") => {
                let last = last.trim_end_matches(".p");
                ([front, &[last]].concat(), width.parse().ok()?)
            }
            all => (all.to_vec(), WIDTH),
        };
        let mut index: u64 = 0;
        for number in &numbers {
            let digits = number.trim_start_matches('x').parse::<u64>().ok()?;
            index = index.checked_mul(1000)?.checked_add(digits)?;
        }
        let tile = Self { kind, index, width };
        let exists = match kind {
            Kind::Entries => true,
            Kind::Hashes(level) => level < LEVELS,
        };
        // One way of writing it, and no other.
        let exact = index < MOST_RECORDS / WIDTH
            && (1..=WIDTH).contains(&width)
            && exists
            && tile.path() == path;
        exact.then_some(tile)
    }
}

/// Hashes as a tile holds them.
pub(crate) fn hashes_to_bytes(hashes: &[Hash]) -> Vec<u8> {
    hashes.iter().flat_map(|hash| hash.0).collect()
}

/// A tile's hashes; none when it does not have `width` of them.
pub(crate) fn hashes_from_bytes(bytes: &[u8], width: u64) -> Option<Vec<Hash>> {
    let hashes: Vec<Hash> = bytes
        .chunks_exact(HASH)
        .filter_map(|chunk| chunk.try_into().ok().map(Hash))
        .collect();
    let whole = bytes.len() == hashes.len() * HASH;
    (whole && u64::try_from(hashes.len()).ok() == Some(width)).then_some(hashes)
}

/// Adds an entry to a bundle. Entries are at most 65,535 bytes long.
pub(crate) fn add_entry(bundle: &mut Vec<u8>, entry: &[u8]) {
    let length = u16::try_from(entry.len()).unwrap_or(u16::MAX);
    bundle.extend_from_slice(&length.to_be_bytes());
    bundle.extend_from_slice(entry.get(..usize::from(length)).unwrap_or_default());
}

/// The entries of a bundle, and how many bytes are left over at its end.
pub(crate) fn entries_of(bundle: &[u8]) -> (Vec<&[u8]>, usize) {
    let mut entries = Vec::new();
    let mut rest = bundle;
    while let Some((entry, after)) = split_entry(rest) {
        entries.push(entry);
        rest = after;
    }
    (entries, rest.len())
}

fn split_entry(bundle: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = bundle.split_first_chunk::<2>()?;
    rest.split_at_checked(usize::from(u16::from_be_bytes(*length)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn paths_are_those_of_the_specification() {
        let tile = |kind, index, width| Tile { kind, index, width };
        let path = |tile: Tile| tile.path().to_str().unwrap().to_owned();
        assert_eq!(
            path(tile(Kind::Hashes(0), 1_234_067, 256)),
            "tile/0/x001/x234/067"
        );
        assert_eq!(path(tile(Kind::Hashes(1), 5, 17)), "tile/1/005.p/17");
        assert_eq!(path(tile(Kind::Entries, 0, 1)), "tile/entries/000.p/1");
    }

    #[test]
    fn a_tree_of_70000_leaves_has_the_partial_tiles_that_the_specification_names() {
        let widths: Vec<(Kind, u64, u64)> = Tile::edge(70_000)
            .map(|tile| (tile.kind, tile.index, tile.width))
            .collect();
        assert_eq!(
            widths,
            [
                (Kind::Entries, 273, 112),
                (Kind::Hashes(0), 273, 112),
                (Kind::Hashes(1), 1, 17),
                (Kind::Hashes(2), 0, 1),
            ]
        );
    }

    #[test]
    fn what_no_log_can_have_is_no_tile() {
        for path in [
            "tile/8/000",
            "tile/4294967295/000",
            "tile/entries/x999/x999/x999/x999/x999/999",
            "tile/0/000.p/0",
            "tile/0/000.p/256",
            "tile/0/0",
            "tile/00/000",
            "tile/0/000.new",
        ] {
            assert_eq!(Tile::at(Path::new(path)), None, "{path}");
        }
    }

    proptest! {
        #[test]
        fn a_path_leads_back_to_its_tile(index in any::<u64>(), width in 1..=WIDTH, level in 0..LEVELS, entries in any::<bool>()) {
            let kind = if entries { Kind::Entries } else { Kind::Hashes(level) };
            let tile = Tile { kind, index: index % (MOST_RECORDS / WIDTH), width };
            prop_assert_eq!(Tile::at(&tile.path()), Some(tile));
        }

        #[test]
        fn entries_come_out_of_a_bundle_as_they_went_in(entries in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..300), 0..20)) {
            let mut bundle = Vec::new();
            for entry in &entries {
                add_entry(&mut bundle, entry);
            }
            let (read, rest) = entries_of(&bundle);
            prop_assert_eq!(read, entries);
            prop_assert_eq!(rest, 0);
        }

        #[test]
        fn arbitrary_bytes_are_split_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let (entries, rest) = entries_of(&bytes);
            let used: usize = entries.iter().map(|entry| entry.len() + 2).sum();
            prop_assert_eq!(used + rest, bytes.len());
        }
    }
}
