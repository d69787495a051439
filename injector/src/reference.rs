//! The reference of the configuration, made from the types: a JSON Schema for editors and for the
//! chart, and Markdown for people.

use schemars::schema_for;
use serde_json::Value;

use crate::config::InjectorConfig;

/// Where the part made from the types begins and ends in `docs/injector.md`.
pub const BEGIN: &str = "<!-- reference: begin -->\n";
/// See [`BEGIN`].
pub const END: &str = "<!-- reference: end -->\n";

/// The JSON Schema (draft 2020-12) of the configuration.
pub fn json_schema() -> Value {
    schema_for!(InjectorConfig).to_value()
}

/// The reference in Markdown, as it stands in `docs/injector.md`.
pub fn markdown() -> String {
    let mut text = String::from(BEGIN);
    text.push_str("\n```yaml\n");
    text.push_str(include_str!("config/example.yaml"));
    text.push_str("```\n");
    text.push_str(&sealwire_proxy::reference::keys(&json_schema()));
    text.push('\n');
    text.push_str(END);
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reference_in_docs_is_the_one_made_from_the_types() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/injector.md");
        let written = std::fs::read_to_string(path).unwrap();
        assert!(
            written.contains(&markdown()),
            "docs/injector.md is out of date: put the output of `cargo run -p sealwire-injector -- reference` there"
        );
    }

    #[test]
    fn every_key_is_described() {
        for line in markdown().lines().filter(|line| line.starts_with("| `")) {
            assert!(!line.ends_with("|  |"), "{line}");
        }
    }

    #[test]
    fn the_example_is_accepted() {
        InjectorConfig::parse(include_str!("config/example.yaml"))
            .unwrap()
            .checked()
            .unwrap();
    }
}
