//! The door of a module: many may be inside at once, or one alone, to initialise the module anew.
//!
//! `C_Finalize` while another call is under way crashes real modules, and a handle of the time
//! before means nothing, or another session, in the time after. So every use of a module holds a
//! [`Pass`], which says in which of these times it is.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Counts who is inside.
#[derive(Debug, Default)]
pub(super) struct Gate {
    inside: Mutex<Inside>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Inside {
    passes: usize,
    closed: bool,
    ended: bool,
    generation: u64,
}

/// Leave to call the module, until dropped.
#[derive(Debug)]
pub(super) struct Pass<'a> {
    gate: &'a Gate,
    generation: u64,
}

impl Gate {
    /// Waits until the gate is open. Nothing after `deadline`.
    pub(super) fn enter(&self, deadline: Instant) -> Option<Pass<'_>> {
        let mut inside = self.lock();
        while inside.closed && !inside.ended {
            inside = self.wait(inside, deadline)?;
        }
        if inside.ended {
            return None;
        }
        inside.passes += 1;
        Some(Pass {
            gate: self,
            generation: inside.generation,
        })
    }

    /// Closes the gate, waits until everybody has left, and does `work`; with it a new generation
    /// begins. Nothing when somebody stays longer than `patience`, or somebody else is at it.
    pub(super) fn alone<T>(&self, patience: Duration, work: impl FnOnce() -> T) -> Option<T> {
        let deadline = Instant::now() + patience;
        let mut inside = self.lock();
        if inside.closed || inside.ended {
            return None;
        }
        inside.closed = true;
        // Opened again however this ends, by a panic too.
        let _open = Opener(self);
        while inside.passes > 0 && !inside.ended {
            inside = self.wait(inside, deadline)?;
        }
        if inside.ended {
            return None;
        }
        inside.generation += 1;
        drop(inside);
        Some(work())
    }

    /// Closes the gate for good, and does `last` once everybody has left; not when somebody stays
    /// longer than `patience`.
    pub(super) fn end(&self, patience: Duration, last: impl FnOnce()) {
        let deadline = Instant::now() + patience;
        let mut inside = self.lock();
        inside.ended = true;
        self.changed.notify_all();
        // Whoever is alone inside is inside as well.
        while inside.passes > 0 || inside.closed {
            match self.wait(inside, deadline) {
                Some(waited) => inside = waited,
                None => return,
            }
        }
        drop(inside);
        last();
    }

    /// Waits for a change; nothing when the deadline has passed.
    fn wait<'a>(
        &'a self,
        inside: MutexGuard<'a, Inside>,
        deadline: Instant,
    ) -> Option<MutexGuard<'a, Inside>> {
        let left = deadline.checked_duration_since(Instant::now())?;
        let (inside, _) = self
            .changed
            .wait_timeout(inside, left)
            .unwrap_or_else(PoisonError::into_inner);
        Some(inside)
    }

    fn lock(&self) -> MutexGuard<'_, Inside> {
        self.inside.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Pass<'_> {
    /// Which initialisation of the module this is, from 0.
    pub(super) fn generation(&self) -> u64 {
        self.generation
    }
}

impl Drop for Pass<'_> {
    fn drop(&mut self) {
        let mut inside = self.gate.lock();
        inside.passes -= 1;
        // Else nobody waits for those inside to leave, and to say so is a system call.
        let awaited = inside.closed || inside.ended;
        drop(inside);
        if awaited {
            self.gate.changed.notify_all();
        }
    }
}

struct Opener<'a>(&'a Gate);

impl Drop for Opener<'_> {
    fn drop(&mut self) {
        self.0.lock().closed = false;
        self.0.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
    use std::thread;

    use super::*;

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(20)
    }

    #[test]
    fn whoever_is_alone_meets_nobody_inside() {
        let gate = Gate::default();
        let (inside, alone) = (AtomicUsize::new(0), AtomicBool::new(false));
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..2_000 {
                        let _pass = gate.enter(soon()).unwrap();
                        inside.fetch_add(1, Ordering::SeqCst);
                        assert!(!alone.load(Ordering::SeqCst));
                        inside.fetch_sub(1, Ordering::SeqCst);
                    }
                });
            }
            for _ in 0..2 {
                scope.spawn(|| {
                    for _ in 0..200 {
                        gate.alone(Duration::from_secs(20), || {
                            alone.store(true, Ordering::SeqCst);
                            assert_eq!(inside.load(Ordering::SeqCst), 0);
                            alone.store(false, Ordering::SeqCst);
                        });
                    }
                });
            }
        });
    }

    #[test]
    fn a_new_generation_begins_with_every_time_alone() {
        let gate = Gate::default();
        assert_eq!(gate.enter(soon()).unwrap().generation(), 0);
        gate.alone(Duration::ZERO, || ()).unwrap();
        assert_eq!(gate.enter(soon()).unwrap().generation(), 1);
    }

    #[test]
    fn somebody_who_stays_keeps_the_gate_from_closing_for_good() {
        let gate = Gate::default();
        let stays = gate.enter(soon()).unwrap();
        assert!(gate.alone(Duration::from_millis(1), || ()).is_none());
        assert_eq!(gate.enter(soon()).unwrap().generation(), 0);
        drop(stays);
        assert!(gate.alone(Duration::ZERO, || ()).is_some());
    }

    #[test]
    fn nobody_enters_after_the_end_and_the_last_thing_waits_for_those_inside() {
        let gate = Gate::default();
        let stays = gate.enter(soon()).unwrap();
        let mut done = false;
        gate.end(Duration::from_millis(1), || done = true);
        assert!(!done);
        drop(stays);
        assert!(gate.enter(Instant::now()).is_none());
        gate.end(Duration::ZERO, || done = true);
        assert!(done);
        assert!(gate.alone(Duration::ZERO, || ()).is_none());
    }

    #[test]
    fn the_end_waits_for_whoever_is_alone() {
        let gate = Gate::default();
        let (begun, begins) = std::sync::mpsc::channel();
        let alone = AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| {
                gate.alone(Duration::ZERO, || {
                    alone.store(true, Ordering::SeqCst);
                    begun.send(()).unwrap();
                    let until = Instant::now() + Duration::from_millis(50);
                    while Instant::now() < until {
                        thread::yield_now();
                    }
                    alone.store(false, Ordering::SeqCst);
                })
            });
            begins.recv().unwrap();
            gate.end(Duration::from_secs(20), || {
                assert!(!alone.load(Ordering::SeqCst));
            });
        });
    }

    #[test]
    fn nobody_enters_after_the_deadline_while_the_gate_is_closed() {
        let gate = Gate::default();
        let entered = gate.alone(Duration::ZERO, || gate.enter(Instant::now()).is_some());
        assert_eq!(entered, Some(false));
    }
}
