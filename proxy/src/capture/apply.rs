//! Putting the rules into the kernel, and taking them out. Needs NET_ADMIN in the pod's network
//! namespace: for the init container alone.

use std::io::{self, Write};
use std::path::Path;
use std::process::{Command, Stdio};

use super::{CaptureSpec, TABLE};

/// Where programs are looked for: never along a PATH that somebody else may have set.
const DIRECTORIES: [&str; 4] = ["/usr/sbin", "/sbin", "/usr/bin", "/bin"];

/// Why the rules could not be changed.
#[derive(Debug, thiserror::Error)]
pub enum CaptureError {
    /// A program is missing.
    #[error("{program} is missing: install the package {package} in this image")]
    Missing {
        /// The program.
        program: &'static str,
        /// The Debian package that has it.
        package: &'static str,
    },
    /// A program could not be run.
    #[error("cannot run {program}: {source}")]
    Run {
        /// The program.
        program: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// The kernel refused; the rules that were there before are untouched.
    #[error(
        "{program} failed: {message}: this needs the capability NET_ADMIN in the pod's network namespace (an init container has it)"
    )]
    Refused {
        /// The program.
        program: &'static str,
        /// What it said.
        message: String,
    },
}

/// Replaces the pod's rules in one step, and gives loopback the address that inbound IPv6
/// connections are handed over from.
///
/// # Errors
/// See [`CaptureError`].
pub fn apply(spec: &CaptureSpec) -> Result<(), CaptureError> {
    nft(&spec.ruleset())?;
    if Path::new("/proc/sys/net/ipv6").exists() {
        run(
            "ip",
            "iproute2",
            &["-6", "address", "replace", "::6/128", "dev", "lo", "nodad"],
            "",
        )?;
    }
    Ok(())
}

/// Removes the pod's rules; nothing is captured any more, and nothing sealed.
///
/// # Errors
/// See [`CaptureError`].
pub fn remove() -> Result<(), CaptureError> {
    nft(&format!("table inet {TABLE}\ndelete table inet {TABLE}\n"))
}

fn nft(ruleset: &str) -> Result<(), CaptureError> {
    run("nft", "nftables", &["--file", "-"], ruleset)
}

fn run(
    program: &'static str,
    package: &'static str,
    arguments: &[&str],
    input: &str,
) -> Result<(), CaptureError> {
    let path = DIRECTORIES
        .iter()
        .map(|directory| Path::new(directory).join(program))
        .find(|path| path.exists())
        .ok_or(CaptureError::Missing { program, package })?;
    let failed = |source| CaptureError::Run { program, source };
    let mut child = Command::new(path)
        .args(arguments)
        // nft reads times in the local zone.
        .env("TZ", "UTC")
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(failed)?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(input.as_bytes()).map_err(failed)?;
    }
    let output = child.wait_with_output().map_err(failed)?;
    if output.status.success() {
        return Ok(());
    }
    Err(CaptureError::Refused {
        program,
        message: String::from_utf8_lossy(&output.stderr).trim().to_owned(),
    })
}
