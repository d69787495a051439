//! A Kubernetes API with Sealwire's chart in it, rendered by Helm, and the injector behind its
//! webhooks. No kube-proxy runs, so that the API server calls the webhooks by URL on loopback; all
//! else is as the chart has it, the injector's own rights among it.

use std::cell::RefCell;
use std::fs::{self, File};
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use sealwire_pods::{KubeApi, Release, assert_eventually, helm};
use serde_json::{Value, json};

use crate::{LONG, SOON};

/// The namespace that the chart is installed in.
pub const SYSTEM: &str = "sealwire-system";

/// The label by which a namespace or a pod is sealed.
pub const INJECT: &str = "sealwire.io/inject";

/// A cluster without nodes.
#[derive(Debug)]
pub struct Cluster {
    /// Its API.
    pub api: KubeApi,
    injectors: RefCell<Vec<Injector>>,
    webhook: u16,
    health: u16,
    values: Value,
    /// Seconds for which the webhooks' certificates are good.
    lifetime: u32,
    directory: PathBuf,
}

/// A running injector. It is killed when dropped.
#[derive(Debug)]
pub struct Injector {
    child: Child,
    health: u16,
    log: PathBuf,
}

/// Runs a test against each release of Kubernetes.
#[allow(clippy::print_stdout, reason = "shown when the test fails")]
pub fn with_each_release(test: impl Fn(Release)) {
    for release in Release::ALL {
        println!("Kubernetes {}", release.name());
        test(release);
    }
}

/// The same in a cluster in which pods of the namespace `shop` are sealed.
pub fn in_each_cluster(test: impl Fn(&Cluster)) {
    with_each_release(|release| {
        let cluster = Cluster::sealing(release);
        test(&cluster);
    });
}

/// The chart.
pub fn chart() -> PathBuf {
    repository().join("deploy/helm/sealwire")
}

/// The root of the repository.
pub fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

impl Cluster {
    /// An API with what every cluster has in it, and nothing of Sealwire.
    pub fn bare(release: Release) -> Self {
        let api = KubeApi::start(release).unwrap();
        let directory = api.kubeconfig().parent().unwrap().to_owned();
        let cluster = Self {
            api,
            injectors: RefCell::default(),
            webhook: free_port(),
            health: free_port(),
            values: json!({}),
            lifetime: 86_400,
            directory,
        };
        // What a controller would make.
        cluster.api.service_account("default", "default").unwrap();
        cluster.namespace(SYSTEM, None);
        cluster
    }

    /// One with the chart and an injector, and the namespace `shop`, in which every pod is sealed.
    pub fn sealing(release: Release) -> Self {
        Self::bare(release).into_sealing()
    }

    /// The same, with certificates of the webhooks that are good for so many seconds.
    pub fn sealing_with_certificates_for(release: Release, seconds: u32) -> Self {
        let mut cluster = Self::bare(release);
        cluster.lifetime = seconds;
        cluster.into_sealing()
    }

    fn into_sealing(mut self) -> Self {
        self.install();
        self.start_injector();
        self.namespace("shop", Some("enabled"));
        self.wait_until_sealing("shop");
        self
    }

    /// Installs the chart, but for who runs the injector.
    fn install(&mut self) {
        self.choose(&json!({}));
        let mut objects = self.rendered();
        for object in &mut objects {
            let webhooks = object.get_mut("webhooks").and_then(Value::as_array_mut);
            for webhook in webhooks.into_iter().flatten() {
                let client = &mut webhook["clientConfig"];
                let path = client["service"]["path"].as_str().unwrap().to_owned();
                let url = format!("https://127.0.0.1:{}{path}", self.webhook);
                client.as_object_mut().unwrap().remove("service");
                client["url"] = json!(url);
            }
        }
        self.apply_all(&objects).unwrap();
    }

    /// What Helm renders, object by object.
    pub fn rendered(&self) -> Vec<Value> {
        let text = self.helm(&["template", "sealwire", chart().to_str().unwrap()]);
        self.objects(&text.unwrap())
    }

