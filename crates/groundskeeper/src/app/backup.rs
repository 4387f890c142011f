//! The backups: tried through the keeper, and looked at, restored and unlocked without any.
//!
//! After a disaster there is no store, no daemon and perhaps no configuration: [`Backups`] needs a repository and its key.

use super::api::{
    BackupInitView, BackupListView, BackupPruneView, BackupStatusView, BackupTryView, KeyInfo, RecoveryPlanView,
    RestorePlan, RestoreView,
};
use super::measured::Recorded;
use super::{App, CallError, view};
use crate::clock::Clock;
use crate::config::{Settings, did_you_mean};
use crate::remediation::Permission;
use crate::scheduler::Mode;
use crate::stack::Stack;
use crate::tasks::{self, Climbed, Proof, Retained};
use groundskeeper_backup::place::{Bucket, Storage};
use groundskeeper_backup::vault::KeySource;
use groundskeeper_backup::wal::{Target, newest_before};
use groundskeeper_backup::{self as backup, Error, Place, Progress, Vault};
use groundskeeper_core::SystemKind;
use groundskeeper_core::check::judge_all;
use groundskeeper_core::quantity::{after, format_bytes, format_seconds, seconds_between};
use groundskeeper_core::receipt::{Climb, ClimbOutcome, Part, Receipt, Rung};
use groundskeeper_systems::qdrant::survey;
use jiff::Timestamp;
use secrecy::SecretString;
use std::path::{Path, PathBuf};
use std::time::Duration;

pub(crate) const NOT_CONFIGURED: &str = "no backup is configured; add a [backup] table with `repository` and \
                                         `key_file`, and start the keeper anew if it runs";

/// Who drills by hand waits for it.
pub(super) const BY_HAND: Duration = Duration::from_hours(24);

/// For one question to a Qdrant.
const REACH: Duration = Duration::from_secs(10);

impl From<Error> for CallError {
    fn from(error: Error) -> Self {
        let exit = match &error {
            Error::Damaged { .. } | Error::Source { .. } | Error::Wal(_) => 1,
            Error::NoRepository { .. }
            | Error::WrongKey { .. }
            | Error::Key(_)
            | Error::NoSet(_)
            | Error::NoExport(_)
            | Error::Target { .. } => 2,
            Error::Place { .. } | Error::Busy(_) | Error::Scratch(_) | Error::Worker(_) => 3,
        };
        Self { message: error.to_string(), exit }
    }
}

/// `postgres.main (1 GiB) and the keeper itself; 30 MiB added in 12 s`
pub(crate) fn made(receipt: &Receipt) -> String {
    let sized = |part: &Part| format!("{} ({})", part.name, format_bytes(part.bytes as f64));
    let systems: Vec<String> = receipt.parts.iter().filter(|part| part.name != KEEPER).map(sized).collect();
    let keeper = if systems.len() < receipt.parts.len() { " and the keeper itself" } else { "" };
    let (added, took) = (format_bytes(receipt.added as f64), format_seconds(receipt.took));
    format!("{}{keeper}; {added} added in {took}", systems.join(", "))
}

/// The folder of the keeper's own part in a set.
pub(crate) const KEEPER: &str = "groundskeeper";

/// `is proven up to rung 2 (intact)`
pub(crate) fn proven(receipt: &Receipt) -> String {
    receipt.proven().map_or_else(
        || "is not proven at all".to_owned(),
        |rung| format!("is proven up to rung {} ({rung})", rung.number()),
    )
}

/// `rung 2 (intact): failed: 1 of 40 packs is damaged`
pub(crate) fn climbed(climb: &Climb) -> String {
    let outcome = match &climb.outcome {
        ClimbOutcome::Proven { shown, .. } => format!("proven in {}: {shown}", format_seconds(climb.took)),
        ClimbOutcome::Failed { why } => format!("failed: {why}"),
        ClimbOutcome::NotTried { why } => format!("could not be tried: {why}"),
    };
    format!("rung {} ({}): {outcome}", climb.rung.number(), climb.rung)
}

