//! `hsm-sim ctl`: sets up a simulated device and changes it while applications use it. For `main`
//! alone; whatever it does, [`Device`] does, and tests may use that directly.

use std::env;
use std::path::PathBuf;

use anyhow::Context;
use clap::{Args, Subcommand};
use hsm_sim::{
    Device, Distribution, ENVIRONMENT, Fault, Frozen, Function, Latency, LogLevel, Operation,
    PinLimit, Profile, Rv, SessionLimits, Settings, Shown, Span, find_module,
};
use serde_json::{Value, json};

use crate::{answer, say};

/// Sets up a simulated device, and changes it while applications use it.
#[derive(Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    command: Command,
    /// The device's directory; that of the environment variable HSM_SIM when not given.
    #[arg(long, global = true)]
    device: Option<PathBuf>,
}

#[derive(Subcommand)]
enum Command {
    /// Makes a device's directory.
    New {
        /// The kind of device; `profile` without a name lists them.
        #[arg(long, default_value = "soft")]
        profile: Profile,
        /// The real module; SoftHSM where it is usually installed.
        #[arg(long)]
        real: Option<PathBuf>,
        /// Which operations are logged: off, errors or all.
        #[arg(long, value_parser = log_level, default_value = "errors")]
        log: LogLevel,
    },
    /// Shows settings, counters and PINs.
    Show,
    /// Reads settings from standard input, in place of all there are.
    Set,
    /// Sets how long operations take, in place of the rule of the same name.
    Latency(LatencyArguments),
    /// Adds a fault.
    Fault(FaultArguments),
    /// Limits sessions.
    Sessions(SessionArguments),
    /// Takes out all that is wrong with the device; what limits it stays.
    Clear,
    /// Lets calls hang.
    Freeze {
        /// Only calls of these functions.
        functions: Vec<Function>,
        /// Only calls to this token.
        #[arg(long)]
        token: Option<String>,
    },
    /// Lets all calls that hang go on.
    Thaw,
    /// Restarts the device: sessions and logins are gone.
    Restart {
        /// Only for this token.
        #[arg(long)]
        token: Option<String>,
        /// What the first call on each old session answers.
        #[arg(long)]
        first: Option<Rv>,
    },
    /// Takes tokens out.
    Remove {
        /// Only this one.
        #[arg(long)]
        token: Option<String>,
    },
    /// Puts tokens back.
    Insert {
        /// Only this one.
        #[arg(long)]
        token: Option<String>,
    },
    /// Ends logins; sessions stay.
    LogOut {
        /// Only to this token.
        #[arg(long)]
        token: Option<String>,
    },
    /// Hides tokens from every process until it initialises the module anew.
    HideUntilReinit {
        /// Only this one.
        #[arg(long)]
        token: Option<String>,
    },
    /// Lets every call fail in every process until it initialises the module anew.
    BreakUntilReinit {
        /// What calls answer.
        #[arg(long, default_value = "CKR_GENERAL_ERROR")]
        rv: Rv,
    },
    /// Gives the device the limits and the latency of a kind; lists the kinds without a name.
    Profile {
        /// The kind.
        name: Option<Profile>,
    },
    /// Shows what has been counted.
    Counters {
        /// Sets the counters back afterwards.
        #[arg(long)]
        reset: bool,
    },
    /// Shows how many tries a token's PIN has, limits them, or gives them back.
    Pin {
        /// The token.
        token: String,
        /// Lets so many wrong PINs lock it.
        #[arg(long)]
        tries: Option<u32>,
        /// Forgets the wrong ones.
        #[arg(long)]
        reset: bool,
    },
    /// Shows the last operations, or says which are logged.
    Log {
        /// How many.
        #[arg(long, default_value_t = 20)]
        last: usize,
        /// From now on: off, errors or all.
        #[arg(long, value_parser = log_level)]
        level: Option<LogLevel>,
        /// Empties the log.
        #[arg(long)]
        clear: bool,
    },
}

#[derive(Args)]
struct LatencyArguments {
    /// The functions; without any, those that use or make a key.
    functions: Vec<Function>,
    /// Only calls to this token.
    #[arg(long)]
    token: Option<String>,
    /// Name of the rule.
    #[arg(long, default_value = "latency")]
    name: String,
    /// Always so long, as 5ms.
    #[arg(long, conflicts_with_all = ["mean", "median"])]
    fixed: Option<Span>,
    /// Normal, with this mean.
    #[arg(long, requires = "deviation", conflicts_with = "median")]
    mean: Option<Span>,
    /// Its standard deviation.
    #[arg(long, requires = "mean")]
    deviation: Option<Span>,
    /// Long-tailed, with this median.
    #[arg(long, requires = "p99")]
    median: Option<Span>,
    /// Its 99th percentile.
    #[arg(long, requires = "median")]
    p99: Option<Span>,
    /// Operations that begin in a second.
    #[arg(long)]
    per_second: Option<f64>,
    /// How many may begin at once.
    #[arg(long)]
    burst: Option<u32>,
    /// Operations at once.
    #[arg(long)]
    parallel: Option<u32>,
    /// Takes the rule out.
    #[arg(long)]
    off: bool,
}

