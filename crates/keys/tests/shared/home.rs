//! A token store for one test. Software tokens find theirs through the environment, so each test
//! runs itself again with that environment set: once for each module there is.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    dead_code,
    reason = "tests fail loudly, and not every test uses all of it"
)]

use std::env;
use std::fs;
use std::num::NonZeroUsize;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use cryptoki::context::{CInitializeArgs, CInitializeFlags, Pkcs11};
use cryptoki::mechanism::Mechanism;
use cryptoki::object::Attribute;
use cryptoki::session::{Session, UserType};
use cryptoki::slot::Slot;
use cryptoki::types::AuthPin;
use hsm_sim::{Device, LogLevel, Settings};
use sealwire_keys::{KeyConfig, OpenError, Pkcs11Config, PrivateKey, open};

pub(crate) const PIN: &str = "5318-0008-token";

/// DER of the curves' object identifiers, and SoftHSM's name for the last.
pub(crate) const P256: &[u8] = &[6, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 3, 1, 7];
pub(crate) const P384: &[u8] = &[6, 5, 0x2b, 0x81, 4, 0, 0x22];
pub(crate) const ED25519: &[u8] = b"\x13\x0cedwards25519";

/// Names the module to the process that has the environment.
const MODULE: &str = "SEALWIRE_TEST_MODULE";

/// Where the token and its PIN are, in the process that has the environment.
pub(crate) struct Home {
    pub(crate) directory: PathBuf,
    module: Module,
}

/// Which module a test runs with.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
enum Module {
    SoftHsm,
    Kryoptic,
    /// hsm-sim before SoftHSM.
    Device,
}

#[derive(Copy, Clone)]
pub(crate) enum Kind {
    Curve(&'static [u8]),
    Rsa(std::ffi::c_ulong),
}

/// Runs the test again in a process of its own, with a token store of its own, for each software
/// token; in that process, gives the store.
pub(crate) fn at_home(test: &str) -> Option<Home> {
    at_one_of(&[Module::SoftHsm, Module::Kryoptic], test)
}

/// The same behind a simulated device, which is given as well.
pub(crate) fn with_device(test: &str) -> Option<(Home, Device)> {
    let home = at_one_of(&[Module::Device], test)?;
    let device = Device::open(&home.directory.join("device")).unwrap();
    Some((home, device))
}

fn at_one_of(modules: &[Module], test: &str) -> Option<Home> {
    if let Some(name) = env::var_os(MODULE) {
        let conf = env::var_os("SOFTHSM2_CONF").unwrap();
        return Some(Home {
            directory: Path::new(&conf).parent().unwrap().to_owned(),
            module: *modules
                .iter()
                .find(|module| name == *format!("{module:?}"))
                .unwrap(),
        });
    }
    for module in modules {
        let directory = tempfile::tempdir().unwrap();
        let again = module
            .prepare(directory.path())
            .args([test, "--exact", "--nocapture", "--test-threads=1"])
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&again.stdout).into_owned()
            + &String::from_utf8_lossy(&again.stderr);
        assert!(
            again.status.success() && said.contains("1 passed"),
            "with {module:?}: {said}"
        );
    }
    None
}

impl Module {
    /// Makes a store, and the command that runs this program there.
    fn prepare(self, directory: &Path) -> Command {
        fs::create_dir(directory.join("tokens")).unwrap();
        let shown = directory.display();
        let softhsm =
            format!("directories.tokendir = {shown}/tokens\nobjectstore.backend = file\n");
        fs::write(directory.join("softhsm2.conf"), softhsm).unwrap();
        let kryoptic: String = (1..=4)
            .map(|slot| {
                format!(
                    "[[slots]]\nslot = {slot}\ndbtype = \"sqlite\"\ndbargs = \"{shown}/tokens/{slot}.sql\"\n"
                )
            })
            .collect();
        fs::write(directory.join("kryoptic.conf"), kryoptic).unwrap();
        let settings = Settings {
            log: LogLevel::All,
            ..Settings::default()
        };
        Device::create(&directory.join("device"), &settings).unwrap();
        let mut again = Command::new(env::current_exe().unwrap());
        again
            .env(MODULE, format!("{self:?}"))
            .env("SOFTHSM2_CONF", directory.join("softhsm2.conf"))
            .env("KRYOPTIC_CONF", directory.join("kryoptic.conf"))
            .env(hsm_sim::ENVIRONMENT, directory.join("device"));
        let pin = directory.join("pin");
        fs::write(&pin, PIN).unwrap();
        fs::set_permissions(&pin, fs::Permissions::from_mode(0o600)).unwrap();
        again
    }

