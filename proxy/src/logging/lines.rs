//! Where lines of the log go. Whoever logs must not wait for who reads: a full pipe or a full disk
//! behind standard output would stop what is sealed. A thread of its own writes them; what it cannot
//! keep up with is lost and counted.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread;
use std::time::Duration;

use metrics::counter;
use tracing_subscriber::fmt::MakeWriter;

/// Lines that wait to be written.
const QUEUE: usize = 8192;

/// Bytes that are written at once, about; a longer line is written as a whole.
const AT_ONCE: usize = 64 * 1024;

/// How long the last lines may take at the end of the process.
const PATIENCE: Duration = Duration::from_secs(1);

/// Takes lines. Until [`Lines::write_by_thread`] they are written by whoever logs.
#[derive(Clone, Debug, Default)]
pub(super) struct Lines(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    queue: OnceLock<SyncSender<Vec<u8>>>,
    waiting: Arc<Waiting>,
}

/// Lines that were taken and are not yet written.
#[derive(Debug, Default)]
struct Waiting {
    lines: Mutex<usize>,
    written: Condvar,
}

/// The thread that writes. Dropped, it is waited for until all is written, for a second at most.
#[derive(Debug)]
#[must_use]
pub struct LogThread(Lines);

impl Lines {
    /// Has a thread write to standard output from now on.
    ///
    /// # Errors
    /// When there is no standard output, or no thread can be started.
    pub(super) fn write_by_thread(&self) -> io::Result<LogThread> {
        // Not by way of the standard library's lock: it would be held while a write does not end.
        let output = File::from(io::stdout().as_fd().try_clone_to_owned()?);
        self.write_to(output, QUEUE)
    }

    fn write_to(&self, output: impl Write + Send + 'static, queue: usize) -> io::Result<LogThread> {
        let (lines, taken) = sync_channel(queue);
        let waiting = self.0.waiting.clone();
        thread::Builder::new()
            .name("sealwire-log".to_owned())
            .spawn(move || write(&taken, output, &waiting))?;
        // There is one thread a process.
        let _ = self.0.queue.set(lines);
        Ok(LogThread(self.clone()))
    }
}

/// Writes what is there together, until nobody logs any more.
fn write(taken: &Receiver<Vec<u8>>, mut output: impl Write, waiting: &Waiting) {
    while let Ok(mut together) = taken.recv() {
        let mut lines = 1;
        while together.len() < AT_ONCE
            && let Ok(line) = taken.try_recv()
        {
            together.extend(line);
            lines += 1;
        }
        // Whoever read the log may be gone; the next may come.
        let _ = output.write_all(&together);
        *waiting.lines() -= lines;
        waiting.written.notify_all();
    }
}

impl Drop for LogThread {
    fn drop(&mut self) {
        let waiting = &self.0.0.waiting;
        let written = &waiting.written;
        // What is not written by then is lost.
        let _ = written.wait_timeout_while(waiting.lines(), PATIENCE, |lines| *lines > 0);
    }
}

impl Waiting {
    fn lines(&self) -> MutexGuard<'_, usize> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<'a> MakeWriter<'a> for Lines {
    type Writer = &'a Self;

    fn make_writer(&'a self) -> Self::Writer {
        self
    }
}

impl Write for &Lines {
    /// Takes a whole line: that is how events are written.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let Some(queue) = self.0.queue.get() else {
            return io::stdout().write(line);
        };
        let mut waiting = self.0.waiting.lines();
        if queue.try_send(line.to_vec()).is_ok() {
            *waiting += 1;
        } else {
            drop(waiting);
            counter!("sealwire_log_lines_lost_total").increment(1);
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        match self.0.queue.get() {
            Some(_) => Ok(()),
            None => io::stdout().flush(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::time::Instant;

    use super::*;

    #[test]
    fn whoever_logs_does_not_wait_for_who_reads_and_what_is_taken_is_written() {
        let (mut reads, writes) = io::pipe().unwrap();
        let lines = Lines::default();
        let thread = lines.write_to(writes, 16).unwrap();
        // More than a pipe and the queue hold.
        let line = |number: u8| [vec![number; AT_ONCE], vec![b'\n']].concat();
        for number in 0..100 {
            (&lines).write_all(&line(number)).unwrap();
        }
        let taken = *lines.0.waiting.lines();
        assert!((16..100).contains(&taken), "{taken}");
        // Who reads again gets whole lines.
        let reading = thread::spawn(move || {
            let mut all = Vec::new();
            reads.read_to_end(&mut all).map(|_| all).unwrap()
        });
        drop(thread);
        drop(lines);
        let read = reading.join().unwrap();
        let read: Vec<_> = read.chunks(AT_ONCE + 1).collect();
        assert!(read.len() >= taken, "{} of {taken}", read.len());
        for whole in read {
            assert!(whole == line(whole[0]), "a line in pieces");
        }
    }

    #[test]
    fn the_end_is_not_put_off_by_somebody_who_does_not_read() {
        let (_reads, writes) = io::pipe().unwrap();
        let lines = Lines::default();
        let thread = lines.write_to(writes, 16).unwrap();
        (&lines).write_all(&vec![b'x'; 1 << 20]).unwrap();
        let begun = Instant::now();
        drop(thread);
        assert!(begun.elapsed() >= PATIENCE && begun.elapsed() < PATIENCE * 10);
    }
}
