//! The network: a bridge with the node's addresses, and pods on it.

use std::fs::{self, Permissions};
use std::io::{self, BufRead, BufReader};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use tempfile::TempDir;

use crate::command::PodCommand;
use crate::wire::Capture;

/// Outer UID that root in a user namespace is, when root makes one: nobody outside.
const OUTER: u32 = 100_000;

/// How many UIDs are mapped into a user namespace.
const MAPPED: u32 = 65_536;

/// With which privilege a world is made.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub enum Privilege {
    /// As root of the machine.
    Root,
    /// As nobody of the machine: root in a user namespace only.
    UserNamespace,
}

/// A world cannot be made; the message says what is missing.
#[derive(Debug, thiserror::Error)]
pub enum WorldError {
    /// A program is missing.
    #[error("{program} is missing: `apt-get install {package}`")]
    Missing {
        /// The program.
        program: &'static str,
        /// The Debian package that has it.
        package: &'static str,
    },
    /// A program could not be run.
    #[error("cannot run {program}: {source}")]
    Run {
        /// The program.
        program: String,
        /// What the system said.
        source: io::Error,
    },
    /// A step failed.
    #[error("{step} failed: {message}")]
    Step {
        /// The step.
        step: String,
        /// What was said.
        message: String,
    },
    /// User namespaces are not to be had.
    #[error(
        "this user may not make user namespaces ({0}): allow it (sysctl kernel.apparmor_restrict_unprivileged_userns=0, \
         kernel.unprivileged_userns_clone=1, user.max_user_namespaces above 0; a range for the user in /etc/subuid and \
         /etc/subgid), or run as root"
    )]
    NoUserNamespaces(String),
}

impl Privilege {
    /// Every privilege that this process can make worlds with.
    pub fn available() -> Vec<Self> {
        if is_root() {
            vec![Self::Root, Self::UserNamespace]
        } else {
            vec![Self::UserNamespace]
        }
    }
}

/// A network of its own.
#[derive(Debug)]
pub struct World {
    inner: Arc<Inner>,
    next: AtomicU8,
}

#[derive(Debug)]
pub(crate) struct Inner {
    holder: Child,
    privilege: Privilege,
    directory: TempDir,
}

/// A pod: a network namespace with an interface on the bridge.
#[derive(Clone, Debug)]
pub struct Pod {
    world: Arc<Inner>,
    name: String,
    v4: Ipv4Addr,
    v6: Ipv6Addr,
}

impl World {
    /// Makes an empty world. Blocks.
    ///
    /// # Errors
    /// See [`WorldError`].
    pub fn new(privilege: Privilege) -> Result<Self, WorldError> {
        check_programs(privilege)?;
        let inner = Arc::new(Inner::new(privilege)?);
        // Without an address of its own the bridge takes the lowest of its ports: pods that are there
        // when another joins would send what is for the node to an address that it no longer has.
        inner.script(
            "network",
            "mount -t tmpfs -o mode=755 tmpfs /run && mkdir -p /run/netns
             ip link set lo up
             ip link add br0 address 02:00:00:00:00:01 type bridge
             ip address add 198.18.255.1/15 dev br0
             ip -6 address add fd00:5ea1::ffff:1/64 dev br0 nodad
             ip link set br0 up",
        )?;
        Ok(Self {
            inner,
            next: AtomicU8::new(10),
        })
    }