impl App {
    pub(super) async fn backup_try(
        &self,
        proof: Proof,
        set: Option<&str>,
        by: &str,
    ) -> Result<BackupTryView, CallError> {
        let target = if let Proof::Drill(_, target) = proof { target } else { None };
        let lookout = self.shop.stack.lookout().ok_or_else(|| CallError::usage(NOT_CONFIGURED))?;
        let receipts = lookout.vault().receipts().await?;
        let chosen = chosen_for(&receipts, set, None, target, self.shop.clock.now())?.set.clone();
        let Climbed { receipt, climbs } = tasks::climb(&self.shop, proof, Some(&chosen), by).await?;
        Ok(BackupTryView { receipt, tried: climbs })
    }
}

impl App {
    pub(super) async fn backup_prune(&self, apply: bool, by: &str) -> Result<BackupPruneView, CallError> {
        let lookout = self.shop.stack.lookout().ok_or_else(|| CallError::usage(NOT_CONFIGURED))?;
        let permission = if apply {
            self.shop.executor.recover().await?;
            if self.shop.present.watched().is_none() {
                // The guards need to know what fires today.
                tasks::Round::watch(&self.shop, |_| true, Mode::Real).await?;
            }
            let now = self.shop.clock.now();
            let expires = after(now, self.shop.settings.policy.approval_seconds);
            Some(Permission::of(by).approved(true, expires))
        } else {
            None
        };
        let Retained { plan, applied } = tasks::retain(&self.shop, permission.as_ref()).await?;
        let repository = lookout.place().to_string();
        Ok(BackupPruneView { repository, plan, action: applied.map(view::action) })
    }
}

/// The set whose name begins so; the newest without a name.
fn chosen<'a>(receipts: &'a [Receipt], set: Option<&str>) -> Result<&'a Receipt, CallError> {
    let Some(prefix) = set else {
        // One whose snapshot is damaged cannot be restored.
        let is_there = |receipt: &&Receipt| receipt.failed().all(|(rung, _)| rung != Rung::Stored);
        return receipts
            .iter()
            .find(is_there)
            .or(receipts.first())
            .ok_or_else(|| CallError::usage("there is no set yet; `groundskeeper backup run` makes one"));
    };
    let found: Vec<&Receipt> =
        receipts.iter().filter(|receipt| receipt.set.as_str().starts_with(prefix) && !prefix.is_empty()).collect();
    match found.as_slice() {
        [one] => Ok(one),
        [] => Err(Error::NoSet(format!("`{prefix}`")).into()),
        several => Err(CallError::usage(format!("{} sets begin with `{prefix}`; give more letters", several.len()))),
    }
}

/// The same; with a target and without a name the newest from which WAL may lead there.
fn chosen_for<'a>(
    receipts: &'a [Receipt],
    set: Option<&str>,
    only: Option<&str>,
    target: Option<Target>,
    now: Timestamp,
) -> Result<&'a Receipt, CallError> {
    let Some(target) = target else { return chosen(receipts, set) };
    if let Target::Time(at) = target
        && at > now
    {
        return Err(CallError::usage(format!("{at} is in the future; --to-latest restores all that there is")));
    }
    let named = set.map(|set| chosen(receipts, Some(set))).transpose()?;
    let among = named.map_or(receipts, std::slice::from_ref);
    newest_before(among, target, only).ok_or_else(|| {
        let with = only.map_or_else(|| "a Postgres".to_owned(), |only| format!("the Postgres {only}"));
        CallError::usage(match (named, target) {
            (Some(named), Target::Latest) => format!("the set {} has not {with} in it: no WAL leads on", named.set),
            (Some(named), Target::Time(at)) => format!(
                "the set {} was not finished at {at}, or has not {with} in it; WAL leads on from a set, never back",
                named.set
            ),
            (None, Target::Latest) => format!("no set has {with} in it; `groundskeeper backup run` makes one"),
            (None, Target::Time(at)) => {
                format!("no set with {with} in it was finished at {at}; WAL leads on from a set, never back")
            }
        })
    })
}

/// The repository and its key, and nothing else.
#[derive(Debug)]
pub struct Backups {
    pub(super) vault: Vault,
    pub(super) clock: Clock,
}

