//! The program: fills a software token and lists what is in it, and controls simulated devices.

mod ctl;

use std::env;
use std::fs;
use std::net::IpAddr;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Duration;

use anyhow::{Context, bail};
use clap::{Args, Parser, Subcommand};
use hsm_sim::{Issue, KeyAlgorithm, NewKey, Store, Subject};
use sealwire_identity::{SpiffeId, certificate_request};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// Fills a software HSM (SoftHSM) with keys that cannot leave it, a CA and certificates.
#[derive(Parser)]
#[command(version, about)]
struct Arguments {
    #[command(subcommand)]
    command: Action,
    /// The directory that holds everything.
    #[arg(long, global = true, default_value = "hsm")]
    dir: PathBuf,
    /// The PKCS#11 module; SoftHSM where it is usually installed.
    #[arg(long, global = true)]
    module: Option<PathBuf>,
    /// Prints JSON.
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Subcommand)]
enum Action {
    /// Makes the directory with a CA: its key in a token, its certificate.
    Init {
        /// The SPIFFE trust domain.
        #[arg(long, default_value = "mesh.example")]
        trust_domain: String,
    },
    /// Makes a workload's key pair in a token, and the token where there is none.
    Key {
        /// Label of the token.
        #[arg(long)]
        token: String,
        /// Label of the key.
        #[arg(long)]
        label: String,
        /// p256, p384, rsa2048, rsa3072 or ed25519.
        #[arg(long, default_value = "p256")]
        algorithm: KeyAlgorithm,
        /// CKA_ID in hexadecimal; random when not given.
        #[arg(long, value_parser = hex)]
        id: Option<Id>,
        /// Makes a second key of the same label.
        #[arg(long)]
        allow_duplicate: bool,
    },
    /// Makes a certificate request signed by a key in a token.
    Request {
        /// Label of the token.
        #[arg(long)]
        token: String,
        /// Label of the key.
        #[arg(long)]
        label: String,
        /// The SPIFFE ID asked for.
        #[arg(long)]
        spiffe_id: SpiffeId,
        /// An address asked for; may be repeated.
        #[arg(long)]
        ip: Vec<IpAddr>,
    },
    /// Issues a workload's certificate, signed by the CA's key in its token.
    Issue(IssueArguments),
    /// Issues a revocation list, signed by the CA's key in its token. What earlier lists revoked
    /// stays revoked.
    Crl {
        /// Serial number, in hexadecimal, of a certificate to revoke; may be repeated.
        #[arg(long, value_parser = hex)]
        revoke: Vec<Id>,
        /// Time until the next list is due, such as 90s, 30m, 24h or 7d.
        #[arg(long, default_value = "24h", value_parser = lifetime)]
        next_update: time::Duration,
        /// Where to write the list.
        #[arg(long)]
        out: PathBuf,
    },
    /// Lists tokens and objects, with the attributes that matter.
    Show,
    /// Prints the line that shows other programs the way to these tokens.
    Env,
    /// Sets up a simulated device, and changes it while applications use it.
    Ctl(ctl::Arguments),
}

#[derive(Args)]
struct IssueArguments {
    /// Label of the token that holds the key.
    #[arg(long, requires = "label", required_unless_present = "csr")]
    token: Option<String>,
    /// Label of the key.
    #[arg(long)]
    label: Option<String>,
    /// CKA_ID of the key in hexadecimal, where several have that label.
    #[arg(long, value_parser = hex, requires = "label")]
    id: Option<Id>,
    /// A certificate request instead; only its key is taken.
    #[arg(long, conflicts_with = "token")]
    csr: Option<PathBuf>,
    /// The workload's SPIFFE ID.
    #[arg(long)]
    spiffe_id: SpiffeId,
    /// An address that it may answer for; may be repeated.
    #[arg(long)]
    ip: Vec<IpAddr>,
    /// Lifetime, such as 90s, 30m, 24h or 7d.
    #[arg(long, default_value = "24h", value_parser = lifetime)]
    lifetime: time::Duration,
    /// Where to write the certificate; standard output when not given.
    #[arg(long)]
    out: Option<PathBuf>,
    /// For tests: begins then (RFC 3339).
    #[arg(long, value_parser = instant)]
    unsafe_not_before: Option<OffsetDateTime>,
    /// For tests: ends then (RFC 3339).
    #[arg(long, value_parser = instant)]
    unsafe_not_after: Option<OffsetDateTime>,
    /// For tests: a second URI name, which no X.509-SVID has.
    #[arg(long)]
    unsafe_extra_uri: Option<String>,
}

