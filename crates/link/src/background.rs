//! Making a thread run only where no other of this container wants to. For the threads on which
//! links are made: what is already sealed goes first.
#![allow(unsafe_code, reason = "calls the C library")]

/// Makes the calling thread yield to all others (Linux `SCHED_IDLE`, sched(7)).
///
/// Being nicer is not enough: a nicer thread keeps its processor to the end of its slice, some
/// milliseconds, and a byte that is relayed wakes a thread at each of its hops. A thread of this
/// class gives way at once. Under load from outside of the container it still gets its part of
/// what the container gets. Where it is refused, nothing else changes.
pub fn yield_to_others() {
    let priority = libc::sched_param { sched_priority: 0 };
    // SAFETY: 0 is the calling thread; `priority` is valid, and only read during the call.
    let _ = unsafe { libc::sched_setscheduler(0, libc::SCHED_IDLE, &raw const priority) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_that_yields_is_of_the_idle_class_and_its_parent_is_not() {
        let class = || {
            let path = "/proc/thread-self/stat";
            let stat = std::fs::read_to_string(path).unwrap();
            // The name may hold spaces; the class is field 41 of proc_pid_stat(5).
            let (_, fields) = stat.rsplit_once(") ").unwrap();
            fields.split(' ').nth(41 - 3).unwrap().to_owned()
        };
        let before = class();
        let inside = std::thread::spawn(move || {
            yield_to_others();
            class()
        });
        assert_eq!(inside.join().unwrap(), libc::SCHED_IDLE.to_string());
        assert_eq!(class(), before);
    }
}
