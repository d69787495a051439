//! Files and ports. Everything is closed but what the process needs; older kernels close less,
//! and the report says so.

use std::path::Path;

use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, NetPort, PathBeneath, PathFd, Ruleset, RulesetAttr,
    RulesetCreated, RulesetCreatedAttr, RulesetError, RulesetStatus,
};

use super::{Confinement, Measure};

/// What the loader, the time zone and a PKCS#11 module read of a system.
const SYSTEM: [&str; 8] = [
    "/usr",
    "/lib",
    "/lib64",
    "/etc",
    "/dev/urandom",
    "/dev/null",
    "/proc/self",
    "/proc/sys",
];

/// The newest interface that the rules are written for.
const WANTED: ABI = ABI::V5;

pub(super) fn restrict(confinement: &Confinement) -> Measure {
    match try_restrict(confinement) {
        Ok(RulesetStatus::FullyEnforced) => Measure::On,
        Ok(RulesetStatus::PartiallyEnforced) => {
            Measure::Partial("this kernel knows a part of it".to_owned())
        }
        Ok(RulesetStatus::NotEnforced) => Measure::Off("this kernel has no landlock".to_owned()),
        Err(error) => Measure::Off(error.to_string()),
    }
}

fn try_restrict(confinement: &Confinement) -> Result<RulesetStatus, RulesetError> {
    let read = AccessFs::ReadFile | AccessFs::ReadDir;
    let write = AccessFs::from_all(WANTED) & !AccessFs::Execute;
    let mut ruleset = Ruleset::default()
        .handle_access(AccessFs::from_all(WANTED))?
        .handle_access(AccessNet::BindTcp)?
        .create()?
        // A free port, for connections that leave. The listeners are open already.
        .add_rule(NetPort::new(0, AccessNet::BindTcp))?;
    for path in SYSTEM
        .iter()
        .map(Path::new)
        .chain(confinement.read.iter().map(AsRef::as_ref))
    {
        ruleset = allow(ruleset, path, read)?;
    }
    for path in &confinement.write {
        ruleset = allow(ruleset, path, write)?;
    }
    Ok(ruleset.restrict_self()?.ruleset)
}

/// A path that is not there needs no rule: what is not allowed stays closed.
fn allow(
    ruleset: RulesetCreated,
    path: &Path,
    access: BitFlags<AccessFs>,
) -> Result<RulesetCreated, RulesetError> {
    let Ok(descriptor) = PathFd::new(path) else {
        return Ok(ruleset);
    };
    let access = if path.is_dir() {
        access
    } else {
        access & AccessFs::from_file(WANTED)
    };
    ruleset.add_rule(PathBeneath::new(descriptor, access))
}