impl Backups {
    /// Those of a configuration.
    pub fn of(settings: &Settings) -> Result<Self, CallError> {
        let backup = settings.backup.clone().ok_or_else(|| CallError::usage(NOT_CONFIGURED))?;
        let vault = Vault::new(backup).keeping(settings.keep.retention.clone());
        Ok(Self { vault, clock: Clock::wall() })
    }

    /// Those in a folder, or in an object store by its address, where nothing but the key is left. How that store is
    /// reached is then in the environment.
    pub fn at(repository: &str, key_file: &Path) -> Result<Self, CallError> {
        let place = if Place::is_address(repository) {
            let bucket = Bucket::parse(repository, Storage::default());
            Place::of_bucket(bucket.map_err(|why| CallError::usage(format!("--repository: {why}")))?)
        } else {
            Place::of_folder(repository)
        };
        let vault = Vault::new(backup::Settings {
            place,
            key: KeySource::File(key_file.to_owned()),
            postgres: Vec::new(),
            redis: Vec::new(),
            files: Vec::new(),
            qdrant: Vec::new(),
            scratch: std::env::temp_dir(),
            leave_free: 0,
            programs: Vec::new(),
            run_as: "postgres".to_owned(),
            wal: None,
            probes: Vec::new(),
        });
        Ok(Self { vault, clock: Clock::wall() })
    }

    pub fn progress(&self) -> &Progress {
        self.vault.progress()
    }

    pub(super) fn repository(&self) -> String {
        self.vault.settings().place.to_string()
    }

    pub async fn init(&self) -> Result<BackupInitView, CallError> {
        Ok(BackupInitView { made: self.vault.init().await?, repository: self.repository() })
    }

    pub async fn list(&self) -> Result<BackupListView, CallError> {
        let sets = self.vault.receipts().await?;
        Ok(BackupListView { now: self.clock.now(), repository: self.repository(), sets })
    }

    /// The recovery plan, as Markdown.
    pub async fn plan(&self) -> Result<RecoveryPlanView, CallError> {
        Ok(RecoveryPlanView { plan: self.vault.recovery_plan(self.clock.now()).await? })
    }

    /// What a restore would do; nothing is written.
    pub async fn plan_restore(
        &self,
        set: Option<&str>,
        only: Option<&str>,
        target: Option<Target>,
        into: &Path,
        replace: bool,
    ) -> Result<RestorePlan, CallError> {
        let receipts = self.vault.receipts().await?;
        let receipt = chosen_for(&receipts, set, only, target, self.clock.now())?;
        let into =
            std::path::absolute(into).map_err(|error| CallError::usage(format!("{}: {error}", into.display())))?;
        let systems = parts(receipt, only)?;
        let names: Vec<String> = systems.iter().map(|(name, _)| name.clone()).collect();
        let replaces = self.vault.taken(&names, &into).await?;
        if let (false, Some(taken)) = (replace, replaces.first()) {
            return Err(CallError::usage(format!(
                "{} is not empty, and nothing that is there is overwritten; choose another folder, or move it aside with \
                 --replace",
                taken.display()
            )));
        }
        let wal = match target {
            Some(target) => self.vault.wal_room(&receipt.set, only, target).await?,
            None => 0,
        };
        let plan = RestorePlan {
            replaces,
            set: receipt.set.clone(),
            made: receipt.made,
            age_seconds: seconds_between(receipt.made, self.clock.now()).max(0.0),
            systems,
            only: only.map(str::to_owned),
            target,
            wal,
            free: free(&into),
            into,
            warnings: warnings(receipt, &receipts),
        };
        match plan.free {
            Some(free) if free < plan.bytes() => Err(CallError::usage(format!(
                "{} has {} free, and {} are needed; choose a folder on a larger disk, or one system with --only",
                plan.into.display(),
                format_bytes(free as f64),
                format_bytes(plan.bytes() as f64)
            ))),
            _ => Ok(plan),
        }
    }

    pub async fn restore(&self, plan: RestorePlan) -> Result<RestoreView, CallError> {
        let (set, only, into) = (Some(&plan.set), plan.only.as_deref(), &plan.into);
        let over = (!plan.replaces.is_empty()).then(|| self.clock.now());
        let restored = match (plan.target, over) {
            (Some(target), over) => self.vault.restore_to(set, only, target, into, over).await?,
            (None, None) => self.vault.restore(set, only, into).await?,
            (None, Some(now)) => self.vault.restore_over(set, only, into, now).await?,
        };
        Ok(RestoreView { plan, restored })
    }

