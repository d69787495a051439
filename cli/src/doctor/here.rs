//! This machine, or the pod that this runs in: whether its kernel can hold a sealed pod, and whether
//! the key that a sidecar's configuration names can be had from here.

use std::fs;
use std::io::{self, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;

use sealwire_keys::{KeyConfig, PrivateKey, Vault};
use sealwire_proxy::capture::CaptureSpec;
use sealwire_proxy::config::{Config, KeyIn, Ports, Settings};
use sealwire_proxy::pod::PodFacts;

use super::finding::Finding;

pub(super) fn look(config: Option<&Path>, facts: &PodFacts) -> Vec<Finding> {
    let settings = config.map(|path| (path, settings(path, facts)));
    let spec = match &settings {
        Some((_, Ok(settings))) => settings.capture.clone(),
        _ => anybodys(),
    };
    let mut findings = vec![nftables(&spec), landlock(), seccomp()];
    if let Some((path, settings)) = settings {
        let check = "configuration";
        match settings {
            Ok(settings) => {
                findings.push(Finding::good(check, format!("{} is good", path.display())));
                findings.push(key(&settings));
            }
            Err(problem) => findings.push(Finding::fault(
                check,
                problem,
                "docs/configuration.md has every key; sealwire-proxy check says the same",
            )),
        }
    }
    findings
}

fn settings(path: &Path, facts: &PodFacts) -> Result<Settings, String> {
    let config = Config::load(path).and_then(|config| config.for_pod(facts));
    config
        .and_then(Config::settings)
        .map_err(|error| error.to_string())
}

/// What the rules of any pod are made of.
fn anybodys() -> CaptureSpec {
    CaptureSpec {
        uid: 1337,
        ports: Ports::default(),
        mesh: Vec::new(),
        services: Vec::new(),
        exceptions: Vec::new(),
        own: Vec::new(),
        node: Vec::new(),
    }
}

/// Loads the rules into a network namespace that ends with this.
fn nftables(spec: &CaptureSpec) -> Finding {
    let check = "nftables in the kernel";
    match load(&spec.ruleset()) {
        Ok(()) => Finding::good(check, "takes the capture rules, in a namespace of its own"),
        Err(problem) => Finding::fault(
            check,
            problem,
            "needs the kernel's modules nf_tables, nft_nat, nft_redir, nft_fib_inet and nft_ct, the package nftables, \
             and, without root, user namespaces",
        ),
    }
}

fn load(ruleset: &str) -> Result<(), String> {
    let mut command = Command::new("unshare");
    if !rustix::process::geteuid().is_root() {
        command.args(["--user", "--map-root-user"]);
    }
    let failed = |error: io::Error| format!("unshare: {error}");
    let mut child = command
        .args(["--net", "nft", "--file", "-"])
        .env("TZ", "UTC")
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(failed)?;
    if let Some(mut stdin) = child.stdin.take() {
        // Whatever does not read all of it says why as it ends.
        let _ = stdin.write_all(ruleset.as_bytes());
    }
    let ended = child.wait_with_output().map_err(failed)?;
    if ended.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&ended.stderr);
    Err(said.lines().next().unwrap_or("nft failed").to_owned())
}

fn landlock() -> Finding {
    let check = "landlock";
    match fs::read_to_string("/sys/kernel/security/lsm") {
        Ok(list) if list.trim().split(',').any(|one| one == "landlock") => {
            Finding::good(check, "is there: the sidecar restricts its files and ports")
        }
        Ok(list) => Finding::warning(
            check,
            format!(
                "is not among the kernel's security modules ({})",
                list.trim()
            ),
            "boot with landlock in lsm=, or the sidecar does without and says so in /healthz",
        ),
        Err(error) => Finding::warning(
            check,
            format!("cannot be told: /sys/kernel/security/lsm: {error}"),
            "see confinement.landlock in a sidecar's /healthz",
        ),
    }
}

fn seccomp() -> Finding {
    let check = "seccomp";
    match fs::read_to_string("/proc/sys/kernel/seccomp/actions_avail") {
        Ok(actions) if actions.split_whitespace().any(|one| one == "errno") => {
            Finding::good(check, "is there: the sidecar restricts its system calls")
        }
        _ => Finding::warning(
            check,
            "is not in this kernel",
            "use a kernel with CONFIG_SECCOMP_FILTER, or the sidecar does without and says so in /healthz",
        ),
    }
}

/// Opens the key and has it sign once, as a sidecar does at its start.
fn key(settings: &Settings) -> Finding {
    let check = "key";
    let signed = open(settings).and_then(|key| {
        let scheme = key.schemes().first().copied();
        let scheme = scheme.ok_or("it signs in no way that TLS knows")?;
        let message = b"sealwire doctor";
        let signature = key
            .sign(scheme, message)
            .map_err(|error| error.to_string())?;
        if key.public_key().verifies(scheme, message, &signature) {
            Ok(key)
        } else {
            Err("its signature does not verify".to_owned())
        }
    });
    match signed {
        Ok(key) => Finding::good(check, format!("{} signs", key.reference())),
        Err(problem) => Finding::fault(
            check,
            problem,
            "docs/hsm.md and docs/vault.md say what a token and a login need",
        ),
    }
}

fn open(settings: &Settings) -> Result<Arc<dyn PrivateKey>, String> {
    let config = match &settings.key {
        KeyIn::Here(config) => config.clone(),
        KeyIn::Transit(transit) => {
            let vault = settings.vault.clone().ok_or("vault: missing")?;
            let session = Vault::start(vault).map_err(|error| error.to_string())?;
            KeyConfig::Transit(transit.with_session(session))
        }
    };
    sealwire_keys::open(&config).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ruleset_that_the_kernel_does_not_take_is_a_fault_with_its_words() {
        let refused = load("table inet x { chain y { nonsense } }").unwrap_err();
        assert!(refused.contains("Error"), "{refused}");
        load(&anybodys().ruleset()).unwrap();
    }

    #[test]
    fn a_configuration_that_is_wrong_is_named_and_nothing_is_opened() {
        let file = std::env::temp_dir().join("sealwire-doctor-no-such-file.yaml");
        let findings = look(Some(&file), &PodFacts::default());
        let last = findings.last().unwrap();
        assert_eq!(
            (last.check.as_str(), last.is_fault()),
            ("configuration", true)
        );
    }
}
