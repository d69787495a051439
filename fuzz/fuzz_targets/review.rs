//! Bytes of an AdmissionReview, to every webhook: none may panic.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use sealwire_injector::config::InjectorConfig;
use sealwire_injector::inject::Injector;
use sealwire_injector::review::{Review, Task};

static INJECTOR: LazyLock<Injector> = LazyLock::new(|| {
    let text = include_str!("../../injector/src/config/example.yaml");
    let config = InjectorConfig::parse(text).and_then(InjectorConfig::checked);
    Injector::new(config.expect("the example is good"), true)
});

fuzz_target!(|bytes: &[u8]| {
    for task in Task::ALL {
        if let Ok(review) = Review::read(task, bytes) {
            let _ = review.answer(&INJECTOR, Ok(()));
        }
    }
});
