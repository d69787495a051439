//! `assessment-results.json`: OSCAL assessment results, one result a framework. OSCAL knows
//! satisfied and not satisfied only; what was not observed is not satisfied, with the reason. No
//! identifier in it is random: the same logs give the same document.

use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::check::{Outcome, Verdict};
use crate::files::Produced;
use crate::framework::{Clause, Finding, Judged};
use crate::made::Made;
use crate::words::{counted, share};

/// The model that the document is written against.
const VERSION: &str = "1.2.0";

/// Of properties that only Sealwire knows.
const NAMESPACE: &str = "urn:sealwire:oscal";

/// The document. `files` are those that it vouches for, by their digests.
pub(crate) fn assessment_results(made: &Made, files: &[Produced]) -> Value {
    let results: Vec<Value> = made
        .judged
        .iter()
        .map(|framework| result(made, framework, files))
        .collect();
    json!({
        "assessment-results": {
            "uuid": made.uuid("assessment-results"),
            "metadata": {
                "title": format!("Sealwire evidence, {}", made.period_in_words()),
                // Not the clock's time: the same logs give the same document.
                "last-modified": written(made.account.as_of),
                "version": "1",
                "oscal-version": VERSION,
                "props": [
                    property("period", &made.account.period.to_string()),
                    property("sealwire-version", made.version),
                ],
            },
            "import-ap": {
                "href": format!("#{}", made.uuid("plan")),
                "remarks": "No assessment plan was written: the evidence is recorded all the time.",
            },
            "results": results,
            "back-matter": { "resources": resources(made, files) },
        }
    })
}

fn result(made: &Made, framework: &Judged, files: &[Produced]) -> Value {
    let account = &made.account;
    let id = &framework.mapping.id;
    let controls: Vec<Value> = framework
        .mapping
        .clauses
        .iter()
        .map(|clause| json!({ "control-id": clause.control }))
        .collect();
    let objectives: Vec<Value> = framework
        .mapping
        .clauses
        .iter()
        .map(|clause| json!({ "objective-id": clause.objective }))
        .collect();
    let observations = Observations::of(framework);
    let findings: Vec<Value> = framework
        .mapping
        .clauses
        .iter()
        .zip(&framework.findings)
        .map(|(clause, judged)| finding(made, id, clause, judged))
        .collect();
    json!({
        "uuid": made.uuid(&format!("{id}/result")),
        "title": framework.mapping.name,
        "description": format!(
            "What the records of {} say about {}. Coverage, pods × time sealed and accounted for over pods × time that \
             they ran: {}.",
            counted(u64::try_from(account.pods.len()).unwrap_or(u64::MAX), "pod", "pods"),
            framework.mapping.name,
            share(account.accounted(), account.alive()),
        ),
        "start": written(account.period.from()),
        "end": written(account.as_of),
        "props": [property("framework", id)],
        "local-definitions": {
            "components": [{
                "uuid": made.uuid(&format!("{id}/sidecars")),
                "type": "software",
                "title": "Sealwire sidecars",
                "description": "The sidecars that seal the pods’ connections and write these records.",
                "status": { "state": "operational" },
            }],
            "assessment-assets": {
                "components": [{
                    "uuid": made.uuid(&format!("{id}/tool")),
                    "type": "software",
                    "title": "sealwire report",
                    "description": "Works out verdicts from the records, by rules that come with it.",
                    "props": [{ "name": "version", "value": made.version }],
                    "status": { "state": "operational" },
                }],
                "assessment-platforms": [{
                    "uuid": made.uuid(&format!("{id}/platform")),
                    "title": "sealwire",
                    "uses-components": [{ "component-uuid": made.uuid(&format!("{id}/tool")) }],
                }],
            },
        },
        "reviewed-controls": {
            "control-selections": [{ "include-controls": controls }],
            "control-objective-selections": [{ "include-objectives": objectives }],
        },
        "observations": observations.documents(made, id, files),
        "findings": findings,
    })
}

fn finding(made: &Made, framework: &str, clause: &Clause, finding: &Finding) -> Value {
    let (state, reason) = if finding.satisfied {
        ("satisfied", "pass")
    } else if finding
        .outcomes
        .iter()
        .any(|(_, outcome)| outcome.verdict == Verdict::NotMet)
    {
        ("not-satisfied", "fail")
    } else {
        // Nothing speaks against it, and not enough for it.
        ("not-satisfied", "other")
    };
    let remarks = if finding.satisfied {
        finding.answers().join(" ")
    } else {
        finding.reasons().join(" ")
    };
    let related: Vec<Value> = finding
        .outcomes
        .iter()
        .map(|(check, outcome)| {
            json!({ "observation-uuid": observation(made, framework, check, outcome) })
        })
        .collect();
    json!({
        "uuid": made.uuid(&format!("{framework}/finding/{}", clause.control)),
        "title": clause.clause,
        "description": clause.topic,
        "props": [
            property("framework", framework),
            property("rests-on", &clause.rests_on.join(" ")),
        ],
        "target": {
            "type": "objective-id",
            "target-id": clause.objective,
            "status": { "state": state, "reason": reason, "remarks": remarks },
        },
        "related-observations": related,
    })
}

