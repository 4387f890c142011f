//! `docrag key create|list|revoke`.

use super::output::{Stop, columns, one_line};
use super::{Context, Whose};
use crate::service::Scopes;
use crate::store::Store;
use crate::store::keys::{KeyRecord, NewKey};
use clap::{Args, Subcommand, ValueEnum};
use jiff::{SignedDuration, Timestamp};
use secrecy::ExposeSecret;
use std::io::{self, Write as _};
use uuid::Uuid;

#[derive(Debug, Subcommand)]
pub(super) enum KeyCommand {
    /// Make a key; its secret is printed this once
    Create(CreateArgs),
    /// List keys, without their secrets
    List(ListArgs),
    /// Revoke a key at once, with the sessions that were opened by it
    Revoke(RevokeArgs),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Scope {
    /// Search and ask
    Read,
    /// Change documents and corpora
    Write,
    /// Manage keys, read the audit log
    Admin,
}

#[derive(Debug, Args)]
pub(super) struct CreateArgs {
    /// For people: who or what uses the key
    #[arg(value_name = "NAME", default_value = "cli")]
    name: String,
    #[command(flatten)]
    whose: Whose,
    /// What the key may do; several by commas or by repeating it
    #[arg(
        long = "scope",
        alias = "scopes",
        value_enum,
        value_delimiter = ',',
        default_value = "read,write",
        value_name = "SCOPE"
    )]
    scopes: Vec<Scope>,
    /// When it stops working, in days from now; never by default
    #[arg(long, value_name = "DAYS")]
    expires_days: Option<u32>,
}

#[derive(Debug, Args)]
pub(super) struct ListArgs {
    /// Only of this tenant
    #[arg(long, value_name = "NAME")]
    tenant: Option<String>,
}

#[derive(Debug, Args)]
pub(super) struct RevokeArgs {
    /// The key's id, as `docrag key list` shows it
    #[arg(value_name = "ID")]
    id: Uuid,
}

pub(super) async fn run(command: KeyCommand, context: &mut Context) -> Result<u8, Stop> {
    // Neither the model nor an index is needed for keys.
    let store = Store::open(&context.settings.database).await?;
    store.migrate().await?;
    match command {
        KeyCommand::Create(args) => create(args, &store, context).await,
        KeyCommand::List(args) => list(&args, &store, context).await,
        KeyCommand::Revoke(args) => revoke(&args, &store, context).await,
    }
}

async fn create(args: CreateArgs, store: &Store, context: &mut Context) -> Result<u8, Stop> {
    let has = |scope| args.scopes.contains(&scope);
    let scopes = Scopes { read: has(Scope::Read), write: has(Scope::Write), admin: has(Scope::Admin) };
    let expires_at = args.expires_days.map(|days| now() + SignedDuration::from_hours(24 * i64::from(days)));
    for (what, name) in [("the name", &args.name), ("the tenant", &args.whose.tenant)] {
        if name.is_empty() || name.chars().count() > 200 || name.chars().any(char::is_control) {
            return Err(Stop::usage(format!("{what} must have 1 to 200 characters, none of them a control character")));
        }
    }
    let caller = args.whose.caller();
    let new = NewKey { tenant: args.whose.tenant, name: args.name, scopes, expires_at };
    let (key, secret) = store.create_key(&caller, &new).await?;
    if context.is_json() {
        let mut value = serde_json::to_value(&key).map_err(|error| Stop::unknown(error.to_string()))?;
        value["secret"] = secret.expose_secret().into();
        context.out.json(&value)?;
        return Ok(0);
    }
    // The secret alone on standard output: `KEY=$(docrag key create …)` works.
    let until = key.expires_at.map_or_else(|| "for ever".to_owned(), |at| format!("until {}", day(at)));
    let may = key.scopes.names().join(", ");
    let _ = writeln!(
        io::stderr(),
        "Key {} of tenant {} may {may}, {until}.\nKeep this secret, it is not shown again:",
        key.id,
        one_line(&key.tenant, 80)
    );
    context.out.line(secret.expose_secret())?;
    Ok(0)
}

async fn list(args: &ListArgs, store: &Store, context: &mut Context) -> Result<u8, Stop> {
    let keys = store.keys(args.tenant.as_deref()).await?;
    if context.is_json() {
        context.out.json(&keys)?;
        return Ok(0);
    }
    if keys.is_empty() {
        context.out.line("There are no keys; `docrag key create NAME` makes one.")?;
        return Ok(0);
    }
    let head = ["id", "tenant", "name", "scopes", "state", "last used"].map(str::to_owned).to_vec();
    let mut rows = vec![head];
    rows.extend(keys.iter().map(|key| {
        vec![
            key.id.to_string(),
            one_line(&key.tenant, 30),
            one_line(&key.name, 30),
            key.scopes.names().join(","),
            state(key),
            key.last_used.map_or_else(|| "never".to_owned(), day),
        ]
    }));
    context.out.text(&columns(&rows, ""))?;
    Ok(0)
}

async fn revoke(args: &RevokeArgs, store: &Store, context: &mut Context) -> Result<u8, Stop> {
    let keys = store.keys(None).await?;
    let gone = || Stop::failed(format!("{} is no key that could be revoked; `docrag key list` shows them", args.id));
    let key = keys.into_iter().find(|key| key.id == args.id).ok_or_else(gone)?;
    let caller = Whose { tenant: key.tenant.clone() }.caller();
    if !store.revoke_key(&caller, args.id).await? {
        return Err(gone());
    }
    if context.is_json() {
        context.out.json(&serde_json::json!({"revoked": args.id}))?;
    } else {
        context.out.line(&format!(
            "Key {} ({}) is revoked; running services notice within 5 seconds.",
            key.id,
            one_line(&key.name, 80)
        ))?;
    }
    Ok(0)
}

fn state(key: &KeyRecord) -> String {
    match (key.revoked_at, key.expires_at) {
        (Some(at), _) => format!("revoked {}", day(at)),
        (None, Some(at)) if at <= now() => format!("expired {}", day(at)),
        (None, Some(at)) => format!("until {}", day(at)),
        (None, None) => "valid".to_owned(),
    }
}

fn day(at: Timestamp) -> String {
    at.strftime("%Y-%m-%d %H:%M UTC").to_string()
}

#[expect(clippy::disallowed_methods, reason = "a person's `in 30 days` counts from their now")]
fn now() -> Timestamp {
    Timestamp::now()
}