    pub async fn keys(&self) -> Result<Vec<KeyInfo>, CallError> {
        Ok(self.vault.keys().await?)
    }

    pub async fn add_key(&self, key: &SecretString) -> Result<KeyInfo, CallError> {
        Ok(self.vault.add_key(key).await?)
    }

    pub async fn remove_key(&self, id: &str) -> Result<(), CallError> {
        Ok(self.vault.remove_key(id).await?)
    }

    /// Opens the repository with the key and says in a few words what is there.
    pub async fn try_out(&self) -> Result<String, CallError> {
        let sets = self.vault.receipts().await?;
        // The watch does not look at a Qdrant, so a wrong address or key would show at night only.
        for source in &self.vault.settings().qdrant {
            for node in &source.nodes {
                survey(node, REACH).await.map_err(|failure| {
                    CallError::unanswered(format!("{}: {}: {}", source.name, failure.address, failure.message))
                })?;
            }
        }
        let newest = sets.first().map_or_else(
            || "no set yet; `groundskeeper backup run` makes one".to_owned(),
            |newest| format!("{} sets, the newest {}", sets.len(), newest.set),
        );
        Ok(format!("{} opens with the key: {newest}", self.repository()))
    }
}

/// Looks at the repository now and judges it, recording nothing.
pub async fn status_now(settings: &Settings) -> Result<BackupStatusView, CallError> {
    let stack = Stack::new(settings.systems.clone());
    let now = Clock::wall().now();
    let mut readings = stack.observe(now, |system| system.kind == SystemKind::Backup);
    let read = readings.join_next().await.ok_or_else(|| CallError::usage(NOT_CONFIGURED))?;
    let (system, observation) =
        read.map_err(|panic| CallError::unanswered(format!("the reading ended in a bug: {panic}")))?;
    let judgements = judge_all(&system, &observation, None, &settings.tuning, now);
    let recorded = Recorded::read(&settings.state_dir, &system, now).await;
    Ok(BackupStatusView {
        now,
        backup: view::backups(stack.address(&system), observation.as_backup(), &settings.keep, &recorded, now),
        judgements,
    })
}

/// What of a set is restored.
fn parts(receipt: &Receipt, only: Option<&str>) -> Result<Vec<(String, u64)>, CallError> {
    let sized = |part: &Part| (part.name.clone(), part.bytes);
    // Its receipt was lost; the snapshot knows what is in it, and the restore looks there.
    if receipt.parts.is_empty() {
        return Ok(Vec::new());
    }
    let Some(only) = only else { return Ok(receipt.parts.iter().map(sized).collect()) };
    if let Some(part) = receipt.parts.iter().find(|part| part.name == only) {
        return Ok(vec![sized(part)]);
    }
    if let Some(missing) = receipt.missing.iter().find(|missing| missing.system == only) {
        return Err(CallError::usage(format!("{only} is missing in the set {}: {}", receipt.set, missing.why)));
    }
    let names: Vec<&str> = receipt.parts.iter().map(|part| part.name.as_str()).collect();
    let hint = did_you_mean(only, names.iter().copied());
    Err(CallError::usage(format!("the set {} holds {}, and no `{only}`{hint}", receipt.set, names.join(", "))))
}

/// What speaks against this set.
fn warnings(receipt: &Receipt, all: &[Receipt]) -> Vec<String> {
    let missing = receipt.missing.iter().map(|missing| format!("{} is not in it: {}", missing.system, missing.why));
    let failed = receipt.failed().map(|(rung, why)| format!("it failed rung {} ({rung}): {why}", rung.number()));
    let mut warnings: Vec<String> = missing.chain(receipt.gaps()).chain(failed).collect();
    if receipt.parts.is_empty() {
        warnings.push("its receipt was lost: nobody knows what should be in it, nor how much room it needs".to_owned());
    }
    if receipt.proven() < Some(Rung::Alive) {
        let better = all.iter().find(|other| other.proven() >= Some(Rung::Alive));
        let better = better.map_or_else(
            || "no set was".to_owned(),
            |better| format!("the newest that was is {} (--set chooses it)", better.set),
        );
        warnings.push(format!("it was not shown to restore; {better}"));
    }
    warnings
}

