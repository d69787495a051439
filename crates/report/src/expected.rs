//! The pods that there should be logs of, from a list made elsewhere: the records alone cannot say
//! which pods never wrote one.

use std::collections::BTreeMap;

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// Pods that ran in the period, by someone else's account.
#[derive(Clone, Debug, Default)]
pub struct Expected {
    pods: BTreeMap<ListedPod, Option<OffsetDateTime>>,
}

/// A pod as the list names it.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) struct ListedPod {
    pub(crate) namespace: String,
    pub(crate) name: String,
    /// Empty where the list does not say: then any pod of that name will do.
    pub(crate) uid: String,
}

/// What is wrong with a list of pods.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error(
    "line {line}: {problem}: each line is NAMESPACE NAME [UID [ENDED]], ENDED by RFC 3339 or \"-\""
)]
pub struct ExpectedError {
    line: usize,
    problem: String,
}

/// Pods listed at most.
const MOST: usize = 1_000_000;

impl Expected {
    /// Reads a list: a pod a line, columns separated by blanks, `#` begins a comment.
    ///
    /// # Errors
    /// When a line is not like that, or nothing is listed.
    pub fn parse(text: &str) -> Result<Self, ExpectedError> {
        let mut pods = BTreeMap::new();
        for (number, line) in text.lines().enumerate() {
            let wrong = |problem: String| ExpectedError {
                line: number + 1,
                problem,
            };
            let line = line.split('#').next().unwrap_or_default();
            let columns: Vec<&str> = line.split_whitespace().collect();
            let (pod, ended) = match *columns {
                [] => continue,
                [namespace, name] => (ListedPod::new(namespace, name, ""), "-"),
                [namespace, name, uid] => (ListedPod::new(namespace, name, uid), "-"),
                [namespace, name, uid, ended] => (ListedPod::new(namespace, name, uid), ended),
                _ => return Err(wrong(format!("{} columns", columns.len()))),
            };
            let ended = match ended {
                // What kubectl prints for a field that is not there.
                "-" | "<none>" => None,
                time => Some(
                    OffsetDateTime::parse(time, &Rfc3339)
                        .map_err(|error| wrong(format!("ended {time:?}: {error}")))?,
                ),
            };
            if pods.len() == MOST {
                return Err(wrong(format!("more than {MOST} pods")));
            }
            pods.insert(pod, ended);
        }
        if pods.is_empty() {
            return Err(ExpectedError {
                line: text.lines().count(),
                problem: "no pod is listed".to_owned(),
            });
        }
        Ok(Self { pods })
    }

    /// How many pods are listed.
    pub(crate) fn len(&self) -> usize {
        self.pods.len()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &ListedPod> {
        self.pods.keys()
    }

    /// Whether the list names a pod.
    pub(crate) fn names(&self, namespace: &str, name: &str, uid: &str) -> bool {
        let exactly = ListedPod::new(namespace, name, uid);
        let by_name = ListedPod::new(namespace, name, "");
        self.pods.contains_key(&exactly) || self.pods.contains_key(&by_name)
    }

    /// When the list says that a pod ended.
    pub(crate) fn ended(&self, namespace: &str, name: &str, uid: &str) -> Option<OffsetDateTime> {
        *self.pods.get(&ListedPod::new(namespace, name, uid))?
    }
}

impl ListedPod {
    fn new(namespace: &str, name: &str, uid: &str) -> Self {
        Self {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            uid: uid.to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use time::macros::datetime;

    use super::*;

    #[test]
    fn a_list_as_kubectl_prints_it_is_read() {
        let list = Expected::parse(
            "# pods of November\n\
             shop  web-0  1f0c  <none>\n\
             shop  web-1  2a11  2026-11-25T10:00:00Z\n\
             \n\
             shop  db-0\n",
        )
        .unwrap();
        assert_eq!(list.len(), 3);
        assert_eq!(list.ended("shop", "web-0", "1f0c"), None);
        assert_eq!(
            list.ended("shop", "web-1", "2a11"),
            Some(datetime!(2026-11-25 10:00 UTC))
        );
    }

    #[test]
    fn a_line_that_cannot_be_read_is_named() {
        let error = Expected::parse("shop web-0\nshop\n").unwrap_err();
        assert!(
            error.to_string().starts_with("line 2: 1 columns"),
            "{error}"
        );
        let error = Expected::parse("shop web-0 uid yesterday\n").unwrap_err();
        assert!(error.to_string().contains("yesterday"), "{error}");
    }

    #[test]
    fn an_empty_list_is_refused() {
        assert!(Expected::parse("# nothing\n").is_err());
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in "[a-z0-9 #\\n\\t<>:TZ-]{0,80}") {
            if let Ok(list) = Expected::parse(&text) {
                prop_assert!(list.len() > 0);
            }
        }
    }
}
