//! What is shipped beside the programs, held against them and against each other. What takes Helm
//! or a Kubernetes API is in the suites `chart` and `injection`.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests fail loudly"
)]

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

/// Ends of the names that Prometheus makes of a histogram.
const OF_HISTOGRAMS: [&str; 3] = ["_bucket", "_count", "_sum"];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap()
}

/// Every metric that a text names.
fn metrics(text: &str) -> BTreeSet<String> {
    let word = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    text.split(|c| !word(c))
        .filter(|name| name.starts_with("sealwire_"))
        .map(str::to_owned)
        .collect()
}

fn undocumented(text: &str) -> Vec<String> {
    let documented = metrics(&read("docs/metrics.md"));
    metrics(text)
        .into_iter()
        .filter(|name| {
            let plain = OF_HISTOGRAMS
                .iter()
                .find_map(|end| name.strip_suffix(end))
                .filter(|plain| documented.contains(*plain));
            plain.is_none() && !documented.contains(name)
        })
        .collect()
}

#[test]
fn alerts_and_dashboard_go_by_metrics_that_there_are() {
    for file in ["alerts.yaml", "dashboard.json"] {
        let text = read(&format!("deploy/helm/sealwire/files/{file}"));
        assert!(metrics(&text).len() > 10, "{file}");
        assert_eq!(undocumented(&text), [""; 0], "{file}");
    }
    assert_eq!(
        undocumented("sum(sealwire_nothing_total) / sealwire_sign_seconds_count"),
        ["sealwire_nothing_total"]
    );
}

#[test]
fn every_alert_is_in_the_operators_page() {
    let page = read("docs/operate.md");
    let alerts = read("deploy/helm/sealwire/files/alerts.yaml");
    let names: Vec<_> = alerts
        .lines()
        .filter_map(|line| line.trim().strip_prefix("- alert: "))
        .collect();
    assert!(names.len() > 10);
    for name in names {
        assert!(page.contains(&format!("`{name}`")), "{name}");
    }
}

#[test]
fn the_dashboard_is_what_its_source_says() {
    let done = Command::new(root().join("deploy/helm/dashboard"))
        .arg("--check")
        .output()
        .unwrap();
    assert!(done.status.success(), "{done:?}");
}

#[test]
fn the_chart_and_the_programs_have_one_version() {
    let version = format!("ersion: {}\n", env!("CARGO_PKG_VERSION"));
    let chart = read("deploy/helm/sealwire/Chart.yaml");
    assert_eq!(chart.matches(&version).count(), 2, "version and appVersion");
}
