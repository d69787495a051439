//! Ways around the seal, each tried from inside a pod as an application could, and each stopped:
//! an independent capture of the wire is the judge.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests fail loudly"
)]

use std::path::PathBuf;

use sealwire_pods::{Capabilities, Mesh, Pod, Sealing, Sidecar, Wire, assert_eventually};
use sealwire_tests::{
    SOON, client, curl, hold_all_ports, in_a_mesh, narrow_ports, python, record, server,
    with_each_privilege,
};

/// What must never be seen on the wire.
const MARKER: &str = "marker-7f3a91";

/// Runs Python as an application of a sealed pod and gives its output and what the wire carried.
fn attempt(mesh: &Mesh, script: &str) -> (String, Wire) {
    let (pod, _sidecar) = mesh.sealed_pod("pod", &Sealing::default()).unwrap();
    let capture = mesh.world().capture(&pod).unwrap();
    let tried = python(
        &pod,
        &format!(
            "NODE4, NODE6, MARKER = '198.18.255.1', 'fd00:5ea1::ffff:1', b'{MARKER}'\n{script}"
        ),
    );
    (tried.stdout + &tried.stderr, capture.stop().unwrap())
}

fn nothing_leaks(script: &str) {
    with_each_privilege(|mesh| {
        let (said, wire) = attempt(mesh, script);
        assert!(!wire.contains(MARKER.as_bytes()), "leaked: {said}");
        assert_eq!(wire.plaintext_bytes, 0, "{said}{:#?}", wire.flows);
        assert_eq!(wire.datagrams.len(), 0, "{said}{:#?}", wire.datagrams);
        // The attempt itself has to have run, not fallen over its own feet.
        assert!(said.contains("tried"), "{said}");
    });
}

#[test]
fn a_socket_bound_to_the_device_with_tcp_fast_open_leaks_nothing() {
    nothing_leaks(
        "
import socket
for family, node in ((socket.AF_INET, NODE4), (socket.AF_INET6, NODE6)):
    for flags in (0, 0x20000000):  # MSG_FASTOPEN
        s = socket.socket(family, socket.SOCK_STREAM)
        s.settimeout(2)
        try:
            s.setsockopt(socket.SOL_SOCKET, 25, b'eth0')  # SO_BINDTODEVICE
            if flags:
                s.sendto(MARKER, flags, (node, 7000))
            else:
                s.connect((node, 7000)); s.sendall(MARKER)
        except OSError as e:
            print(e)
print('tried')",
    );
}

#[test]
fn datagrams_leak_nothing_of_any_size_and_to_any_port() {
    nothing_leaks(
        "
import socket
for family, node in ((socket.AF_INET, NODE4), (socket.AF_INET6, NODE6)):
    for port in (53, 123, 443, 9999):
        for size in (1, 100):
            s = socket.socket(family, socket.SOCK_DGRAM)
            try:
                s.sendto(MARKER * size, (node, port))
                print('SENT')
            except PermissionError:
                pass
print('tried')",
    );
}

