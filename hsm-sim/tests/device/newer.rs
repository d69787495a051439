//! Before a real module of PKCS#11 3.0, made for this test: SoftHSM has 2.40 alone.

use std::env;
use std::fs;
use std::path::Path;
use std::process::Command;

use cryptoki::error::RvError;
use cryptoki::mechanism::Mechanism;
use cryptoki_sys::CKR_OK;
use hsm_sim::{Device, Fault, Function};

use crate::home::{again, command, failure, load, rv, sign};
use crate::raw::Raw;

/// The device before the module, in a process of its own.
fn newer(test: &str) -> Option<Device> {
    if let Some(directory) = env::var_os(hsm_sim::ENVIRONMENT) {
        return Some(Device::open(Path::new(&directory)).unwrap());
    }
    let directory = tempfile::tempdir().unwrap();
    let source = directory.path().join("newer.c");
    let module = directory.path().join("newer.so");
    fs::write(&source, include_str!("newer.c")).unwrap();
    let compiled = Command::new("cc")
        .args(["-shared", "-fPIC", "-o"])
        .args([&module, &source])
        .status();
    assert!(compiled.unwrap().success());
    let mut program = command(directory.path(), &env::current_exe().unwrap());
    Device::open(&directory.path().join("device"))
        .unwrap()
        .update(|settings| settings.module = Some(module))
        .unwrap();
    again(test, &mut program);
    None
}

#[test]
fn it_offers_the_newer_interface_first_and_the_older_as_well() {
    let Some(_device) = newer("newer::it_offers_the_newer_interface_first_and_the_older_as_well")
    else {
        return;
    };
    let raw = Raw::new();
    assert_eq!(raw.interfaces(2), (CKR_OK, vec![(3, 0), (2, 40)]));
    assert_eq!(raw.interface(None, None, 0), Ok((3, 0)));
    let name = Some(c"PKCS 11");
    assert_eq!(raw.interface(name, Some((2, 40)), 0), Ok((2, 40)));
    assert_eq!(raw.interface(name, Some((3, 0)), 0), Ok((3, 0)));
}

#[test]
fn a_failed_operation_is_cancelled_by_the_function_made_for_that() {
    let Some(device) =
        newer("newer::a_failed_operation_is_cancelled_by_the_function_made_for_that")
    else {
        return;
    };
    let context = load();
    let slot = context.get_slots_with_token().unwrap()[0];
    let session = context.open_rw_session(slot).unwrap();
    let key = session.find_objects(&[]).unwrap()[0];
    let fault = Fault::new(&[Function::C_Sign], rv("CKR_DEVICE_ERROR"));
    device.fault(fault.next(2)).unwrap();
    for _ in 0..2 {
        assert_eq!(failure(sign(&session, key)), RvError::DeviceError);
    }
    assert_eq!(sign(&session, key).unwrap(), [1], "the first that was made");
}

#[test]
fn functions_of_the_newer_version_are_forwarded_where_the_real_module_has_them() {
    let Some(device) =
        newer("newer::functions_of_the_newer_version_are_forwarded_where_the_real_module_has_them")
    else {
        return;
    };
    let context = load();
    let slot = context.get_slots_with_token().unwrap()[0];
    let session = context.open_rw_session(slot).unwrap();
    let key = session.find_objects(&[]).unwrap()[0];
    session
        .message_encrypt_init(&Mechanism::AesEcb, key)
        .unwrap();
    assert_eq!(
        failure(session.message_encrypt_final()),
        RvError::FunctionNotSupported
    );
    device.restart(Some("newer"), None);
    assert_eq!(
        failure(session.message_encrypt_final()),
        RvError::SessionHandleInvalid
    );
}
