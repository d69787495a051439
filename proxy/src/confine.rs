//! The proxy locks itself in before it does anything else: no core dumps, no new privileges,
//! landlock for files and ports, seccomp for system calls.
//!
//! It does so before the vendor's PKCS#11 module is loaded and before any thread exists. Landlock
//! binds the calling thread and those it starts later, so it has to come first; a module loaded
//! inside is confined as well; and recovery reloads the module inside anyway. What a module needs
//! beyond the system's directories is named in the configuration.

mod landlock;
mod seccomp;

use std::path::PathBuf;

use rustix::process::{DumpableBehavior, Resource, Rlimit};
use serde::Serialize;

/// What to restrict.
#[derive(Clone, Debug, Default)]
pub struct Confinement {
    /// Restrict files and ports.
    pub landlock: bool,
    /// Restrict system calls.
    pub seccomp: bool,
    /// Files and directories that may be read beside the system's.
    pub read: Vec<PathBuf>,
    /// Files and directories that may be written.
    pub write: Vec<PathBuf>,
}

/// What is in force, for health, logs and evidence.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// No core dumps, and no other process of the same user may look inside.
    pub not_dumpable: Measure,
    /// No program started from here could gain privileges.
    pub no_new_privileges: Measure,
    /// Files and ports.
    pub landlock: Measure,
    /// System calls.
    pub seccomp: Measure,
}

/// Whether a measure is in force.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "state", content = "why")]
pub enum Measure {
    /// In force.
    On,
    /// In force as far as this kernel knows it.
    Partial(String),
    /// Not in force.
    Off(String),
}

impl Measure {
    fn of<E: std::fmt::Display>(result: Result<(), E>) -> Self {
        match result {
            Ok(()) => Self::On,
            Err(error) => Self::Off(error.to_string()),
        }
    }
}

impl Report {
    /// The measures that are not wholly in force, by name.
    pub fn gaps(&self) -> Vec<(&'static str, &Measure)> {
        let all = [
            ("not_dumpable", &self.not_dumpable),
            ("no_new_privileges", &self.no_new_privileges),
            ("landlock", &self.landlock),
            ("seccomp", &self.seccomp),
        ];
        all.into_iter()
            .filter(|(_, measure)| **measure != Measure::On)
            .collect()
    }
}

/// Locks the process in. To be called while it has one thread.
pub fn confine(confinement: &Confinement) -> Report {
    let no_core = Rlimit {
        current: Some(0),
        maximum: Some(0),
    };
    let off = || Measure::Off("switched off in the configuration".to_owned());
    Report {
        not_dumpable: Measure::of(
            rustix::process::setrlimit(Resource::Core, no_core).and_then(|()| {
                rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable)
            }),
        ),
        no_new_privileges: Measure::of(rustix::thread::set_no_new_privs(true)),
        landlock: if confinement.landlock {
            landlock::restrict(confinement)
        } else {
            off()
        },
        seccomp: if confinement.seccomp {
            Measure::of(seccomp::restrict())
        } else {
            off()
        },
    }
}
