//! Commands in a world, and processes that end with whoever started them.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use crate::world::{Inner, WorldError, run_error};

/// How often a condition is looked at.
const POLL: Duration = Duration::from_millis(20);

/// What a process may do beside what its user may.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub enum Capabilities {
    /// Everything that root in the world may.
    All,
    /// Nothing.
    None,
    /// These alone, by their names in setpriv, such as `net_admin`.
    Only(&'static [&'static str]),
}

/// A command that is to run in a pod, or on the node.
#[derive(Debug)]
pub struct PodCommand {
    world: Arc<Inner>,
    pod: Option<String>,
    program: PathBuf,
    arguments: Vec<OsString>,
    environment: Vec<(OsString, OsString)>,
    user: Option<u32>,
    capabilities: Capabilities,
    input: Option<Vec<u8>>,
    keeps_output: bool,
}

/// A running process. It is killed and reaped when dropped, or when the thread that started it
/// ends; so start it on the test's own thread.
#[derive(Debug)]
pub struct Process {
    world: Arc<Inner>,
    child: Child,
    stdout: PathBuf,
    stderr: PathBuf,
}

/// A process that has ended.
#[derive(Clone, Debug)]
pub struct Finished {
    /// How.
    pub status: ExitStatus,
    /// What it wrote to standard output.
    pub stdout: String,
    /// What it wrote to standard error.
    pub stderr: String,
}

impl PodCommand {
    pub(crate) fn new(world: Arc<Inner>, pod: Option<String>, program: PathBuf) -> Self {
        Self {
            world,
            pod,
            program,
            arguments: Vec::new(),
            environment: Vec::new(),
            user: None,
            capabilities: Capabilities::All,
            input: None,
            keeps_output: true,
        }
    }

    /// Adds arguments.
    pub fn args<T: Into<OsString>>(mut self, arguments: impl IntoIterator<Item = T>) -> Self {
        self.arguments.extend(arguments.into_iter().map(Into::into));
        self
    }

    /// Sets a variable of its environment.
    pub fn env(mut self, name: impl Into<OsString>, value: impl Into<OsString>) -> Self {
        self.environment.push((name.into(), value.into()));
        self
    }

    /// Runs it as this user and group, without capabilities.
    pub fn user(mut self, uid: u32) -> Self {
        self.user = Some(uid);
        self.capabilities = Capabilities::None;
        self
    }

    /// Gives it these capabilities.
    pub fn capabilities(mut self, capabilities: Capabilities) -> Self {
        self.capabilities = capabilities;
        self
    }

    /// Gives it this on standard input.
    pub fn input(mut self, input: impl Into<Vec<u8>>) -> Self {
        self.input = Some(input.into());
        self
    }

    /// Leaves nothing of its output behind once it has run: it is an answer to the test alone, such
    /// as a secret, and is not searched for secrets as the output of others is.
    pub fn in_confidence(mut self) -> Self {
        self.keeps_output = false;
        self
    }

