//! What a page from the storage costs.

use super::{Amount, Desk, matters};
use crate::observation::Storage;

const PLANNER: &str = "https://www.postgresql.org/docs/current/runtime-config-query.html";
const PREFETCH: &str = "https://www.postgresql.org/docs/current/runtime-config-resource.html";

pub(super) fn look(desk: &mut Desk<'_>) {
    let Some(storage) = desk.machine.storage else {
        return desk.machine_unknown("storage", &["random_page_cost", "effective_io_concurrency"]);
    };
    if let Some(current) = desk.number("random_page_cost") {
        match storage {
            Storage::Ssd if current > 2.0 => {
                let reason = "on flash a page anywhere costs about as much as the next one; at 4 the planner reads whole tables \
                              where an index would be faster";
                desk.advise("random_page_cost", &Amount::Number(1.1), matters(reason.to_owned(), PLANNER));
            }
            Storage::Hdd if current < 2.0 => {
                let reason = "a disk that turns needs many times as long for a page anywhere; 4 reckons with most of them \
                              being cached";
                desk.advise("random_page_cost", &Amount::Number(4.0), matters(reason.to_owned(), PLANNER));
            }
            _ => desk.suits("random_page_cost"),
        }
    }
    concurrency(desk, storage);
}

/// Up to 17 it is how many pages a bitmap scan asks for ahead. From 18 on every kind of reading ahead uses it, the default
/// is 16, and more is a matter of measuring.
fn concurrency(desk: &mut Desk<'_>, storage: Storage) {
    let Some(current) = desk.number("effective_io_concurrency") else { return };
    let is_new = desk.seen.server.major() >= 18;
    let (enough, target) = if is_new { (16.0, 16.0) } else { (64.0, 200.0) };
    match storage {
        Storage::Ssd if current < enough => {
            let reason = if is_new {
                "flash answers many questions at once, and from 18 on all reading ahead goes by this; 16 is its default"
            } else {
                "flash answers many questions at once; a bitmap scan asks for so many pages ahead. From 18 on the setting \
                 means something else: take it back to its default with the upgrade"
            };
            desk.advise("effective_io_concurrency", &Amount::Number(target), matters(reason.to_owned(), PREFETCH));
        }
        Storage::Hdd if current > 16.0 => {
            let reason = "a disk that turns answers one question after the other: about as many as there are disks";
            desk.advise("effective_io_concurrency", &Amount::Number(2.0), matters(reason.to_owned(), PREFETCH));
        }
        _ => desk.suits("effective_io_concurrency"),
    }
}
