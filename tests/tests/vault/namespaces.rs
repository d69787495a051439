//! A mesh whose part of the server is a namespace: set up there by `sealwire vault setup`, with login,
//! key and certificate in it.

use super::*;

#[test]
fn two_pods_are_sealed_by_what_is_in_a_namespace_and_may_be_nobody_else_there() {
    in_a_mesh(|mesh| {
        let workloads = ["web", "api"];
        let vaulted =
            Vaulted::in_namespace(mesh, Storage::Memory, "24s", &workloads, "team").unwrap();
        let (web, web_car) = vaulted.sealed_pod("web", KeyFrom::Transit).unwrap();
        let (api, _api_car) = vaulted.sealed_pod("api", KeyFrom::Pkcs11).unwrap();
        let _server = server(&api, 8080, "echo");
        let echo = || {
            let done = client(&web, api.v4(), 8080, "echo").run(SOON).unwrap();
            assert!(done.success(), "{}{}", done.stdout, done.stderr);
        };
        echo();
        // Of all this there is nothing outside of it.
        let bao = &vaulted.bao;
        let outside = bao.ask("GET", "transit/keys/web", &Value::Null, bao.root_token());
        assert_eq!(outside.unwrap().0, 404);

        let (first, key) = (serial(&web_car), public_key(&web_car));
        let asked = web.app(&mesh.programs().cli).args(["keys", "rotate"]);
        assert!(asked.run(SOON).unwrap().success());
        assert_eventually("another key is in use", LONG, || {
            echo();
            (public_key(&web_car) != key).then_some(())
        });
        let rotated = serial(&web_car);
        assert_ne!(rotated, first);
        assert_eventually("the certificate is renewed", LONG, || {
            echo();
            (serial(&web_car) != rotated).then_some(())
        });

        let token = vaulted.token("web").unwrap();
        let ask = |path: &str| {
            let input = json!({ "input": "AAAA" });
            bao.ask("POST", path, &input, &token).unwrap().0
        };
        assert_eq!(ask("team/transit/sign/web/sha2-256"), 200);
        assert_eq!(ask("team/transit/sign/api/sha2-256"), 403);
        assert_eq!(ask("transit/sign/web/sha2-256"), 403);
    });
}
