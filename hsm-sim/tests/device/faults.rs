//! Errors that are made up.

use cryptoki::error::RvError;
use hsm_sim::{Fault, Function, Rv};

use crate::home::{failure, home, sign};

fn rv(name: &str) -> Rv {
    name.parse().unwrap()
}

#[test]
fn the_next_signatures_fail_and_then_it_signs_again() {
    let Some(home) = home("faults::the_next_signatures_fail_and_then_it_signs_again") else {
        return;
    };
    let (session, key) = home.signer();
    sign(&session, key).unwrap();
    let fault = Fault::new(&[Function::C_Sign], rv("CKR_DEVICE_ERROR")).next(3);
    home.device.fault(fault).unwrap();
    for _ in 0..3 {
        assert_eq!(failure(sign(&session, key)), RvError::DeviceError);
    }
    sign(&session, key).unwrap();
}