    /// Objects in a YAML text.
    pub fn objects(&self, yaml: &str) -> Vec<Value> {
        let told = [
            "create",
            "--dry-run=client",
            "--validate=false",
            "-o",
            "json",
            "-f",
            "-",
        ];
        let json = self.api.kubectl_with(&told, yaml).unwrap();
        let all: Vec<Value> = serde_json::Deserializer::from_str(&json)
            .into_iter()
            .collect::<Result<_, _>>()
            .unwrap();
        let items = |object: Value| match object["kind"].as_str() {
            Some("List") => object["items"].as_array().unwrap().clone(),
            _ => vec![object],
        };
        all.into_iter().flat_map(items).collect()
    }

    /// Runs Helm with the values of this cluster's chart.
    pub fn helm(&self, arguments: &[&str]) -> Result<String, String> {
        let values = self.directory.join("values.json");
        fs::write(&values, self.values.to_string()).unwrap();
        let home = self.directory.join("helm");
        let with_values = ["install", "template", "upgrade", "lint"].contains(&arguments[0]);
        let values = ["--values", values.to_str().unwrap()];
        let done = Command::new(helm().unwrap())
            .args(arguments)
            .args(["--namespace", SYSTEM, "--kubeconfig"])
            .arg(self.api.kubeconfig())
            .args(if with_values { &values[..] } else { &[] })
            .current_dir(&self.directory)
            .env("HELM_CACHE_HOME", &home)
            .env("HELM_CONFIG_HOME", &home)
            .env("HELM_DATA_HOME", &home)
            .output()
            .unwrap();
        if done.status.success() {
            return Ok(String::from_utf8(done.stdout).unwrap());
        }
        Err(String::from_utf8_lossy(&done.stderr).into_owned())
    }

    /// Merges values into those of every test, for `rendered` and `helm`.
    pub fn choose(&mut self, values: &Value) {
        self.values = self.chart_values(values);
    }

    fn chart_values(&self, more: &Value) -> Value {
        let mut values = json!({
            "config": {
                "proxy": {
                    "identity": {
                        "trustDomains": ["mesh.example"],
                        "vaultPki": {
                            "role": "sealwire",
                            "spiffeId": "spiffe://mesh.example/ns/{namespace}/sa/{serviceAccount}",
                        },
                    },
                    "key": { "vaultTransit": { "key": "vault-transit:transit/{namespace}.{serviceAccount}" } },
                    "vault": {
                        "address": "https://vault.example:8200",
                        "ranges": ["198.18.255.20/32"],
                        "ca": "/etc/sealwire/config/vault-ca.pem",
                        "auth": { "kubernetes": {
                            "mount": "kubernetes", "role": "sealwire",
                            "token": "/run/secrets/sealwire/vault/token",
                        } },
                    },
                    "mesh": { "services": [{
                        "destination": "198.18.0.0/24", "identities": ["spiffe://mesh.example/ns/*/sa/*"],
                    }] },
                },
                "vaultCa": self.api.ca(),
                "volumes": { "vaultToken": { "audience": "sealwire-vault" } },
            },
            "webhooks": {
                "port": self.webhook, "healthPort": self.health,
            },
        });
        merge(&mut values, more);
        values
    }

    /// Starts the injector that the chart describes, as its service account, and waits until it is
    /// ready.
    pub fn start_injector(&self) {
        self.start_injector_at(self.webhook, self.health);
    }

    /// Starts another replica, which the API server does not call.
    pub fn start_replica(&self) {
        self.start_injector_at(free_port(), free_port());
    }

