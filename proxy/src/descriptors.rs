//! File descriptors: as many as the configured connections take, as far as the system allows.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::planes;

/// What the process holds beside connections: listeners, logs, the module's files, the runtime's;
/// and the connections of three HTTP planes, on two sockets each.
const OTHERS: usize = 256 + 6 * planes::CONNECTIONS;

/// Raises the soft limit to what `connections` need; each has a socket on either side.
///
/// # Errors
/// What is missing, in words, when the hard limit is lower.
pub(crate) fn raise_limit(connections: usize) -> Result<(), String> {
    let needed = connections.saturating_mul(2).saturating_add(OTHERS);
    let needed = u64::try_from(needed).unwrap_or(u64::MAX);
    let limit = getrlimit(Resource::Nofile);
    if limit.current.is_none_or(|soft| soft >= needed) {
        return Ok(());
    }
    let reachable = limit.maximum.map_or(needed, |hard| hard.min(needed));
    let raised = Rlimit {
        current: Some(reachable),
        maximum: limit.maximum,
    };
    setrlimit(Resource::Nofile, raised)
        .map_err(|error| format!("cannot raise the limit of descriptors: {error}"))?;
    if reachable < needed {
        return Err(format!(
            "limits.connections needs {needed} file descriptors, the system allows {reachable}: raise the container's \
             nofile limit, or lower limits.connections"
        ));
    }
    Ok(())
}
