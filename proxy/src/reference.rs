//! The reference of the configuration, made from the types: a JSON Schema for editors, and
//! Markdown for people.

use std::fmt::Write;

use schemars::schema_for;
use serde_json::Value;

use crate::config::Config;

/// The JSON Schema (draft 2020-12) of the configuration.
pub fn json_schema() -> Value {
    schema_for!(Config).to_value()
}

/// The reference in Markdown, as it stands in `docs/configuration.md`.
pub fn markdown() -> String {
    let schema = json_schema();
    let mut text = String::from(
        "# Configuration\n\n\
         One YAML file, `/etc/sealwire/proxy.yaml` unless `--config` says otherwise. Unknown keys are refused. It is read\n\
         again when it changes; what needs a restart says so here, and `/healthz` says so when it happens. A bad file\n\
         leaves the last good one in force. `sealwire-proxy check --config FILE` tells what is wrong with one.\n\n\
         This page is made from the types: `sealwire-proxy reference`. A JSON Schema: `sealwire-proxy reference --json`.\n\n\
         ## A complete example\n\n```yaml\n",
    );
    text.push_str(include_str!("config/example.yaml"));
    text.push_str("```\n\n## Keys\n");
    text.push_str(&keys(&schema));
    text
}

/// The tables of all keys of a JSON Schema. The injector's reference has its own.
pub fn keys(schema: &Value) -> String {
    let mut text = String::new();
    // Writing to a String cannot fail.
    let _ = write_section(&mut text, schema, schema, "");
    text
}

/// Writes the table of one object's keys, then those of the objects inside it.
fn write_section(out: &mut String, root: &Value, object: &Value, path: &str) -> std::fmt::Result {
    let Some(properties) = object.get("properties").and_then(Value::as_object) else {
        return Ok(());
    };
    if !path.is_empty() {
        writeln!(out, "\n### `{path}`\n\n{}", description(object))?;
    }
    writeln!(out, "\n| key | type | default | |\n|---|---|---|---|")?;
    let required: Vec<&str> = object
        .get("required")
        .and_then(Value::as_array)
        .map(|names| names.iter().filter_map(Value::as_str).collect())
        .unwrap_or_default();
    for (name, property) in properties {
        let default = match property.get("default") {
            _ if required.contains(&name.as_str()) => "required".to_owned(),
            Some(value) if value.is_object() => "see below".to_owned(),
            Some(Value::Null) => "none".to_owned(),
            Some(value) => format!("`{value}`"),
            None => String::new(),
        };
        writeln!(
            out,
            "| `{name}` | {} | {default} | {} |",
            kind(root, property),
            description(property).replace('\n', " ")
        )?;
    }
    for (name, property) in properties {
        let inner = if path.is_empty() {
            name.clone()
        } else {
            format!("{path}.{name}")
        };
        let (target, inner) = match property.get("items") {
            Some(items) => (resolve(root, items), format!("{inner}[]")),
            None => (resolve(root, property), inner),
        };
        if let Some(variants) = target.get("oneOf").and_then(Value::as_array) {
            for variant in variants {
                write_variant(out, root, variant, &inner)?;
            }
        }
        write_section(out, root, target, &inner)?;
    }
    Ok(())
}

/// Writes one of several forms that a key can have.
fn write_variant(out: &mut String, root: &Value, variant: &Value, path: &str) -> std::fmt::Result {
    let Some(properties) = variant.get("properties").and_then(Value::as_object) else {
        return Ok(());
    };
    for (name, property) in properties {
        write_section(
            out,
            root,
            resolve(root, property),
            &format!("{path}.{name}"),
        )?;
    }
    Ok(())
}

fn resolve<'a>(root: &'a Value, schema: &'a Value) -> &'a Value {
    // What may be left out is itself or null.
    let itself = schema.get("anyOf").and_then(|forms| forms.get(0));
    let schema = itself.unwrap_or(schema);
    schema
        .get("$ref")
        .and_then(Value::as_str)
        .and_then(|reference| root.pointer(reference.trim_start_matches('#')))
        .unwrap_or(schema)
}

fn description(schema: &Value) -> &str {
    schema
        .get("description")
        .and_then(Value::as_str)
        .unwrap_or_default()
}

fn kind(root: &Value, property: &Value) -> String {
    let target = resolve(root, property);
    if let Some(items) = property.get("items") {
        return format!("list of {}", kind(root, items));
    }
    if let Some(variants) = target.get("oneOf").and_then(Value::as_array) {
        let names: Vec<_> = variants
            .iter()
            .filter_map(|variant| match variant.get("const") {
                Some(name) => Some(name.as_str()?.to_owned()),
                None => Some(
                    variant
                        .get("properties")?
                        .as_object()?
                        .keys()
                        .next()?
                        .clone(),
                ),
            })
            .map(|name| format!("`{name}`"))
            .collect();
        return names.join(" or ");
    }
    let kind = target.get("type");
    let first = kind.and_then(|kind| kind.get(0)).or(kind);
    first.and_then(Value::as_str).unwrap_or("any").to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reference_in_docs_is_the_one_made_from_the_types() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/configuration.md");
        let written = std::fs::read_to_string(path).unwrap();
        assert!(
            written == markdown(),
            "docs/configuration.md is out of date: `cargo run -p sealwire-proxy -- reference > docs/configuration.md`"
        );
    }

    #[test]
    fn every_key_is_described() {
        for line in markdown().lines().filter(|line| line.starts_with("| `")) {
            assert!(!line.ends_with("|  |"), "{line}");
        }
    }
}
