//! Several keys by one name in a token: the certificate says which one is used.

use super::*;

#[test]
fn two_keys_of_one_name_are_refused_with_their_ids() {
    in_a_mesh(|mesh| {
        let (pod, config, text) = prepared(mesh);
        mesh.hsm(&[
            "key",
            "--token",
            "pod",
            "--label",
            "pod",
            "--id",
            "0a0b",
            "--allow-duplicate",
        ])
        .unwrap();
        // By a certificate for one of them that one would be chosen.
        let tls = mesh.world().directory().join("pod/tls.pem");
        let tls = tls.display().to_string();
        let other = ["--token", "other", "--label", "other"];
        mesh.hsm(&[&["key"], &other[..]].concat()).unwrap();
        let id = ["--spiffe-id", "spiffe://mesh.example/pod", "--out", &tls];
        mesh.hsm(&[&["issue"], &other[..], &id[..]].concat())
            .unwrap();
        let sidecar = unready(
            mesh,
            &pod,
            &config,
            &text,
            &["several private keys", "id=%0A%0B"],
        );
        drop(sidecar);
        // The id makes it one again; the certificate is for neither, though.
        let chosen = text.replace("object=pod", "object=pod;id=%0A%0B");
        unready(
            mesh,
            &pod,
            &config,
            &chosen,
            &["own certificate is for the public key"],
        );
    });
}

#[test]
fn a_key_made_beside_the_one_in_use_follows_it_when_its_certificate_comes() {
    in_a_mesh(|mesh| {
        let (from, _out) = mesh.sealed_pod("client", &Sealing::default()).unwrap();
        let (to, inn) = mesh.sealed_pod("server", &Sealing::default()).unwrap();
        let _drip = server(&to, 7000, "drip");
        let _echo = server(&to, 7001, "echo");
        let mut old = client(&from, to.v4(), 7000, "until-it-ends")
            .spawn()
            .unwrap();
        assert_eventually("bytes flow", SOON, || {
            old.stdout().contains("reading").then_some(())
        });
        // It was made by somebody else, who has to make the next as well.
        let asked = to.app(&mesh.programs().cli).args(["keys", "rotate"]);
        let refused = asked.run(SOON).unwrap();
        assert!(!refused.success());
        let said = refused.stderr;
        assert!(said.contains("make another beside it"), "{said}");

        let id = ["--id", "0a0b"];
        let beside = ["key", "--token", "server", "--label", "server"];
        mesh.hsm(&[&beside[..], &id[..], &["--allow-duplicate"]].concat())
            .unwrap();
        let reference =
            |sidecar: &Sidecar| sidecar.admin("/custody")["custody"]["reference"].clone();
        let restart = |sidecar: Sidecar| {
            sidecar.process.signal("KILL");
            let config = sidecar.config.clone();
            drop(sidecar);
            let mut again = mesh.start(&to, &config).unwrap();
            again.wait_until_ready().unwrap();
            again
        };
        let issued = Sealing {
            issue: id.map(str::to_owned).to_vec(),
            ..Sealing::default()
        };
        mesh.issue(&to, &issued).unwrap();
        assert_eventually("the key beside it is in use", SOON, || {
            let reference = reference(&inn);
            reference.as_str()?.contains("id=%0A%0B").then_some(())
        });
        assert!(inn.is_ready());
        let echo = || client(&from, to.v4(), 7001, "echo").run(SOON).unwrap();
        assert!(echo().success());
        let fresh = record(&inn, &[("outcome", "complete")]);
        assert!(fresh["key"].as_str().unwrap().contains("id=%0A%0B"));
        assert!(old.is_running(), "the old link was cut: {}", old.stdout());

        // Which of the two it is stands in the certificate, and so survives a crash.
        let inn = restart(inn);
        assert!(reference(&inn).as_str().unwrap().contains("id=%0A%0B"));
        assert!(echo().success());
        let first = mesh.hsm(&["show"]).unwrap();
        let tokens = first.as_array().unwrap();
        let token = tokens.iter().find(|token| token["label"] == "server");
        let mut objects = token.unwrap()["objects"].as_array().unwrap().iter();
        let before = objects.find(|object| object["id"] != "0a0b").unwrap();
        let back = Sealing {
            issue: vec!["--id".to_owned(), before["id"].as_str().unwrap().to_owned()],
            ..Sealing::default()
        };
        mesh.issue(&to, &back).unwrap();
        let inn = restart(inn);
        assert!(!reference(&inn).as_str().unwrap().contains("id=%0A%0B"));
        assert!(echo().success());
    });
}
