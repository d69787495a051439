//! Sidecars that log in by the projected token of their pod's service account.

use std::net::SocketAddr;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Child, Stdio};

use sealwire_pods::{KeyFrom, Mesh, PROXY_UID, Pod, Process, Sidecar, Vaulted};
use sealwire_tests::{LONG, client, in_a_mesh, record, server};
use serde_json::Value;

use super::*;

/// Where kube-apiserver is reached in a world.
const NODE: &str = "198.18.255.1";

/// Leads from a world's node to a server on loopback, by a socket in the world's directory.
struct Relay {
    _inside: Process,
    outside: Child,
}

impl Relay {
    fn start(mesh: &Mesh, api: &KubeApi) -> Self {
        let address: SocketAddr = api.address()["https://".len()..].parse().unwrap();
        let socket = mesh.world().directory().join("kube.sock");
        let socket = socket.display();
        // Ends with the thread that started it, however that ends.
        let outside = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "socat"])
            .arg(format!("UNIX-LISTEN:{socket},fork,mode=0777"))
            .arg(format!("TCP:{address}"))
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        let inside = mesh
            .world()
            .command("socat")
            .args([format!("TCP-LISTEN:6443,bind={NODE},fork,reuseaddr")])
            .args([format!("UNIX-CONNECT:{socket}")])
            .spawn()
            .unwrap();
        Self {
            _inside: inside,
            outside,
        }
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        let _ = self.outside.kill();
        let _ = self.outside.wait();
    }
}

/// A token of a service account in a file as the kubelet projects it into a pod.
struct Volume<'a> {
    vaulted: &'a Vaulted<'a>,
    api: &'a KubeApi,
    account: &'static str,
    directory: PathBuf,
}

impl<'a> Volume<'a> {
    fn new(vaulted: &'a Vaulted<'a>, api: &'a KubeApi, account: &'static str, at: &Path) -> Self {
        let directory = at.join("volume");
        fs::create_dir(&directory).unwrap();
        // Root of the world writes here, who may be somebody else outside.
        fs::set_permissions(&directory, Permissions::from_mode(0o777)).unwrap();
        let volume = Self {
            vaulted,
            api,
            account,
            directory,
        };
        volume.replace();
        symlink("..data/token", volume.token()).unwrap();
        volume
    }

    fn token(&self) -> PathBuf {
        self.directory.join("token")
    }

    /// Puts a new token there, in one step.
    fn replace(&self) {
        let taken = fs::read_dir(&self.directory).unwrap().count();
        let fresh = self.directory.join(format!("..{taken}"));
        fs::create_dir(&fresh).unwrap();
        fs::set_permissions(&fresh, Permissions::from_mode(0o777)).unwrap();
        let token = self.api.token("shop", self.account, Some(AUDIENCE));
        let file = fresh.join("token");
        self.vaulted
            .secret(&file, &token.unwrap(), PROXY_UID)
            .unwrap();
        let link = self.directory.join("..data_tmp");
        symlink(&fresh, &link).unwrap();
        fs::rename(link, self.directory.join("..data")).unwrap();
    }
}

/// Seals a pod as the service account of its name.
fn sealed<'a>(
    vaulted: &'a Vaulted<'a>,
    api: &'a KubeApi,
    account: &'static str,
) -> (Pod, Sidecar, Volume<'a>) {
    let mesh = vaulted.mesh;
    let pod = mesh.world().pod(account).unwrap();
    let at = mesh.world().directory().join(account);
    fs::create_dir(&at).unwrap();
    fs::set_permissions(&at, Permissions::from_mode(0o777)).unwrap();
    fs::copy(vaulted.bao.ca(), at.join("vault-ca.pem")).unwrap();
    let volume = Volume::new(vaulted, api, account, &at);
    let text = vaulted
        .config(&pod, account, KeyFrom::Transit)
        .replace(
            &format!("transit/{account}"),
            &format!("transit/shop.{account}"),
        )
        .replace(
            &format!("/workload/{account}"),
            &format!("/ns/shop/sa/{account}"),
        );
    let app_role = text.lines().find(|line| line.starts_with("  auth: "));
    let kubernetes = format!(
        "  auth: {{ kubernetes: {{ mount: kubernetes, role: sealwire, token: {} }} }}",
        volume.token().display()
    );
    let config = at.join("proxy.yaml");
    mesh.write(&config, &text.replace(app_role.unwrap(), &kubernetes))
        .unwrap();
    mesh.capture(&pod, &config).unwrap();
    let mut sidecar = mesh.start(&pod, &config).unwrap();
    sidecar.wait_until_ready().unwrap();
    (pod, sidecar, volume)
}

