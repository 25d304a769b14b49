//! New certificates without a restart: on SIGHUP, and when the files have changed.

use std::sync::Arc;
use std::time::Duration;

use common::service::StartError;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::Current;
use super::load::{Certificates, Digest, Files};
use crate::metrics::Metrics;

/// Between two looks at the files. They are read whole: a few KiB that are in the page cache.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// What a look found: the content, or why there is none.
pub(super) type Look = Result<Digest, String>;

/// From here on SIGHUP no longer ends the process.
pub(crate) fn hangups() -> Result<Signal, StartError> {
    signal(SignalKind::hangup())
        .map_err(|error| StartError::new(format!("SIGHUP cannot be received: {error}")))
}

impl Current {
    /// Takes new certificates from the files until `token` is cancelled. What cannot be used is refused, and the
    /// certificates in use stay.
    pub(crate) async fn keep_fresh(
        self: Arc<Current>,
        mut hangups: Signal,
        metrics: Metrics,
        token: CancellationToken,
    ) {
        let mut watch = Watch::new(self.first_look.clone());
        loop {
            let asked = tokio::select! {
                () = token.cancelled() => return,
                // None would be the end of signals, which there is not.
                _ = hangups.recv() => true,
                () = sleep(LOOK_EVERY) => false,
            };
            let current = self.clone();
            let Ok((look, found)) = tokio::task::spawn_blocking(move || current.look()).await else {
                continue;
            };
            match watch.decide(look, found, asked) {
                Decision::Nothing => {}
                Decision::Take(set) => {
                    metrics.certificate_expires(set.expiry());
                    metrics.certificate_reloaded(true);
                    tracing::info!(expiry = set.expiry(), "the certificates were loaded anew");
                    self.set.store(Arc::new(set));
                }
                Decision::Refuse(why) => {
                    metrics.certificate_reloaded(false);
                    tracing::warn!(why, "new certificates are refused; the old ones stay");
                }
            }
        }
    }

    fn look(&self) -> (Look, Result<Certificates, String>) {
        match Files::read(&self.files) {
            Ok(files) => (Ok(files.digest()), files.certificates()),
            Err(why) => (Err(why.clone()), Err(why)),
        }
    }
}

/// What is known from earlier looks.
struct Watch {
    /// What was last taken or refused.
    settled: Look,
    /// What was bad when it was first seen. Chain and key are two files, and whoever writes them may be at it just
    /// now: it is refused only when the next look finds the same.
    suspect: Option<Look>,
}

#[derive(Debug, PartialEq)]
enum Decision<T> {
    Nothing,
    Take(T),
    Refuse(String),
}

impl Watch {
    fn new(settled: Look) -> Watch {
        Watch { settled, suspect: None }
    }

    /// `asked`: somebody wants an answer now.
    fn decide<T>(&mut self, look: Look, found: Result<T, String>, asked: bool) -> Decision<T> {
        if look == self.settled && !asked {
            self.suspect = None;
            return Decision::Nothing;
        }
        match found {
            Err(_) if !asked && self.suspect.as_ref() != Some(&look) => {
                self.suspect = Some(look);
                Decision::Nothing
            }
            found => {
                self.settled = look;
                self.suspect = None;
                found.map_or_else(Decision::Refuse, Decision::Take)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BAD: Result<char, String> = Err(String::new());

    fn content(number: u8) -> Look {
        Ok([number; 32])
    }

    #[test]
    fn a_good_change_is_taken_at_once_and_once() {
        let mut watch = Watch::new(content(1));
        assert_eq!(watch.decide(content(1), Ok('a'), false), Decision::Nothing);
        assert_eq!(watch.decide(content(2), Ok('b'), false), Decision::Take('b'));
        assert_eq!(watch.decide(content(2), Ok('b'), false), Decision::Nothing);
    }

    #[test]
    fn a_bad_change_is_refused_once_when_it_stays() {
        let mut watch = Watch::new(content(1));
        assert_eq!(watch.decide(content(2), BAD, false), Decision::Nothing);
        assert_eq!(watch.decide(content(2), BAD, false), Decision::Refuse(String::new()));
        assert_eq!(watch.decide(content(2), BAD, false), Decision::Nothing);
        assert_eq!(watch.decide(content(3), Ok('c'), false), Decision::Take('c'));
    }

    #[test]
    fn a_pair_that_is_being_written_is_no_refusal() {
        let mut watch = Watch::new(content(1));
        assert_eq!(watch.decide(content(2), BAD, false), Decision::Nothing);
        assert_eq!(watch.decide(Err("gone".into()), BAD, false), Decision::Nothing);
        assert_eq!(watch.decide(content(3), Ok('c'), false), Decision::Take('c'));
        // As if it had never been: the same content is suspect anew.
        assert_eq!(watch.decide(content(2), BAD, false), Decision::Nothing);
        assert_eq!(watch.decide(content(3), Ok('c'), false), Decision::Nothing);
        assert_eq!(watch.decide(content(2), BAD, false), Decision::Nothing);
    }

    #[test]
    fn who_asks_gets_an_answer() {
        let mut watch = Watch::new(content(1));
        assert_eq!(watch.decide(content(1), Ok('a'), true), Decision::Take('a'));
        assert_eq!(watch.decide(content(2), BAD, true), Decision::Refuse(String::new()));
        assert_eq!(watch.decide(content(2), BAD, true), Decision::Refuse(String::new()));
        assert_eq!(watch.decide(content(2), BAD, false), Decision::Nothing);
    }
}
