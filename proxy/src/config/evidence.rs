//! The section about evidence, checked.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Duration;

use sealwire_evidence::record::Pod;

use super::{Config, ConfigError, PodSection};

/// Longest value that a file of the downward API may hold; the names of Kubernetes are shorter.
const MAX_VALUE: u64 = 1024;

/// How evidence is written.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct EvidenceSettings {
    /// Directory of the log.
    pub directory: PathBuf,
    /// How long a window is.
    pub window: Duration,
    /// How often the key's home is asked for custody.
    pub custody: Duration,
    /// Whether nothing may flow without evidence.
    pub required: bool,
    /// For how long records are kept.
    pub keep: Duration,
    /// Bytes that the log may take.
    pub bytes: u64,
    /// Which pod this is, as far as it is written.
    pub pod: PodSection,
}

impl Config {
    /// Checks the section.
    pub(super) fn evidence(&self) -> Result<Option<EvidenceSettings>, ConfigError> {
        let Some(section) = &self.evidence else {
            return Ok(None);
        };
        let wrong = |field: &str, problem: String, fix: &str| {
            Err(ConfigError::invalid(
                format!("evidence.{field}"),
                problem,
                fix,
            ))
        };
        if !section.directory.is_absolute() {
            let problem = format!("{} is not absolute", section.directory.display());
            return wrong("directory", problem, "write the whole path");
        }
        if !(1..=3600).contains(&section.window_seconds) {
            let problem = format!("{} is not between 1 and 3600", section.window_seconds);
            return wrong("windowSeconds", problem, "60 is what reports expect");
        }
        if section.custody_seconds < section.window_seconds {
            let problem = format!("{} is less than a window", section.custody_seconds);
            return wrong("custodySeconds", problem, "use at least windowSeconds");
        }
        let retention = section.retention;
        if retention.hours == 0 || retention.hours > 24 * 366 * 20 {
            let problem = format!("{} is not between 1 and twenty years", retention.hours);
            return wrong("retention.hours", problem, "720 is a month");
        }
        if retention.bytes < MIN_BYTES {
            let problem = format!("{} is less than {MIN_BYTES}", retention.bytes);
            return wrong("retention.bytes", problem, "1073741824 is a gibibyte");
        }
        Ok(Some(EvidenceSettings {
            directory: section.directory.clone(),
            window: Duration::from_secs(section.window_seconds),
            custody: Duration::from_secs(section.custody_seconds),
            required: section.required,
            keep: Duration::from_secs(retention.hours * 3600),
            bytes: retention.bytes,
            pod: section.pod.clone(),
        }))
    }
}

/// With less, a log would lose windows of the same hour.
const MIN_BYTES: u64 = 4 * 1024 * 1024;

impl EvidenceSettings {
    /// Which pod this is. Reads files: for the start only.
    ///
    /// # Errors
    /// When a file of the downward API is missing or holds no name.
    pub fn pod(&self, node: Option<&str>) -> Result<Pod, ConfigError> {
        let section = &self.pod;
        let said = |name: &'static str, value: &Option<String>| match (value, &section.directory) {
            (Some(value), _) => Ok(Some(value.clone())),
            (None, Some(directory)) => read(name, &directory.join(name)).map(Some),
            (None, None) => Ok(None),
        };
        // The downward API has no file for it.
        let there = |directory: &PathBuf| directory.join("node").exists();
        let node_said = match node {
            Some(node) => Some(node.to_owned()),
            None if section.directory.as_ref().is_some_and(there) => said("node", &section.node)?,
            None => section.node.clone(),
        };
        Ok(Pod {
            namespace: said("namespace", &section.namespace)?.unwrap_or_default(),
            name: match said("name", &section.name)? {
                Some(name) => name,
                None => read("name", Path::new("/proc/sys/kernel/hostname"))?,
            },
            uid: said("uid", &section.uid)?.unwrap_or_default(),
            node: node_said.unwrap_or_default(),
        })
    }
}

fn read(name: &str, path: &Path) -> Result<String, ConfigError> {
    let wrong = |problem: &dyn std::fmt::Display| {
        ConfigError::invalid(
            format!("evidence.pod.{name}"),
            format!("{}: {problem}", path.display()),
            "mount the downward API there, or write the value",
        )
    };
    let mut text = String::new();
    File::open(path)
        .and_then(|file| file.take(MAX_VALUE).read_to_string(&mut text))
        .map_err(|error| wrong(&error))?;
    let value = text.trim();
    if value.is_empty() || value.chars().any(char::is_control) {
        return Err(wrong(&"empty, or more than one line"));
    }
    Ok(value.to_owned())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const EXAMPLE: &str = include_str!("example.yaml");

    fn settings(section: &str) -> Result<EvidenceSettings, ConfigError> {
        let text = format!("{EXAMPLE}\nevidence: {{ {section} }}\n");
        Ok(Config::parse(&text)?.settings()?.evidence.unwrap())
    }

    #[test]
    fn a_log_needs_no_more_than_a_directory() {
        let settings = settings("directory: /evidence").unwrap();
        assert_eq!(settings.window, Duration::from_secs(60));
        assert!(!settings.required);
    }

    #[test]
    fn what_could_not_work_is_refused_with_its_field() {
        for (section, field) in [
            ("directory: evidence", "evidence.directory"),
            ("directory: /e, windowSeconds: 0", "evidence.windowSeconds"),
            (
                "directory: /e, windowSeconds: 9000",
                "evidence.windowSeconds",
            ),
            (
                "directory: /e, custodySeconds: 5",
                "evidence.custodySeconds",
            ),
            (
                "directory: /e, retention: { hours: 0 }",
                "evidence.retention.hours",
            ),
            (
                "directory: /e, retention: { bytes: 9 }",
                "evidence.retention.bytes",
            ),
            ("directory: /e, sign: false", "sign"),
            ("windowSeconds: 60", "directory"),
        ] {
            let message = settings(section).unwrap_err().to_string();
            assert!(message.contains(field), "{section}: {message}");
        }
    }

    #[test]
    fn the_pod_is_what_the_downward_api_says_unless_the_configuration_does() {
        let directory = tempfile::tempdir().unwrap();
        for (name, value) in [("namespace", "shop\n"), ("name", "web-7"), ("uid", "4f1c")] {
            fs::write(directory.path().join(name), value).unwrap();
        }
        let section = format!(
            "directory: /e, pod: {{ directory: {}, name: other }}",
            directory.path().display()
        );
        let pod = settings(&section).unwrap().pod(Some("node-1")).unwrap();
        let expected = Pod {
            namespace: "shop".to_owned(),
            name: "other".to_owned(),
            uid: "4f1c".to_owned(),
            node: "node-1".to_owned(),
        };
        assert_eq!(pod, expected);
        assert_eq!(settings(&section).unwrap().pod(None).unwrap().node, "");
        fs::remove_file(directory.path().join("uid")).unwrap();
        let message = settings(&section)
            .unwrap()
            .pod(None)
            .unwrap_err()
            .to_string();
        assert!(message.contains("evidence.pod.uid"), "{message}");
    }
}
