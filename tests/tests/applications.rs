//! Real applications, unchanged, through the seal, wherever the keys are. One that is not installed is named and left
//! out; `make test` installs them all.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests fail loudly"
)]

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use sealwire_pods::{Mesh, Pod, Sidecar, Wire, assert_eventually};
use sealwire_tests::{Home, LONG, SOON, curl, with_each_home};

/// Two sealed pods, and a directory for the application's files.
struct Scene<'a> {
    mesh: &'a Mesh,
    client: Pod,
    server: Pod,
    directory: PathBuf,
    _sidecars: [Sidecar; 2],
}

impl<'a> Scene<'a> {
    fn set(home: &'a Home<'_>) -> Self {
        let mesh = home.mesh();
        let [(client, out), (server, inn)] = home.pair();
        let directory = mesh.world().directory().join("application");
        let scene = Self {
            mesh,
            client,
            server,
            directory,
            _sidecars: [out, inn],
        };
        let directory = scene.directory.display().to_string();
        scene.on_node(&[
            "install", "-d", "-m", "0700", "-o", "1000", "-g", "1000", &directory,
        ]);
        scene
    }

    fn on_node(&self, command: &[&str]) {
        let done = self
            .mesh
            .world()
            .command(command[0])
            .args(command[1..].iter().copied());
        let done = done.run(SOON).unwrap();
        assert!(done.success(), "{}", done.stderr);
    }

    /// Runs a shell script in a pod as an application.
    fn shell(&self, pod: &Pod, script: &str) -> String {
        let directory = self.directory.display().to_string();
        let done = pod
            .app("sh")
            .env("HOME", &directory)
            .args(["-ec", &format!("cd {directory}\n{script}")])
            .run(LONG)
            .unwrap();
        assert!(done.success(), "{script}: {}{}", done.stdout, done.stderr);
        done.stdout
    }

    /// Both addresses of the server, as they stand in a URL.
    fn addresses(&self) -> [String; 2] {
        [
            self.server.v4().to_string(),
            format!("[{}]", self.server.v6()),
        ]
    }

    fn up(&self, port: u16) {
        assert_eventually("the application listens", LONG, || {
            self.server.listens(port).then_some(())
        });
    }
}

/// Whether a program is installed; says so when it is not.
#[allow(clippy::print_stderr, reason = "what was left out has to be seen")]
fn installed(programs: &[&str]) -> bool {
    let directories = ["/usr/bin", "/usr/sbin"];
    let missing = programs.iter().find(|program| {
        !directories
            .iter()
            .any(|directory| Path::new(directory).join(program).exists())
    });
    if let Some(missing) = missing {
        eprintln!("left out: {missing} is not installed (scripts/setup test)");
    }
    missing.is_none()
}

fn nothing_but_tls(wire: &Wire) {
    assert_eq!(
        (wire.plaintext_bytes, wire.missing_bytes),
        (0, 0),
        "{:#?}",
        wire.flows
    );
    assert!(wire.tls_bytes > 0);
}

#[test]
fn nginx_and_curl_over_http_1_and_http_2() {
    if !installed(&["nginx", "curl"]) {
        return;
    }
    with_each_home(|home| {
        let scene = Scene::set(home);
        let d = scene.directory.display();
        scene.shell(
            &scene.server,
            &format!(
                "head -c 3000000 /dev/urandom > big; echo 'hello from nginx' > index.html
                 openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -noenc -days 1 -subj /CN=n -keyout k.pem -out c.pem 2>/dev/null
                 cat > nginx.conf <<END
daemon off; pid {d}/pid; error_log stderr;
events {{}}
http {{
  access_log off; client_body_temp_path {d}/b; proxy_temp_path {d}/p; fastcgi_temp_path {d}/f; uwsgi_temp_path {d}/u; scgi_temp_path {d}/s;
  server {{ listen 8080; listen [::]:8080; listen 8443 ssl http2; listen [::]:8443 ssl http2; ssl_certificate {d}/c.pem; ssl_certificate_key {d}/k.pem; root {d}; }}
}}
END"
            ),
        );
        let conf = scene.directory.join("nginx.conf").display().to_string();
        let _nginx = scene
            .server
            .app("nginx")
            .args(["-c", &conf])
            .spawn()
            .unwrap();
        scene.up(8080);
        let capture = scene.mesh.world().capture(&scene.server).unwrap();
        for address in scene.addresses() {
            let page = curl(&scene.client, &[&format!("http://{address}:8080/")]);
            assert_eq!(page.stdout, "hello from nginx\n", "{}", page.stderr);
            // Twenty requests on one connection, and its own TLS inside the seal.
            let url = format!("https://{address}:8443/big?[1-20]");
            let form = "%{http_version} %{size_download}\\n";
            let big = curl(
                &scene.client,
                &["-k", "--http2", "-o", "/dev/null", "-w", form, &url],
            );
            assert_eq!(big.stdout, "2 3000000\n".repeat(20), "{}", big.stderr);
        }
        let wire = capture.stop().unwrap();
        nothing_but_tls(&wire);
        assert!(!wire.contains(b"hello from nginx"));
    });
}

