//! A session ends with the epoch that it was made in, on whichever side that has changed.

use super::*;

/// Signatures that a sidecar's key has made for it.
fn signatures(sidecar: &Sidecar) -> u64 {
    let metrics = sidecar.metrics();
    let counted = metrics
        .lines()
        .filter(|line| line.starts_with("sealwire_signatures_total") && line.contains("\"ok\""));
    counted
        .filter_map(|line| line.rsplit_once(' ')?.1.parse::<u64>().ok())
        .sum()
}

#[test]
fn an_old_ticket_is_refused_once_either_sides_key_was_rotated() {
    in_a_mesh(|mesh| {
        let vaulted = vaulted(mesh, "1h");
        let sealed = |name| vaulted.sealed_pod(name, KeyFrom::Transit).unwrap();
        let [(web, web_car), (api, api_car)] = ["web", "api"].map(sealed);
        let _server = server(&api, 8080, "echo");
        // Whether the link was resumed, and the signatures that it took on either side.
        let echo = || {
            let count = web_car.records().len();
            let before = [&web_car, &api_car].map(signatures);
            let done = client(&web, api.v4(), 8080, "echo").run(SOON).unwrap();
            assert!(done.success(), "{}{}", done.stdout, done.stderr);
            let record =
                assert_eventually("its record", SOON, || web_car.records().get(count).cloned());
            let after = [&web_car, &api_car].map(signatures);
            let made = [after[0] - before[0], after[1] - before[1]];
            (record["resumed"].as_bool().unwrap(), made)
        };
        let (fresh, resumed) = ((false, [1, 1]), (true, [0, 0]));
        assert_eq!(echo(), fresh);
        assert_eq!(echo(), resumed);
        // The dialling side offers no session of the epoch before; the accepting side opens no
        // ticket of it.
        for (pod, car) in [(&web, &web_car), (&api, &api_car)] {
            let before = public_key(car);
            let asked = pod.app(&mesh.programs().cli).args(["keys", "rotate"]);
            assert!(asked.run(SOON).unwrap().success());
            assert_eventually("another key is in use", LONG, || {
                (public_key(car) != before).then_some(())
            });
            assert_eq!(echo(), fresh, "{}", pod.name());
            assert_eq!(echo(), resumed, "{}", pod.name());
        }
    });
}
