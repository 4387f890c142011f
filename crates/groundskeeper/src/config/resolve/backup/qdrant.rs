//! `[qdrant.NAME]`: what backups need of a Qdrant. Nothing watches it in this version.

use super::chunks;
use crate::config::Settings;
use crate::config::raw::{At, Section};
use crate::config::secrets::plain;
use groundskeeper_backup::vault::QdrantSource;
use groundskeeper_systems::qdrant::Endpoint;
use secrecy::SecretString;

const EXAMPLE: &str = "http://localhost:6333";

pub(super) fn all(top: &Section<'_>, so_far: &Settings) -> Vec<QdrantSource> {
    if top.has("qdrant")
        && !top.has("backup")
        && let Some(section) = top.section("qdrant")
    {
        let message =
            "[qdrant] is for backups only in this version, and there is no [backup]; add one, or remove this section";
        section.problem(section.at, message);
        return Vec::new();
    }
    let sections = top.named_sections("qdrant", "main").into_iter();
    sections.filter_map(|(name, section)| source(&name, section, so_far)).collect()
}

fn source(name: &str, section: Section<'_>, so_far: &Settings) -> Option<QdrantSource> {
    let one = section.secret("url");
    let many = section.texts("urls");
    let key = section.secret("api_key").map(|key| SecretString::from(key.value));
    let authorities = authorities(&section);
    let nodes = match (section.has("url"), section.has("urls")) {
        (true, true) => {
            section.problem(section.at, format!("[{}] has both `url` and `urls`; keep one", section.name));
            None
        }
        (false, false) => {
            let message = format!(
                "[{}] needs `url`, such as url = \"{EXAMPLE}\", or `urls` with every node of a cluster",
                section.name
            );
            section.problem(section.at, message);
            None
        }
        (true, false) => one.map(|url| ("url", vec![url])),
        (false, true) => many.map(|urls| ("urls", urls)),
    };
    if let Some(("urls", urls)) = &nodes
        && urls.is_empty()
    {
        section.problem(section.at, format!("[{}] has an empty `urls`; name every node", section.name));
    }
    let open = |field: &str, url: &At<String>| {
        Endpoint::new(&url.value, key.as_ref(), authorities.as_deref())
            .map_err(|why| section.problem(url.at, format!("`{field}`{}: {why}", section.place())))
            .ok()
    };
    let nodes = nodes.map(|(field, urls)| urls.iter().filter_map(|url| open(field, url)).collect());
    let chunks = chunks::of(&section, so_far);
    section.finish();
    Some(QdrantSource { name: format!("qdrant.{name}"), nodes: nodes?, chunks })
}

/// `ca_file`: PEM of private authorities, trusted besides those of the machine.
fn authorities(section: &Section<'_>) -> Option<Vec<u8>> {
    let file = section.text("ca_file")?;
    let read = std::fs::read(&file.value).map_err(|error| {
        let why = format!("`ca_file`{}: cannot read {}: {}", section.place(), file.value, plain(&error));
        section.problem(file.at, why);
    });
    read.ok()
}
