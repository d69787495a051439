use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::record::{Event, LONGEST};
use crate::testing::{NOW, flow, record_of};

fn at(seconds: u64) -> Timestamp {
    Timestamp::new(NOW + Duration::from_secs(seconds))
}

fn one() -> Bytes {
    Bytes {
        sent: 1,
        received: 2,
    }
}

fn refusal(port: u16) -> Refusal {
    Refusal {
        direction: Direction::Outbound,
        protocol: Protocol::Tcp,
        reason: "no_route".to_owned(),
        source: None,
        destination: Some(([198, 18, 0, 9], port).into()),
        peer: None,
        process: None,
        detail: String::new(),
    }
}

/// Every window's records, as they would be written.
fn lengths(windows: Vec<Window>) -> Vec<usize> {
    let records = windows.into_iter();
    let records = records.map(|window| record_of(Event::Window(Box::new(window))));
    records
        .map(|record| record.encode().unwrap().len())
        .collect()
}

#[test]
fn an_idle_window_is_written_and_says_that_nothing_happened() {
    let mut gathering = Gathering::new(10, at(0));
    let windows = gathering.take(at(60)).windows(None);
    assert_eq!(windows.len(), 1);
    assert_eq!((windows[0].from, windows[0].to), (at(0), at(60)));
    assert!(windows[0].links.is_empty());
}

#[test]
fn a_flood_of_destinations_takes_bounded_memory_and_loses_no_byte() {
    const FLOOD: u16 = 20_000;
    let mut gathering = Gathering::new(100, at(0));
    for port in 0..FLOOD {
        gathering.opened(&flow("0a", port), at(1));
        gathering.closed(&flow("0a", port), one(), None, at(2));
    }
    assert!(gathering.links.len() <= 101, "{}", gathering.links.len());
    let windows = gathering.take(at(60)).windows(None);
    let groups = || windows.iter().flat_map(|window| &window.links);
    let sum = |of: fn(&LinkGroup) -> u64| groups().map(of).sum::<u64>();
    assert_eq!(sum(|group| group.opened), u64::from(FLOOD));
    assert_eq!(sum(|group| group.closed), u64::from(FLOOD));
    assert_eq!(sum(|group| group.bytes.received), u64::from(FLOOD) * 2);
    let said = windows.last().unwrap().aggregated.unwrap();
    assert_eq!(said.limit, 100);
    assert_eq!(said.without_destination, (u64::from(FLOOD) - 100) * 2);
}

#[test]
fn a_flood_of_peers_ends_up_in_groups_without_peer() {
    let mut gathering = Gathering::new(10, at(0));
    for peer in 0..2_000 {
        let flow = Flow {
            peer: Some(format!("spiffe://m.example/ns/a/sa/{peer}")),
            ..flow("0a", peer)
        };
        gathering.opened(&flow, at(1));
    }
    assert!(gathering.links.len() <= 10 + COARSE + 1);
    assert_eq!(gathering.open(), 2_000);
    let said = gathering.take(at(60)).aggregated.unwrap();
    assert!(said.without_peer > 1_000, "{said:?}");
}

#[test]
fn a_window_of_many_groups_is_written_in_parts_that_fit_an_entry() {
    let mut gathering = Gathering::new(4096, at(0));
    for port in 0..3_000 {
        gathering.opened(&flow("0a", port), at(1));
        gathering.refused(&refusal(port), at(1));
        let destination = Some(([198, 18, 0, 1], port).into());
        gathering.excepted("database", destination, None, one(), at(1));
    }
    let windows = gathering.take(at(60)).windows(None);
    let count = u32::try_from(windows.len()).unwrap();
    assert!(count > 10);
    for (part, window) in (1..).zip(&windows) {
        assert_eq!((window.part, window.parts), (part, count));
    }
    assert!(
        lengths(windows)
            .iter()
            .all(|length| *length < LONGEST - 10_000)
    );
}

#[test]
fn what_is_open_stays_in_the_next_windows_until_it_is_closed() {
    let mut gathering = Gathering::new(10, at(0));
    gathering.opened(&flow("0a", 1), at(1));
    assert_eq!(gathering.take(at(60)).links[0].open, 1);
    let second = gathering.take(at(120));
    let group = &second.links[0];
    assert_eq!((group.open, group.opened), (1, 0));
    assert_eq!((group.first, group.last), (at(60), at(120)));
    gathering.closed(&flow("0a", 1), one(), Some("reset"), at(130));
    let third = gathering.take(at(180));
    assert_eq!((third.links[0].open, third.links[0].closed), (0, 1));
    assert_eq!(third.links[0].failures["reset"], 1);
    assert!(gathering.take(at(240)).links.is_empty());
}

#[test]
fn the_first_refusal_of_a_kind_is_spelled_out_and_all_are_counted() {
    let mut gathering = Gathering::new(10, at(0));
    assert!(gathering.refused(&refusal(1), at(1)));
    assert!(!gathering.refused(&refusal(1), at(2)));
    assert!(gathering.refused(&refusal(2), at(3)));
    let window = gathering.take(at(60)).windows(None).remove(0);
    let counts: Vec<u64> = window.refusals.iter().map(|one| one.count).collect();
    assert_eq!(counts, [2, 1]);
    assert!(gathering.refused(&refusal(1), at(61)), "a new window");
}

#[test]
fn a_flood_of_refusals_spells_out_few() {
    let mut gathering = Gathering::new(1000, at(0));
    let spelled = (0..5_000).filter(|port| gathering.refused(&refusal(*port), at(1)));
    assert_eq!(spelled.count(), SPELLED_OUT);
    let gathered = gathering.take(at(60));
    assert_eq!(
        gathered.refusals.iter().map(|one| one.count).sum::<u64>(),
        5_000
    );
}

proptest! {
    #[test]
    fn whatever_comes_openings_less_closings_are_what_is_open(
        steps in prop::collection::vec((0..40_u16, any::<bool>()), 0..300),
        limit in 1..20_usize,
    ) {
        let mut gathering = Gathering::new(limit, at(0));
        let mut open = [0_u64; 40];
        for (port, opens) in steps {
            let slot = &mut open[usize::from(port)];
            if opens {
                gathering.opened(&flow("0a", port), at(1));
                *slot += 1;
            } else if *slot > 0 {
                gathering.closed(&flow("0a", port), one(), None, at(1));
                *slot -= 1;
            }
        }
        prop_assert_eq!(gathering.open(), open.iter().sum::<u64>());
    }
}