fn kubectl(api: &KubeApi, line: &str) {
    let words: Vec<_> = line.split_whitespace().collect();
    api.kubectl(&words).unwrap();
}

fn serial(sidecar: &Sidecar) -> String {
    sidecar.admin("/certificates")["own"]["serial"].to_string()
}

#[test]
fn two_sidecars_are_who_their_service_accounts_are_and_follow_their_tokens() {
    in_a_mesh(|mesh| {
        let api = KubeApi::start(Release::V1_34).unwrap();
        let _relay = Relay::start(mesh, &api);
        for (namespace, account) in [("shop", "web"), ("shop", "api"), ("vault", "reviewer")] {
            // The second of a namespace is refused.
            let _ = api.namespace(namespace);
            api.service_account(namespace, account).unwrap();
        }
        kubectl(
            &api,
            "create clusterrolebinding reviewer --clusterrole=system:auth-delegator \
             --serviceaccount=vault:reviewer",
        );
        let vaulted = Vaulted::new(mesh, Storage::Memory, "1h", &[]).unwrap();
        let accounts = ["shop.web", "shop.api"];
        vaulted.set_up_for("kubernetes", &accounts).unwrap();
        let reviewer = json!({
            "kubernetes_host": format!("https://{NODE}:6443"), "kubernetes_ca_cert": api.ca(),
            "token_reviewer_jwt": api.token("vault", "reviewer", None).unwrap(),
            "disable_local_ca_jwt": true,
        });
        let bao = &vaulted.bao;
        bao.write("auth/kubernetes/config", &reviewer).unwrap();

        let (web, web_car, web_token) = sealed(&vaulted, &api, "web");
        let (to, _to_car, _to_token) = sealed(&vaulted, &api, "api");
        let _server = server(&to, 8080, "echo");
        let echo = || {
            let done = client(&web, to.v4(), 8080, "echo").run(SOON).unwrap();
            assert!(done.success(), "{}{}", done.stdout, done.stderr);
        };
        echo();
        let seen = record(&web_car, &[("treatment", "seal"), ("outcome", "complete")]);
        assert_eq!(seen["identity"], "spiffe://mesh.example/ns/shop/sa/web");
        assert_eq!(seen["peer"], "spiffe://mesh.example/ns/shop/sa/api");
        assert_eq!(seen["key"], "vault-transit:transit/shop.web?version=1");

        // The first token is of no use any more, as at its end; the kubelet has put another there.
        kubectl(&api, "delete serviceaccount web --namespace shop");
        api.service_account("shop", "web").unwrap();
        web_token.replace();
        bao.write("sys/leases/revoke-prefix/auth/kubernetes", &json!({}))
            .unwrap();
        let before = serial(&web_car);
        let renew = ["-sfX", "POST", "http://127.0.0.1:15000/renew"];
        assert!(web.app("curl").args(renew).run(SOON).unwrap().success());
        assert_eventually("it has logged in by the second token", LONG, || {
            (serial(&web_car) != before).then_some(())
        });
        let logins = || {
            let (_, text) = web_car.health("/healthz")?;
            let health: Value = serde_json::from_str(&text).ok()?;
            health["health"]["online"]["vault"]["logins"].as_u64()
        };
        assert!(logins().unwrap() >= 2 && web_car.is_ready());
        echo();

        // One whose service account is gone, and whose login was ended, says so.
        kubectl(&api, "delete serviceaccount web --namespace shop");
        assert_eventually("it is named", LONG, || {
            // The API remembers for some seconds that a token was good.
            bao.write("sys/leases/revoke-prefix/auth/kubernetes", &json!({}))
                .unwrap();
            let _ = web.app("curl").args(renew).run(SOON);
            let text = web_car.health("/healthz")?.1;
            text.contains("refuses the login by Kubernetes")
                .then_some(())
        });
        assert_eventually("and it is not ready any more", LONG, || {
            (!web_car.is_ready()).then_some(())
        });
    });
}
