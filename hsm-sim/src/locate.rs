//! Where the module is that was built with the running program: for tests, benchmarks and
//! `hsm-sim ctl new`.

use std::env;
use std::path::{Path, PathBuf};

/// The library's file name.
const LIBRARY: &str = "libhsm_sim.so";

/// The module beside the running program, where Cargo or an installation puts it.
///
/// Cargo always builds it into `deps`; what lies above may be older.
pub fn find_module() -> Option<PathBuf> {
    let program = env::current_exe().ok()?;
    program.parent().and_then(find)
}

fn find(directory: &Path) -> Option<PathBuf> {
    let parent = directory.parent()?;
    let places = [
        directory.join("deps"),
        directory.to_owned(),
        parent.to_owned(),
        parent.join("lib"),
    ];
    places
        .into_iter()
        .map(|place| place.join(LIBRARY))
        .find(|path| path.exists())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn the_module_is_found_from_wherever_cargo_puts_a_program() {
        let target = tempfile::tempdir().unwrap();
        let debug = target.path().join("debug");
        fs::create_dir_all(debug.join("deps")).unwrap();
        assert_eq!(find(&debug), None);
        let above = debug.join(LIBRARY);
        fs::write(&above, "").unwrap();
        assert_eq!(find(&debug.join("deps")), Some(above));
        let fresh = debug.join("deps").join(LIBRARY);
        fs::write(&fresh, "").unwrap();
        assert_eq!(find(&debug), Some(fresh.clone()));
        assert_eq!(find(&debug.join("deps")), Some(fresh));
    }
}