    fn start_injector_at(&self, webhook: u16, health: u16) {
        let map = self.get(&format!("configmap sealwire-injector -n {SYSTEM}"));
        let text = map["data"]["injector.yaml"].as_str().unwrap();
        // What differs from a pod that a Service leads to.
        let line = |line: &str| {
            let indent = " ".repeat(line.len() - line.trim_start().len());
            match line.trim().split(':').next() {
                Some("port") => format!("{indent}port: {webhook}"),
                Some("healthPort") => format!("{indent}healthPort: {health}"),
                Some("lifetimeSeconds") => format!(
                    "{indent}lifetimeSeconds: {}\n{indent}settleSeconds: 3\n{indent}names: [127.0.0.1]",
                    self.lifetime
                ),
                _ => line.to_owned(),
            }
        };
        let changed: Vec<_> = text.lines().map(line).collect();
        let changed = changed.join("\n");
        let config = self.directory.join(format!("injector.{webhook}.yaml"));
        fs::write(&config, changed).unwrap();
        let login = self.api.kubeconfig_of(SYSTEM, "sealwire-injector").unwrap();
        let log = self.directory.join(format!("injector.{webhook}.log"));
        let output = File::options()
            .create(true)
            .append(true)
            .open(&log)
            .unwrap();
        let own = std::env::current_exe().unwrap();
        // Tests are a directory below the programs; the benchmark is beside them.
        let mut beside = own
            .ancestors()
            .skip(1)
            .map(|it| it.join("sealwire-injector"));
        let program = beside.find(|program| program.is_file()).unwrap();
        let child = Command::new("setpriv")
            .args(["--pdeathsig", "KILL"])
            .arg(program)
            .args(["run", "--config"])
            .arg(config)
            .arg("--kubeconfig")
            .arg(login)
            .stdin(Stdio::null())
            .stdout(output.try_clone().unwrap())
            .stderr(output)
            .spawn()
            .unwrap();
        let mut injector = Injector { child, health, log };
        injector.wait_until_ready();
        self.injectors.borrow_mut().push(injector);
    }

    /// Ends the injectors, as a node that fails would.
    pub fn kill_injectors(&self) {
        self.injectors.borrow_mut().clear();
    }

    /// Ends the first injector as Kubernetes would, and says with which exit code it went.
    pub fn stop_injector(&self) -> Option<i32> {
        self.injectors.borrow_mut().remove(0).stop()
    }

    /// What the injectors have logged.
    pub fn injector_log(&self) -> String {
        let injectors = self.injectors.borrow();
        injectors.iter().map(Injector::log).collect()
    }

    /// The first injector's metrics.
    pub fn injector_metrics(&self) -> String {
        self.injectors.borrow()[0]
            .ask("/metrics")
            .unwrap_or_default()
    }

    /// Makes a namespace with its default service account and, if one is given, this value of the
    /// label.
    pub fn namespace(&self, name: &str, label: Option<&str>) {
        self.api.namespace(name).unwrap();
        self.api.service_account(name, "default").unwrap();
        if let Some(label) = label {
            self.run(&format!("label namespace {name} {INJECT}={label}"));
        }
    }

    /// Waits until the injector has written the configuration of a namespace.
    pub fn wait_until_configured(&self, namespace: &str) {
        assert_eventually("its ConfigMap is there", SOON, || {
            let told = ["get", "configmap", "sealwire", "--namespace", namespace];
            self.api.kubectl(&told).ok()
        });
    }

