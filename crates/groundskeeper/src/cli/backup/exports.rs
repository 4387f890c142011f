//! `backup exports`: the rows that retention has deleted, and how they come back.

use super::super::args::ExportsArgs;
use super::super::paint::Paint;
use super::super::{Desk, FINE, Outcome, OutputForm, Stop, counted, progress, table};
use super::place;
use crate::app::api::{Export, ExportsView};
use groundskeeper_core::quantity::{format_bytes, format_count};
use jiff::Timestamp;
use jiff::tz::TimeZone;
use std::fmt::Write as _;

pub(super) async fn run(desk: &mut Desk, args: ExportsArgs) -> Outcome {
    let (backups, zone) = place(desk, &args.place)?;
    if let Some(name) = &args.read {
        if desk.form == OutputForm::Json {
            return Err(Stop::usage("--read writes CSV; leave --output out"));
        }
        let mut reading = progress::shown("checking the export", backups.read_exports(name)).await?;
        while let Some(csv) = reading.next().await? {
            desk.out.bytes(&csv)?;
        }
        return Ok(FINE);
    }
    let view: ExportsView = progress::shown("reading the repository", backups.exports()).await?;
    desk.show(&view, |paint| told(&view, &zone, *paint))?;
    Ok(FINE)
}

fn told(view: &ExportsView, zone: &TimeZone, paint: Paint) -> String {
    if view.exports.is_empty() {
        return format!(
            "There is no export in {}; `export = true` in a rule of [[postgres.NAME.retention]] makes them.\n",
            view.repository
        );
    }
    let at = |moment: Timestamp| moment.to_zoned(zone.clone()).strftime("%Y-%m-%d %H:%M").to_string();
    let deleted = format!("DELETED ({})", zone.iana_name().unwrap_or("local"));
    let mut rows =
        vec![["EXPORT", "TABLE", &deleted, "OLDER THAN", "ROWS", "SIZE", "PIECES"].map(str::to_owned).to_vec()];
    // The pieces of a deletion follow each other.
    let is_same = |one: &Export, other: &Export| {
        (one.run(), &one.system, one.relation()) == (other.run(), &other.system, other.relation())
    };
    for pieces in view.exports.chunk_by(is_same) {
        let Some(first) = pieces.first() else { continue };
        rows.push(vec![
            first.run(),
            format!("{} {}", first.system, first.relation()),
            at(first.begun),
            at(first.before),
            format_count(pieces.iter().map(|piece| piece.rows).sum::<u64>() as f64),
            format_bytes(pieces.iter().map(|piece| piece.stored).sum::<u64>() as f64),
            pieces.len().to_string(),
        ]);
    }
    let mut out =
        table::columns(&rows, "", |line, column, cell| if line == 0 || column == 0 { paint.bold(&cell) } else { cell });
    let (pieces, stored) = (counted(view.exports.len(), "piece"), format_bytes(view.stored as f64));
    // Writing to a String cannot fail.
    let _ = write!(
        out,
        "\n{pieces} in {}, {stored} in all. Groundskeeper never removes them; what nobody needs any more is removed by hand.\n\
         `groundskeeper backup exports --read EXPORT` writes the rows as CSV.\n",
        view.repository
    );
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn export(entry: i64, piece: u32) -> Export {
        Export {
            system: "postgres.main".parse().unwrap(),
            database: "docrag".into(),
            schema: "public".into(),
            table: "user_sessions".into(),
            begun: "2026-11-23T04:30:15Z".parse().unwrap(),
            entry,
            piece,
            rows: 1_500,
            before: "2026-10-24T04:00:00Z".parse().unwrap(),
            stored: 2 << 20,
            file: String::new(),
        }
    }

    #[test]
    fn a_deletion_is_a_line_and_says_that_nobody_removes_it() {
        let view = |exports: Vec<Export>| ExportsView {
            now: Timestamp::UNIX_EPOCH,
            repository: "/srv/backups".into(),
            stored: exports.iter().map(|export| export.stored).sum(),
            exports,
        };
        let text = told(&view(vec![export(17, 1), export(17, 2), export(9, 1)]), &TimeZone::UTC, Paint::none());
        assert_eq!(
            text,
            "EXPORT               TABLE                                      DELETED (UTC)     OLDER THAN        ROWS   SIZE   PIECES
20261123T043015Z-17  postgres.main docrag.public.user_sessions  2026-11-23 04:30  2026-10-24 04:00  3,000  4 MiB  2
20261123T043015Z-9   postgres.main docrag.public.user_sessions  2026-11-23 04:30  2026-10-24 04:00  1,500  2 MiB  1

3 pieces in /srv/backups, 6 MiB in all. Groundskeeper never removes them; what nobody needs any more is removed by hand.
`groundskeeper backup exports --read EXPORT` writes the rows as CSV.
"
        );
        assert!(told(&view(Vec::new()), &TimeZone::UTC, Paint::none()).contains("`export = true`"));
    }
}
