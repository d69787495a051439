//! What `sealwire report` makes of the logs of two pods, against what the wire carried: an auditor
//! sees the report, and not the records.

use std::collections::BTreeMap;
use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use sealwire_pods::{Mesh, Wire};
use sealwire_tests::LONG;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// A report's files.
pub(super) struct Reported {
    directory: PathBuf,
    said: String,
}

type Row = BTreeMap<String, String>;

impl Reported {
    /// Of copies of the logs of these pods, from then until now.
    pub(super) fn of(mesh: &Mesh, pods: &[&str], since: OffsetDateTime) -> Self {
        let home = mesh.world().directory();
        let list: String = pods
            .iter()
            .map(|name| format!("demo {name} uid-of-{name}\n"))
            .collect();
        let pods_file = home.join("pods.txt");
        mesh.write(&pods_file, &list).unwrap();
        let written = |time: OffsetDateTime| time.format(&Rfc3339).unwrap();
        let until = OffsetDateTime::now_utc();
        let directory = home.join("report");
        let done = mesh
            .world()
            .command(&mesh.programs().cli)
            .args(["report"])
            .args(
                pods.iter()
                    .map(|name| home.join(name).join("evidence-copy")),
            )
            .args(["--trust".into(), home.join("client/bundle.pem")])
            .args(["--pods".into(), pods_file])
            .args([
                "--period",
                &format!("{}/{}", written(since), written(until)),
            ])
            .args(["--output".into(), directory.clone()])
            .run(LONG)
            .unwrap();
        assert_eq!(
            done.code(),
            Some(1),
            "not a yes: {}{}",
            done.stdout,
            done.stderr
        );
        Self {
            directory,
            said: done.stdout,
        }
    }

    fn table(&self, name: &str) -> Vec<Row> {
        let text = fs::read_to_string(self.directory.join(name)).unwrap();
        let mut lines = text.lines().map(|line| line.split(',').map(str::to_owned));
        let header: Vec<String> = lines.next().unwrap().collect();
        lines
            .map(|cells| header.iter().cloned().zip(cells).collect())
            .collect()
    }

    /// A section of the page.
    fn section(&self, id: &str) -> String {
        let page = fs::read_to_string(self.directory.join("report.html")).unwrap();
        let begin = page.find(&format!("<section id=\"{id}\"")).unwrap();
        let rest = &page[begin..];
        rest[..rest.find("</section>").unwrap()].to_owned()
    }

    /// Connections and bytes between two pods, by both their records and the wire.
    pub(super) fn tells_of_the_links(&self, wire: &Wire, from: IpAddr, to: SocketAddr) {
        let links = self.table("links.csv");
        let numbers =
            |row: &Row| ["opened", "bytes_sent", "bytes_received"].map(|name| number(row, name));
        let of = |direction: &str, destination: String| {
            let mut found = links
                .iter()
                .filter(|row| row["direction"] == direction && row["destination"] == destination);
            let row = found
                .next()
                .unwrap_or_else(|| panic!("{direction}: {links:#?}"));
            assert!(found.next().is_none(), "{links:#?}");
            row
        };
        let outbound = of("outbound", to.to_string());
        let inbound = of("inbound", format!(":{}", to.port()));
        let id = |name: &str| format!("spiffe://mesh.example/ns/demo/sa/{name}");
        assert_eq!(
            (&outbound["recorded_by"], &outbound["peer"]),
            (&id("client"), &id("server"))
        );
        assert_eq!(
            (&inbound["recorded_by"], &inbound["peer"]),
            (&id("server"), &id("client"))
        );
        let [opened, sent, received] = numbers(outbound);
        // Both ends say the same, each from its side.
        assert_eq!(numbers(inbound), [opened, received, sent]);
        let [connections, out, back] = super::on_the_wire(wire, from, to);
        assert_eq!(opened, connections);
        // On the wire there is TLS around it, and no more than handshakes and tickets beside.
        let around = 64 * 1024 * connections;
        assert!((sent..sent + around).contains(&out), "{sent} of {out}");
        assert!(
            (received..received + around).contains(&back),
            "{received} of {back}"
        );
    }

    /// The one exception that was used, to the byte.
    pub(super) fn tells_of_the_exception(&self, wire: &Wire, from: IpAddr, to: SocketAddr) {
        let exceptions = self.table("exceptions.csv");
        let [row] = exceptions.as_slice() else {
            panic!("{exceptions:#?}");
        };
        assert_eq!(
            (row["exception"].as_str(), row["owner"].as_str()),
            ("legacy", "data-team")
        );
        let told = ["connections", "bytes_sent", "bytes_received"].map(|name| number(row, name));
        assert_eq!(told, super::on_the_wire(wire, from, to));
        assert!(self.section("exceptions").contains("data-team"));
    }

    /// Whatever else happened to the pod.
    pub(super) fn tells_the_rest(&self, early: SocketAddr) {
        let refused = self.section("refusals");
        for (reason, direction) in [
            ("plaintext", "into a pod, TCP"),
            ("undeclared", "out of a pod, TCP"),
            ("datagram", "out of a pod, other"),
        ] {
            let row = refused.split("<tr").find(|row| row.contains(reason));
            assert!(
                row.is_some_and(|row| row.contains(direction)),
                "{reason}: {refused}"
            );
        }
        let datagrams = refused.split("<tr").find(|row| row.contains("datagram"));
        assert!(datagrams.unwrap().contains(">3<"), "{refused}");

        let unshown = self.section("unshown");
        assert!(
            unshown.contains(&early.to_string()) && unshown.contains("of UID 1000"),
            "{unshown}"
        );
        assert!(
            unshown.contains("a sidecar was killed or crashed"),
            "{unshown}"
        );
        assert!(
            unshown.contains("the key did not sign, and records were signed later"),
            "{unshown}"
        );
        assert!(self.said.contains(&early.to_string()), "{}", self.said);

        let serials = self.table("certificates.csv");
        let own = serials
            .iter()
            .filter(|row| row["spiffe_id"].ends_with("/client"));
        assert_eq!(own.count(), 3, "rotated twice: {serials:#?}");
        let pods = self.table("coverage.csv");
        let client = pods.iter().find(|row| row["pod"] == "client").unwrap();
        assert_eq!(
            (client["runs"].as_str(), client["stopped_because"].as_str()),
            ("2", "drained")
        );
        let seconds = |name: &str| client[name].parse::<f64>().unwrap();
        assert!(seconds("accounted_seconds") < seconds("alive_seconds"));
        assert!(
            seconds("key_in_use_seconds") - seconds("key_on_record_seconds") < 5.0,
            "{client:#?}"
        );

        let bytes = self.table("bytes.csv");
        let own = bytes.iter().find(|row| row["pod"] == "client").unwrap();
        for nothing in [
            "sent_unexplained",
            "sent_missing",
            "windows_without_counters",
        ] {
            assert_eq!(number(own, nothing), 0, "{own:#?}");
        }
        assert!(
            number(own, "kernel_sent") > number(own, "moved_sent"),
            "{own:#?}"
        );
        assert!(
            number(own, "moved_sent") > number(own, "moved_sent_by_exceptions"),
            "{own:#?}"
        );
    }
}

fn number(row: &Row, name: &str) -> u64 {
    row[name]
        .parse()
        .unwrap_or_else(|_| panic!("{name}: {row:#?}"))
}
