//! The assessment results of a report, signed by an auditor's key in transit.

use super::vaulted;
use sealwire_pods::{Finished, KeyFrom, Mesh, OPEN_SERVICES, assert_eventually};
use sealwire_tests::{LONG, SOON, in_a_mesh};
use serde_json::json;
use time::format_description::well_known::Rfc3339;
use time::{Duration, OffsetDateTime};

/// Takes the envelope apart: what was signed (PAE of DSSE), and the signature.
const TAKE_APART: &str = r#"
import base64, json, sys
envelope = json.load(open('assessment-results.json.sig'))
payload, kind = base64.b64decode(envelope['payload']), envelope['payloadType'].encode()
open('signed', 'wb').write(b'DSSEv1 %d %s %d %s' % (len(kind), kind, len(payload), payload))
open('signature', 'wb').write(base64.b64decode(envelope['signatures'][0]['sig']))
"#;

#[test]
fn a_report_is_signed_by_a_key_in_transit_and_whatever_opens_it_stands_in_a_file() {
    in_a_mesh(|mesh| {
        let vaulted = vaulted(mesh, "1h");
        let home = mesh.world().directory().to_owned();
        let log = home.join("web/evidence");
        let sections = format!(
            "{OPEN_SERVICES}\nevidence: {{ directory: {}, windowSeconds: 1, \
             pod: {{ namespace: demo, name: web, uid: uid-of-web, node: node-1 }} }}\n",
            log.display()
        );
        let (_web, mut sidecar) = vaulted
            .sealed_pod_with("web", KeyFrom::Transit, &sections)
            .unwrap();
        assert_eventually("a checkpoint is signed", SOON, || {
            let there = mesh
                .world()
                .command("test")
                .args(["-s".into(), log.join("checkpoint")]);
            there.run(SOON).ok()?.success().then_some(())
        });
        sidecar.process.signal("TERM");
        assert!(sidecar.process.wait(LONG).unwrap().success());

        let bao = &vaulted.bao;
        let mut policy =
            "path \"auth/token/lookup-self\" { capabilities = [\"read\"] }\n".to_owned();
        for (key, exportable) in [("audit", false), ("loose", true)] {
            let made = json!({ "type": "ecdsa-p256", "exportable": exportable });
            bao.write(&format!("transit/keys/{key}"), &made).unwrap();
            policy += &format!(
                "path \"transit/sign/{key}/*\" {{ capabilities = [\"update\"] }}
                 path \"transit/keys/{key}\" {{ capabilities = [\"read\"] }}\n"
            );
        }
        bao.write("sys/policies/acl/audit", &json!({ "policy": policy }))
            .unwrap();
        let asked = json!({ "policies": ["audit"], "no_default_policy": true });
        let token = bao.write("auth/token/create", &asked).unwrap();
        let token = token["auth"]["client_token"].as_str().unwrap();
        vaulted.secret(&home.join("audit.token"), token, 0).unwrap();
        let ca = bao.read("pki/cert/ca").unwrap();
        let ca = ca["data"]["certificate"].as_str().unwrap();
        mesh.write(&home.join("mesh.pem"), ca).unwrap();

        let server = [
            ("--vault-address", bao.address()),
            ("--vault-ca", bao.ca().display().to_string()),
            (
                "--vault-token-file",
                home.join("audit.token").display().to_string(),
            ),
        ];
        let report = |key: &str, server: &[(&str, String)]| {
            let named = server
                .iter()
                .flat_map(|(name, value)| [(*name).to_owned(), value.clone()]);
            run(mesh, key, named)
        };
        let done = report("vault-transit:transit/audit", &server);
        // A log without a list of pods shows nothing for sure, so the answer is no.
        assert_eq!(done.code(), Some(1), "{}{}", done.stdout, done.stderr);
        assert!(
            done.stdout.contains("assessment-results.json.sig"),
            "{}{}",
            done.stdout,
            done.stderr
        );
        let check = format!(
            "cd '{}' && /usr/bin/python3 -c \"$TAKE_APART\" && \
             openssl dgst -sha256 -verify signer.pem -signature signature signed",
            home.join("report").display()
        );
        let checked = mesh
            .world()
            .command("sh")
            .env("TAKE_APART", TAKE_APART)
            .args(["-c", &check])
            .run(SOON)
            .unwrap();
        assert!(
            checked.stdout.contains("Verified OK"),
            "{}{}",
            checked.stdout,
            checked.stderr
        );
        let key = bao.read("transit/keys/audit").unwrap();
        let key = key["data"]["keys"]["1"]["public_key"]
            .as_str()
            .unwrap()
            .trim();
        let signer = std::fs::read_to_string(home.join("report/signer.pem")).unwrap();
        assert_eq!(signer.trim(), key);

        let loose = report("vault-transit:transit/loose", &server);
        assert_eq!(loose.code(), Some(1));
        assert!(
            loose.stderr.contains("--sign-key") && loose.stderr.contains("export"),
            "{}",
            loose.stderr
        );
        let nowhere = report("vault-transit:transit/audit", &[]);
        assert!(
            nowhere.stderr.contains("--vault-token-file"),
            "{}",
            nowhere.stderr
        );
    });
}

fn run(mesh: &Mesh, key: &str, server: impl Iterator<Item = String>) -> Finished {
    let home = mesh.world().directory();
    let written = |time: OffsetDateTime| time.format(&Rfc3339).unwrap();
    let now = OffsetDateTime::now_utc();
    let period = format!(
        "{}/{}",
        written(now - Duration::HOUR),
        written(now + Duration::HOUR)
    );
    let path = |name: &str| home.join(name).display().to_string();
    let arguments = [
        "report".to_owned(),
        path("web/evidence"),
        "--trust".to_owned(),
        path("mesh.pem"),
        "--period".to_owned(),
        period,
        "--output".to_owned(),
        path("report"),
        "--sign-key".to_owned(),
        key.to_owned(),
    ];
    let command = mesh.world().command(&mesh.programs().cli);
    command
        .args(arguments.into_iter().chain(server))
        .run(LONG)
        .unwrap()
}
