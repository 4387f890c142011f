//! Where the stand-in reads the clock.

use jiff::Timestamp;

#[expect(clippy::disallowed_methods, reason = "the one place of this crate that reads the clock")]
pub(crate) fn now() -> Timestamp {
    Timestamp::now()
}
