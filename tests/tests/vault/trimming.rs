//! Old versions of a key are trimmed after a rotation, when the last link of theirs has ended.

use super::*;

/// Certificates begin when they are issued, and live no longer than they have to.
pub(super) fn begin_when_issued(vaulted: &Vaulted<'_>) {
    let path = "pki/roles/sealwire";
    let mut role = vaulted.bao.read(path).unwrap()["data"].take();
    role["not_before_duration"] = json!("1s");
    vaulted.bao.write(path, &role).unwrap();
}

#[test]
fn old_versions_are_trimmed_after_a_rotation_when_their_last_link_has_ended() {
    in_a_mesh(|mesh| {
        let vaulted = vaulted(mesh, "24s");
        let root = vaulted.bao.root_token();
        let both = ["web", "api"];
        let further = ["--let-trim"];
        vaulted.set_up_as(root, "approle", &both, &further).unwrap();
        begin_when_issued(&vaulted);
        let web = mesh.world().pod("web").unwrap();
        let config = vaulted.prepare(&web, "web", KeyFrom::Transit).unwrap();
        let text = vaulted.config(&web, "web", KeyFrom::Transit);
        let trim = "lookSeconds: 1, trim: true, trimAfterSeconds: 1";
        mesh.write(&config, &text.replace("lookSeconds: 1", trim))
            .unwrap();
        mesh.capture(&web, &config).unwrap();
        let mut web_car = mesh.start(&web, &config).unwrap();
        web_car.wait_until_ready().unwrap();
        let (api, _api_car) = vaulted.sealed_pod("api", KeyFrom::Transit).unwrap();
        let _server = server(&api, 8080, "echo");
        let old = client(&web, api.v4(), 8080, "steady").args(["8"]);
        let mut old = old.spawn().unwrap();
        assert_eventually("it moves", SOON, || {
            (!web_car.admin("/links").as_array()?.is_empty()).then_some(())
        });

        let before = public_key(&web_car);
        let asked = web.app(&mesh.programs().cli).args(["keys", "rotate"]);
        assert!(asked.run(SOON).unwrap().success());
        assert_eventually("another key is in use", SOON, || {
            (public_key(&web_car) != before).then_some(())
        });
        let rotated = Instant::now();
        let oldest = || {
            let key = vaulted.bao.read("transit/keys/web").unwrap();
            ["min_encryption_version", "min_decryption_version"]
                .map(|name| key["data"][name].as_u64().unwrap())
        };
        while old.is_running() {
            let now = oldest();
            // It may have ended in between.
            assert!(now == [0, 1] || !old.is_running(), "{now:?}");
        }
        assert!(old.stdout().contains("none broken"), "{}", old.stdout());
        assert_eventually("they are trimmed", LONG, || {
            (oldest() == [2, 2]).then_some(())
        });
        // Another replica might have had a certificate for them as long as one lives, whatever
        // trimAfterSeconds says.
        assert!(rotated.elapsed() > Duration::from_secs(15));
        let done = client(&web, api.v4(), 8080, "echo").run(SOON).unwrap();
        assert!(done.success(), "{}{}", done.stdout, done.stderr);
        assert!(web_car.is_ready());
    });
}
