//! The Merkle tree of RFC 6962 section 2.1, with SHA-256: hashes, and the compact form of a tree
//! from which its root can be had and to which leaves can be added.
//!
//! Our own, because the crates for it bring a second cryptographic library along; it is short, and
//! it is checked against the definition in the RFC and against independent programs.

use std::fmt;

use aws_lc_rs::digest::{Context, SHA256};
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;

/// Length of a hash, in bytes.
pub(crate) const HASH: usize = 32;

/// A node of the tree.
#[derive(Clone, Copy, Eq, Hash, PartialEq)]
pub struct Hash(pub(crate) [u8; HASH]);

impl Hash {
    /// The hash of a leaf.
    pub(crate) fn leaf(entry: &[u8]) -> Self {
        Self::digest(&[&[0], entry])
    }

    /// The hash of an inner node.
    pub(crate) fn node(left: &Self, right: &Self) -> Self {
        Self::digest(&[&[1], &left.0, &right.0])
    }

    /// The root of the empty tree.
    pub(crate) fn empty() -> Self {
        Self::digest(&[])
    }

    /// From base64, as strict as it goes.
    pub(crate) fn from_base64(text: &str) -> Option<Self> {
        BASE64.decode(text).ok()?.try_into().ok().map(Self)
    }

    fn digest(parts: &[&[u8]]) -> Self {
        let mut context = Context::new(&SHA256);
        for part in parts {
            context.update(part);
        }
        let mut hash = [0; HASH];
        hash.copy_from_slice(context.finish().as_ref());
        Self(hash)
    }
}

/// In base64, as checkpoints have it.
impl fmt::Display for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&BASE64.encode(self.0))
    }
}

impl fmt::Debug for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Hash({self})")
    }
}

/// A tree in compact form: the roots of the largest complete subtrees, from left to right, one for
/// each bit that is set in its size.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct Compact {
    size: u64,
    /// Largest first.
    roots: Vec<Hash>,
}

impl Compact {
    /// A tree of `size` leaves with these subtrees; none when their number does not fit.
    pub(crate) fn new(size: u64, roots: Vec<Hash>) -> Option<Self> {
        let wanted = usize::try_from(size.count_ones()).ok()?;
        (roots.len() == wanted).then_some(Self { size, roots })
    }

    /// How many leaves it has.
    pub(crate) fn size(&self) -> u64 {
        self.size
    }

    /// Adds a leaf.
    pub(crate) fn push(&mut self, leaf: Hash) {
        let mut node = leaf;
        // As many complete subtrees end here as the size has ones at its end.
        for _ in 0..self.size.trailing_ones() {
            if let Some(left) = self.roots.pop() {
                node = Hash::node(&left, &node);
            }
        }
        self.roots.push(node);
        self.size += 1;
    }

    /// The root of the tree.
    pub(crate) fn root(&self) -> Hash {
        let mut roots = self.roots.iter().rev();
        let Some(last) = roots.next() else {
            return Hash::empty();
        };
        roots.fold(*last, |right, left| Hash::node(left, &right))
    }
}

/// The root of a complete subtree, or of any other list of nodes as RFC 6962 has it.
pub(crate) fn root_of(nodes: &[Hash]) -> Hash {
    let mut tree = Compact::default();
    for node in nodes {
        tree.push(*node);
    }
    tree.root()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 6962 section 2.1, word for word.
    fn by_definition(entries: &[Vec<u8>]) -> Hash {
        match entries {
            [] => Hash::empty(),
            [one] => Hash::leaf(one),
            several => {
                let mut split = 1;
                while split * 2 < several.len() {
                    split *= 2;
                }
                let (left, right) = several.split_at(split);
                Hash::node(&by_definition(left), &by_definition(right))
            }
        }
    }

    #[test]
    fn roots_are_those_of_the_definition_at_every_size() {
        let entries: Vec<Vec<u8>> = (0..600_u32).map(|n| n.to_be_bytes().to_vec()).collect();
        let mut tree = Compact::default();
        for size in 0..entries.len() {
            assert_eq!(tree.root(), by_definition(&entries[..size]), "size {size}");
            tree.push(Hash::leaf(&entries[size]));
        }
    }

    #[test]
    fn the_empty_tree_has_the_digest_of_nothing() {
        assert_eq!(
            Hash::empty().to_string(),
            "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU="
        );
    }
}
