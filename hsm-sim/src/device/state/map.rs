//! The state file in memory, the same pages in every process. Only [`super::State`] is ever in it.

#![allow(
    unsafe_code,
    reason = "memory shared with other processes is outside of what the compiler can check"
)]

use std::fmt;
use std::fs::File;
use std::io;
use std::ops::Deref;
use std::ptr::{self, NonNull};

use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

use super::State;

/// The mapped file.
pub(crate) struct Map(NonNull<State>);

impl Map {
    /// Maps a file, made as long as it has to be. Nobody ever shortens it.
    pub(super) fn new(file: &File) -> io::Result<Self> {
        let length = size_of::<State>() as u64;
        if file.metadata()?.len() < length {
            file.set_len(length)?;
        }
        // SAFETY: a new mapping at an address of the kernel's choice aliases nothing in this
        // process, and the file is as long as the mapping.
        let address = unsafe {
            mmap(
                ptr::null_mut(),
                size_of::<State>(),
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::SHARED,
                file,
                0,
            )
        }?;
        NonNull::new(address.cast())
            .map(Self)
            .ok_or_else(|| io::Error::other("mapped at address 0"))
    }
}

impl Drop for Map {
    fn drop(&mut self) {
        // SAFETY: the mapping is this value's own, and nobody can borrow from it any more.
        // A failure leaves it mapped, which harms nobody.
        let _ = unsafe { munmap(self.0.as_ptr().cast(), size_of::<State>()) };
    }
}

impl Deref for Map {
    type Target = State;

    fn deref(&self) -> &State {
        // SAFETY: the mapping is page-aligned, as long as a `State` and lives as long as `self`;
        // a `State` is made of atomics alone, for which every bit pattern is valid and which
        // other processes may change at any time.
        unsafe { self.0.as_ref() }
    }
}

impl fmt::Debug for Map {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Map").finish_non_exhaustive()
    }
}

// SAFETY: the mapping belongs to the process, not to a thread.
unsafe impl Send for Map {}
// SAFETY: whatever is reachable through a shared reference is atomic.
unsafe impl Sync for Map {}
