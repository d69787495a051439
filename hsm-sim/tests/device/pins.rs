//! PINs that lock, which a software token's never do.

use cryptoki::error::RvError;
use cryptoki::session::UserType;
use cryptoki::slot::TokenInfo;
use cryptoki::types::AuthPin;
use hsm_sim::{Fault, Function, PinLimit};

use crate::home::{Home, OFFICER_PIN, PIN, WRONG_PIN, failure, home, log_in, log_in_with, rv};

impl Home {
    fn limit_pins(&self, tries: u32) {
        let limit = PinLimit { token: None, tries };
        self.device
            .update(|settings| settings.pins = vec![limit])
            .unwrap();
    }

    /// Count low, final try, locked.
    fn flags(&self) -> (bool, bool, bool) {
        let info: TokenInfo = self.context.get_token_info(self.web).unwrap();
        (
            info.user_pin_count_low(),
            info.user_pin_final_try(),
            info.user_pin_locked(),
        )
    }

    fn left(&self) -> Option<u64> {
        self.device.pin_tries("web").unwrap().left
    }
}

#[test]
fn wrong_pins_lock_a_token_and_it_says_how_near_that_is() {
    let Some(home) = home("pins::wrong_pins_lock_a_token_and_it_says_how_near_that_is") else {
        return;
    };
    home.limit_pins(3);
    let session = home.session();
    assert_eq!(home.flags(), (false, false, false));
    let try_wrong = || failure(log_in_with(&session, WRONG_PIN));
    assert_eq!(try_wrong(), RvError::PinIncorrect);
    assert_eq!(home.flags(), (true, false, false));
    assert_eq!(try_wrong(), RvError::PinIncorrect);
    assert_eq!(home.flags(), (true, true, false));
    assert_eq!(home.left(), Some(1));
    assert_eq!(home.device.all_pin_tries().unwrap()["web"].wrong, 2);
    assert_eq!(try_wrong(), RvError::PinIncorrect);
    assert_eq!(home.flags(), (false, false, true));
    for _ in 0..2 {
        assert_eq!(failure(log_in(&session)), RvError::PinLocked);
    }
    let last = home.device.log().unwrap().pop().unwrap();
    assert_eq!(last.injected.as_deref(), Some("pins"));
    home.device.reset_pin("web");
    assert_eq!(home.flags(), (false, false, false));
    log_in(&session).unwrap();
}

#[test]
fn a_right_pin_gives_all_tries_back() {
    let Some(home) = home("pins::a_right_pin_gives_all_tries_back") else {
        return;
    };
    home.limit_pins(3);
    let session = home.session();
    for _ in 0..3 {
        for _ in 0..2 {
            assert_eq!(
                failure(log_in_with(&session, WRONG_PIN)),
                RvError::PinIncorrect
            );
        }
        log_in(&session).unwrap();
        assert_eq!(home.left(), Some(3));
        session.logout().unwrap();
    }
}

#[test]
fn logins_that_say_nothing_about_the_pin_cost_no_try() {
    let Some(home) = home("pins::logins_that_say_nothing_about_the_pin_cost_no_try") else {
        return;
    };
    home.limit_pins(3);
    let session = home.session();
    let fault = Fault::new(&[Function::C_Login], rv("CKR_PIN_INCORRECT"));
    home.device.fault(fault.next(1)).unwrap();
    assert_eq!(failure(log_in(&session)), RvError::PinIncorrect);
    assert_eq!(home.left(), Some(3), "that error was made up");
    log_in(&session).unwrap();
    assert_eq!(failure(log_in(&session)), RvError::UserAlreadyLoggedIn);
    assert_eq!(home.left(), Some(3));
}

#[test]
fn changing_the_pin_is_a_try_as_well() {
    let Some(home) = home("pins::changing_the_pin_is_a_try_as_well") else {
        return;
    };
    home.limit_pins(2);
    let session = home.session();
    log_in(&session).unwrap();
    let (right, wrong) = (AuthPin::new(PIN.into()), AuthPin::new(WRONG_PIN.into()));
    for _ in 0..2 {
        assert_eq!(
            failure(session.set_pin(&wrong, &right)),
            RvError::PinIncorrect
        );
    }
    assert_eq!(failure(session.set_pin(&right, &wrong)), RvError::PinLocked);
}

#[test]
fn the_security_officer_unlocks_the_user() {
    let Some(home) = home("pins::the_security_officer_unlocks_the_user") else {
        return;
    };
    home.limit_pins(1);
    let session = home.session();
    assert_eq!(
        failure(log_in_with(&session, WRONG_PIN)),
        RvError::PinIncorrect
    );
    assert_eq!(failure(log_in(&session)), RvError::PinLocked);
    let officer = AuthPin::new(OFFICER_PIN.into());
    session.login(UserType::So, Some(&officer)).unwrap();
    session.init_pin(&AuthPin::new(PIN.into())).unwrap();
    session.logout().unwrap();
    log_in(&session).unwrap();
}
