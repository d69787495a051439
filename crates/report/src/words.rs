//! Figures as people read them. They are rounded so that they never claim more: shares downwards,
//! and "100 %" only where nothing is missing.

use std::borrow::Cow;

use time::format_description::BorrowedFormatItem;
use time::macros::format_description;
use time::{Duration, OffsetDateTime};

const MINUTE: &[BorrowedFormatItem<'_>] =
    format_description!("[day padding:none] [month repr:short] [year], [hour]:[minute]");
const SECOND: &[BorrowedFormatItem<'_>] =
    format_description!("[day padding:none] [month repr:short] [year], [hour]:[minute]:[second]");
const DAY: &[BorrowedFormatItem<'_>] =
    format_description!("[day padding:none] [month repr:short] [year]");

/// 1234567 as `1,234,567`.
pub(crate) fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut grouped = String::with_capacity(digits.len() + digits.len() / 3);
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

/// A number and what is counted, in the singular where it is one.
pub(crate) fn counted(number: u64, one: &str, more: &str) -> String {
    match number {
        0 => format!("no {more}"),
        1 => format!("1 {one}"),
        _ => format!("{} {more}", count(number)),
    }
}

/// Bytes in decimal units, with one digit after the point.
pub(crate) fn bytes(number: u64) -> String {
    const UNITS: [&str; 6] = ["kB", "MB", "GB", "TB", "PB", "EB"];
    if number < 1000 {
        return format!("{number} B");
    }
    let mut tenths = number / 100;
    let mut unit = 0;
    while tenths >= 10_000 && unit + 1 < UNITS.len() {
        tenths /= 1000;
        unit += 1;
    }
    format!("{}.{} {}", tenths / 10, tenths % 10, UNITS[unit])
}

/// A share in percent with two digits, rounded down.
pub(crate) fn share(part: Duration, whole: Duration) -> String {
    if whole <= Duration::ZERO {
        return "nothing".to_owned();
    }
    let hundredths = part.whole_milliseconds().max(0) * 10_000 / whole.whole_milliseconds().max(1);
    match hundredths {
        10_000.. if part >= whole => "100 %".to_owned(),
        10_000.. => "99.99 %".to_owned(),
        _ => format!("{}.{:02} %", hundredths / 100, hundredths % 100),
    }
}

/// A duration in its two largest units.
pub(crate) fn duration(duration: Duration) -> String {
    let seconds = duration.whole_seconds().max(0);
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60);
    let two = |large: i64, of: &str, small: i64, rest: &str| match small {
        0 => format!("{large} {of}"),
        _ => format!("{large} {of} {small} {rest}"),
    };
    match (days, hours, minutes) {
        (0, 0, 0) if seconds == 0 => format!("{} ms", duration.whole_milliseconds().max(0)),
        (0, 0, 0) => format!("{seconds} s"),
        (0, 0, _) => two(minutes, "min", seconds % 60, "s"),
        (0, _, _) => two(hours, "h", minutes, "min"),
        (1, _, _) => two(1, "day", hours, "h"),
        _ => two(days, "days", hours, "h"),
    }
}

/// To the minute.
pub(crate) fn minute(time: OffsetDateTime) -> String {
    written(time, MINUTE)
}

/// To the second.
pub(crate) fn second(time: OffsetDateTime) -> String {
    written(time, SECOND)
}

/// The day alone.
pub(crate) fn day(time: OffsetDateTime) -> String {
    written(time, DAY)
}

/// The part of a SPIFFE ID that people know a workload by: what follows the trust domain, without
/// the words in between where it is a service account.
pub(crate) fn identity(id: &str) -> String {
    let Some(path) = id
        .strip_prefix("spiffe://")
        .and_then(|rest| rest.split_once('/'))
        .map(|(_, path)| path)
    else {
        return id.to_owned();
    };
    match path.split('/').collect::<Vec<_>>().as_slice() {
        ["ns", namespace, "sa", account] => format!("{namespace}/{account}"),
        _ => path.to_owned(),
    }
}

/// Text that may come from strangers, for a screen or a page: what is not seen there, and changes how
/// the rest is read or what a terminal does, stands as `\u{…}`.
pub fn visible(text: &str) -> Cow<'_, str> {
    if !text.contains(unseen) {
        return Cow::Borrowed(text);
    }
    let mut visible = String::with_capacity(text.len() + 8);
    for letter in text.chars() {
        if unseen(letter) {
            visible.extend(letter.escape_unicode());
        } else {
            visible.push(letter);
        }
    }
    Cow::Owned(visible)
}

/// Controls but for line breaks and tabs, and what turns the direction of writing.
fn unseen(letter: char) -> bool {
    letter.is_control() && letter != '\n' && letter != '\t'
        || matches!(
            letter,
            '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}'
        )
}

fn written(time: OffsetDateTime, form: &[BorrowedFormatItem<'_>]) -> String {
    // These forms cannot fail for a whole date and time.
    time.to_offset(time::UtcOffset::UTC)
        .format(form)
        .unwrap_or_else(|_| time.unix_timestamp().to_string())
}

#[cfg(test)]
mod tests {
    use time::macros::datetime;

    use super::*;

    #[test]
    fn numbers_are_grouped() {
        assert_eq!(count(0), "0");
        assert_eq!(count(999), "999");
        assert_eq!(count(1_000), "1,000");
        assert_eq!(count(u64::MAX), "18,446,744,073,709,551,615");
        assert_eq!(counted(0, "pod", "pods"), "no pods");
        assert_eq!(counted(1, "pod", "pods"), "1 pod");
    }

    #[test]
    fn bytes_come_in_decimal_units() {
        assert_eq!(bytes(999), "999 B");
        assert_eq!(bytes(1_000), "1.0 kB");
        assert_eq!(bytes(999_999), "999.9 kB");
        assert_eq!(bytes(1_000_000), "1.0 MB");
        assert_eq!(bytes(u64::MAX), "18.4 EB");
    }

    #[test]
    fn a_share_is_whole_only_when_nothing_is_missing() {
        let day = Duration::DAY;
        assert_eq!(share(day, day), "100 %");
        assert_eq!(share(day - Duration::MILLISECOND, day), "99.99 %");
        assert_eq!(share(Duration::ZERO, day), "0.00 %");
        assert_eq!(share(Duration::ZERO, Duration::ZERO), "nothing");
    }

    #[test]
    fn durations_keep_two_units() {
        assert_eq!(duration(Duration::milliseconds(20)), "20 ms");
        assert_eq!(duration(Duration::seconds(59)), "59 s");
        assert_eq!(duration(Duration::seconds(150)), "2 min 30 s");
        assert_eq!(duration(Duration::hours(2)), "2 h");
        assert_eq!(duration(Duration::hours(49)), "2 days 1 h");
    }

    #[test]
    fn what_would_move_a_terminal_or_turn_a_line_around_is_shown_instead() {
        assert_eq!(
            visible("shop/web → api,\tnew\nline"),
            "shop/web → api,\tnew\nline"
        );
        assert_eq!(visible("a\u{1b}[2Jb\u{9b}\r"), "a\\u{1b}[2Jb\\u{9b}\\u{d}");
        assert_eq!(visible("exe.\u{202e}fdp"), "exe.\\u{202e}fdp");
    }

    #[test]
    fn times_are_in_utc() {
        let time = datetime!(2026-11-03 15:04:05 +1);
        assert_eq!(minute(time), "3 Nov 2026, 14:04");
        assert_eq!(second(time), "3 Nov 2026, 14:04:05");
        assert_eq!(day(time), "3 Nov 2026");
    }

    #[test]
    fn a_service_account_is_named_briefly() {
        assert_eq!(identity("spiffe://mesh.example/ns/shop/sa/web"), "shop/web");
        assert_eq!(
            identity("spiffe://mesh.example/workload/web"),
            "workload/web"
        );
        assert_eq!(identity("web"), "web");
    }
}