    /// Adds a pod with the addresses 198.18.0.N and fd00:5ea1::N.
    ///
    /// # Errors
    /// When the kernel refuses a step.
    pub fn pod(&self, name: &str) -> Result<Pod, WorldError> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let pod = Pod {
            world: self.inner.clone(),
            name: name.to_owned(),
            v4: Ipv4Addr::new(198, 18, 0, number),
            v6: Ipv6Addr::new(0xfd00, 0x5ea1, 0, 0, 0, 0, 0, number.into()),
        };
        let (v4, v6) = (pod.v4, pod.v6);
        self.inner.script(
            name,
            &format!(
                "ip netns add {name}
                 ip link add v-{name} type veth peer name eth0 netns {name}
                 ip link set v-{name} master br0 up
                 ip -n {name} link set lo up
                 ip -n {name} address add {v4}/15 dev eth0
                 ip -n {name} -6 address add {v6}/64 dev eth0 nodad
                 ip -n {name} link set eth0 up
                 ip -n {name} route add default via 198.18.255.1
                 ip -n {name} -6 route add default via fd00:5ea1::ffff:1"
            ),
        )?;
        Ok(pod)
    }

    /// A directory that every user of the world can pass through, gone with the world.
    pub fn directory(&self) -> &Path {
        self.inner.directory.path()
    }

    /// Where every process of the world writes its output.
    pub fn output(&self) -> PathBuf {
        self.inner.output()
    }

    /// A command on the node: in the world, in none of its pods, as its root.
    pub fn command(&self, program: impl Into<PathBuf>) -> PodCommand {
        PodCommand::new(self.inner.clone(), None, program.into())
    }

    /// Gives a path to a user of the world.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn give(&self, path: &Path, uid: u32, gid: u32) -> Result<(), WorldError> {
        self.inner.script(
            "chown",
            &format!("chown -R {uid}:{gid} '{}'", path.display()),
        )
    }

    /// Begins to capture what passes a pod's interface.
    ///
    /// # Errors
    /// When the capture does not begin.
    pub fn capture(&self, pod: &Pod) -> Result<Capture, WorldError> {
        let file = self.directory().join(format!("{}.pcap", pod.name));
        Capture::start(&self.inner, &format!("v-{}", pod.name), file)
    }

    pub(crate) fn inner(&self) -> Arc<Inner> {
        self.inner.clone()
    }

    /// The privilege that the world was made with.
    pub fn privilege(&self) -> Privilege {
        self.inner.privilege
    }
}

impl Pod {
    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its IPv4 address.
    pub fn v4(&self) -> IpAddr {
        self.v4.into()
    }

    /// Its IPv6 address.
    pub fn v6(&self) -> IpAddr {
        self.v6.into()
    }

    /// A command in the pod, as the world's root with every capability in it.
    pub fn command(&self, program: impl Into<PathBuf>) -> PodCommand {
        PodCommand::new(self.world.clone(), Some(self.name.clone()), program.into())
    }

    /// A command in the pod as an application runs: an ordinary user, no capability.
    pub fn app(&self, program: impl Into<PathBuf>) -> PodCommand {
        self.command(program).user(1000)
    }

    pub(crate) fn world(&self) -> Arc<Inner> {
        self.world.clone()
    }

    /// Whether something listens on a TCP port of the pod.
    pub fn listens(&self, port: u16) -> bool {
        let filter = format!("sport = :{port}");
        let listed = self
            .command("ss")
            .args(["-Htln", &filter])
            .run(Duration::from_secs(5));
        listed.is_ok_and(|listed| !listed.stdout.trim().is_empty())
    }
}

