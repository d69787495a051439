//! A load between two pods (`sealwire-load`), and what it sees.

use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use sealwire_pods::{Mesh, Pod, Process, assert_eventually};
use serde_json::Value;

use crate::SOON;

/// Where the server of a load listens.
pub const PORT: u16 = 7000;

/// A load that runs.
#[derive(Debug)]
pub struct Load {
    process: Process,
    server: Process,
}

/// What a load saw in some time.
#[derive(Clone, Copy, Debug, Default)]
pub struct Seen {
    /// Seconds.
    pub seconds: f64,
    /// Exchanges on open connections, a second.
    pub exchanges: f64,
    /// 99th percentile of how long one took, in milliseconds, of those that were timed.
    pub p99: f64,
    /// Open connections that broke.
    pub broken: u64,
    /// New connections that were served, and those that were refused.
    pub served: u64,
    /// New connections that were refused.
    pub refused: u64,
    /// The longest wait for either, in seconds.
    pub longest: f64,
}

impl Load {
    /// Starts a server in one pod, and in another what keeps `links` connections to it busy and
    /// opens new ones.
    pub fn start(mesh: &Mesh, client: &Pod, server: &Pod, links: usize) -> Self {
        Self::start_with(mesh, client, server, &["--links", &links.to_string()])
    }

    /// The same at a pace that leaves the machine room for other things.
    pub fn start_paced(mesh: &Mesh, client: &Pod, server: &Pod, links: usize) -> Self {
        let paced = ["--links", &links.to_string(), "--pace", "10"];
        Self::start_with(mesh, client, server, &paced)
    }

    fn start_with(mesh: &Mesh, client: &Pod, server: &Pod, arguments: &[&str]) -> Self {
        let answering = server
            .app(tool(mesh))
            .args(["serve", &PORT.to_string()])
            .spawn()
            .unwrap();
        assert_eventually("the server listens", SOON, || {
            server.listens(PORT).then_some(())
        });
        let process = client
            .app(tool(mesh))
            .args(["run", &server.v4().to_string(), &PORT.to_string()])
            .args(arguments.iter().copied())
            .spawn()
            .unwrap();
        let load = Self {
            process,
            server: answering,
        };
        assert_eventually("the load runs", SOON, || {
            let lines = load.lines(0);
            lines
                .iter()
                .any(|line| line["served"].as_u64() > Some(0))
                .then_some(())
        });
        load
    }

    /// Its processes.
    pub fn pids(&self) -> [u32; 2] {
        [self.process.pid(), self.server.pid()]
    }

    /// Lets some time go by, and says what was seen in it.
    pub fn watch(&self, time: Duration) -> Seen {
        let from = now();
        let until = from + u64::try_from(time.as_millis()).unwrap();
        self.between(from, until)
    }

    /// What was seen since a moment, given by [`now`].
    pub fn since(&self, from: u64) -> Seen {
        self.between(from, now())
    }

    /// Waits until a new connection has been served since `from`; how many seconds that took.
    pub fn serves_since(&self, from: u64) -> f64 {
        assert_eventually(
            "a new connection is served",
            Duration::from_secs(60),
            || {
                let lines = self.lines(from);
                let served = |line: &&Value| line["served"].as_u64() > Some(0);
                let first = lines.iter().find(served)?;
                Some(seconds(first["at"].as_u64()? - from))
            },
        )
    }

    fn between(&self, from: u64, until: u64) -> Seen {
        let left = Duration::from_millis(until.saturating_sub(now()));
        let lines = assert_eventually("the load goes on", left + SOON, || {
            let lines = self.lines(from);
            lines
                .iter()
                .any(|line| line["at"].as_u64() > Some(until))
                .then_some(lines)
        });
        let mut seen = Seen {
            seconds: seconds(until - from),
            ..Seen::default()
        };
        let mut exchanges = 0;
        let mut times = Vec::new();
        for line in lines
            .iter()
            .filter(|line| line["at"].as_u64() <= Some(until))
        {
            let number = |name: &str| line[name].as_u64().unwrap_or_default();
            exchanges += number("exchanges");
            seen.broken = number("broken");
            seen.served += number("served");
            seen.refused += number("refused");
            seen.longest = seen.longest.max(seconds(number("longest")));
            let timed = line["times"].as_array().into_iter().flatten();
            times.extend(timed.filter_map(Value::as_u64));
        }
        times.sort_unstable();
        seen.p99 = times
            .get(times.len() * 99 / 100)
            .copied()
            .map_or(0.0, seconds);
        seen.exchanges = float(exchanges) / seen.seconds;
        seen
    }

    /// The lines since a moment.
    fn lines(&self, from: u64) -> Vec<Value> {
        let text = self.process.stdout();
        let lines = text
            .lines()
            .filter_map(|line| serde_json::from_str(line).ok());
        lines
            .filter(|line: &Value| line["at"].as_u64() > Some(from))
            .collect()
    }
}

/// This moment, in milliseconds.
pub fn now() -> u64 {
    let since = SystemTime::UNIX_EPOCH.elapsed().unwrap();
    u64::try_from(since.as_millis()).unwrap()
}

/// The load's program, where every pod can run it.
pub fn tool(mesh: &Mesh) -> PathBuf {
    let copy = mesh.world().directory().join("sealwire-load");
    if !copy.exists() {
        let own = std::env::current_exe().unwrap();
        let mut above = own
            .ancestors()
            .skip(1)
            .map(|above| above.join("sealwire-load"));
        let built = above
            .find(|path| path.exists())
            .expect("sealwire-load is built");
        std::fs::copy(built, &copy).unwrap();
    }
    copy
}

fn seconds(milliseconds: u64) -> f64 {
    float(milliseconds) / 1000.0
}

#[allow(clippy::cast_precision_loss, reason = "counts far below 2^53")]
fn float(number: u64) -> f64 {
    number as f64
}
