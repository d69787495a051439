//! Errors that are made up, and what they leave behind.

use cryptoki::error::RvError;
use cryptoki::mechanism::Mechanism;
use cryptoki::mechanism::rsa::PkcsMgfType;
use cryptoki::object::{Attribute, ObjectHandle};
use cryptoki::session::Session;
use hsm_sim::{Action, Fault, Function, Script, Span, Step};

use crate::home::{
    eventually, failure, home, key, keys, load, locking, log_in, make_key, make_token, rv, sign,
    slot,
};

#[test]
fn the_next_signatures_fail_and_then_it_signs_again() {
    let Some(home) = home("faults::the_next_signatures_fail_and_then_it_signs_again") else {
        return;
    };
    let (session, key) = home.signer();
    home.device.reset_counters();
    let fault = Fault::new(&[Function::C_Sign], rv("CKR_DEVICE_ERROR"));
    home.device.fault(fault.next(3)).unwrap();
    for _ in 0..3 {
        assert_eq!(failure(sign(&session, key)), RvError::DeviceError);
    }
    sign(&session, key).unwrap();
    let counters = home.device.counters();
    assert_eq!(counters.signatures, 1);
    assert_eq!(counters.injected, 3);
    assert_eq!(
        counters.count(Function::C_Sign, rv("CKR_DEVICE_ERROR")),
        3,
        "calls that only ask for a length are not counted"
    );
    let log = home.device.log().unwrap();
    let made_up = log.iter().filter(|operation| operation.injected.is_some());
    assert_eq!(made_up.count(), 3);
    let asked = |operation: &&hsm_sim::Operation| {
        operation.function == Function::C_Sign && operation.length_query
    };
    assert_eq!(log.iter().filter(asked).count(), 4);
}

/// Does something in a session, twice: a failure must not leave an operation behind.
fn fails_once_and_works(
    home: &crate::home::Home,
    function: Function,
    work: impl Fn() -> Result<(), cryptoki::error::Error>,
) {
    work().unwrap();
    let fault = Fault::new(&[function], rv("CKR_FUNCTION_FAILED"));
    home.device.fault(fault.next(1)).unwrap();
    assert_eq!(failure(work()), RvError::FunctionFailed, "{function}");
    work().unwrap_or_else(|error| panic!("after a failed {function}: {error}"));
}

fn secret(session: &Session) -> ObjectHandle {
    let template = [
        Attribute::ValueLen(32.into()),
        Attribute::Encrypt(true),
        Attribute::Decrypt(true),
    ];
    session
        .generate_key(&Mechanism::AesKeyGen, &template)
        .unwrap()
}

#[test]
fn no_operation_is_left_behind_by_an_error_that_was_made_up() {
    let Some(home) = home("faults::no_operation_is_left_behind_by_an_error_that_was_made_up")
    else {
        return;
    };
    let (session, key) = home.signer();
    let rsa = [
        Attribute::ModulusBits(2048.into()),
        Attribute::PublicExponent(vec![1, 0, 1]),
        Attribute::Verify(true),
    ];
    let usage = [Attribute::Sign(true)];
    let (public, private) = session
        .generate_key_pair(&Mechanism::RsaPkcsKeyPairGen, &rsa, &usage)
        .unwrap();
    let data = [7; 32];
    let signature = session.sign(&Mechanism::RsaPkcs, private, &data).unwrap();
    let secret = secret(&session);
    let block = Mechanism::AesEcb;
    let cipher = session.encrypt(&block, secret, &data).unwrap();
    let many = Mechanism::Sha256RsaPkcs;

    let signs = || sign(&session, key).map(drop);
    fails_once_and_works(&home, Function::C_Sign, signs);
    let verifies = || session.verify(&Mechanism::RsaPkcs, public, &data, &signature);
    fails_once_and_works(&home, Function::C_Verify, verifies);
    let encrypts = || session.encrypt(&block, secret, &data).map(drop);
    fails_once_and_works(&home, Function::C_Encrypt, encrypts);
    let decrypts = || session.decrypt(&block, secret, &cipher).map(drop);
    fails_once_and_works(&home, Function::C_Decrypt, decrypts);
    let digests = || session.digest(&Mechanism::Sha256, &data).map(drop);
    fails_once_and_works(&home, Function::C_Digest, digests);
    let finds = || session.find_objects(&[]).map(drop);
    fails_once_and_works(&home, Function::C_FindObjects, finds);
    let signs_in_parts = || {
        session.sign_init(&many, private)?;
        session.sign_update(&data)?;
        session.sign_final().map(drop)
    };
    fails_once_and_works(&home, Function::C_SignUpdate, signs_in_parts);
    fails_once_and_works(&home, Function::C_SignFinal, signs_in_parts);
    let digests_in_parts = || {
        session.digest_init(&Mechanism::Sha256)?;
        session.digest_update(&data)?;
        session.digest_final().map(drop)
    };
    fails_once_and_works(&home, Function::C_DigestUpdate, digests_in_parts);
    fails_once_and_works(&home, Function::C_DigestFinal, digests_in_parts);
    let salted = Mechanism::Sha256RsaPkcsPss(cryptoki::mechanism::rsa::PkcsPssParams {
        hash_alg: cryptoki::mechanism::MechanismType::SHA256,
        mgf: PkcsMgfType::MGF1_SHA256,
        s_len: 32.into(),
    });
    let signs_salted = || session.sign(&salted, private, &data).map(drop);
    fails_once_and_works(&home, Function::C_Sign, signs_salted);
}

