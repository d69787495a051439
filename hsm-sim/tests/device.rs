//! The module `libhsm_sim.so` before SoftHSM, used as applications use it: through cryptoki, and by
//! `pkcs11-tool`. Each test makes a token store and a device of its own.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests fail loudly"
)]

#[path = "device/faults.rs"]
mod faults;

#[path = "device/home.rs"]
mod home;

#[path = "device/latency.rs"]
mod latency;

#[path = "device/misuse.rs"]
mod misuse;

#[path = "device/newer.rs"]
mod newer;

#[path = "device/outages.rs"]
mod outages;

#[path = "device/pins.rs"]
mod pins;

#[path = "device/processes.rs"]
mod processes;

#[path = "device/raw.rs"]
mod raw;

#[path = "device/sessions.rs"]
mod sessions;

#[path = "device/stress.rs"]
mod stress;

#[path = "device/tools.rs"]
mod tools;
