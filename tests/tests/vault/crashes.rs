//! A sidecar that is killed at any step of a rotation goes on from there. The steps are the requests
//! that it makes of the server, held up before the server has them or after it has done them, and
//! the calls that it makes of its token.

use std::path::PathBuf;

use sealwire_pods::{Pod, Process};

use super::front::{Front, When};
use super::*;

/// A sidecar that is killed again and again.
struct Victim<'a> {
    front: &'a Front<'a>,
    pod: Pod,
    config: PathBuf,
    sidecar: Option<Sidecar>,
}

impl<'a> Victim<'a> {
    fn new(
        front: &'a Front<'a>,
        name: &str,
        key: KeyFrom,
        changed: impl Fn(&Pod, String) -> String,
    ) -> Self {
        let mesh = front.vaulted.mesh;
        let pod = mesh.world().pod(name).unwrap();
        let config = front.vaulted.prepare(&pod, name, key).unwrap();
        // The bundle is asked for with a certificate then, and at no other time.
        let text = front
            .config(&pod, name, key)
            .replace("bundleSeconds: 1", "bundleSeconds: 3600");
        mesh.write(&config, &changed(&pod, text)).unwrap();
        mesh.capture(&pod, &config).unwrap();
        let mut victim = Self {
            front,
            pod,
            config,
            sidecar: None,
        };
        victim.start();
        victim
    }

    fn start(&mut self) {
        let mesh = self.front.vaulted.mesh;
        let mut sidecar = mesh.start(&self.pod, &self.config).unwrap();
        sidecar.wait_until_ready().unwrap();
        self.sidecar = Some(sidecar);
    }

    fn sidecar(&self) -> &Sidecar {
        self.sidecar.as_ref().unwrap()
    }

    /// Asks for another key. Who waits for the answer ends when dropped.
    fn rotate(&self) -> Process {
        let cli = &self.front.vaulted.mesh.programs().cli;
        let asked = self.pod.app(cli).args(["keys", "rotate"]);
        asked.spawn().unwrap()
    }

    /// Kills it where it is, and starts it again.
    fn is_killed(&mut self) {
        self.sidecar().process.signal("KILL");
        self.sidecar = None;
        self.front.answers("ok");
        self.start();
    }

    /// Asserts that key and certificate belong together, and gives the key's custody.
    fn is_whole(&self) -> Value {
        let custody = self.sidecar().admin("/custody")["custody"].clone();
        let own = self.sidecar().admin("/certificates")["own"].clone();
        assert!(custody["public_key_sha256"].is_string(), "{custody}");
        assert_eq!(custody["public_key_sha256"], own["public_key_sha256"]);
        custody
    }

    fn is_heard_by(&self, api: &Pod) {
        let done = client(&self.pod, api.v4(), 8080, "echo").run(SOON).unwrap();
        assert!(done.success(), "{}{}", done.stdout, done.stderr);
    }
}

/// The versions of the key `web`: the newest, and the oldest that may sign and verify.
fn versions(vaulted: &Vaulted<'_>) -> (u64, [u64; 2]) {
    let key = vaulted.bao.read("transit/keys/web").unwrap();
    let number = |name: &str| key["data"][name].as_u64().unwrap();
    let oldest = ["min_encryption_version", "min_decryption_version"].map(number);
    (number("latest_version"), oldest)
}

#[test]
fn a_sidecar_killed_at_any_step_of_a_rotation_goes_on_from_there() {
    in_a_mesh(|mesh| {
        let vaulted = vaulted(mesh, "1h");
        let front = Front::before(&vaulted);
        let (api, _api_car) = vaulted.sealed_pod("api", KeyFrom::Transit).unwrap();
        let _server = server(&api, 8080, "echo");
        let mut web = Victim::new(&front, "web", KeyFrom::Transit, |_, text| text);
        // Another replica with the same key, which nobody kills.
        let other = mesh.world().pod("other").unwrap();
        let config = vaulted.prepare(&other, "web", KeyFrom::Transit).unwrap();
        mesh.capture(&other, &config).unwrap();
        let mut replica = mesh.start(&other, &config).unwrap();
        replica.wait_until_ready().unwrap();

        let mut newest = 1;
        for (when, request, number) in [
            (When::Before, "keys/web/rotate", 1),
            (When::After, "keys/web/rotate", 1),
            // To prove the new version.
            (When::Before, "sign/web", 1),
            // For the request.
            (When::After, "sign/web", 2),
            (When::Before, "pki/sign/sealwire", 1),
            (When::After, "pki/sign/sealwire", 1),
            // For the bundle, by which the certificate is verified before it is in force.
            (When::Before, "pki/issuers", 1),
        ] {
            front.hold(when, request, number);
            let asking = web.rotate();
            front.wait_until_it_holds();
            web.is_killed();
            drop(asking);
            let was_made = (when, request) != (When::Before, "keys/web/rotate");
            let expected = newest + u64::from(was_made);
            let step = format!("{when:?} {request} {number}");
            assert_eq!(versions(&vaulted), (expected, [0, 1]), "{step}");
            let custody = web.is_whole();
            assert_eq!(custody["transit"]["version"], expected, "{step}");
            web.is_heard_by(&api);
            newest = expected;
        }

        let before = public_key(web.sidecar());
        let mut asking = web.rotate();
        assert!(asking.wait(SOON).unwrap().success());
        assert_eventually("the new key is in force", LONG, || {
            (public_key(web.sidecar()) != before).then_some(())
        });
        web.is_killed();
        assert_eq!(versions(&vaulted), (newest + 1, [0, 1]));
        assert_eq!(web.is_whole()["transit"]["version"], newest + 1);
        web.is_heard_by(&api);
        assert_eventually("the replica has followed", LONG, || {
            let version = replica.admin("/custody")["custody"]["transit"]["version"].clone();
            (version == newest + 1 && replica.is_ready()).then_some(())
        });
    });
}