/// The bytes of a CKA_ID or a serial number.
#[derive(Clone)]
struct Id(Vec<u8>);

fn main() -> ExitCode {
    let done = run(Arguments::parse());
    sealwire_keys::finish(Duration::from_secs(5));
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            complain(&error);
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: Arguments) -> anyhow::Result<()> {
    if let Action::Ctl(ctl) = arguments.command {
        return ctl.execute(arguments.json);
    }
    let init = matches!(arguments.command, Action::Init { .. });
    let conf = std::path::absolute(&arguments.dir)?.join("softhsm2.conf");
    let shown_the_way = env::var_os("SOFTHSM2_CONF").is_some_and(|set| Path::new(&set) == conf);
    let store = match (init, shown_the_way) {
        (true, false) => Store::create(&arguments.dir, arguments.module.clone())?,
        _ => Store::open(&arguments.dir, arguments.module.clone())?,
    };
    if !shown_the_way {
        // SoftHSM finds its tokens through the environment alone, and a process cannot safely
        // change its own: so it starts itself anew.
        let error = Command::new(env::current_exe()?)
            .args(env::args_os().skip(1))
            .env("SOFTHSM2_CONF", conf)
            .exec();
        return Err(error).context("cannot start itself with SOFTHSM2_CONF set");
    }
    arguments.command.execute(&store, arguments.json)
}

impl Action {
    fn execute(self, store: &Store, json: bool) -> anyhow::Result<()> {
        match self {
            Self::Init { trust_domain } => {
                trust_domain.parse::<sealwire_identity::TrustDomain>()?;
                let made = store.init(&trust_domain)?;
                answer(json, &made, || {
                    format!(
                        "CA of {trust_domain}: key in token \"ca\", certificate {}\nnext: hsm-sim --dir {} key --token web --label web\n",
                        made.ca_certificate.display(),
                        made.dir.display()
                    )
                })
            }
            Self::Key {
                token,
                label,
                algorithm,
                id,
                allow_duplicate,
            } => {
                let made = store.make_key(&NewKey {
                    token,
                    label,
                    id: id.map(|Id(bytes)| bytes),
                    algorithm,
                    allow_duplicate,
                })?;
                answer(json, &made, || {
                    format!(
                        "made a {algorithm} key that cannot leave its token\nuri: {}\n",
                        made.uri
                    )
                })
            }
            Self::Request {
                token,
                label,
                spiffe_id,
                ip,
            } => {
                let key = store.open_key(&token, &label)?;
                say(&certificate_request(key.as_ref(), &spiffe_id, &ip)?);
                Ok(())
            }
            Self::Issue(issue) => issue.execute(store, json),
            Self::Crl {
                revoke,
                next_update,
                out,
            } => {
                let serials: Vec<_> = revoke.into_iter().map(|Id(bytes)| bytes).collect();
                let mut issued = store.revoke(&serials, next_update)?;
                replace(&out, &issued.pem)?;
                issued.crl = out;
                answer(json, &issued, || {
                    format!(
                        "list {} with {} revoked, next due {}: {}\n",
                        issued.number,
                        issued.entries,
                        issued.next_update,
                        issued.crl.display()
                    )
                })
            }
            Self::Show => {
                let tokens = store.show()?;
                answer(json, &tokens, || table(&tokens))
            }
            Self::Ctl(ctl) => ctl.execute(json),
            Self::Env => {
                say(&format!(
                    "export SOFTHSM2_CONF={}\n",
                    store.softhsm_conf().display()
                ));
                Ok(())
            }
        }
    }
}

