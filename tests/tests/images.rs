//! The images: what `deploy/images/build` writes, run by runc as Kubernetes' runtimes run it, in the
//! pods of a world. As root. `make test SUITE=images`.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests fail loudly"
)]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::LazyLock;

use sealwire_pods::{Finished, Pod, PodCommand, Privilege, Process, World, assert_eventually};
use sealwire_tests::SOON;
use serde_json::{Value, json};

/// Where the images of this run are.
static IMAGES: LazyLock<PathBuf> = LazyLock::new(|| {
    let out = root().join("target/images/test");
    built(&["--out", &out.display().to_string()]);
    out
});

/// Everything that is built.
const ALL: [&str; 4] = ["proxy", "injector", "cli", "hsm-sim"];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

/// Runs the tool that builds images, of programs as tests have them.
fn build(arguments: &[&str]) -> Output {
    Command::new(root().join("deploy/images/build"))
        .args(["--profile", "dev", "--built"])
        .args(arguments)
        .output()
        .unwrap()
}

fn built(arguments: &[&str]) {
    let done = build(arguments);
    let said = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "{said}");
}

fn read(path: impl AsRef<Path>) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

/// An image, unpacked.
struct Image {
    files: PathBuf,
    config: Value,
}

impl Image {
    fn unpack(world: &World, name: &str) -> Self {
        let files = world.directory().join("images").join(name);
        fs::create_dir_all(&files).unwrap();
        let mut tool = Command::new(root().join("deploy/images/build"));
        let tool = tool.arg("--unpack").arg(IMAGES.join(name)).arg(&files);
        let done = tool.output().unwrap();
        assert!(done.status.success(), "{done:?}");
        Self {
            files,
            config: serde_json::from_slice(&done.stdout).unwrap(),
        }
    }
}

/// A container as Kubernetes would make it of an image: its user unless another is given, a
/// read-only root, no privilege to be gained.
struct Container<'a> {
    world: &'a World,
    image: &'a Image,
    pod: &'a Pod,
    name: &'static str,
    arguments: Vec<String>,
    user: Option<u32>,
    capabilities: Vec<&'static str>,
    environment: Vec<String>,
    /// Directories of the node, by where they are in the container.
    volumes: BTreeMap<&'static str, PathBuf>,
}

impl<'a> Container<'a> {
    fn of(world: &'a World, image: &'a Image, pod: &'a Pod, name: &'static str) -> Self {
        Self {
            world,
            image,
            pod,
            name,
            arguments: Vec::new(),
            user: None,
            capabilities: Vec::new(),
            environment: Vec::new(),
            volumes: BTreeMap::new(),
        }
    }

    fn args(mut self, arguments: &[&str]) -> Self {
        self.arguments = arguments.iter().map(ToString::to_string).collect();
        self
    }

    fn volume(mut self, at: &'static str, directory: impl Into<PathBuf>) -> Self {
        self.volumes.insert(at, directory.into());
        self
    }

    fn run(self) -> Finished {
        self.command().run(SOON).unwrap()
    }

    fn spawn(self) -> Running<'a> {
        let (world, name) = (self.world, self.name);
        Running {
            process: self.command().spawn().unwrap(),
            world,
            name,
        }
    }

    fn command(self) -> PodCommand {
        let bundle = self.world.directory().join("bundles").join(self.name);
        fs::create_dir_all(&bundle).unwrap();
        fs::write(bundle.join("config.json"), self.spec().to_string()).unwrap();
        runc(self.world)
            .args(["run", "--bundle"])
            .args([bundle])
            .args([self.name])
    }

    /// The runtime's specification: what containerd makes of a pod, as far as it matters here.
    fn spec(&self) -> Value {
        let strings = |key: &str| {
            let list = self.image.config[key].as_array().cloned();
            list.unwrap_or_default()
        };
        let mut arguments = strings("Entrypoint");
        if self.arguments.is_empty() {
            arguments.extend(strings("Cmd"));
        }
        arguments.extend(self.arguments.iter().map(|argument| json!(argument)));
        let mut environment = strings("Env");
        environment.extend(self.environment.iter().map(|pair| json!(pair)));
        let own: u32 = user(self.image);
        let user = self.user.unwrap_or(own);
        let held = &self.capabilities;
        let mut mounts = vec![
            json!({"destination": "/proc", "type": "proc", "source": "proc"}),
            json!({"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755"]}),
        ];
        mounts.extend(self.volumes.iter().map(|(at, directory)| {
            json!({"destination": at, "type": "bind", "source": directory, "options": ["rbind", "rprivate"]})
        }));
        let namespaces = ["pid", "ipc", "uts", "mount"].map(|kind| json!({"type": kind}));
        let mut namespaces = namespaces.to_vec();
        let network = format!("/run/netns/{}", self.pod.name());
        namespaces.push(json!({"type": "network", "path": network}));
        json!({
            "ociVersion": "1.0.2",
            "process": {
                "args": arguments, "env": environment, "cwd": "/", "noNewPrivileges": true,
                "user": {"uid": user, "gid": user},
                "capabilities": {"bounding": held, "effective": held, "permitted": held},
            },
            "root": {"path": self.image.files, "readonly": true},
            "hostname": self.pod.name(),
            "mounts": mounts,
            "linux": {"namespaces": namespaces},
        })
    }
}