impl Inner {
    fn new(privilege: Privilege) -> Result<Self, WorldError> {
        let directory = tempfile::Builder::new()
            .prefix("sealwire-")
            .permissions(Permissions::from_mode(0o711))
            .tempdir()
            .map_err(|source| run_error("mktemp", source))?;
        let mut unshare = Command::new("unshare");
        if privilege == Privilege::UserNamespace {
            unshare.arg("--user");
            if is_root() {
                let given = chown(directory.path(), Some(OUTER), Some(OUTER));
                given.map_err(|source| run_error("chown", source))?;
            }
        }
        let mut holder = unshare
            .args([
                "--net",
                "--mount",
                "--propagation",
                "private",
                "sh",
                "-c",
                "echo made; exec sleep infinity",
            ])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|source| run_error("unshare", source))?;
        let mut said = String::new();
        if let Some(stdout) = holder.stdout.take() {
            let _ = BufReader::new(stdout).read_line(&mut said);
        }
        if said != "made\n" {
            let mut complaint = String::new();
            if let Some(stderr) = holder.stderr.take() {
                let _ = BufReader::new(stderr).read_line(&mut complaint);
            }
            let _ = holder.wait();
            return Err(WorldError::NoUserNamespaces(complaint.trim().to_owned()));
        }
        let inner = Self {
            holder,
            privilege,
            directory,
        };
        fs::create_dir(inner.output()).map_err(|source| run_error("mkdir", source))?;
        if privilege == Privilege::UserNamespace {
            inner.map_users()?;
        }
        Ok(inner)
    }

    /// Maps 65,536 UIDs, so that a pod's users differ from each other.
    fn map_users(&self) -> Result<(), WorldError> {
        let pid = self.holder.id();
        if is_root() {
            for map in ["uid_map", "gid_map"] {
                fs::write(
                    format!("/proc/{pid}/{map}"),
                    format!("0 {OUTER} {MAPPED}\n"),
                )
                .map_err(|source| run_error(map, source))?;
            }
            return Ok(());
        }
        let own = [
            rustix::process::getuid().as_raw(),
            rustix::process::getgid().as_raw(),
        ];
        for (program, file, own) in [
            ("newuidmap", "/etc/subuid", own[0]),
            ("newgidmap", "/etc/subgid", own[1]),
        ] {
            let (start, count) = subordinate(file)?;
            let arguments =
                [pid, 0, own, 1, 1, start, count.min(MAPPED - 1)].map(|number| number.to_string());
            finish(Command::new(program).args(arguments), program)?;
        }
        Ok(())
    }

    /// The start of every command in the world: into its namespaces, as its root.
    pub(crate) fn enter(&self) -> Command {
        let mut command = Command::new("nsenter");
        command.args([
            "--target",
            &self.holder.id().to_string(),
            "--net",
            "--mount",
        ]);
        if self.privilege == Privilege::UserNamespace {
            command.args(["--user", "--setuid", "0", "--setgid", "0"]);
        }
        command
    }

    pub(crate) fn output(&self) -> PathBuf {
        self.directory.path().join("output")
    }

    pub(crate) fn script(&self, step: &str, script: &str) -> Result<(), WorldError> {
        finish(self.enter().args(["sh", "-ec", script]), step)
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        // What belongs to mapped users can be removed from inside alone.
        let _ = fs::remove_dir_all(self.output());
        let _ = self.script(
            "clean up",
            &format!(
                "find '{}' -mindepth 1 -delete",
                self.directory.path().display()
            ),
        );
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

fn check_programs(privilege: Privilege) -> Result<(), WorldError> {
    let mut needed = vec![
        ("unshare", "util-linux"),
        ("nsenter", "util-linux"),
        ("setpriv", "util-linux"),
        ("ip", "iproute2"),
        ("ss", "iproute2"),
        ("tcpdump", "tcpdump"),
        ("nft", "nftables"),
    ];
    if privilege == Privilege::UserNamespace && !is_root() {
        needed.push(("newuidmap", "uidmap"));
    }
    let directories = ["/usr/sbin", "/usr/bin", "/sbin", "/bin"];
    match needed.into_iter().find(|(program, _)| {
        !directories
            .iter()
            .any(|directory| Path::new(directory).join(program).exists())
    }) {
        Some((program, package)) => Err(WorldError::Missing { program, package }),
        None => Ok(()),
    }
}

/// This user's range in /etc/subuid or /etc/subgid.
fn subordinate(file: &str) -> Result<(u32, u32), WorldError> {
    let uid = rustix::process::getuid().as_raw().to_string();
    let name = finish_with_output(Command::new("id").arg("-un"), "id")?;
    let ranges = fs::read_to_string(file).unwrap_or_default();
    ranges
        .lines()
        .filter_map(|line| {
            let mut parts = line.split(':');
            let owner = parts.next()?;
            let range = (
                parts.next()?.parse().ok()?,
                parts.next()?.trim().parse().ok()?,
            );
            (owner == name.trim() || owner == uid).then_some(range)
        })
        .find(|(_, count)| *count >= 2000)
        .ok_or_else(|| {
            WorldError::NoUserNamespaces(format!("{file} has no range for {}", name.trim()))
        })
}

fn finish(command: &mut Command, step: &str) -> Result<(), WorldError> {
    finish_with_output(command, step).map(|_| ())
}

fn finish_with_output(command: &mut Command, step: &str) -> Result<String, WorldError> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .map_err(|source| run_error(step, source))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    Err(WorldError::Step {
        step: step.to_owned(),
        message: String::from_utf8_lossy(&output.stderr).trim().to_owned(),
    })
}

pub(crate) fn run_error(program: &str, source: io::Error) -> WorldError {
    WorldError::Run {
        program: program.to_owned(),
        source,
    }
}
