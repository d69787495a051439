//! Kinds of devices, as settings to begin with. Each is a class of devices with figures that their
//! makers or users have published, not a measurement of a product.

use std::str::FromStr;

use super::settings::{Distribution, Latency, PinLimit, SessionLimits, Settings, Shown};
use super::span::Span;
use crate::pkcs11::{Function, Rv};

/// A kind of device.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub enum Profile {
    /// An HSM rented in a cloud.
    Cloudhsm,
    /// An HSM of one's own in the network.
    NetworkHsm,
    /// A small HSM in a USB port, with sixteen sessions.
    UsbHsm16Sessions,
    /// The software token as it is.
    Soft,
}

impl Profile {
    /// Every one.
    pub const ALL: [Self; 4] = [
        Self::Cloudhsm,
        Self::NetworkHsm,
        Self::UsbHsm16Sessions,
        Self::Soft,
    ];

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Cloudhsm => "cloudhsm",
            Self::NetworkHsm => "network-hsm",
            Self::UsbHsm16Sessions => "usb-hsm-16-sessions",
            Self::Soft => "soft",
        }
    }

    /// What it is like, and where the figures come from.
    pub fn description(self) -> &'static str {
        match self {
            Self::Cloudhsm => {
                "An HSM rented in a cloud. 3,000 signatures a second (AWS CloudHSM's performance \
                 page: P-256 on two hsm2m.medium). Sessions run out with CKR_ARGUMENTS_BAD (reported \
                 in aws-cloudhsm-user-guide issue 27). Assumed: median 4 ms and p99 40 ms, as of \
                 hardware that is shared and a network away; 1,024 sessions, not shown \
                 (CK_UNAVAILABLE_INFORMATION). A class of devices, not a measurement of one."
            }
            Self::NetworkHsm => {
                "An HSM of one's own in the network. 30 operations at once (Thales Luna's HA guide: \
                 best at about 30 threads a device). Assumed: median 1 ms and p99 5 ms; sessions \
                 shown as infinite; ten wrong PINs lock the user. A class of devices, not a \
                 measurement of one."
            }
            Self::UsbHsm16Sessions => {
                "A small HSM in a USB port. 16 sessions, closed after 30 s without use (YubiHSM 2's \
                 manuals, yubihsm-shell issue 379). Assumed: one operation at once, 70 ms for the \
                 use of a key, two seconds more to make a key pair. A class of devices, not a \
                 measurement of one."
            }
            Self::Soft => "The software token as it is: nothing slow, nothing limited.",
        }
    }

    /// Puts its limits and its latency into settings, in place of those there are.
    pub fn apply(self, settings: &mut Settings) {
        settings.latency = self.latency();
        settings.sessions = self.sessions();
        settings.pins = self.pins();
    }

    fn latency(self) -> Vec<Latency> {
        let rule = |name: &str, time| Latency {
            name: Some(name.to_owned()),
            time: Some(time),
            ..Latency::default()
        };
        let long_tailed = |median, p99| Distribution::LongTailed {
            median: Span::millis(median),
            p99: Span::millis(p99),
        };
        match self {
            Self::Cloudhsm => vec![Latency {
                per_second: Some(3000.0),
                burst: Some(64),
                ..rule("cloudhsm", long_tailed(4, 40))
            }],
            Self::NetworkHsm => vec![Latency {
                parallel: Some(30),
                ..rule("network-hsm", long_tailed(1, 5))
            }],
            Self::UsbHsm16Sessions => vec![
                Latency {
                    parallel: Some(1),
                    ..rule("usb-hsm", Distribution::Fixed(Span::millis(70)))
                },
                Latency {
                    functions: vec![Function::C_GenerateKeyPair],
                    ..rule("usb-hsm-key-pair", Distribution::Fixed(Span::millis(2000)))
                },
            ],
            Self::Soft => Vec::new(),
        }
    }

    fn sessions(self) -> Vec<SessionLimits> {
        let limits = match self {
            Self::Cloudhsm => SessionLimits {
                max: Some(1024),
                full: Rv(cryptoki_sys::CKR_ARGUMENTS_BAD),
                shown: Shown::Unavailable,
                ..SessionLimits::default()
            },
            Self::NetworkHsm => SessionLimits {
                shown: Shown::Infinite,
                ..SessionLimits::default()
            },
            Self::UsbHsm16Sessions => SessionLimits {
                max: Some(16),
                shown: Shown::Number(16),
                idle: Some(Span::millis(30_000)),
                ..SessionLimits::default()
            },
            Self::Soft => return Vec::new(),
        };
        vec![limits]
    }

    fn pins(self) -> Vec<PinLimit> {
        match self {
            Self::NetworkHsm => vec![PinLimit {
                token: None,
                tries: 10,
            }],
            _ => Vec::new(),
        }
    }
}

impl FromStr for Profile {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let found = Self::ALL.into_iter().find(|profile| profile.name() == text);
        found.ok_or_else(|| {
            let names = Self::ALL.map(Self::name).join(", ");
            format!("{text:?} is no profile: choose one of {names}")
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_profile_is_found_by_its_name_and_makes_sense() {
        for profile in Profile::ALL {
            assert_eq!(profile.name().parse(), Ok(profile));
            let mut settings = Settings::default();
            profile.apply(&mut settings);
            assert_eq!(settings.check(), Ok(()));
        }
        assert!("cloud".parse::<Profile>().unwrap_err().contains("cloudhsm"));
    }
}
