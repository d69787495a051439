//! The census where a program runs as the sidecar's own user.

use super::*;
use sealwire_evidence::record::Socket;
use sealwire_pods::PROXY_UID;

#[test]
fn what_a_program_with_the_sidecars_user_opens_to_the_mesh_is_unaccounted() {
    in_a_mesh(|mesh| {
        let to = Watched::new(mesh, "server", "", None);
        let from = Watched::new(mesh, "client", "", None);
        let destination = SocketAddr::from((to.pod.v4(), 7000));
        // The kernel lets this user go where links go. Nothing is sealed by that.
        let dial = format!(
            "import socket, time\ns = socket.create_connection(('{}', 7000), 5)\ntime.sleep(60)",
            destination.ip()
        );
        let _dialling = (from.pod.command("python3"))
            .user(PROXY_UID)
            .args(["-c", &dial])
            .spawn()
            .unwrap();
        let tells = |window: &Window| {
            let census = window.census.as_ref();
            let listed = census.into_iter().flat_map(|census| &census.unaccounted);
            let dialled = |one: &&Socket| one.remote == Some(destination);
            let found: Vec<_> = listed.filter(dialled).collect();
            found.len() == 1 && found[0].process.uid == Some(PROXY_UID)
        };
        from.wait_for(
            mesh,
            "a window that tells of it",
            |event| matches!(event, Event::Window(window) if tells(window)),
        );
        for window in windows(&to.records(mesh)) {
            let census = window.census.as_ref().unwrap();
            assert!(census.unaccounted.is_empty(), "{census:#?}");
        }
    });
}
