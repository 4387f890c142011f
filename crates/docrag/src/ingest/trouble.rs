//! Why a document did not get on, and whose fault it is.

use crate::document::ParseError;
use crate::embed::EmbedError;
use crate::store::StoreError;
use std::time::Duration;

/// No document waits longer for its next try.
const LONGEST: Duration = Duration::from_mins(5);

#[derive(Debug, thiserror::Error)]
pub(super) enum Trouble {
    #[error(transparent)]
    Parse(#[from] ParseError),
    #[error("it has no text that could be searched")]
    NoChunks,
    #[error(transparent)]
    Embed(#[from] EmbedError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("the parser panicked: {0}")]
    Panicked(String),
    #[error(
        "the service ended {0} times in a row while this was read, perhaps for want of memory; send it in smaller \
         parts, or give the service more memory and send it again"
    )]
    Crashes(i32),
    /// The model is not the one that serves, or none is there: the embed stage pauses.
    #[error("no embedding model serves")]
    Paused,
    #[error("the service stops")]
    Stopping,
}

/// What becomes of the document.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It waits as it is.
    Leave,
    /// Its content or its model changed meanwhile.
    StartOver,
    /// It cannot succeed.
    GiveUp,
    /// It may succeed later, but not for ever.
    Count,
    /// Something is away, but perhaps only for this document: ask.
    Suspect,
    /// Something is away.
    Wait(Option<Duration>),
}

impl Trouble {
    pub(super) fn verdict(&self) -> Verdict {
        match self {
            Self::Store(StoreError::Changed) => Verdict::StartOver,
            // This process hears of it in a moment.
            Self::Store(StoreError::ModelChanged) => Verdict::Wait(Some(Duration::from_secs(1))),
            Self::Store(error) if error.can_retry() => Verdict::Leave,
            Self::Paused | Self::Stopping => Verdict::Leave,
            Self::Store(_) | Self::Parse(ParseError::Interrupted(_)) => Verdict::Count,
            Self::Parse(_) | Self::NoChunks | Self::Panicked(_) | Self::Crashes(_) => Verdict::GiveUp,
            Self::Embed(error) => match error {
                EmbedError::Refused { .. } | EmbedError::Inference(_) => Verdict::GiveUp,
                EmbedError::BreakerOpen { retry_in, .. } => Verdict::Wait(Some(*retry_in)),
                EmbedError::Busy { retry_after, .. } => {
                    Verdict::Wait(retry_after.map(|asked| asked.clamp(Duration::from_secs(1), LONGEST)))
                }
                EmbedError::Remote { .. } | EmbedError::Deadline(_) => Verdict::Suspect,
                EmbedError::Model(_) | EmbedError::Dimension { .. } | EmbedError::Stopped => Verdict::Wait(None),
            },
        }
    }
}

/// 1 s, 2 s, 4 s … 5 min.
pub(super) fn delay(attempts: i32) -> Duration {
    LONGEST.min(Duration::from_secs(1 << attempts.clamp(0, 16)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_away_is_never_the_documents_fault() {
        let endpoint = || "http://embedder/v1".to_owned();
        let away: [Trouble; 3] = [
            StoreError::Unreachable("connection refused".to_owned()).into(),
            EmbedError::BreakerOpen { endpoint: endpoint(), retry_in: Duration::from_secs(9) }.into(),
            EmbedError::Stopped.into(),
        ];
        for trouble in away {
            assert!(!matches!(trouble.verdict(), Verdict::GiveUp | Verdict::Count), "{trouble}");
        }
        let own: Trouble =
            EmbedError::Refused { endpoint: endpoint(), status: 400, said: "too long".to_owned() }.into();
        assert_eq!(own.verdict(), Verdict::GiveUp);
        assert_eq!(Trouble::from(ParseError::Empty).verdict(), Verdict::GiveUp);
    }

    #[test]
    fn a_busy_endpoint_says_when_to_come_back() {
        let busy = |seconds: Option<u64>| {
            let retry_after = seconds.map(Duration::from_secs);
            let said = "slow down".to_owned();
            Trouble::from(EmbedError::Busy {
                endpoint: "http://embedder/v1".to_owned(),
                status: 429,
                retry_after,
                said,
            })
        };
        assert_eq!(busy(Some(40)).verdict(), Verdict::Wait(Some(Duration::from_secs(40))));
        assert_eq!(busy(Some(0)).verdict(), Verdict::Wait(Some(Duration::from_secs(1))), "never at once");
        assert_eq!(busy(Some(86_400)).verdict(), Verdict::Wait(Some(LONGEST)));
        assert_eq!(busy(None).verdict(), Verdict::Wait(None));
    }

    #[test]
    fn tries_grow_apart_up_to_five_minutes() {
        assert_eq!([0, 1, 3, 30].map(|attempts| delay(attempts).as_secs()), [1, 2, 8, 300]);
    }
}
