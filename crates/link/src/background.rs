//! Making a thread yield to others. For the threads on which links are made: what is already
//! sealed goes first.

/// Makes the calling thread the nicest there is (nice(2)): it gets a seventieth of what another
/// gets that wants the processor as well.
///
/// `SCHED_IDLE` would go further, and too far: measured on a pod whose links are busy all the time,
/// new ones then miss their deadline. Where it is refused, nothing else changes.
pub fn yield_to_others() {
    // On Linux this is the thread's own.
    let _ = rustix::process::nice(19);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_that_yields_is_the_nicest_and_its_parent_is_not() {
        let niceness = || {
            let path = "/proc/thread-self/stat";
            let stat = std::fs::read_to_string(path).unwrap();
            // The name may hold spaces; the niceness is field 19 of proc_pid_stat(5).
            let (_, fields) = stat.rsplit_once(") ").unwrap();
            fields.split(' ').nth(19 - 3).unwrap().to_owned()
        };
        let before = niceness();
        let inside = std::thread::spawn(move || {
            yield_to_others();
            niceness()
        });
        assert_eq!(inside.join().unwrap(), "19");
        assert_eq!(niceness(), before);
    }
}