/// A container that runs; gone with this.
struct Running<'a> {
    process: Process,
    world: &'a World,
    name: &'static str,
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        let _ = runc(self.world)
            .args(["delete", "--force", self.name])
            .run(SOON);
    }
}

fn runc(world: &World) -> PodCommand {
    let state = world.directory().join("runc");
    world.command("runc").args(["--root".into(), state])
}

/// The user that an image runs as.
fn user(image: &Image) -> u32 {
    let user = image.config["User"].as_str().unwrap();
    let (uid, gid) = user.split_once(':').unwrap();
    assert_eq!(uid, gid);
    uid.parse().unwrap()
}

/// What answers at a URL, asked from the node: its status.
fn status(world: &World, url: &str) -> Option<u16> {
    let asked = world
        .command("curl")
        .args(["--silent", "--max-time", "2", "--output", "/dev/null"])
        .args(["--write-out", "%{http_code}", url])
        .run(SOON);
    asked.ok()?.stdout.parse().ok()
}

#[test]
fn two_builds_give_the_same_bytes() {
    let again = root().join("target/images/again");
    built(&["--out", &again.display().to_string()]);
    for image in ALL {
        for file in [format!("{image}.tar"), format!("{image}.spdx.json")] {
            let [one, other] = [&*IMAGES, &again].map(|out| fs::read(out.join(&file)).unwrap());
            assert!(one == other, "{file} differs");
        }
    }
}

#[test]
fn an_image_that_misses_a_library_is_not_written() {
    let scratch = tempfile::tempdir().unwrap();
    let text = fs::read_to_string(root().join("deploy/images/images.toml")).unwrap();
    let lacking = scratch.path().join("images.toml");
    let line = "libgmp10 = [\"usr/lib/*/libgmp.so.*\"]\n";
    assert!(text.contains(line));
    fs::write(&lacking, text.replace(line, "")).unwrap();
    let out = scratch.path().join("out");
    let [lacking, out] = [&lacking, &out].map(|path| path.display().to_string());
    let done = build(&["--images", &lacking, "--out", &out, "proxy"]);
    let said = String::from_utf8_lossy(&done.stderr);
    assert!(!done.status.success());
    assert!(
        said.contains("needs libgmp.so.10, not in the image"),
        "{said}"
    );
    assert!(!Path::new(&out).join("proxy").exists());
}

#[test]
fn nothing_in_an_image_runs_as_its_owner_or_can_be_changed_by_others() {
    for image in ALL {
        let layout = IMAGES.join(image);
        let index = read(layout.join("index.json"));
        let blob = |descriptor: &Value| {
            let digest = descriptor["digest"].as_str().unwrap();
            layout.join("blobs").join(digest.replace(':', "/"))
        };
        let manifest = read(blob(&index["manifests"][0]));
        let layers = manifest["layers"].as_array().unwrap();
        assert!(!layers.is_empty());
        for layer in layers {
            let listed = Command::new("tar")
                .args(["--list", "--verbose", "--numeric-owner", "--gzip", "--file"])
                .arg(blob(layer))
                .output()
                .unwrap();
            let listed = String::from_utf8(listed.stdout).unwrap();
            assert!(!listed.is_empty());
            for line in listed.lines().filter(|line| !line.starts_with('l')) {
                let fine = ["-rwxr-xr-x 0/0", "-rw-r--r-- 0/0", "drwxr-xr-x 0/0"];
                let fine = fine.iter().any(|start| line.starts_with(start));
                let shared = line.starts_with("drwxrwxrwt 0/0") && line.ends_with(" tmp/");
                assert!(fine || shared, "{image}: {line}");
            }
        }
    }
}

