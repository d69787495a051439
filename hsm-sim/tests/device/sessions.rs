//! Limits on sessions.

use std::time::Duration;

use cryptoki::context::Pkcs11;
use cryptoki::error::RvError;
use cryptoki::session::{Session, SessionState};
use cryptoki::slot::{Limit, Slot};
use cryptoki_sys::CKR_OK;
use hsm_sim::{SessionLimits, Shown, Span};

use crate::home::{Home, eventually, failure, home, key, log_in, make_token, rv, sign, slot};
use crate::raw::Raw;

impl Home {
    fn limit_sessions(&self, limits: SessionLimits) {
        self.device
            .update(|settings| settings.sessions = vec![limits])
            .unwrap();
    }

    fn sessions(&self, count: usize) -> Vec<Session> {
        (0..count).map(|_| self.session()).collect()
    }
}

#[test]
fn no_more_sessions_open_than_there_are_and_a_closed_one_makes_room() {
    let Some(home) =
        home("sessions::no_more_sessions_open_than_there_are_and_a_closed_one_makes_room")
    else {
        return;
    };
    make_token(&home.context, "db");
    home.limit_sessions(SessionLimits {
        token: Some("web".to_owned()),
        max: Some(3),
        ..SessionLimits::default()
    });
    let mut sessions = home.sessions(3);
    assert_eq!(failure(home.try_session()), RvError::SessionCount);
    let other = slot(&home.context, "db");
    let _others: Vec<Session> = (0..5)
        .map(|_| home.context.open_ro_session(other).unwrap())
        .collect();
    sessions.pop().unwrap().close().unwrap();
    sessions.extend(home.sessions(1));
    assert_eq!(failure(home.try_session()), RvError::SessionCount);
    assert_eq!(Raw::new().close_all_sessions(home.web.id()), CKR_OK);
    home.sessions(3);
}

#[test]
fn a_device_may_answer_anything_when_it_is_full() {
    let Some(home) = home("sessions::a_device_may_answer_anything_when_it_is_full") else {
        return;
    };
    home.limit_sessions(SessionLimits {
        max: Some(1),
        full: rv("CKR_ARGUMENTS_BAD"),
        ..SessionLimits::default()
    });
    let _session = home.session();
    assert_eq!(failure(home.try_session()), RvError::ArgumentsBad);
}

#[test]
fn a_restart_makes_room_for_all() {
    let Some(home) = home("sessions::a_restart_makes_room_for_all") else {
        return;
    };
    home.limit_sessions(SessionLimits {
        max: Some(2),
        ..SessionLimits::default()
    });
    let _old = home.sessions(2);
    home.device.restart(None, None);
    let _new = home.sessions(2);
    assert_eq!(failure(home.try_session()), RvError::SessionCount);
}

#[test]
fn a_token_says_its_limit_in_every_way_there_is() {
    let Some(home) = home("sessions::a_token_says_its_limit_in_every_way_there_is") else {
        return;
    };
    for (shown, limit) in [
        (Shown::Unavailable, Limit::Unavailable),
        (Shown::Infinite, Limit::Infinite),
        (Shown::Number(16), Limit::Max(16)),
        // What SoftHSM says.
        (Shown::Forwarded, Limit::Infinite),
    ] {
        home.limit_sessions(SessionLimits {
            shown,
            ..SessionLimits::default()
        });
        let info = home.context.get_token_info(home.web).unwrap();
        for said in [info.max_session_count(), info.max_rw_session_count()] {
            assert_eq!(format!("{said:?}"), format!("{limit:?}"));
        }
    }
}

#[test]
fn an_unused_session_is_gone_and_its_place_is_free() {
    let Some(home) = home("sessions::an_unused_session_is_gone_and_its_place_is_free") else {
        return;
    };
    let (used, own_key) = home.signer();
    let unused = home.session();
    let idle = Duration::from_millis(400);
    home.limit_sessions(SessionLimits {
        max: Some(2),
        idle: Some(Span(idle)),
        ..SessionLimits::default()
    });
    assert_eq!(failure(home.try_session()), RvError::SessionCount);
    eventually("the unused session makes room", || {
        sign(&used, own_key).unwrap();
        home.try_session().is_ok()
    });
    assert_eq!(
        failure(unused.get_session_info()),
        RvError::SessionHandleInvalid
    );
    sign(&used, own_key).unwrap();
}

#[test]
fn when_all_sessions_are_idle_the_login_ends_with_them() {
    let Some(home) = home("sessions::when_all_sessions_are_idle_the_login_ends_with_them") else {
        return;
    };
    let (_session, _) = home.signer();
    home.limit_sessions(SessionLimits {
        idle: Some(Span::millis(1)),
        ..SessionLimits::default()
    });
    let state = |context: &Pkcs11, web: Slot| {
        let session = context.open_rw_session(web).unwrap();
        let state = session.get_session_info().map(|info| info.session_state());
        state.ok()
    };
    eventually("the login is gone", || {
        state(&home.context, home.web) == Some(SessionState::RwPublic)
    });
    home.limit_sessions(SessionLimits::default());
    let session = home.session();
    log_in(&session).unwrap();
    sign(&session, key(&session).unwrap()).unwrap();
}