#[test]
fn a_sidecar_killed_while_old_versions_are_trimmed_goes_on_and_trims_nothing_that_is_in_use() {
    in_a_mesh(|mesh| {
        let vaulted = vaulted(mesh, "14s");
        let (root, both) = (vaulted.bao.root_token(), ["web", "api"]);
        let further = ["--let-trim"];
        vaulted.set_up_as(root, "approle", &both, &further).unwrap();
        begin_when_issued(&vaulted);
        let front = Front::before(&vaulted);
        let mut web = Victim::new(&front, "web", KeyFrom::Transit, |_, text| {
            let trim = "lookSeconds: 1, trim: true, trimAfterSeconds: 1";
            text.replace("lookSeconds: 1", trim)
                .replace("leastSeconds: 10", "leastSeconds: 5")
        });
        let (mut newest, mut oldest) = (1, [0, 1]);
        for when in [When::Before, When::After] {
            let before = public_key(web.sidecar());
            front.hold(when, "keys/web/config", 1);
            let mut asking = web.rotate();
            assert!(asking.wait(SOON).unwrap().success());
            assert_eventually("the new key is in force", SOON, || {
                (public_key(web.sidecar()) != before).then_some(())
            });
            newest += 1;
            front.wait_until_it_holds();
            web.is_killed();
            if when == When::After {
                oldest = [newest; 2];
            }
            assert_eq!(versions(&vaulted), (newest, oldest), "{when:?}");
            assert_eq!(web.is_whole()["transit"]["version"], newest, "{when:?}");
        }
        // With nothing left to trim it is killed once more.
        web.is_killed();
        assert_eq!(versions(&vaulted), (newest, oldest));
        assert_eq!(web.is_whole()["transit"]["version"], newest);
    });
}

#[test]
fn a_sidecar_killed_while_it_makes_another_key_in_its_token_leaves_none_behind() {
    in_a_mesh(|mesh| {
        let vaulted = vaulted(mesh, "1h");
        let front = Front::before(&vaulted);
        let (api, _api_car) = vaulted.sealed_pod("api", KeyFrom::Transit).unwrap();
        let _server = server(&api, 8080, "echo");
        let mut web = Victim::new(&front, "web", KeyFrom::Pkcs11, |pod, text| {
            behind_a_device(mesh, pod, &text)
        });
        let objects = || {
            let tokens = mesh.hsm(&["show"]).unwrap();
            let mut tokens = tokens.as_array().unwrap().iter();
            let token = tokens.find(|token| token["label"] == "web").unwrap();
            token["objects"].as_array().unwrap().len()
        };
        let pod = web.pod.clone();
        let device = |arguments: &[&str]| mesh.device(&pod, arguments).unwrap();
        let made = || {
            let counted = device(&["counters"]);
            let made = &counted["operations"]["C_GenerateKeyPair"]["CKR_OK"];
            made.as_u64().unwrap_or(0)
        };
        let there = objects();

        // There is a key, and its proof does not come.
        let before = made();
        device(&["freeze", "C_Sign"]);
        let asking = web.rotate();
        assert_eventually("another key is made", LONG, || {
            (made() > before).then_some(())
        });
        web.sidecar().process.signal("KILL");
        device(&["thaw"]);
        web.is_killed();
        drop(asking);
        web.is_whole();

        for (when, request) in [
            (When::Before, "pki/sign/sealwire"),
            (When::After, "pki/sign/sealwire"),
            (When::Before, "pki/issuers"),
        ] {
            front.hold(when, request, 1);
            let asking = web.rotate();
            front.wait_until_it_holds();
            web.is_killed();
            drop(asking);
            web.is_whole();
            web.is_heard_by(&api);
        }

        let before = public_key(web.sidecar());
        assert!(web.rotate().wait(SOON).unwrap().success());
        assert_eventually("the new key is in force", LONG, || {
            (public_key(web.sidecar()) != before).then_some(())
        });
        web.is_killed();
        web.is_whole();
        web.is_heard_by(&api);
        assert_eq!(objects(), there, "nothing is left behind in the token");
    });
}

/// Changes the configuration of a pod so that its token is behind a simulated device.
fn behind_a_device(mesh: &Mesh, pod: &Pod, text: &str) -> String {
    mesh.device(pod, &["new", "--log", "off", "--profile", "soft"])
        .unwrap();
    let module = mesh.programs().device.as_ref().expect("it is built");
    let real = text.split("module: ").nth(1).unwrap();
    let real = real.split(',').next().unwrap();
    let device = mesh.device_directory(pod);
    let device = device.display();
    text.replace(real, &module.display().to_string())
        .replace("read: [", &format!("read: [{device}, "))
        .replace("write: [", &format!("write: [{device}, "))
}
