//! What a proven backup set holds of a table, so that it can be compared with what the table holds now.
//!
//! Only a set whose tables were compared with a restored copy (rung 5) tells which rows come back. What it says of a table is
//! the sum of the hashes of all rows, and of a large one that of a sample of pages. Rows that are equal are not always the same
//! (1.0 and 1.00), so it also says which transactions were over: whoever wrote a row later left a younger number on it.

use crate::receipt::{ClimbOutcome, Contents, Fingerprints, Hashed, Receipt, Rung, SetId};
use crate::system::SystemId;
use serde::{Deserialize, Serialize};

/// What the newest proven set says of one table.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Contained {
    pub set: SetId,
    /// The server that it was made of …
    pub system_identifier: String,
    /// … and its history: a recovery to an earlier moment begins another one.
    pub timeline: u32,
    /// In all, or in the sampled pages.
    pub rows: u64,
    pub fingerprint: String,
    pub hashed: Hashed,
    /// Every transaction below this number was over, and what it wrote is in the set.
    pub finished_below: u64,
    /// None where every row was looked at.
    pub sample: Option<Sample>,
}

/// How a large table was looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Sample {
    /// Hundredths of a per cent of its pages.
    pub hundredths: u32,
}

impl Sample {
    /// As `TABLESAMPLE SYSTEM` wants it.
    pub fn percent(self) -> f64 {
        f64::from(self.hundredths) / 100.0
    }
}

/// What to do about a partition that no proven set contains.
pub const PROVE: &str = "make a set and prove it: groundskeeper backup run, then groundskeeper backup drill";

/// What the newest proven set says of that table, or why it says nothing and what to do.
pub fn containing(
    receipts: &[Receipt],
    system: &SystemId,
    database: &str,
    (schema, table): (&str, &str),
) -> Result<Contained, String> {
    let proven = receipts.iter().filter(|receipt| receipt.proven() >= Some(Rung::Faithful));
    let Some(newest) = proven.max_by_key(|receipt| receipt.made) else {
        return Err(format!("no backup set was shown to hold what the tables held (rung 5); {PROVE}"));
    };
    contained(newest, system, database, (schema, table))
        .map_err(|why| format!("the newest proven set {} {why}; {PROVE}", newest.set))
}

fn contained(
    receipt: &Receipt,
    system: &SystemId,
    database: &str,
    (schema, table): (&str, &str),
) -> Result<Contained, String> {
    let part = receipt.parts.iter().find(|part| part.name == system.to_string());
    let Some((part, cluster)) = part.and_then(|part| Some((part, part.postgres.as_ref()?))) else {
        return Err(format!("does not hold {system}"));
    };
    let Some(Fingerprints::Taken(contents)) = &part.contents else {
        return Err(format!("does not say what the tables of {system} held"));
    };
    if let Some(line) = not_compared(receipt, &part.name, contents) {
        return Err(format!("was not compared with all of its tables ({line})"));
    }
    let held = contents.databases.iter().filter(|held| held.name == database).flat_map(|held| &held.tables);
    let named = |name: &str| identifiers(name).is_some_and(|(of, name)| of == schema && name == table);
    let Some(held) = held.into_iter().find(|held| named(&held.name)) else {
        return Err("does not say what it held: it was not there, or not looked at".to_owned());
    };
    let Some(finished_below) = contents.finished_below else {
        return Err("was made by an earlier version, which did not note which transactions were over".to_owned());
    };
    Ok(Contained {
        set: receipt.set.clone(),
        system_identifier: cluster.system_identifier.clone(),
        timeline: cluster.timeline,
        rows: held.rows,
        fingerprint: held.fingerprint.clone(),
        hashed: held.hashed,
        finished_below,
        sample: held.sample.map(|percent| Sample { hundredths: (percent * 100.0).round() as u32 }),
    })
}

/// What the drill left out besides what nobody had looked at in the first place: it does not name the tables, so it may be
/// any of them. What it says of other systems does not matter.
fn not_compared<'r>(receipt: &'r Receipt, part: &str, contents: &Contents) -> Option<&'r str> {
    let ClimbOutcome::Proven { not_covered, .. } = &receipt.last(Rung::Faithful)?.outcome else { return None };
    let said_by = |line: &'r str, name: &str| line.strip_prefix(name).and_then(|rest| rest.strip_prefix(": "));
    let of_others = |line: &'r str| {
        let mut others = receipt.parts.iter().filter(|other| other.name != part);
        others.any(|other| said_by(line, &other.name).is_some())
    };
    let lines = not_covered.iter().map(String::as_str).filter(|line| !of_others(line));
    let known = |line: &'r str| {
        let line = said_by(line, part).unwrap_or(line);
        contents.not_covered.iter().any(|known| known == line)
    };
    lines.into_iter().find(|line| !known(line))
}

/// Schema and table of a name as `format('%I.%I')` writes it.
fn identifiers(name: &str) -> Option<(String, String)> {
    let (schema, rest) = identifier(name)?;
    let (table, rest) = identifier(rest.strip_prefix('.')?)?;
    rest.is_empty().then_some((schema, table))
}

