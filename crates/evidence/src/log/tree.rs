//! A log's tree as its reader sees it: no hash is believed that does not lead to the checkpoint's
//! root. Holds one tile a level.

use std::fs;
use std::path::{Path, PathBuf};

use super::edge::Edge;
use super::{CHECKPOINT, LogError, read};
use crate::merkle::{Hash, root_of};
use crate::note::Checkpoint;
use crate::tile::{Kind, LEVELS, Tile, WIDTH, entries_of, hashes_from_bytes};

/// Files under `tile/` that belong to no tile and are named. Whoever made the directory may have put
/// any number there.
const MOST_OTHERS: usize = 1000;

/// A tree that is being read.
#[derive(Debug)]
pub(crate) struct Tree {
    directory: PathBuf,
    edge: Edge,
    /// The proven tile that was read last, of each level.
    cache: Vec<Option<(u64, Vec<Hash>)>>,
}

/// What is wrong with a tile or a bundle.
#[derive(Debug)]
pub(crate) enum TreeError {
    /// It is not there.
    Missing(Tile),
    /// It has not the form of one.
    Malformed(Tile),
    /// It is not what the checkpoint was made of.
    Differs(Tile),
    /// A bundle has an entry that is not the one that was signed.
    Entry { bundle: Tile, at: usize },
    /// The tree's edge does not lead to the checkpoint's root.
    Root { found: Hash },
    /// It cannot be read.
    Unreadable(LogError),
}

impl TreeError {
    /// The same to whoever reads a log in this directory and does not look further.
    pub(crate) fn into_log_error(self, directory: &Path) -> LogError {
        let of =
            |tile: Tile, problem: &str| LogError::damaged(directory.join(tile.path()), problem);
        match self {
            Self::Missing(tile) => of(tile, "it is not there"),
            Self::Malformed(tile) => of(tile, "it has not the form that its name says"),
            Self::Differs(tile) => of(tile, "it is not the one that was signed"),
            Self::Entry { bundle, at } => of(
                bundle,
                &format!("entry {at} in it is not the one that was signed"),
            ),
            Self::Root { found } => LogError::damaged(
                directory.join(CHECKPOINT),
                format!("the tiles lead to the root {found}, it names another"),
            ),
            Self::Unreadable(error) => error,
        }
    }
}

impl Tree {
    /// The tree of a checkpoint.
    pub(crate) fn open(directory: &Path, checkpoint: &Checkpoint) -> Result<Self, TreeError> {
        let edge = Edge::load(
            checkpoint.size,
            |tile| read_tile(directory, tile),
            TreeError::Malformed,
        )?;
        let found = edge.compact().root();
        if found != checkpoint.root {
            return Err(TreeError::Root { found });
        }
        Ok(Self::of(directory, edge))
    }

    /// The tree with this edge, which needs no proof.
    pub(crate) fn of(directory: &Path, edge: Edge) -> Self {
        Self {
            directory: directory.to_owned(),
            edge,
            cache: vec![None; usize::try_from(LEVELS).unwrap_or_default()],
        }
    }

    /// The hashes of a tile, proven to belong to the tree.
    pub(crate) fn hashes(&mut self, level: u32, index: u64) -> Result<&[Hash], TreeError> {
        if index == Tile::hashes(level, self.edge.size()) / WIDTH {
            return Ok(self.edge.level(level));
        }
        let place = usize::try_from(level).unwrap_or(usize::MAX);
        let cached = self.cache.get(place).and_then(Option::as_ref);
        if cached.is_none_or(|(cached, _)| *cached != index) {
            let tile = Tile {
                kind: Kind::Hashes(level),
                index,
                width: WIDTH,
            };
            let above = self.hashes(level + 1, index / WIDTH)?;
            let nth = usize::try_from(index % WIDTH).unwrap_or(usize::MAX);
            let wanted = *above.get(nth).ok_or(TreeError::Missing(tile))?;
            let bytes = read_tile(&self.directory, tile)?;
            let hashes = hashes_from_bytes(&bytes, WIDTH).ok_or(TreeError::Malformed(tile))?;
            if root_of(&hashes) != wanted {
                return Err(TreeError::Differs(tile));
            }
            if let Some(slot) = self.cache.get_mut(place) {
                *slot = Some((index, hashes));
            }
        }
        let cached = self.cache.get(place).and_then(Option::as_ref);
        Ok(cached
            .map(|(_, hashes)| hashes.as_slice())
            .unwrap_or_default())
    }

    /// The bundle with this number.
    pub(crate) fn bundle(&self, index: u64) -> Tile {
        let size = self.edge.size();
        let width = if index == size / WIDTH {
            size % WIDTH
        } else {
            WIDTH
        };
        Tile {
            kind: Kind::Entries,
            index,
            width,
        }
    }

    /// The entries of a bundle, each proven to belong to the tree.
    pub(crate) fn entries(&mut self, bundle: Tile) -> Result<Vec<Vec<u8>>, TreeError> {
        let bytes = read_tile(&self.directory, bundle)?;
        let (entries, rest) = entries_of(&bytes);
        let wanted = usize::try_from(bundle.width).unwrap_or(usize::MAX);
        if rest > 0 || entries.len() < wanted {
            return Err(TreeError::Malformed(bundle));
        }
        let hashes = self.hashes(0, bundle.index)?;
        let entries = || entries.iter().take(wanted);
        let differs = entries()
            .zip(hashes)
            .position(|(entry, hash)| Hash::leaf(entry) != *hash);
        match differs {
            Some(at) => Err(TreeError::Entry { bundle, at }),
            None => Ok(entries().map(|entry| entry.to_vec()).collect()),
        }
    }
}

/// What is in a tile's file, or in that of a wider tile with the same index.
fn read_tile(directory: &Path, tile: Tile) -> Result<Vec<u8>, TreeError> {
    let at = |path: PathBuf| read(&directory.join(path)).map_err(TreeError::Unreadable);
    if let Some(bytes) = at(tile.path())? {
        return Ok(bytes);
    }
    if let Some(bytes) = at(tile.full_path())? {
        return Ok(bytes);
    }
    let wider = (tile.width + 1..WIDTH).map(|width| Tile { width, ..tile });
    for wider in wider {
        if let Some(bytes) = at(wider.path())? {
            return Ok(bytes);
        }
    }
    Err(TreeError::Missing(tile))
}

/// Every tile and bundle that a log has, and files under `tile/` that are none. Links to directories
/// are among those: they may lead round in circles.
pub(crate) fn tiles_in(directory: &Path) -> Result<(Vec<Tile>, Vec<PathBuf>), LogError> {
    let mut tiles = Vec::new();
    let mut others = Vec::new();
    let mut waiting = vec![PathBuf::from("tile")];
    while let Some(folder) = waiting.pop() {
        let path = directory.join(&folder);
        let listed = match fs::read_dir(&path) {
            Ok(listed) => listed,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            Err(error) => return Err(super::files::storage(&path, "list")(error)),
        };
        for entry in listed {
            let entry = entry.map_err(super::files::storage(&path, "list"))?;
            let name = folder.join(entry.file_name());
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                waiting.push(name);
            } else if let Some(tile) = Tile::at(&name) {
                tiles.push(tile);
            } else if others.len() < MOST_OTHERS {
                others.push(name);
            }
        }
    }
    tiles.sort_unstable();
    others.sort_unstable();
    Ok((tiles, others))
}