#[test]
fn postgresql_with_psql_and_a_copy_of_100_megabytes() {
    let version = fs::read_dir("/usr/lib/postgresql")
        .ok()
        .and_then(|mut all| all.next()?.ok());
    let (Some(version), true) = (version, installed(&["psql"])) else {
        return;
    };
    with_each_home(|home| {
        let scene = Scene::set(home);
        let bin = version.path().join("bin");
        let bin = bin.display();
        // The server wants a user of its own name.
        scene.shell(
            &scene.server,
            &format!(
                "{bin}/initdb -D data -U app --auth=trust --no-sync >/dev/null
                 echo \"host all all all trust\" >> data/pg_hba.conf
                 echo \"listen_addresses='*'\" >> data/postgresql.conf
                 echo \"unix_socket_directories=''\" >> data/postgresql.conf
                 echo \"fsync=off\" >> data/postgresql.conf"
            ),
        );
        let data = scene.directory.join("data");
        let _postgres = scene
            .server
            .app(version.path().join("bin/postgres"))
            .args(["-D"])
            .args([&data])
            .spawn()
            .unwrap();
        scene.up(5432);
        for address in [scene.server.v4().to_string(), scene.server.v6().to_string()] {
            // 100,000 rows of 1,000 bytes, in and out again.
            let answer = scene.shell(
                &scene.client,
                &format!(
                    "export PGHOST={address} PGUSER=app PGDATABASE=postgres PGSSLMODE=disable
                     psql -qc 'drop table if exists t; create table t (n int, x text)'
                     awk 'BEGIN {{ x = sprintf(\"%01000d\", 0); for (n = 0; n < 100000; n++) print n \"\\t\" x }}' > rows
                     psql -qc \"\\copy t from rows\"
                     psql -qc \"\\copy (select * from t order by n) to back\"
                     cmp rows back && wc -c < back && psql -Atc 'select count(*) from t'"
                ),
            );
            assert_eq!(
                answer.split_whitespace().collect::<Vec<_>>(),
                ["100688890", "100000"]
            );
        }
    });
}

#[test]
fn redis_with_redis_benchmark() {
    if !installed(&["redis-server", "redis-benchmark"]) {
        return;
    }
    with_each_home(|home| {
        let scene = Scene::set(home);
        let _redis = scene
            .server
            .app("redis-server")
            .args([
                "--port",
                "6379",
                "--bind",
                "0.0.0.0",
                "::",
                "--protected-mode",
                "no",
                "--save",
                "",
                "--dir",
            ])
            .args([&scene.directory])
            .spawn()
            .unwrap();
        scene.up(6379);
        for address in [scene.server.v4().to_string(), scene.server.v6().to_string()] {
            let answer = scene.shell(
                &scene.client,
                &format!("redis-benchmark -h {address} -c 50 -n 10000 -t set,get,lpush -P 4 -q"),
            );
            assert_eq!(answer.matches("requests per second").count(), 3, "{answer}");
        }
    });
}

#[test]
fn ssh_whose_server_speaks_first() {
    if !installed(&["sshd", "ssh"]) {
        return;
    }
    with_each_home(|home| {
        let scene = Scene::set(home);
        scene.shell(
            &scene.server,
            "ssh-keygen -q -t ed25519 -N '' -f host; ssh-keygen -q -t ed25519 -N '' -f user; cp user.pub authorized",
        );
        let d = scene.directory.display().to_string();
        // Inside the world root's account is not locked, whatever it is on this machine.
        scene.on_node(&[
            "sh",
            "-ec",
            &format!("mkdir -p /run/sshd; echo 'root:x:20000::::::' > {d}/shadow; mount --bind {d}/shadow /etc/shadow"),
        ]);
        let options = [
            format!("HostKey={d}/host"),
            format!("AuthorizedKeysFile={d}/authorized"),
            "PidFile=none".to_owned(),
            "StrictModes=no".to_owned(),
            "UsePAM=no".to_owned(),
        ];
        let options = options.iter().flat_map(|option| ["-o", option.as_str()]);
        // As the world's root, since it changes to the user who logs in; users of the machine
        // differ, root is everywhere.
        let sshd = scene
            .server
            .command("/usr/sbin/sshd")
            .args(["-D", "-e", "-p", "2222", "-f", "/dev/null"])
            .args(options)
            .args(["-o", "PermitRootLogin=yes"])
            .spawn()
            .unwrap();
        scene.up(2222);
        for address in [scene.server.v4().to_string(), scene.server.v6().to_string()] {
            let key = scene.directory.join("user").display().to_string();
            let ssh = scene
                .client
                .command("ssh")
                .args([
                    "-p",
                    "2222",
                    "-l",
                    "root",
                    "-i",
                    &key,
                    "-o",
                    "BatchMode=yes",
                ])
                .args([
                    "-o",
                    "StrictHostKeyChecking=no",
                    "-o",
                    "UserKnownHostsFile=/dev/null",
                    &address,
                    "echo sealed; cat",
                ])
                .input("and back")
                .run(SOON)
                .unwrap();
            assert_eq!(
                ssh.stdout,
                "sealed\nand back",
                "{}{}",
                ssh.stderr,
                sshd.stderr()
            );
        }
    });
}

#[test]
fn iperf3_in_both_directions() {
    if !installed(&["iperf3"]) {
        return;
    }
    with_each_home(|home| {
        let scene = Scene::set(home);
        let _iperf = scene.server.app("iperf3").args(["-s"]).spawn().unwrap();
        scene.up(5201);
        for address in [scene.server.v4().to_string(), scene.server.v6().to_string()] {
            for direction in [&[][..], &["-R"]] {
                let run = scene
                    .client
                    .app("iperf3")
                    .args(["-c", &address, "-n", "100M", "-P", "2", "-J"])
                    .args(direction.iter().copied())
                    .run(Duration::from_secs(60))
                    .unwrap();
                let report: serde_json::Value = serde_json::from_str(&run.stdout).unwrap();
                let moved = report["end"]["sum_received"]["bytes"]
                    .as_u64()
                    .unwrap_or_default();
                // What is under way when the measurement ends is not counted by iperf3.
                assert!(run.success() && moved >= 50_000_000, "{}", run.stdout);
            }
        }
    });
}
