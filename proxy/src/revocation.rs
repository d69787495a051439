//! Where revocation lists come from: files, read again at each look, and URLs, fetched in the
//! background. The trust keeper looks here whenever it looks at the other files, and makes an
//! epoch of what it gets.
//!
//! Of every source the last good lists stay in force until better ones have been checked: whole,
//! signed, and not older. What is refused is not checked again before it is other content, or the
//! settings or the bundle that it was checked against are others.

mod fetch;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::sync::Arc;

use sealwire_identity::{Crl, CrlError, Revocation, TrustBundle};
use time::OffsetDateTime;

use self::fetch::{Fetcher, Terms};
use crate::config::{CrlSource, RevocationSettings, Settings};

/// Most that all sources together may hold, in bytes. In memory it takes some five times as much.
const MAX_BYTES: usize = 10 * 1024 * 1024;

/// The revocation lists of a configuration.
#[derive(Debug)]
pub struct RevocationLists {
    sources: BTreeMap<CrlSource, Source>,
    fetcher: Fetcher,
    /// What was given last, with the settings that it was made under.
    given: Option<(Arc<Settings>, Arc<Revocation>)>,
    /// What refusals were made against.
    judged_by: Option<(Arc<Settings>, TrustBundle)>,
}

/// One file or URL.
#[derive(Debug, Default)]
struct Source {
    /// What the lists were read from.
    content: Option<Arc<Vec<u8>>>,
    /// The last good ones.
    lists: Vec<Arc<Crl>>,
    /// What is wrong with the newest.
    problem: Option<String>,
    /// Content that was refused, and why.
    refused: Option<(Arc<Vec<u8>>, String)>,
}

impl RevocationLists {
    /// None yet; URLs will be fetched on this runtime.
    pub fn new(runtime: tokio::runtime::Handle) -> Self {
        Self {
            sources: BTreeMap::new(),
            fetcher: Fetcher::new(runtime),
            given: None,
            judged_by: None,
        }
    }

    /// The lists in force under these settings; the same value as before while nothing has
    /// changed. Blocks on files.
    ///
    /// # Errors
    /// What is wrong with a source that has never been good. Nobody can be checked then.
    pub fn look(
        &mut self,
        settings: &Arc<Settings>,
        bundle: &TrustBundle,
    ) -> Result<Option<Arc<Revocation>>, String> {
        let Some(wanted) = &settings.revocation else {
            self.sources.clear();
            self.fetcher.stop();
            self.given = None;
            return Ok(None);
        };
        self.sources
            .retain(|source, _| wanted.sources.contains(source));
        let ca = wanted.ca.as_deref().map(|path| {
            read(path, MAX_BYTES)
                .map_err(|problem| format!("identity.revocation.ca, {}: {problem}", path.display()))
        });
        let urls = wanted.sources.iter().filter_map(|source| match source {
            CrlSource::Url(url) => Some(url.clone()),
            CrlSource::File(_) => None,
        });
        self.fetcher.fetch(Terms {
            urls: urls.collect(),
            ca: ca.transpose(),
            refresh: wanted.refresh,
            limit: MAX_BYTES,
            settings: settings.clone(),
        });
        self.forget_refusals(settings, bundle);
        let mut room = MAX_BYTES;
        for name in &wanted.sources {
            let content = match name {
                CrlSource::File(path) => read(path, room).map(Arc::new),
                CrlSource::Url(url) => self.fetcher.content(url),
            };
            let source = self.sources.entry(name.clone()).or_default();
            let looked_at = content.as_ref().ok().cloned();
            source.look(content, room, |content| {
                Crl::read_all(content, bundle, settings.profile)
            });
            if let (CrlSource::Url(url), Some(content)) = (name, looked_at) {
                self.fetcher.judge(url, &content, source.problem.is_none());
            }
            room -= source
                .content
                .as_ref()
                .map_or(0, |content| content.len())
                .min(room);
        }
        let never_good = |(name, source): (&CrlSource, &Source)| {
            let problem = source.problem.as_ref().filter(|_| source.lists.is_empty());
            problem.map(|problem| said(name, problem))
        };
        if let Some(problem) = self.sources.iter().find_map(never_good) {
            return Err(problem);
        }
        Ok(Some(self.give(settings, wanted)))
    }

