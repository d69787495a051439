//! What the keeper makes of a configuration that changes under it.

use std::fs;

use tempfile::TempDir;

use super::*;

const EXAMPLE: &str = include_str!("../config/example.yaml");

/// A keeper's work, and the file that it looks at.
struct World {
    work: Work,
    _directory: TempDir,
}

impl World {
    /// Started with the example.
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("proxy.yaml");
        fs::write(&path, EXAMPLE).unwrap();
        let settings = Config::parse(EXAMPLE).unwrap().settings().unwrap();
        Self {
            work: Work::new(KeeperConfig {
                path,
                pod: PodFacts::default(),
                text: EXAMPLE.to_owned(),
                settings: Arc::new(settings),
                state: State::new(),
                registry: Registry::new(),
                log_level: LogLevel::nobodys(),
                runtime: tokio::runtime::Handle::current(),
            }),
            _directory: directory,
        }
    }

    fn write(&self, text: &str) {
        fs::write(&self.work.path, text).unwrap();
    }

    /// What is noted of the configuration after a look, and whether the settings are others.
    fn look(&mut self) -> (Option<String>, bool) {
        let before = self.work.settings.clone();
        self.work.look_at_config();
        let note = self.work.state.health().notes.get("config").cloned();
        (note, !Arc::ptr_eq(&before, &self.work.settings))
    }
}

fn changed() -> String {
    EXAMPLE.replacen("ports: [8080]", "ports: [8081]", 1)
}

#[tokio::test]
async fn the_configuration_of_the_start_is_not_taken_for_a_new_one() {
    assert_eq!(World::new().look(), (None, false));
}

#[tokio::test]
async fn a_change_between_the_start_and_the_first_look_is_seen() {
    let mut world = World::new();
    world.write(&changed());
    assert_eq!(world.look(), (None, true));
    assert_eq!(world.look(), (None, false));
}

#[tokio::test]
async fn a_file_that_could_not_be_read_once_is_not_complained_of_for_ever() {
    let mut world = World::new();
    fs::remove_file(&world.work.path).unwrap();
    let (note, changed) = world.look();
    let note = note.unwrap();
    assert!(
        note.contains("cannot read") && note.contains("last good") && !changed,
        "{note}"
    );
    world.write(EXAMPLE);
    assert_eq!(world.look(), (None, false));
}

#[tokio::test]
async fn a_refused_configuration_is_complained_of_until_there_is_another() {
    let mut world = World::new();
    world.write("nonsense: true");
    let (first, _) = world.look();
    assert!(first.as_ref().unwrap().contains("nonsense"), "{first:?}");
    assert_eq!(world.look(), (first.clone(), false));
    let away = world.work.path.with_extension("away");
    fs::rename(&world.work.path, &away).unwrap();
    assert!(world.look().0.unwrap().contains("cannot read"));
    fs::rename(&away, &world.work.path).unwrap();
    assert_eq!(world.look(), (first, false));
    world.write(EXAMPLE);
    assert_eq!(world.look(), (None, true));
}

#[test]
fn a_look_that_panics_is_noted_until_one_does_not() {
    let state = State::new();
    guarded(&state, || panic!("{} is not there", "it"));
    let note = state.health().notes["keeper"].clone();
    assert!(note.contains("it is not there"), "{note}");
    guarded(&state, || {});
    assert!(!state.health().notes.contains_key("keeper"));
}
