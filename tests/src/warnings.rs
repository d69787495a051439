//! What the processes of a test that failed had to say about it: a failure seldom happens twice.

use std::path::{Path, PathBuf};

/// As many lines of a process are told, its last ones.
const MOST: usize = 30;

/// What marks a line of a structured log that is told.
const MARKS: [&str; 3] = [
    r#""level":"WARN""#,
    r#""level":"ERROR""#,
    r#""outcome":"reset""#,
];

/// Tells, when it is dropped by a panic, what the processes warned of that wrote to `output`.
#[must_use]
pub(crate) fn told_on_failure(output: &Path) -> impl Drop + use<> {
    Told(output.to_owned())
}

struct Told(PathBuf);

#[allow(
    clippy::print_stderr,
    reason = "that is where a test tells why it failed"
)]
impl Drop for Told {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprint!("{}", warnings(&self.0));
        }
    }
}

/// The last warnings of each process, in the order in which they were started.
fn warnings(output: &Path) -> String {
    let number = |path: &PathBuf| path.file_stem()?.to_str()?.parse::<u32>().ok();
    let entries = std::fs::read_dir(output).into_iter().flatten().flatten();
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
    files.sort_by_key(number);
    let mut told = String::new();
    for file in files {
        let Ok(text) = std::fs::read(&file) else {
            continue;
        };
        let text = String::from_utf8_lossy(&text);
        let marked = |line: &&str| MARKS.iter().any(|mark| line.contains(mark));
        let lines: Vec<&str> = text.lines().filter(marked).collect();
        if !lines.is_empty() {
            let name = file.file_name().unwrap_or_default().display();
            told += &format!("---- warnings of process {name}\n");
            for line in &lines[lines.len().saturating_sub(MOST)..] {
                told += &format!("{line}\n");
            }
        }
    }
    told
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_warnings_of_each_process_are_told_in_the_order_of_their_start() {
        let output = tempfile::tempdir().unwrap();
        let many: String = (0..40)
            .map(|number| format!("{{\"level\":\"WARN\",\"number\":{number}}}\n"))
            .collect();
        std::fs::write(output.path().join("10.out"), many).unwrap();
        let few = "{\"level\":\"INFO\"}\n{\"level\":\"INFO\",\"outcome\":\"reset\"}\n";
        std::fs::write(output.path().join("9.out"), few).unwrap();
        std::fs::write(output.path().join("11.err"), "a WARN of no log\n").unwrap();
        let told = warnings(output.path());
        let lines: Vec<&str> = told.lines().collect();
        assert_eq!(lines.len(), 2 + 1 + MOST, "{told}");
        assert_eq!(lines[0], "---- warnings of process 9.out");
        assert!(lines[1].contains("reset"));
        assert_eq!(lines[2], "---- warnings of process 10.out");
        assert!(lines[3].contains(":10}") && told.ends_with(":39}\n"));
    }
}