#[test]
fn ping_raw_and_packet_sockets_leak_nothing() {
    nothing_leaks(
        "
import socket
def attempt(*arguments):
    try:
        s = socket.socket(*arguments)
        s.settimeout(1)
        if arguments[0] == socket.AF_PACKET:
            s.bind(('eth0', 0x0800)); s.send(MARKER * 10)
        else:
            s.sendto(b'\\x08\\0\\0\\0\\0\\0\\0\\0' + MARKER, (NODE4, 0))
    except OSError as e:
        print(e)
attempt(socket.AF_INET, socket.SOCK_DGRAM, socket.IPPROTO_ICMP)
attempt(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
attempt(socket.AF_INET, socket.SOCK_RAW, 253)
attempt(socket.AF_PACKET, socket.SOCK_RAW, 0)
attempt(socket.AF_INET, socket.SOCK_STREAM, 132)  # SCTP
print('tried')",
    );
}

#[test]
fn unusual_tcp_sockets_are_captured_like_any_other() {
    nothing_leaks(
        "
import socket
def attempt(prepare, address, family=socket.AF_INET, protocol=0):
    try:
        s = socket.socket(family, socket.SOCK_STREAM, protocol)
        s.settimeout(2)
        prepare(s)
        s.connect(address)
        s.sendall(MARKER)
    except OSError as e:
        print(e)
plain = lambda s: None
attempt(plain, ('::ffff:' + NODE4, 7000), socket.AF_INET6)                       # v4-mapped
attempt(plain, (NODE4, 7000), protocol=262)                                      # MPTCP
attempt(lambda s: s.bind(('', 15090)), (NODE4, 7000))                            # a port near the proxy's
attempt(lambda s: s.setsockopt(0, 15, 1), (NODE4, 7000))                         # IP_FREEBIND
attempt(lambda s: s.setsockopt(0, 4, b'\\x83\\x07\\x04' + bytes([198, 18, 255, 1]) + b'\\0'), (NODE4, 7000))  # LSRR
attempt(lambda s: s.setsockopt(socket.SOL_SOCKET, 36, 0x5ea1), (NODE4, 7000))    # SO_MARK
attempt(lambda s: s.setsockopt(6, 19, 1), (NODE4, 7000))                         # TCP_REPAIR
attempt(lambda s: s.setsockopt(41, 57, b'\\0\\x02\\0\\x01' + b'\\0' * 4 + socket.inet_pton(socket.AF_INET6, NODE6)), (NODE6, 7000), socket.AF_INET6)  # routing header
print('tried')",
    );
}

#[test]
fn a_user_namespace_of_its_own_has_no_way_out() {
    in_a_mesh(|mesh| {
        let (pod, _sidecar) = mesh.sealed_pod("pod", &Sealing::default()).unwrap();
        let node = mesh.world().command("true").run(SOON).unwrap();
        assert!(node.success());
        let tried = pod
            .app("unshare")
            .args([
                "--user",
                "--map-root-user",
                "--net",
                "curl",
                "-sS",
                "-m",
                "2",
                "http://198.18.255.1/",
            ])
            .run(SOON)
            .unwrap();
        assert!(!tried.success());
        let rules = pod
            .app("unshare")
            .args(["--user", "--map-root-user", "nft", "flush", "ruleset"])
            .run(SOON)
            .unwrap();
        assert!(!rules.success(), "an application changed the pod's rules");
    });
}

#[test]
fn the_proxys_ports_cannot_be_named_from_outside() {
    in_a_mesh(|mesh| {
        let (pod, sidecar) = mesh.sealed_pod("pod", &Sealing::default()).unwrap();
        let stranger = mesh.world().pod("stranger").unwrap();
        for port in [15000, 15001, 15006, 15020, 15021] {
            for address in [pod.v4().to_string(), format!("[{}]", pod.v6())] {
                let answer = curl(
                    &stranger,
                    &["-m", "1", &format!("http://{address}:{port}/")],
                );
                assert!(!answer.success(), "{address}:{port} answered");
            }
        }
        // The node alone reaches health and metrics.
        assert!(sidecar.is_ready());
        assert!(sidecar.metrics().contains("sealwire_ready 1"));
    });
}

/// While the proxy is down: nothing in, nothing out, and nobody in its place.
fn nothing_flows(from: &Pod, to: &Pod) {
    for (from, to) in [(from, to), (to, from)] {
        let answer = client(from, to.v4(), 7000, "echo")
            .env("TIMEOUT", "2")
            .run(SOON)
            .unwrap();
        assert!(!answer.success(), "{}", answer.stdout);
    }
}

#[test]
fn when_the_proxy_is_killed_nothing_flows_in_or_out_and_nobody_takes_its_place() {
    with_each_privilege(|mesh| {
        let (from, _out) = mesh.sealed_pod("client", &Sealing::default()).unwrap();
        let (to, inn) = mesh.sealed_pod("server", &Sealing::default()).unwrap();
        let _echo = [server(&to, 7000, "echo"), server(&from, 7000, "echo")];
        assert!(
            client(&from, to.v4(), 7000, "echo")
                .run(SOON)
                .unwrap()
                .success()
        );
        inn.process.signal("KILL");
        assert_eventually("it is dead", SOON, || (!to.listens(15006)).then_some(()));
        nothing_flows(&from, &to);
        let squatter = [server(&to, 15006, "log"), server(&to, 15001, "log")];
        nothing_flows(&from, &to);
        for process in squatter {
            assert_eq!(process.stdout(), "");
        }
        let stranger = mesh.world().pod("stranger").unwrap();
        nothing_flows(&stranger, &to);
    });
}

#[test]
fn without_the_rules_the_proxy_is_not_ready_lets_nothing_flow_and_says_what_to_do() {
    in_a_mesh(|mesh| {
        let pod = mesh.world().pod("pod").unwrap();
        let sealing = Sealing {
            sections: "mesh: { ranges: [198.18.0.0/16] }".to_owned(),
            ..Sealing::default()
        };
        let config = mesh.prepare(&pod, &sealing).unwrap();
        let text = mesh
            .config(&pod, &sealing)
            .replace("uid: 1337,", "uid: 1337, proveWithinSeconds: 4,");
        mesh.write(&config, &text).unwrap();
        let mut sidecar = mesh.start(&pod, &config).unwrap();
        let why = assert_eventually("it says why", SOON, || {
            sidecar
                .health("/readyz")
                .filter(|(_, body)| body.contains("sealwire-proxy capture"))
        });
        assert_eq!(why.0, 503);
        // In time it gives up, with an exit code of its own.
        let status = sidecar.process.wait(SOON).unwrap();
        assert_eq!(status.code(), Some(3), "{}", sidecar.process.stdout());
    });
}

/// A captured pod whose sidecar, which is not started yet, is to prove it each second, with more in its
/// configuration.
fn proves_each_second(mesh: &Mesh, name: &str, more: &str) -> (Pod, PathBuf) {
    let pod = mesh.world().pod(name).unwrap();
    let sealing = Sealing::default();
    let config = mesh.prepare(&pod, &sealing).unwrap();
    let text = mesh
        .config(&pod, &sealing)
        .replace("uid: 1337,", "uid: 1337, proveEverySeconds: 1,");
    mesh.write(&config, &(text + more)).unwrap();
    mesh.capture(&pod, &config).unwrap();
    (pod, config)
}

#[test]
fn when_the_rules_vanish_while_it_runs_readiness_falls() {
    in_a_mesh(|mesh| {
        let (pod, config) = proves_each_second(mesh, "pod", "");
        let mut sidecar = mesh.start(&pod, &config).unwrap();
        sidecar.wait_until_ready().unwrap();
        let removed = pod
            .command(&mesh.programs().proxy)
            .capabilities(Capabilities::Only(&["net_admin"]))
            .args(["capture", "--remove", "--config"])
            .args([&config])
            .run(SOON)
            .unwrap();
        assert!(removed.success(), "{}", removed.stderr);
        assert_eventually("readiness falls", SOON, || {
            (!sidecar.is_ready()).then_some(())
        });
        mesh.capture(&pod, &config).unwrap();
        assert_eventually("and comes back with the rules", SOON, || {
            sidecar.is_ready().then_some(())
        });
    });
}

#[test]
fn capture_is_proven_also_where_applications_hold_every_port_that_it_could_come_from() {
    in_a_mesh(|mesh| {
        let (to, _to_car) = mesh.sealed_pod("to", &Sealing::default()).unwrap();
        let (from, config) = proves_each_second(mesh, "from", "");
        narrow_ports(&from);
        let mut sidecar = mesh.start(&from, &config).unwrap();
        sidecar.wait_until_ready().unwrap();
        let _held = hold_all_ports(&from, &to);
        // The kernel gives what it redirects another port then, where two would be the same.
        capture_is_proven_again_and_again(&sidecar);
    });
}

#[test]
fn capture_is_proven_also_where_no_further_connection_is_accepted() {
    in_a_mesh(|mesh| {
        let (to, _to_car) = mesh.sealed_pod("to", &Sealing::default()).unwrap();
        let limits = "limits: { connections: 1 }\n";
        let (from, config) = proves_each_second(mesh, "from", limits);
        let mut sidecar = mesh.start(&from, &config).unwrap();
        sidecar.wait_until_ready().unwrap();
        let _drip = server(&to, 7000, "drip");
        let mut held = client(&from, to.v4(), 7000, "until-it-ends")
            .spawn()
            .unwrap();
        assert_eventually("the only place is taken", SOON, || {
            held.stdout().contains("reading").then_some(())
        });
        let refused = client(&from, to.v4(), 7000, "echo").run(SOON).unwrap();
        assert!(!refused.success(), "{}", refused.stdout);
        let destination = format!("{}:7000", to.v4());
        let destination = destination.as_str();
        record(
            &sidecar,
            &[("reason", "overloaded"), ("destination", destination)],
        );
        capture_is_proven_again_and_again(&sidecar);
        assert!(sidecar.is_ready() && held.is_running());
    });
}

fn capture_is_proven_again_and_again(sidecar: &Sidecar) {
    let proofs = |outcome: &str| {
        let metrics = sidecar.metrics();
        let name = format!("sealwire_capture_proofs_total{{outcome=\"{outcome}\"}} ");
        let line = metrics.lines().find_map(|line| line.strip_prefix(&name));
        line.map_or(0, |count| count.parse::<u64>().unwrap())
    };
    let before = proofs("ok");
    assert_eventually("capture is proven again and again", SOON, || {
        (proofs("ok") >= before + 3).then_some(())
    });
    assert_eq!(proofs("failed"), 0);
}

#[test]
fn a_connection_that_names_the_outbound_port_itself_is_refused() {
    in_a_mesh(|mesh| {
        let (pod, sidecar): (Pod, Sidecar) = mesh.sealed_pod("pod", &Sealing::default()).unwrap();
        let address = pod.v4();
        let said = python(
            &pod,
            &format!(
                "import socket\ns = socket.create_connection(('{address}', 15001), 5)\nprint(s.recv(1))"
            ),
        );
        assert!(!said.success(), "{}", said.stdout);
        record(&sidecar, &[("reason", "not_captured")]);
    });
}

#[test]
fn the_rules_are_printed_for_an_auditor_without_any_privilege() {
    in_a_mesh(|mesh| {
        let pod = mesh.world().pod("pod").unwrap();
        let config = mesh.prepare(&pod, &Sealing::default()).unwrap();
        let capture = |print: &[&str]| {
            let command = pod
                .app(&mesh.programs().proxy)
                .args(["capture", "--config"])
                .args([&config]);
            command.args(print.iter().copied()).run(SOON).unwrap()
        };
        let printed = capture(&["--print"]);
        assert!(
            printed.stdout.contains("table inet sealwire {"),
            "{}",
            printed.stderr
        );
        let refused = capture(&[]);
        assert_eq!(refused.code(), Some(1));
        assert!(refused.stderr.contains("NET_ADMIN"), "{}", refused.stderr);
    });
}