#[derive(Args)]
struct FaultArguments {
    /// The functions, then what they answer.
    #[arg(required = true, value_name = "FUNCTION… RV")]
    what: Vec<String>,
    /// Only calls to this token.
    #[arg(long)]
    token: Option<String>,
    /// Name of the rule.
    #[arg(long)]
    name: Option<String>,
    /// Only so many calls.
    #[arg(long)]
    next: Option<u64>,
    /// Only this share of the calls.
    #[arg(long)]
    probability: Option<f64>,
    /// How long a call takes to fail.
    #[arg(long)]
    after: Option<Span>,
}

#[derive(Args)]
struct SessionArguments {
    /// Only with this token.
    #[arg(long)]
    token: Option<String>,
    /// How many a process may have.
    #[arg(long)]
    max: Option<u32>,
    /// What opening one more answers.
    #[arg(long, default_value = "CKR_SESSION_COUNT")]
    full: Rv,
    /// What the token says its limit is: forwarded, unavailable, infinite or a number.
    #[arg(long, value_parser = shown, default_value = "forwarded")]
    shown: Shown,
    /// How long one may go unused.
    #[arg(long)]
    idle: Option<Span>,
}

impl Arguments {
    /// Does what was asked for.
    pub(crate) fn execute(self, json: bool) -> anyhow::Result<()> {
        if let Command::Profile { name: None } = self.command {
            return profiles(json);
        }
        let directory = self
            .device
            .or_else(|| env::var_os(ENVIRONMENT).map(PathBuf::from))
            .with_context(|| {
                format!("no device: name its directory by --device, or by {ENVIRONMENT}")
            })?;
        if let Command::New { profile, real, log } = self.command {
            let mut settings = Settings {
                module: real.map(std::path::absolute).transpose()?,
                log,
                ..Settings::default()
            };
            profile.apply(&mut settings);
            let device = Device::create(&directory, &settings)?;
            let module = find_module();
            let made = json!({
                "device": device.directory(),
                "profile": profile.name(),
                "module": module,
            });
            return answer(json, &made, || {
                let module = module.map(|path| format!("module: {}\n", path.display()));
                let directory = device.directory().display();
                let module = module.unwrap_or_default();
                format!("made a device\n{module}export {ENVIRONMENT}={directory}\n")
            });
        }
        let device = Device::open(&directory)?;
        let done = self.command.execute(&device, json)?;
        match done {
            Some(value) => answer(json, &value, || text(&value)),
            None if json => answer(json, &json!({ "done": true }), String::new),
            None => Ok(()),
        }
    }
}

impl Command {
    /// Gives what is to be shown, if anything.
    fn execute(self, device: &Device, json: bool) -> anyhow::Result<Option<Value>> {
        match self {
            Self::New { .. } | Self::Profile { name: None } => {}
            Self::Show => {
                return Ok(Some(json!({
                    "device": device.directory(),
                    "settings": device.settings()?,
                    "pins": device.all_pin_tries()?,
                    "counters": device.counters(),
                })));
            }
            Self::Set => {
                let text = std::io::read_to_string(std::io::stdin())?;
                let wanted = Settings::parse(&text).map_err(anyhow::Error::msg)?;
                device.update(|settings| *settings = wanted)?;
            }
            Self::Latency(arguments) => arguments.execute(device)?,
            Self::Fault(arguments) => device.fault(arguments.fault()?)?,
            Self::Sessions(arguments) => arguments.execute(device)?,
            Self::Clear => device.heal()?,
            Self::Freeze { functions, token } => {
                let rule = Frozen { functions, token };
                device.update(|settings| settings.frozen.push(rule))?;
            }
            Self::Thaw => device.thaw()?,
            Self::Restart { token, first } => device.restart(token.as_deref(), first),
            Self::Remove { token } => device.remove(token.as_deref())?,
            Self::Insert { token } => device.insert(token.as_deref())?,
            Self::LogOut { token } => device.log_out(token.as_deref()),
            Self::HideUntilReinit { token } => device.hide_until_reinitialised(token.as_deref()),
            Self::BreakUntilReinit { rv } => device.break_until_reinitialised(rv),
            Self::Profile {
                name: Some(profile),
            } => {
                device.update(|settings| profile.apply(settings))?;
            }
            Self::Counters { reset } => {
                let counters = device.counters();
                if reset {
                    device.reset_counters();
                }
                return Ok(Some(json!(counters)));
            }
            Self::Pin {
                token,
                tries,
                reset,
            } => {
                if let Some(tries) = tries {
                    limit_pin(device, &token, tries)?;
                }
                if reset {
                    device.reset_pin(&token);
                }
                return Ok(Some(json!(device.pin_tries(&token)?)));
            }
            Self::Log { last, level, clear } => {
                if let Some(level) = level {
                    device.update(|settings| settings.log = level)?;
                }
                if clear {
                    device.clear_log()?;
                }
                if level.is_none() && !clear {
                    let log = device.log()?;
                    let log = &log[log.len().saturating_sub(last)..];
                    if json {
                        return Ok(Some(json!(log)));
                    }
                    log.iter().for_each(|operation| say(&line(operation)));
                }
            }
        }
        Ok(None)
    }
}

