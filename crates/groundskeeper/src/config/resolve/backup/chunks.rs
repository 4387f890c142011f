//! `[qdrant.NAME.chunks]`: what the points of a Qdrant are made from, so that a drill can compare the two.

use crate::config::nearest::did_you_mean;
use crate::config::raw::Section;
use crate::config::{Endpoint, Settings};
use groundskeeper_backup::vault::ChunkSource;
use groundskeeper_core::SystemId;
use groundskeeper_core::receipt::{Outbox, Statements};
use groundskeeper_systems::postgres::Endpoint as Postgres;

/// Statements of one's own.
const OWN: [&str; 4] = ["ids", "changes", "followed", "pruned"];

pub(super) fn of(qdrant: &Section<'_>, so_far: &Settings) -> Option<ChunkSource> {
    let section = qdrant.section("chunks")?;
    let postgres = postgres(&section, so_far);
    let database = required(&section, "database", "docrag");
    let collection = required(&section, "collection", "docrag");
    let statements = statements(&section);
    section.finish();
    let (id, endpoint) = postgres?;
    Some(ChunkSource {
        postgres: id.to_string(),
        endpoint,
        database: database?,
        collection: collection?,
        statements: statements?,
    })
}

fn required(section: &Section<'_>, key: &str, example: &str) -> Option<String> {
    if !section.has(key) {
        section.problem(section.at, format!("[{}] needs `{key}`, such as {key} = \"{example}\"", section.name));
    }
    text(section, key)
}

/// None of them means anything when it is empty.
fn text(section: &Section<'_>, key: &str) -> Option<String> {
    let written = section.text(key)?;
    if written.value.trim().is_empty() {
        section.problem(written.at, format!("`{key}`{} is empty", section.place()));
        return None;
    }
    // A statement becomes a part of one of ours.
    Some(written.value.trim().trim_end_matches(';').trim_end().to_owned())
}

/// The one that is named, or the only one.
fn postgres(section: &Section<'_>, so_far: &Settings) -> Option<(SystemId, Postgres)> {
    let known = so_far.systems.iter().filter_map(|system| match &system.endpoint {
        Endpoint::Postgres(endpoint) => Some((system.id.clone(), endpoint.clone())),
        _ => None,
    });
    let known: Vec<(SystemId, Postgres)> = known.collect();
    let names = || known.iter().map(|(id, _)| id.to_string()).collect::<Vec<_>>();
    if let Some(named) = section.text("postgres") {
        let wanted = if named.value.contains('.') { named.value.clone() } else { format!("postgres.{}", named.value) };
        let found = known.iter().find(|(id, _)| id.to_string() == wanted).cloned();
        if found.is_none() {
            let names = names();
            let meant = did_you_mean(&wanted, names.iter().map(String::as_str));
            let message = format!("`postgres`{}: there is no [{wanted}]{meant}", section.place());
            section.problem(named.at, message);
        }
        return found;
    }
    match known.as_slice() {
        [only] => Some(only.clone()),
        [] => {
            let message = format!(
                "[{}] needs the Postgres with the chunks, and there is none; add a [postgres.main]",
                section.name
            );
            section.problem(section.at, message);
            None
        }
        _ => {
            let names = names().join(", ");
            let message = format!("[{}] needs `postgres`: which of {names} has the chunks?", section.name);
            section.problem(section.at, message);
            None
        }
    }
}

fn statements(section: &Section<'_>) -> Option<Statements> {
    let like = section.text("like");
    let [ids, changes, followed, pruned] = OWN.map(|key| text(section, key));
    let own = OWN.into_iter().find(|key| section.has(key));
    let wrong = |message: String| {
        section.problem(section.at, message);
        None
    };
    match (like, own) {
        (Some(_), Some(own)) => wrong(format!("[{}] has both `like` and `{own}`; keep one", section.name)),
        (Some(like), None) if like.value == "docrag" => Some(Statements::of_docrag()),
        (Some(like), None) => {
            let message = format!("`like`{}: only `docrag` is known; write `ids` for another", section.place());
            section.problem(like.at, message);
            None
        }
        (None, _) if !section.has("ids") => wrong(format!(
            "[{}] needs `like = \"docrag\"`, or `ids` with a statement that gives the id of every chunk, such as ids = \
             \"SELECT id FROM public.chunks\"",
            section.name
        )),
        (None, _) => {
            let outbox = match (changes, followed) {
                (Some(changes), Some(followed)) => Some(Outbox { changes, followed, pruned }),
                (None, None) if pruned.is_none() => None,
                _ => {
                    return wrong(format!(
                        "[{}] has a part of an outbox: `changes` and `followed` belong together, and `pruned` to them",
                        section.name
                    ));
                }
            };
            if let Some(Outbox { changes, .. }) = &outbox
                && !changes.contains("$1")
            {
                return wrong(format!(
                    "`changes` in [{}] needs `$1`, the number after which entries are wanted, such as changes = \"SELECT \
                     seq, chunk_id FROM public.outbox WHERE seq > $1\"",
                    section.name
                ));
            }
            Some(Statements { chunks: ids?, outbox })
        }
    }
}