    fn path(self) -> PathBuf {
        match self {
            Self::SoftHsm => [
                "/usr/lib/softhsm/libsofthsm2.so",
                "/usr/lib/x86_64-linux-gnu/softhsm/libsofthsm2.so",
            ]
            .iter()
            .map(PathBuf::from)
            .find(|path| path.exists())
            .expect("SoftHSM is installed: scripts/setup test"),
            Self::Kryoptic => built("kryoptic/libkryoptic_pkcs11.so"),
            Self::Device => hsm_sim::find_module().expect("hsm-sim is built with the tests"),
        }
    }
}

/// A file beside this program, or above.
fn built(name: &str) -> PathBuf {
    let program = env::current_exe().unwrap();
    let mut above = program.ancestors().skip(1).map(|above| above.join(name));
    above
        .find(|path| path.exists())
        .unwrap_or_else(|| panic!("{name} is not built: scripts/setup test"))
}

impl Drop for Home {
    fn drop(&mut self) {
        sealwire_keys::finish(Duration::from_secs(5));
    }
}

impl Home {
    /// The module's path.
    pub(crate) fn module(&self) -> PathBuf {
        self.module.path()
    }

    /// Whether the module can make keys of this kind.
    pub(crate) fn can_make(&self, kind: Kind) -> bool {
        // As it is built for tests, against an older OpenSSL.
        self.module != Module::Kryoptic || !matches!(kind, Kind::Curve(ED25519))
    }

    /// Makes a token with key pairs, by CKA_LABEL, CKA_ID and curve (or RSA's length).
    pub(crate) fn token(&self, label: &str, keys: &[(&str, u8, Kind)]) -> Pkcs11 {
        let context = Pkcs11::new(self.module()).unwrap();
        // The provider may have initialised it in this process already.
        let _ = context.initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK));
        let empty = context
            .get_slots_with_token()
            .unwrap()
            .into_iter()
            .find(|slot| !context.get_token_info(*slot).unwrap().token_initialized())
            .unwrap();
        let officer = AuthPin::new("officer-pin".into());
        context.init_token(empty, &officer, label).unwrap();
        // SoftHSM gives the token another slot.
        let slot = slots(&context, label)
            .into_iter()
            .find(|slot| {
                !context
                    .get_token_info(*slot)
                    .unwrap()
                    .user_pin_initialized()
            })
            .unwrap();
        let session = context.open_rw_session(slot).unwrap();
        session.login(UserType::So, Some(&officer)).unwrap();
        session.init_pin(&AuthPin::new(PIN.into())).unwrap();
        session.logout().unwrap();
        session
            .login(UserType::User, Some(&AuthPin::new(PIN.into())))
            .unwrap();
        for (name, id, kind) in keys {
            make_key(&session, name, *id, *kind);
        }
        session.logout().unwrap();
        context
    }

    pub(crate) fn config(&self, uri: &str) -> Pkcs11Config {
        let uri = format!(
            "pkcs11:{uri}?pin-source=file:{}/pin",
            self.directory.display()
        );
        Pkcs11Config {
            module: self.module(),
            uri: uri.parse().unwrap(),
            max_sessions: NonZeroUsize::new(4).unwrap(),
            queue: 64,
            wait: Duration::from_secs(5),
            generate: None,
            certified: None,
            state: None,
        }
    }

    pub(crate) fn open(&self, uri: &str) -> Result<Arc<dyn PrivateKey>, OpenError> {
        open(&KeyConfig::Pkcs11(Box::new(self.config(uri))))
    }
}

/// The slots with a token of that label.
pub(crate) fn slots(context: &Pkcs11, label: &str) -> Vec<Slot> {
    let slots = context.get_slots_with_initialized_token().unwrap();
    let labelled = |slot: &Slot| context.get_token_info(*slot).unwrap().label() == label;
    slots.into_iter().filter(labelled).collect()
}

/// Makes a key pair that cannot leave its token.
pub(crate) fn make_key(session: &Session, name: &str, id: u8, kind: Kind) {
    let named = [
        Attribute::Token(true),
        Attribute::Label(name.as_bytes().to_vec()),
        Attribute::Id(vec![id]),
    ];
    let mut public = named.to_vec();
    let mut private = named.to_vec();
    private.extend([
        Attribute::Private(true),
        Attribute::Sensitive(true),
        Attribute::Extractable(false),
        Attribute::Sign(true),
    ]);
    let mechanism = match kind {
        Kind::Curve(curve) => {
            public.push(Attribute::EcParams(curve.to_vec()));
            if curve == ED25519 {
                Mechanism::EccEdwardsKeyPairGen
            } else {
                Mechanism::EccKeyPairGen
            }
        }
        Kind::Rsa(bits) => {
            public.extend([
                Attribute::ModulusBits(bits.into()),
                Attribute::PublicExponent(vec![1, 0, 1]),
            ]);
            Mechanism::RsaPkcsKeyPairGen
        }
    };
    session
        .generate_key_pair(&mechanism, &public, &private)
        .unwrap();
}

/// Waits for something, and gives it.
#[allow(clippy::disallowed_methods, reason = "looks again until the deadline")]
pub(crate) fn eventually<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "never: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}