    /// What is wrong without anything in force being wrong: sources that bring nothing better than
    /// what they brought before, and lists that are to be replaced soon.
    pub fn to_mend(&self) -> Option<String> {
        let now = OffsetDateTime::now_utc();
        let stuck = self.sources.iter().filter_map(|(name, source)| {
            let fetching = match name {
                CrlSource::Url(url) => self.fetcher.problem(url),
                CrlSource::File(_) => None,
            };
            let problem = source.problem.clone().or(fetching)?;
            Some(format!(
                "{} (the last good one stays in force)",
                said(name, &problem)
            ))
        });
        let given = self.given.iter().flat_map(|(_, revocation)| {
            revocation.facts().filter_map(|list| {
                let late = list.this_update + (list.next_update - list.this_update) * 2 / 3;
                (now > late).then(|| {
                    format!(
                        "the revocation list of {:?} is due to be replaced at {}, and counts until {}",
                        list.issuer,
                        list.next_update,
                        revocation.ends(list)
                    )
                })
            })
        });
        let all: Vec<_> = stuck.chain(given).collect();
        (!all.is_empty()).then(|| all.join("; "))
    }

    /// Under other settings or another bundle, what was refused may be good.
    fn forget_refusals(&mut self, settings: &Arc<Settings>, bundle: &TrustBundle) {
        let same = self
            .judged_by
            .as_ref()
            .is_some_and(|(under, against)| Arc::ptr_eq(under, settings) && against == bundle);
        if !same {
            for source in self.sources.values_mut() {
                source.refused = None;
            }
            self.judged_by = Some((settings.clone(), bundle.clone()));
        }
    }

    /// The same value as before, unless something has changed.
    fn give(&mut self, settings: &Arc<Settings>, wanted: &RevocationSettings) -> Arc<Revocation> {
        let lists = self
            .sources
            .values()
            .flat_map(|source| source.lists.clone());
        let lists: Vec<_> = lists.collect();
        if let Some((under, given)) = &self.given
            && Arc::ptr_eq(under, settings)
            && given.is_of(&lists)
        {
            return given.clone();
        }
        let made = Arc::new(Revocation::new(lists, wanted.depth, wanted.grace));
        self.given = Some((settings.clone(), made.clone()));
        made
    }
}

impl Source {
    /// Takes what has come, if it is better than what there is.
    fn look(
        &mut self,
        content: Result<Arc<Vec<u8>>, String>,
        room: usize,
        parse: impl FnOnce(&[u8]) -> Result<Vec<Arc<Crl>>, CrlError>,
    ) {
        let content = match content {
            Ok(content) if content.len() <= room => content,
            Ok(_) => return self.problem = Some(too_large()),
            Err(problem) => return self.problem = Some(problem),
        };
        if self.content.as_ref() == Some(&content) {
            return self.problem = None;
        }
        if let Some((refused, problem)) = &self.refused
            && *refused == content
        {
            return self.problem = Some(problem.clone());
        }
        let better = parse(&content).and_then(|lists| {
            let mut each = lists.iter();
            each.try_for_each(|list| list.check_order(&self.lists))?;
            Ok(lists)
        });
        match better {
            Ok(lists) => {
                self.lists = lists;
                self.content = Some(content);
                self.problem = None;
                self.refused = None;
            }
            Err(error) => {
                self.problem = Some(error.to_string());
                self.refused = Some((content, error.to_string()));
            }
        }
    }
}

fn said(name: &CrlSource, problem: &str) -> String {
    match name {
        CrlSource::File(path) => format!("identity.revocation.crls, {}: {problem}", path.display()),
        CrlSource::Url(url) => format!("identity.revocation.crls, {url}: {problem}"),
    }
}

fn read(path: &Path, room: usize) -> Result<Vec<u8>, String> {
    let most = u64::try_from(room).unwrap_or(u64::MAX).saturating_add(1);
    let mut content = Vec::new();
    let read = File::open(path).and_then(|file| file.take(most).read_to_end(&mut content));
    read.map_err(|error| {
        let fix = match error.kind() {
            // Landlock knows the directories that were named at the start.
            io::ErrorKind::PermissionDenied => {
                "let the proxy's user read it; if its directory is new in the configuration, restart the proxy"
            }
            _ => "mount it there",
        };
        format!("cannot read it: {error}: {fix}")
    })?;
    Ok(content)
}

fn too_large() -> String {
    format!(
        "the lists are larger than {MAX_BYTES} bytes altogether: name fewer sources, or have long expired certificates left out"
    )
}

#[cfg(test)]
mod tests;