/// The first identifier, and what follows it.
fn identifier(text: &str) -> Option<(String, &str)> {
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.find('.').unwrap_or(text.len());
        return Some((text[..end].to_owned(), &text[end..]));
    };
    let mut name = String::new();
    let mut rest = quoted;
    loop {
        let (part, after) = rest.split_once('"')?;
        name.push_str(part);
        let Some(more) = after.strip_prefix('"') else { return Some((name, after)) };
        name.push('"');
        rest = more;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::receipt::{Climb, Cluster, DatabaseContents, Lsn, Moment, Part, TableContents};
    use crate::system::SystemKind;
    use jiff::Timestamp;

    fn main_database() -> SystemId {
        SystemId::new(SystemKind::Postgres, "main")
    }

    fn table(name: &str, sample: Option<f64>) -> TableContents {
        TableContents { name: name.into(), rows: 12, fingerprint: "7".into(), hashed: Hashed::Record, sample }
    }

    fn cluster() -> Cluster {
        Cluster {
            version: 150_014,
            system_identifier: "7421".into(),
            timeline: 1,
            start: Lsn(1),
            stop: Lsn(2),
            tablespaces: Vec::new(),
            superuser: "postgres".into(),
            settings: std::collections::BTreeMap::new(),
            read_in_place: false,
        }
    }

    fn receipt(number: u32, highest: Rung) -> Receipt {
        let made = Timestamp::from_second(1_795_000_000 + i64::from(number) * 86_400).unwrap();
        let tables = vec![table("public.audit_2026_01", None), table(r#""Odd name"."a""b.c""#, Some(12.34))];
        let contents = Contents {
            at: Lsn(9),
            moment: Moment::Quiet,
            finished_below: Some(4_242),
            databases: vec![DatabaseContents { name: "docrag".into(), tables }],
            not_covered: vec!["database secret: the role may not enter it".into()],
        };
        let part = Part {
            name: "postgres.main".into(),
            postgres: Some(cluster()),
            contents: Some(Fingerprints::Taken(contents)),
            ..Part::default()
        };
        let not_covered = vec!["database secret: the role may not enter it".into()];
        let climbs = Rung::ALL.into_iter().take_while(|rung| *rung <= highest).map(|rung| Climb {
            rung,
            at: made,
            took: 1.0,
            outcome: ClimbOutcome::Proven { shown: "good".into(), not_covered: not_covered.clone() },
        });
        Receipt {
            set: SetId::new(made, number),
            made,
            took: 1.0,
            parts: vec![part],
            missing: Vec::new(),
            added: 0,
            climbs: climbs.collect(),
        }
    }

    fn ask(receipts: &[Receipt]) -> Result<Contained, String> {
        containing(receipts, &main_database(), "docrag", ("public", "audit_2026_01"))
    }

    fn left_out(line: &str) -> Receipt {
        let mut receipt = receipt(1, Rung::Faithful);
        let ClimbOutcome::Proven { not_covered, .. } = &mut receipt.climbs.last_mut().unwrap().outcome else {
            panic!()
        };
        not_covered.push(line.into());
        receipt
    }

    #[test]
    fn the_newest_set_that_was_compared_says_what_it_holds_of_a_table() {
        let found = ask(&[receipt(3, Rung::Alive), receipt(1, Rung::Faithful), receipt(2, Rung::Faithful)]).unwrap();
        assert_eq!((found.set, found.rows, found.sample), (receipt(2, Rung::Faithful).set, 12, None));
        assert_eq!((found.system_identifier.as_str(), found.timeline), ("7421", 1));
        let odd = containing(&[receipt(1, Rung::Faithful)], &main_database(), "docrag", ("Odd name", "a\"b.c"));
        let odd = odd.unwrap();
        assert_eq!((odd.sample.unwrap().percent(), odd.finished_below), (12.34, 4_242));
    }

    #[test]
    fn what_is_not_known_is_not_contained_and_the_way_is_named() {
        let refused = |receipts: &[Receipt], words: &str| {
            let why = ask(receipts).unwrap_err();
            assert!(why.contains(words) && why.ends_with(PROVE), "{words}: {why}");
        };
        refused(&[], "no backup set was shown");
        refused(&[receipt(1, Rung::Alive)], "no backup set was shown");
        let other = SystemId::new(SystemKind::Postgres, "other");
        let asked = containing(&[receipt(1, Rung::Faithful)], &other, "docrag", ("public", "audit_2026_01"));
        assert!(asked.unwrap_err().contains("does not hold postgres.other"));
        let mut without = receipt(1, Rung::Faithful);
        without.parts[0].contents = Some(Fingerprints::NotTaken { why: "a pooler".into() });
        refused(&[without], "does not say what the tables");
        let asked = |table| containing(&[receipt(1, Rung::Faithful)], &main_database(), "docrag", ("public", table));
        assert!(asked("audit_2026_02").unwrap_err().contains("it was not there, or not looked at"));
        let asked = containing(&[receipt(1, Rung::Faithful)], &main_database(), "other", ("public", "audit_2026_01"));
        assert!(asked.unwrap_err().contains("it was not there"));
        refused(&[left_out("database docrag: no time was left for 3 tables")], "no time was left");
        // A newer set that is proven and lacks it goes before an older one that has it.
        let mut newer = receipt(2, Rung::Faithful);
        newer.parts.clear();
        refused(&[newer, receipt(1, Rung::Faithful)], "does not hold postgres.main");
    }

    #[test]
    fn what_a_drill_says_of_other_systems_does_not_matter() {
        let mut receipt = left_out("redis.cache: gin");
        receipt.parts.push(Part { name: "redis.cache".into(), ..Part::default() });
        assert!(ask(&[receipt]).is_ok());
    }

    #[test]
    fn a_set_of_an_earlier_version_does_not_tell_which_rows_are_younger() {
        let mut receipt = receipt(1, Rung::Faithful);
        let Some(Fingerprints::Taken(contents)) = &mut receipt.parts[0].contents else { panic!() };
        contents.finished_below = None;
        assert!(ask(&[receipt]).unwrap_err().contains("did not note which transactions were over"));
    }
}