impl IssueArguments {
    fn execute(self, store: &Store, json: bool) -> anyhow::Result<()> {
        let subject = match (self.token, self.label, &self.csr) {
            (Some(token), Some(label), None) => Subject::Key {
                token,
                label,
                id: self.id.map(|Id(bytes)| bytes),
            },
            (None, _, Some(csr)) => Subject::Request(
                fs::read_to_string(csr).with_context(|| csr.display().to_string())?,
            ),
            _ => bail!("name the key by --token and --label, or a request by --csr"),
        };
        let mut certified = store.issue(&Issue {
            subject,
            uris: [Some(self.spiffe_id.to_string()), self.unsafe_extra_uri]
                .into_iter()
                .flatten()
                .collect(),
            addresses: self.ip,
            not_before: self.unsafe_not_before,
            not_after: self
                .unsafe_not_after
                .unwrap_or_else(|| OffsetDateTime::now_utc() + self.lifetime),
        })?;
        match self.out {
            Some(out) => {
                replace(&out, &certified.pem)?;
                certified.certificate = Some(out.clone());
                answer(json, &certified, || {
                    format!(
                        "{} until {}: {}\n",
                        certified.spiffe_id,
                        certified.not_after,
                        out.display()
                    )
                })
            }
            None => {
                say(&certified.pem);
                Ok(())
            }
        }
    }
}

/// In one step: whoever watches the file never sees a part of it.
fn replace(out: &Path, content: &str) -> anyhow::Result<()> {
    let fresh = out.with_extension("fresh");
    fs::write(&fresh, content)
        .and_then(|()| fs::rename(&fresh, out))
        .with_context(|| out.display().to_string())
}

fn table(tokens: &[hsm_sim::ShownToken]) -> String {
    let flag = |value: Option<bool>| match value {
        Some(true) => "yes",
        Some(false) => "no",
        None => "-",
    };
    let mut text = String::new();
    for token in tokens {
        text += &format!(
            "token {} ({}, serial {})\n",
            token.label, token.model, token.serial
        );
        for object in token
            .objects
            .iter()
            .filter(|object| object.class.contains("PRIVATE"))
        {
            text += &format!(
                "  {} id {} {}: sensitive {} (always {}), extractable {} (never {}), made here {}\n",
                object.label,
                object.id,
                object.key_type,
                flag(object.sensitive),
                flag(object.always_sensitive),
                flag(object.extractable),
                flag(object.never_extractable),
                flag(object.local)
            );
        }
    }
    text
}

fn answer<T: serde::Serialize>(
    json: bool,
    value: &T,
    text: impl FnOnce() -> String,
) -> anyhow::Result<()> {
    if json {
        say(&format!("{}\n", serde_json::to_string_pretty(value)?));
    } else {
        say(&text());
    }
    Ok(())
}

fn lifetime(text: &str) -> Result<time::Duration, String> {
    let help = || format!("{text:?}: write it as 90s, 30m, 24h or 7d");
    let unit = text.chars().last().ok_or_else(help)?;
    let number: i64 = text[..text.len() - unit.len_utf8()]
        .parse()
        .map_err(|_| help())?;
    let seconds = match unit {
        's' => 1,
        'm' => 60,
        'h' => 3600,
        'd' => 86_400,
        _ => return Err(help()),
    };
    if !(1..=36_500 * 86_400 / seconds).contains(&number) {
        return Err(format!("{text:?}: between a second and a hundred years"));
    }
    Ok(time::Duration::seconds(number * seconds))
}

fn instant(text: &str) -> Result<OffsetDateTime, String> {
    OffsetDateTime::parse(text, &Rfc3339)
        .map_err(|error| format!("{text:?}: {error}: write it as 2026-01-31T00:00:00Z"))
}

fn hex(text: &str) -> Result<Id, String> {
    let digits = text.as_bytes();
    if digits.is_empty()
        || !digits.len().is_multiple_of(2)
        || !digits.iter().all(u8::is_ascii_hexdigit)
    {
        return Err(format!("{text:?}: write pairs of hexadecimal digits"));
    }
    let byte =
        |i: usize| u8::from_str_radix(&text[i..i + 2], 16).map_err(|error| error.to_string());
    (0..digits.len())
        .step_by(2)
        .map(byte)
        .collect::<Result<_, _>>()
        .map(Id)
}

#[allow(
    clippy::print_stdout,
    reason = "a command's answer goes to standard output"
)]
fn say(text: &str) {
    print!("{text}");
}

#[allow(
    clippy::print_stderr,
    reason = "the one place where the program says why it ended"
)]
fn complain(error: &anyhow::Error) {
    eprintln!("hsm-sim: {error:#}");
}