/// Free bytes of the disk on which a folder is, or will be made.
fn free(folder: &Path) -> Option<u64> {
    let existing: PathBuf = folder.ancestors().find(|folder| folder.is_dir())?.to_owned();
    let disk = rustix::fs::statvfs(&existing).ok()?;
    Some(disk.f_bavail * disk.f_frsize)
}

#[cfg(test)]
mod tests {
    use super::*;
    use groundskeeper_core::receipt::{Missing, SetId};

    fn set(hours: f64, random: u32) -> Receipt {
        let made = after("2026-03-02T09:00:00Z".parse::<Timestamp>().unwrap(), hours * -3_600.0);
        let part = |name: &str, bytes| Part { name: name.into(), entries: 9, bytes, ..Part::default() };
        let parts = vec![part("postgres.main", 1 << 30), part(KEEPER, 4096)];
        Receipt { set: SetId::new(made, random), made, took: 12.0, parts, missing: vec![], added: 0, climbs: vec![] }
    }

    #[test]
    fn a_set_is_found_by_the_first_letters_of_its_name() {
        let sets = [set(0.0, 1), set(0.0, 2), set(24.0, 3)];
        assert_eq!(chosen(&sets, None).unwrap().set, sets[0].set);
        assert_eq!(chosen(&sets, Some("20260301")).unwrap().set, sets[2].set);
        assert_eq!(chosen(&sets, Some(sets[1].set.as_str())).unwrap().set, sets[1].set);
        for (prefix, said) in [
            (Some("20260302"), "2 sets begin with `20260302`; give more letters"),
            (Some("2025"), "there is no set `2025`; `groundskeeper backup list` shows them"),
            (Some(""), "there is no set ``; `groundskeeper backup list` shows them"),
        ] {
            let error = chosen(&sets, prefix).unwrap_err();
            assert_eq!((error.message.as_str(), error.exit), (said, 2));
        }
        assert!(chosen(&[], None).unwrap_err().message.contains("`groundskeeper backup run`"));
    }

    #[test]
    fn a_person_hears_what_speaks_against_a_set_before_restoring_it() {
        let mut sets = [set(1.0, 1), set(24.0, 2)];
        sets[0].missing.push(Missing { system: "postgres.reports".parse().unwrap(), why: "no answer".into() });
        let proven = ClimbOutcome::Proven { shown: "all".into(), not_covered: Vec::new() };
        let climb = |rung, outcome| Climb { rung, at: Timestamp::UNIX_EPOCH, took: 1.0, outcome };
        sets[0].climbs = vec![climb(Rung::Stored, ClimbOutcome::Failed { why: "9 bytes are missing".into() })];
        sets[1].climbs = Rung::ALL.map(|rung| climb(rung, proven.clone())).into();
        assert_eq!(
            warnings(&sets[0], &sets),
            [
                "postgres.reports is not in it: no answer".to_owned(),
                "it failed rung 1 (stored): 9 bytes are missing".to_owned(),
                format!("it was not shown to restore; the newest that was is {} (--set chooses it)", sets[1].set),
            ]
        );
        assert_eq!(warnings(&sets[1], &sets), Vec::<String>::new());
    }

    #[test]
    fn a_system_that_is_not_in_the_set_is_named_with_the_nearest() {
        let mut sought = set(1.0, 1);
        sought.missing.push(Missing { system: "postgres.reports".parse().unwrap(), why: "no answer".into() });
        assert_eq!(parts(&sought, Some("postgres.main")).unwrap(), [("postgres.main".to_owned(), 1 << 30)]);
        let said = |only| parts(&sought, Some(only)).unwrap_err().message;
        assert!(said("postgres.man").ends_with("did you mean `postgres.main`?"));
        assert!(said("postgres.reports").ends_with("no answer"));
        assert_eq!(parts(&sought, None).unwrap().len(), 2);
    }
}