    /// Waits until pods of a namespace come up sealed.
    pub fn wait_until_sealing(&self, namespace: &str) {
        let pod = json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": { "name": "probing", "namespace": namespace },
            "spec": { "containers": [{ "name": "main", "image": "none" }] },
        });
        let deadline = Instant::now() + LONG;
        loop {
            let said = match self.dry_run(&pod) {
                Ok(pod) if is_sealed(&pod) => return,
                Ok(pod) => pod.to_string(),
                Err(error) => error,
            };
            assert!(
                Instant::now() < deadline,
                "not sealing: {said}\n{}",
                self.injector_log()
            );
        }
    }

    /// Runs kubectl.
    pub fn run(&self, line: &str) -> String {
        let words: Vec<_> = line.split_whitespace().collect();
        self.api.kubectl(&words).unwrap()
    }

    /// Reads an object, such as `pod web -n shop`.
    pub fn get(&self, what: &str) -> Value {
        serde_json::from_str(&self.run(&format!("get {what} -o json"))).unwrap()
    }

    /// Creates an object and gives what was stored, or why it was refused.
    pub fn create(&self, object: &Value) -> Result<Value, String> {
        self.send(&["create"], object)
    }

    /// Gives what would be stored.
    pub fn dry_run(&self, object: &Value) -> Result<Value, String> {
        self.send(&["create", "--dry-run=server"], object)
    }

    /// Applies an object on the server's side.
    pub fn apply(&self, object: &Value) -> Result<Value, String> {
        self.send(&["apply", "--server-side"], object)
    }

    /// Replaces an object.
    pub fn replace(&self, object: &Value) -> Result<Value, String> {
        self.send(&["replace"], object)
    }

    /// Applies many objects on the server's side.
    pub fn apply_all(&self, objects: &[Value]) -> Result<String, String> {
        if objects.is_empty() {
            return Ok(String::new());
        }
        self.send_all(&["apply", "--server-side"], objects)
    }

    /// Runs a command on many objects at once.
    pub fn send_all(&self, command: &[&str], objects: &[Value]) -> Result<String, String> {
        let list = json!({ "apiVersion": "v1", "kind": "List", "items": objects }).to_string();
        let told = [command, &["-f", "-"]].concat();
        let done = self.api.kubectl_with(&told, &list);
        done.map_err(|error| error.to_string())
    }

    fn send(&self, command: &[&str], object: &Value) -> Result<Value, String> {
        let told = [command, &["-o", "json", "-f", "-"]].concat();
        let done = self.api.kubectl_with(&told, &object.to_string());
        let done = done.map_err(|error| error.to_string())?;
        Ok(serde_json::from_str(&done).unwrap())
    }
}

impl Injector {
    fn wait_until_ready(&mut self) {
        let health = self.health;
        let log = self.log.clone();
        let child = &mut self.child;
        assert_eventually("the injector is ready", LONG, || {
            if let Some(status) = child.try_wait().unwrap() {
                panic!("{status}: {}", fs::read_to_string(&log).unwrap());
            }
            ask(health, "/readyz").map(drop)
        });
    }

    fn stop(mut self) -> Option<i32> {
        let pid = self.child.id().to_string();
        Command::new("kill").args(["-TERM", &pid]).status().unwrap();
        assert_eventually("the injector ends", SOON, || self.child.try_wait().unwrap()).code()
    }

    fn ask(&self, path: &str) -> Option<String> {
        ask(self.health, path)
    }

    fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap()
    }
}

impl Drop for Injector {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Whether a stored pod has what seals it.
pub fn is_sealed(pod: &Value) -> bool {
    let names = container_names(pod, "initContainers");
    pod["metadata"]["annotations"]["sealwire.io/status"] == "sealed"
        && names.starts_with(&["sealwire-capture".to_owned(), "sealwire-proxy".to_owned()])
}

/// Names of a pod's containers of a kind, in order.
pub fn container_names(pod: &Value, kind: &str) -> Vec<String> {
    let containers = pod["spec"][kind].as_array();
    let name = |container: &Value| container["name"].as_str().unwrap().to_owned();
    containers.into_iter().flatten().map(name).collect()
}

/// A container of a pod, of whatever kind.
pub fn container<'a>(pod: &'a Value, name: &str) -> &'a Value {
    let mut all = ["initContainers", "containers"]
        .into_iter()
        .filter_map(|kind| pod["spec"][kind].as_array())
        .flatten();
    all.find(|container| container["name"] == name)
        .unwrap_or_else(|| panic!("no container {name} in {pod}"))
}

/// Puts what is in `more` into `base`, objects field by field. What is null there is taken out.
fn merge(base: &mut Value, more: &Value) {
    match (base, more) {
        (Value::Object(base), Value::Object(more)) => {
            for (name, value) in more {
                if value.is_null() {
                    base.remove(name);
                    continue;
                }
                merge(base.entry(name.clone()).or_insert(Value::Null), value);
            }
        }
        (base, more) => *base = more.clone(),
    }
}

fn free_port() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    listener.local_addr().unwrap().port()
}

fn ask(port: u16, path: &str) -> Option<String> {
    let url = format!("http://127.0.0.1:{port}{path}");
    let answer = Command::new("curl").args(["-sf", "-m", "5", &url]).output();
    let answer = answer.ok().filter(|answer| answer.status.success())?;
    Some(String::from_utf8_lossy(&answer.stdout).into_owned())
}