/// Answers of checks, each once however many clauses rest on it.
struct Observations<'a> {
    distinct: Vec<(&'static str, &'a Outcome)>,
}

impl<'a> Observations<'a> {
    fn of(framework: &'a Judged) -> Self {
        let mut distinct: Vec<(&'static str, &'a Outcome)> = Vec::new();
        for finding in &framework.findings {
            for (check, outcome) in &finding.outcomes {
                if !distinct.contains(&(check, outcome)) {
                    distinct.push((check, outcome));
                }
            }
        }
        Self { distinct }
    }

    fn documents(&self, made: &Made, framework: &str, files: &[Produced]) -> Vec<Value> {
        let evidence: Vec<Value> = made
            .account
            .logs
            .iter()
            .take(EVIDENCE)
            .map(|log| {
                json!({
                    "href": format!("#{}", made.uuid(&format!("log/{}", log.name))),
                    "description": format!("Log {}", log.origin),
                })
            })
            .chain(files.iter().map(|file| {
                json!({
                    "href": format!("#{}", made.uuid(&format!("file/{}", file.name))),
                    "description": file.about,
                })
            }))
            .collect();
        let document = |(check, outcome): &(&'static str, &Outcome)| {
            let verdict = match outcome.verdict {
                Verdict::Met => "met",
                Verdict::NotMet => "not-met",
                Verdict::Unknown => "unknown",
            };
            json!({
                "uuid": observation(made, framework, check, outcome),
                "title": check,
                "description": outcome.says,
                "props": [property("verdict", verdict)],
                "methods": ["TEST"],
                "types": ["control-objective"],
                "origins": [{
                    "actors": [{ "type": "tool", "actor-uuid": made.uuid(&format!("{framework}/tool")) }],
                }],
                "subjects": [{
                    "type": "component",
                    "subject-uuid": made.uuid(&format!("{framework}/sidecars")),
                }],
                "relevant-evidence": evidence,
                "collected": written(made.account.as_of),
            })
        };
        self.distinct.iter().map(document).collect()
    }
}

fn observation(made: &Made, framework: &str, check: &str, outcome: &Outcome) -> String {
    made.uuid(&format!("{framework}/observation/{check}/{}", outcome.says))
}

/// Logs that every observation points at; all of them are in the back matter.
const EVIDENCE: usize = 20;

fn resources(made: &Made, files: &[Produced]) -> Vec<Value> {
    let plan = json!({
        "uuid": made.uuid("plan"),
        "title": "In place of an assessment plan",
        "description": "The evidence is continuous: every sidecar records every window of time, whether anything happened \
                        or not. There is no plan of when to look, and none was written.",
    });
    let files = files.iter().map(|file| {
        json!({
            "uuid": made.uuid(&format!("file/{}", file.name)),
            "title": file.name,
            "description": file.about,
            "rlinks": [{
                "href": file.name,
                "hashes": [{ "algorithm": "SHA-256", "value": file.sha256() }],
            }],
        })
    });
    let logs = made.account.logs.iter().map(|log| {
        let mut props = vec![
            property("log-size", &log.size.to_string()),
            property("verified-checkpoints", &log.checkpoints.to_string()),
            property(
                "faults",
                &(u64::try_from(log.findings.len()).unwrap_or(u64::MAX) + log.findings_more)
                    .to_string(),
            ),
        ];
        if !log.root.is_empty() {
            props.push(property("log-root-sha256", &log.root));
        }
        json!({
            "uuid": made.uuid(&format!("log/{}", log.name)),
            "title": log.origin,
            "description": "A transparency log (C2SP tlog-tiles) of one pod’s records, at the checkpoint that this \
                            document rests on.",
            "props": props,
        })
    });
    std::iter::once(plan).chain(files).chain(logs).collect()
}

fn property(name: &str, value: &str) -> Value {
    json!({ "name": name, "ns": NAMESPACE, "value": value })
}

fn written(time: OffsetDateTime) -> String {
    time.format(&Rfc3339).unwrap_or_default()
}