impl LatencyArguments {
    fn execute(self, device: &Device) -> anyhow::Result<()> {
        let time = match (self.fixed, self.mean, self.deviation, self.median, self.p99) {
            (Some(fixed), ..) => Some(Distribution::Fixed(fixed)),
            (_, Some(mean), Some(deviation), ..) => Some(Distribution::Normal { mean, deviation }),
            (.., Some(median), Some(p99)) => Some(Distribution::LongTailed { median, p99 }),
            _ => None,
        };
        let name = self.name;
        let rule = Latency {
            name: Some(name.clone()),
            functions: self.functions,
            token: self.token,
            time,
            per_second: self.per_second,
            burst: self.burst,
            parallel: self.parallel,
        };
        device.update(|settings| {
            settings
                .latency
                .retain(|rule| rule.name.as_ref() != Some(&name));
            if !self.off {
                settings.latency.push(rule);
            }
        })?;
        Ok(())
    }
}

impl FaultArguments {
    fn fault(mut self) -> anyhow::Result<Fault> {
        let rv = self.what.pop().unwrap_or_default();
        let rv = rv.parse().map_err(anyhow::Error::msg)?;
        let functions: Result<_, String> = self.what.iter().map(|name| name.parse()).collect();
        Ok(Fault {
            name: self.name,
            functions: functions.map_err(anyhow::Error::msg)?,
            token: self.token,
            rv,
            next: self.next,
            probability: self.probability,
            after: self.after,
        })
    }
}

impl SessionArguments {
    fn execute(self, device: &Device) -> anyhow::Result<()> {
        let rule = SessionLimits {
            token: self.token,
            max: self.max,
            full: self.full,
            shown: self.shown,
            idle: self.idle,
        };
        device.update(|settings| {
            settings.sessions.retain(|other| other.token != rule.token);
            // A rule for one token before those for all: the first that matches applies.
            let place = if rule.token.is_some() {
                0
            } else {
                settings.sessions.len()
            };
            settings.sessions.insert(place, rule);
        })?;
        Ok(())
    }
}

fn limit_pin(device: &Device, token: &str, tries: u32) -> anyhow::Result<()> {
    let rule = PinLimit {
        token: Some(token.to_owned()),
        tries,
    };
    device.update(|settings| {
        settings.pins.retain(|other| other.token != rule.token);
        settings.pins.insert(0, rule);
    })?;
    Ok(())
}

fn profiles(json: bool) -> anyhow::Result<()> {
    let all = Profile::ALL.map(|profile| (profile.name(), profile.description()));
    answer(json, &all, || {
        all.map(|(name, description)| format!("{name}\n  {description}\n"))
            .concat()
    })
}

/// For people: as the settings are written.
fn text(value: &Value) -> String {
    serde_saphyr::to_string(value).unwrap_or_else(|_| value.to_string())
}

fn line(operation: &Operation) -> String {
    let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
    let marks = [
        operation
            .injected
            .as_ref()
            .map(|by| format!(" injected by {by}")),
        operation
            .length_query
            .then(|| " (asks for a length)".to_owned()),
        operation
            .violation
            .map(|violation| format!(" VIOLATION {violation}")),
    ];
    format!(
        "{} {}/{} {} token {} session {}: {} in {} us{}\n",
        operation.time,
        operation.pid,
        operation.thread,
        operation.function,
        or_dash(operation.token.clone()),
        or_dash(operation.session.map(|session| session.to_string())),
        operation.rv,
        operation.micros,
        marks.into_iter().flatten().collect::<String>()
    )
}

fn log_level(text: &str) -> Result<LogLevel, String> {
    match text {
        "off" => Ok(LogLevel::Off),
        "errors" => Ok(LogLevel::Errors),
        "all" => Ok(LogLevel::All),
        _ => Err("one of off, errors, all".to_owned()),
    }
}

fn shown(text: &str) -> Result<Shown, String> {
    match text {
        "forwarded" => Ok(Shown::Forwarded),
        "unavailable" => Ok(Shown::Unavailable),
        "infinite" => Ok(Shown::Infinite),
        _ => text
            .parse()
            .map(Shown::Number)
            .map_err(|_| "one of forwarded, unavailable, infinite, or a number".to_owned()),
    }
}