#[test]
fn a_bill_of_materials_names_every_debian_package_and_every_crate_of_the_image() {
    let bill = read(IMAGES.join("proxy.spdx.json"));
    let locators: Vec<_> = bill["packages"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|package| package["externalRefs"][0]["referenceLocator"].as_str())
        .collect();
    let debian = |name: &str| format!("pkg:deb/debian/{name}@");
    let world = World::new(Privilege::Root).unwrap();
    let image = Image::unpack(&world, "proxy");
    let mut packages = 0;
    for entry in fs::read_dir(image.files.join("var/lib/dpkg/status.d")).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        let start = debian(&name.replace('+', "%2B"));
        assert!(
            locators.iter().any(|locator| locator.starts_with(&start)),
            "{name}"
        );
        packages += 1;
    }
    assert!(packages > 10, "{packages}");
    for linked in ["rustls", "aws-lc-sys", "cryptoki-sys", "sealwire-keys"] {
        let start = format!("pkg:cargo/{linked}@");
        assert!(
            locators.iter().any(|locator| locator.starts_with(&start)),
            "{linked}"
        );
    }
    // For tests alone.
    assert!(
        !locators
            .iter()
            .any(|locator| locator.starts_with("pkg:cargo/proptest@"))
    );
}

#[test]
fn every_image_starts_as_an_ordinary_user_on_a_root_that_nobody_can_write() {
    let world = World::new(Privilege::Root).unwrap();
    let pod = world.pod("pod").unwrap();
    for name in ALL {
        let image = Image::unpack(&world, name);
        assert_eq!(user(&image), 1337, "{name}");
        let ended = Container::of(&world, &image, &pod, name)
            .args(&["--version"])
            .run();
        assert!(ended.success(), "{name}: {ended:?}");
        assert!(
            ended.stdout.contains(env!("CARGO_PKG_VERSION")),
            "{ended:?}"
        );
    }
}

/// The whole of a sealed pod, but for the application: the token and its module from one image,
/// capture and sidecar from the other.
#[test]
fn a_sidecar_is_ready_with_a_key_in_the_token_of_the_other_image() {
    let world = World::new(Privilege::Root).unwrap();
    let pod = world.pod("web").unwrap();
    let [proxy, hsm] = ["proxy", "hsm-sim"].map(|name| Image::unpack(&world, name));
    let store = world.directory().join("store");
    fs::create_dir(&store).unwrap();
    world.give(&store, user(&hsm), user(&hsm)).unwrap();
    let address = pod.v4().to_string();
    let steps: [&[&str]; 3] = [
        &["init", "--trust-domain", "mesh.example"],
        &["key", "--token", "web", "--label", "web"],
        &[
            "issue",
            "--token",
            "web",
            "--label",
            "web",
            "--out",
            "/hsm/web.pem",
            "--ip",
            &address,
            "--spiffe-id",
            "spiffe://mesh.example/ns/shop/sa/web",
        ],
    ];
    for step in steps {
        let ended = Container::of(&world, &hsm, &pod, "hsm")
            .args(&[&["--dir", "/hsm"], step].concat())
            .volume("/hsm", &store)
            .run();
        assert!(ended.success(), "{step:?}: {ended:?}");
    }
    let config = world.directory().join("config");
    fs::create_dir(&config).unwrap();
    fs::write(config.join("proxy.yaml"), CONFIG).unwrap();
    let of_the_pod = |name| {
        Container::of(&world, &proxy, &pod, name)
            .volume("/etc/sealwire/config", &config)
            .volume("/etc/sealwire/module", &hsm.files)
            .volume("/hsm", &store)
    };

    let sidecar = || {
        let mut container = of_the_pod("sidecar").args(&["run", "--config", FILE]);
        container.environment = vec![
            "SOFTHSM2_CONF=/hsm/softhsm2.conf".to_owned(),
            "LD_LIBRARY_PATH=/etc/sealwire/module/opt/pkcs11".to_owned(),
        ];
        container.spawn()
    };
    let ready = format!("http://{address}:15021/readyz");
    let mut unready = sidecar();
    let ended = unready.process.wait(SOON).unwrap();
    assert_eq!(ended.code(), Some(3), "{}", unready.process.stdout());
    drop(unready);

    let mut capture = of_the_pod("capture").args(&["capture", "--config", FILE]);
    capture.user = Some(0);
    capture.capabilities = vec!["CAP_NET_ADMIN"];
    let ended = capture.run();
    assert!(ended.success(), "{ended:?}");

    let running = sidecar();
    assert_eventually("the sidecar is ready", SOON, || {
        (status(&world, &ready) == Some(200)).then_some(())
    });
    let alive = format!("http://{address}:15021/livez");
    assert_eq!(status(&world, &alive), Some(200));
    assert!(running.process.stdout().contains("\"level\""));
}

