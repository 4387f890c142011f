//! Sizes and growth since the last maintenance, shortly: out of the record, which the watch fills.

use super::Shop;
use crate::record::{self, Grown};
use groundskeeper_core::observation::SizeOf;
use groundskeeper_core::quantity::{after, format_bytes};
use groundskeeper_core::{SystemId, SystemKind};
use jiff::Timestamp;

const TASK: &str = "database-maintenance";
const WEEK: f64 = 7.0 * 86_400.0;
/// Of the databases and of the tables, the largest.
const TOLD: usize = 3;

/// A line for each Postgres. None for one of which the record has no sizes yet.
pub(super) async fn lines(shop: &Shop) -> record::Result<Vec<String>> {
    let chosen: Vec<SystemId> = shop.stack.ids().filter(|id| id.kind == SystemKind::Postgres).cloned().collect();
    let now = shop.clock.now();
    let told = shop.record.with(move |store| {
        let since = store.last_ended_run(TASK)?.unwrap_or_else(|| after(now, -WEEK));
        let grown = chosen.into_iter().map(|system| Ok((store.grown(&system, since)?, system)));
        Ok((since, grown.collect::<record::Result<Vec<_>>>()?))
    });
    let (since, grown) = told.await?;
    Ok(grown.iter().filter_map(|(grown, system)| line(system, grown, since)).collect())
}

fn line(system: &SystemId, grown: &[Grown], since: Timestamp) -> Option<String> {
    let of = |kind: SizeOf| {
        let told = grown.iter().filter(|one| one.of == kind).take(TOLD).map(said);
        told.collect::<Vec<_>>().join(", ")
    };
    let (databases, tables) = (of(SizeOf::Database), of(SizeOf::Table));
    if databases.is_empty() {
        return None;
    }
    let tables = if tables.is_empty() { tables } else { format!("; its largest tables: {tables}") };
    let wal = grown.iter().find(|one| one.of == SizeOf::Wal);
    let wal = wal.map(|wal| format!("; pg_wal{}", said(wal))).unwrap_or_default();
    Some(format!("sizes of {system}, and growth since {}: {databases}{tables}{wal}", since.strftime("%Y-%m-%d")))
}

/// `public.chunks 3.1 GiB (+100 MiB)`.
fn said(one: &Grown) -> String {
    let growth = match one.by {
        None => "new in the list".to_owned(),
        Some(by) if by.abs() < 1.0 => "as it was".to_owned(),
        Some(by) if by < 0.0 => format!("-{}", format_bytes(-by)),
        Some(by) => format!("+{}", format_bytes(by)),
    };
    format!("{} {} ({growth})", one.name, format_bytes(one.size))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_are_told_with_what_they_grew_by() {
        let one = |of, name: &str, size, by| Grown { of, name: name.into(), size, by };
        let grown = [
            one(SizeOf::Database, "docrag", 3_221_225_472.0, Some(104_857_600.0)),
            one(SizeOf::Table, "public.chunks", 2_147_483_648.0, Some(-1_048_576.0)),
            one(SizeOf::Wal, "", 1_073_741_824.0, Some(0.0)),
            one(SizeOf::Table, "public.new", 1_048_576.0, None),
            one(SizeOf::Table, "public.c", 3.0, None),
            one(SizeOf::Table, "public.d", 2.0, None),
        ];
        let system = SystemId::new(SystemKind::Postgres, "main");
        let since = Timestamp::from_second(1_795_000_000).unwrap();
        assert_eq!(
            line(&system, &grown, since).unwrap(),
            "sizes of postgres.main, and growth since 2026-11-18: docrag 3 GiB (+100 MiB); its largest tables: \
             public.chunks 2 GiB (-1 MiB), public.new 1 MiB (new in the list), public.c 3 B (new in the list); pg_wal 1 GiB (as it was)"
        );
        assert_eq!(line(&system, &grown[1..], since), None);
    }
}
