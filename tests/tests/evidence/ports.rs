//! The census where the kernel gives connections other ports than applications have.

use super::*;
use sealwire_tests::{hold_all_ports, narrow_ports};

/// The ports beyond those that the pod may use, from which the proxy sees applications come.
const PORTS_AT_THE_PROXY: &str = "
seen = []
for file in ('/proc/net/tcp', '/proc/net/tcp6'):
    for line in list(open(file))[1:]:
        local, remote = (int(end.rpartition(':')[2], 16) for end in line.split()[1:3])
        if local == 15001 and remote and not 40000 <= remote <= 40011:
            seen.append(remote)
print(seen)";

#[test]
fn connections_whose_port_the_kernel_changes_are_accounted_for() {
    in_a_mesh(|mesh| {
        let to = Watched::new(mesh, "server", "", None);
        let from = Watched::new(mesh, "client", "", None);
        narrow_ports(&from.pod);
        let _held = hold_all_ports(&from.pod, &to.pod);
        let open = |window: &Window| window.links.iter().map(|group| group.open).sum::<u64>();
        from.wait_for(
            mesh,
            "a window after all are open",
            |event| matches!(event, Event::Window(window) if open(window) == 160),
        );
        let changed = python(&from.pod, PORTS_AT_THE_PROXY);
        assert_ne!(changed.stdout, "[]\n", "{}", changed.stderr);
        for window in windows(&from.records(mesh)) {
            let census = window.census.as_ref().unwrap();
            assert!(census.unaccounted.is_empty(), "{census:#?}");
        }
    });
}
