//! Old versions of a key are trimmed after a rotation, when the last link of theirs has ended.

use super::*;

#[test]
fn old_versions_are_trimmed_after_a_rotation_when_their_last_link_has_ended() {
    in_a_mesh(|mesh| {
        let vaulted = vaulted(mesh, "1h");
        let root = vaulted.bao.root_token();
        let both = ["web", "api"];
        let further = ["--let-trim"];
        vaulted.set_up_as(root, "approle", &both, &further).unwrap();
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
        let old = client(&web, api.v4(), 8080, "steady").args(["20"]);
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
        assert_eventually("they are trimmed", SOON, || {
            (oldest() == [2, 2]).then_some(())
        });
        let done = client(&web, api.v4(), 8080, "echo").run(SOON).unwrap();
        assert!(done.success(), "{}{}", done.stdout, done.stderr);
        assert!(web_car.is_ready());
    });
}
