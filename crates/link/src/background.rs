//! Making a thread yield to others. For the threads on which links are made: what is already
//! sealed goes first.

/// How nice a thread becomes: it gets a ninth of what another gets that wants the processor as well.
/// Measured: with 5, what is sealed waits for it; with 19, as with `SCHED_IDLE`, new links wait for a
/// second where the others are busy all the time, and what is sealed gains nothing by it.
const NICENESS: i32 = 10;

/// Makes the calling thread nicer than the others (nice(2)). Where that is refused, nothing else
/// changes.
pub fn yield_to_others() {
    // On Linux this is the thread's own.
    let _ = rustix::process::nice(NICENESS);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_that_yields_is_nicer_and_its_parent_is_not() {
        let niceness = || {
            let path = "/proc/thread-self/stat";
            let stat = std::fs::read_to_string(path).unwrap();
            // The name may hold spaces; the niceness is field 19 of proc_pid_stat(5).
            let (_, fields) = stat.rsplit_once(") ").unwrap();
            fields
                .split(' ')
                .nth(19 - 3)
                .unwrap()
                .parse::<i32>()
                .unwrap()
        };
        let before = niceness();
        let inside = std::thread::spawn(move || {
            yield_to_others();
            niceness()
        });
        assert_eq!(inside.join().unwrap(), (before + NICENESS).min(19));
        assert_eq!(niceness(), before);
    }
}