#[test]
fn a_share_of_the_calls_fails() {
    let Some(home) = home("faults::a_share_of_the_calls_fails") else {
        return;
    };
    let (session, key) = home.signer();
    home.device
        .fault(Fault {
            probability: Some(0.5),
            ..Fault::new(&[Function::C_Sign], rv("CKR_DEVICE_ERROR"))
        })
        .unwrap();
    let failed = (0..400).filter(|_| sign(&session, key).is_err()).count();
    // Beyond six standard deviations: once in a billion runs.
    assert!((140..=260).contains(&failed), "{failed} of 400");
}

#[test]
fn a_fault_of_one_token_leaves_the_others_alone() {
    let Some(home) = home("faults::a_fault_of_one_token_leaves_the_others_alone") else {
        return;
    };
    make_token(&home.context, "db");
    let other = home
        .context
        .open_rw_session(slot(&home.context, "db"))
        .unwrap();
    log_in(&other).unwrap();
    let others_key = key(&other).unwrap();
    let (session, own_key) = home.signer();
    home.device
        .fault(Fault {
            token: Some("web".to_owned()),
            ..Fault::new(&[], rv("CKR_DEVICE_MEMORY"))
        })
        .unwrap();
    assert_eq!(failure(session.find_objects(&[])), RvError::DeviceMemory);
    assert_eq!(failure(sign(&session, own_key)), RvError::DeviceMemory);
    sign(&other, others_key).unwrap();
    home.device.heal().unwrap();
    sign(&session, own_key).unwrap();
}

#[test]
fn a_vendors_own_value_is_answered_as_it_is() {
    let Some(home) = home("faults::a_vendors_own_value_is_answered_as_it_is") else {
        return;
    };
    let (session, key) = home.signer();
    home.device
        .fault(Fault::new(&[Function::C_Sign], rv("0x80000382")))
        .unwrap();
    let error = sign(&session, key).unwrap_err();
    assert!(format!("{error:?}").contains("VendorDefined"), "{error:?}");
    let log = home.device.log().unwrap();
    assert_eq!(log.last().unwrap().rv, rv("0x80000382"));
}

#[test]
fn a_module_that_fails_to_initialise_does_so_as_often_as_it_is_told() {
    let Some(home) =
        home("faults::a_module_that_fails_to_initialise_does_so_as_often_as_it_is_told")
    else {
        return;
    };
    let fault = Fault::new(&[Function::C_Initialize], rv("CKR_DEVICE_ERROR"));
    home.device.fault(fault.next(2)).unwrap();
    home.context.finalize().unwrap();
    let context = cryptoki::context::Pkcs11::new(crate::home::module()).unwrap();
    for _ in 0..2 {
        assert_eq!(failure(context.initialize(locking())), RvError::DeviceError);
    }
    context.initialize(locking()).unwrap();
}

#[test]
fn a_script_fails_and_heals_by_itself() {
    let Some(home) = home("faults::a_script_fails_and_heals_by_itself") else {
        return;
    };
    let (session, key) = home.signer();
    let fault = Fault::new(&[Function::C_Sign], rv("CKR_DEVICE_ERROR"));
    let step = |after, action| Step {
        after: Span::millis(after),
        action,
    };
    let steps = vec![
        step(0, Action::Fault(fault)),
        step(300, Action::Heal),
        step(600, Action::Restart),
    ];
    let script = Script {
        started: None,
        steps,
    };
    home.device
        .update(|settings| settings.script = Some(script))
        .unwrap();
    assert_eq!(failure(sign(&session, key)), RvError::DeviceError);
    eventually("the script heals the device", || {
        sign(&session, key).is_ok()
    });
    eventually("the script restarts the device", || {
        sign(&session, key).is_err()
    });
    assert_eq!(failure(sign(&session, key)), RvError::SessionHandleInvalid);
    let (session, key) = home.signer();
    sign(&session, key).unwrap();
}

#[test]
fn a_broken_module_works_only_after_it_is_initialised_anew() {
    let Some(home) = home("faults::a_broken_module_works_only_after_it_is_initialised_anew") else {
        return;
    };
    let (session, key) = home.signer();
    home.device
        .break_until_reinitialised(rv("CKR_GENERAL_ERROR"));
    assert_eq!(failure(sign(&session, key)), RvError::GeneralError);
    assert_eq!(
        failure(home.context.get_slots_with_token()),
        RvError::GeneralError
    );
    assert_eq!(failure(home.try_session()), RvError::GeneralError);
    drop(session);
    home.context.finalize().unwrap();
    let context = load();
    let session = context.open_rw_session(slot(&context, "web")).unwrap();
    log_in(&session).unwrap();
    sign(&session, crate::home::key(&session).unwrap()).unwrap();
}

#[test]
fn a_key_pair_whose_making_fails_is_not_there() {
    let Some(home) = home("faults::a_key_pair_whose_making_fails_is_not_there") else {
        return;
    };
    let (session, _) = home.signer();
    let before = keys(&session);
    let fault = Fault::new(&[Function::C_GenerateKeyPair], rv("CKR_DEVICE_MEMORY"));
    home.device.fault(fault.next(1)).unwrap();
    assert_eq!(failure(make_key(&session, true)), RvError::DeviceMemory);
    assert_eq!(keys(&session), before);
    make_key(&session, true).unwrap();
}
