//! The PKCS#11 module: every function of a real module, made slow, limited and failing by a
//! [`Device`](crate::Device). Loaded by applications as `libhsm_sim.so`; nothing of it is called
//! from Rust.
//!
//! Foreign code comes in through `entry` (most functions, all alike) and `special` (those that
//! need care); both hand each call to `call`, which decides what becomes of it, and reach the real
//! module through `real`. Everything between is safe code.

mod abandon;
mod call;
mod entry;
mod interface;
mod latency;
mod live;
mod real;
mod sessions;
mod slots;
mod special;