/// Without a cluster behind it: ready means that it can answer, and it does.
#[test]
fn the_injector_passes_its_health_check_and_seals_a_pod() {
    let world = World::new(Privilege::Root).unwrap();
    let pod = world.pod("injector").unwrap();
    let image = Image::unpack(&world, "injector");
    let address = pod.v4().to_string();
    let config = world.directory().join("config");
    fs::create_dir(&config).unwrap();
    let file = |name: &str| config.join(name).display().to_string();
    let (certificate, key) = (file("tls.crt"), file("tls.key"));
    let made = world
        .command("openssl")
        .args([
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-nodes",
        ])
        .args([
            "-days",
            "2",
            "-subj",
            "/CN=injector",
            "-keyout",
            &key,
            "-out",
            &certificate,
        ])
        .args(["-addext", &format!("subjectAltName=IP:{address}")])
        .run(SOON)
        .unwrap();
    assert!(made.success(), "{made:?}");
    fs::write(file("injector.yaml"), INJECTOR).unwrap();
    fs::write(file("kubeconfig"), NOWHERE).unwrap();
    fs::write(file("review.json"), review().to_string()).unwrap();
    world.give(&config, user(&image), user(&image)).unwrap();

    let running = Container::of(&world, &image, &pod, "injector")
        .args(&[
            "run",
            "--config",
            "/config/injector.yaml",
            "--kubeconfig",
            "/config/kubeconfig",
        ])
        .volume("/config", &config)
        .spawn();
    let ready = format!("http://{address}:8080/readyz");
    assert_eventually("the injector is ready", SOON, || {
        (status(&world, &ready) == Some(200)).then_some(())
    });
    let answer = world
        .command("curl")
        .args([
            "--silent",
            "--cacert",
            &certificate,
            "--header",
            "Content-Type: application/json",
        ])
        .args(["--data", &format!("@{}", file("review.json"))])
        .args([format!("https://{address}:8443/mutate/namespace")])
        .run(SOON)
        .unwrap();
    let answer: Value = serde_json::from_str(&answer.stdout).unwrap();
    assert_eq!(answer["response"]["uid"], "1", "{answer}");
    assert_eq!(answer["response"]["allowed"], true, "{answer}");
    assert_eq!(answer["response"]["patchType"], "JSONPatch", "{answer}");
    drop(running);
}

/// What an API server would ask.
fn review() -> Value {
    json!({
        "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview",
        "request": {
            "uid": "1", "operation": "CREATE", "namespace": "shop", "name": "web", "userInfo": {},
            "kind": {"group": "", "version": "v1", "kind": "Pod"},
            "resource": {"group": "", "version": "v1", "resource": "pods"},
            "object": {
                "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "web", "namespace": "shop"},
                "spec": {"containers": [{"name": "web", "image": "registry.example/web:1"}]},
            },
        },
    })
}

/// The injector's own example, with a certificate in files and nothing to be asked of a cluster.
const INJECTOR: &str = concat!(
    include_str!("../../injector/src/config/example.yaml"),
    "
sidecar: { native: always }
policy: { claims: ignore }
webhook: { certificate: { files: { certificate: /config/tls.crt, key: /config/tls.key } } }
"
);

/// A cluster that nobody answers for. Its CA is named as that of every pod is: the image has none.
const NOWHERE: &str = "
apiVersion: v1
kind: Config
clusters:
  - name: none
    cluster: { server: 'https://198.18.255.1:6443', certificate-authority: /config/tls.crt }
users: [{ name: none, user: {} }]
contexts: [{ name: none, context: { cluster: none, user: none } }]
current-context: none
";

/// Where the sidecar finds what follows.
const FILE: &str = "/etc/sealwire/config/proxy.yaml";

const CONFIG: &str = r#"
identity: { trustDomains: [mesh.example], certificate: /hsm/web.pem, bundle: /hsm/ca.pem }
key:
  pkcs11:
    module: /etc/sealwire/module/opt/pkcs11/libsofthsm2.so
    uri: "pkcs11:token=web;object=web?pin-source=file:/hsm/pins/web"
mesh: { ranges: [198.18.0.0/16] }
capture: { node: [198.18.255.1/32], proveWithinSeconds: 2 }
confinement: { read: [/etc/sealwire/module, /hsm], write: [/hsm/tokens] }
"#;