    /// Starts it. Blocks until the kernel has made the process.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn spawn(self) -> Result<Process, WorldError> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let program = self.program.display().to_string();
        let failed = |source| run_error(&program, source);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let directory = self.world.output();
        let path = |kind: &str| directory.join(format!("{number}.{kind}"));
        let (stdout, stderr) = (path("out"), path("err"));
        let mut command = self.command();
        let mut child = command
            .stdin(if self.input.is_some() {
                Stdio::piped()
            } else {
                Stdio::null()
            })
            .stdout(File::create(&stdout).map_err(failed)?)
            .stderr(File::create(&stderr).map_err(failed)?)
            .spawn()
            .map_err(failed)?;
        if let (Some(mut stdin), Some(input)) = (child.stdin.take(), self.input) {
            // A process that does not read all of it is its own business.
            let _ = stdin.write_all(&input);
        }
        Ok(Process {
            world: self.world,
            child,
            stdout,
            stderr,
        })
    }

    /// Runs it to its end.
    ///
    /// # Errors
    /// When it cannot be started, or does not end in time.
    pub fn run(self, timeout: Duration) -> Result<Finished, WorldError> {
        let step = self.program.display().to_string();
        let keeps_output = self.keeps_output;
        let mut process = self.spawn()?;
        let finished = match process.wait(timeout) {
            Some(status) => Ok(Finished {
                status,
                stdout: process.stdout(),
                stderr: process.stderr(),
            }),
            None => Err(WorldError::Step {
                message: format!("not ended after {timeout:?}: {}", process.stderr()),
                step,
            }),
        };
        if !keeps_output {
            for file in [&process.stdout, &process.stderr] {
                fs::remove_file(file).map_err(|source| run_error("rm", source))?;
            }
        }
        finished
    }

    /// The chain that leads into the pod. No link of it forks, so that the child is the program.
    fn command(&self) -> Command {
        let mut command = self.world.enter();
        if let Some(pod) = &self.pod {
            command.args(["nsenter", &format!("--net=/run/netns/{pod}")]);
        }
        command.args(["setpriv", "--pdeathsig", "KILL"]);
        if let Some(uid) = self.user {
            let uid = uid.to_string();
            command.args(["--reuid", &uid, "--regid", &uid, "--clear-groups"]);
        }
        match self.capabilities {
            Capabilities::All => {}
            Capabilities::None => {
                command.args([
                    "--bounding-set=-all",
                    "--inh-caps=-all",
                    "--ambient-caps=-all",
                    "--no-new-privs",
                ]);
            }
            Capabilities::Only(names) => {
                let kept: String = names.iter().map(|name| format!(",+{name}")).collect();
                for set in ["bounding-set", "inh-caps", "ambient-caps"] {
                    command.arg(format!("--{set}=-all{kept}"));
                }
            }
        }
        command.arg(&self.program).args(&self.arguments);
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command
    }
}

impl Process {
    /// Its PID.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it has written to standard output so far.
    pub fn stdout(&self) -> String {
        read(&self.stdout)
    }

    /// What it has written to standard error so far.
    pub fn stderr(&self) -> String {
        read(&self.stderr)
    }

    /// Whether it still runs.
    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Sends it a signal, by name: `TERM`, `KILL`, `STOP`.
    pub fn signal(&self, name: &str) {
        // From inside: the process may belong to a user that is nobody outside.
        let _ = self
            .world
            .script("kill", &format!("kill -{name} {}", self.child.id()));
    }

    /// Waits for its end.
    pub fn wait(&mut self, timeout: Duration) -> Option<ExitStatus> {
        let deadline = Instant::now() + timeout;
        loop {
            match self.child.try_wait() {
                Ok(Some(status)) => return Some(status),
                Ok(None) if Instant::now() < deadline => pause(),
                _ => return None,
            }
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // On its way into the pod it is ours, and beyond the reach of the world's root; once
        // there, it may be the other way round.
        while self.is_running() {
            let _ = self.child.kill();
            self.signal("KILL");
            pause();
        }
    }
}

impl Finished {
    /// Whether it ended well.
    pub fn success(&self) -> bool {
        self.status.success()
    }

    /// Its exit code; none when a signal ended it.
    pub fn code(&self) -> Option<i32> {
        self.status.code()
    }

    /// The signal that ended it.
    pub fn signal(&self) -> Option<i32> {
        self.status.signal()
    }
}

/// Waits until `look` finds something.
///
/// # Panics
/// When it has found nothing within `timeout`. `what` says what was waited for.
#[allow(clippy::panic, reason = "an assertion, for tests")]
pub fn assert_eventually<T>(
    what: &str,
    timeout: Duration,
    mut look: impl FnMut() -> Option<T>,
) -> T {
    let deadline = Instant::now() + timeout;
    loop {
        if let Some(found) = look() {
            return found;
        }
        if Instant::now() >= deadline {
            panic!("{what}: not within {timeout:?}");
        }
        pause();
    }
}

#[allow(
    clippy::disallowed_methods,
    reason = "the pause between two looks at a condition with a deadline"
)]
pub(crate) fn pause() {
    std::thread::sleep(POLL);
}

fn read(path: &std::path::Path) -> String {
    fs::read(path).map_or_else(
        |_| String::new(),
        |bytes| String::from_utf8_lossy(&bytes).into_owned(),
    )
}
