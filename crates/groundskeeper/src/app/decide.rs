//! What people decide: plans, approvals, applying, undoing, pauses, ignored findings; and running a task by hand.

use super::api::{
    ActionView, ApprovalView, AuditEntry, AuditView, DeliveryView, IgnoreView, PauseView, PlanView, TaskRunView,
    UndoView,
};
use super::{App, CallError, view};
use crate::record::{Approval, Ignored, Pause};
use crate::remediation::{Applied, Permission};
use crate::scheduler;
use crate::tasks;
use groundskeeper_core::finding::Finding;
use groundskeeper_core::plan::{Plan, plan};
use groundskeeper_core::quantity::after;
use groundskeeper_core::{Status, SystemId, UnknownKind};
use jiff::Timestamp;

impl App {
    /// Looks now, with the weekly maintenance's strict eye, and plans for what it sees.
    pub async fn plan(&self) -> Result<PlanView, CallError> {
        let shop = &self.shop;
        let tuning = tasks::strict(&shop.settings.tuning);
        let judgements = tasks::judge_now(shop, &tuning, |_| true, false).await?;
        let situation = shop.executor.situation().await?;
        let ignored: Vec<_> = {
            let now = shop.clock.now();
            shop.record.with(move |store| store.ignored(now)).await?
        };
        let findings: Vec<Finding> = tasks::failing(&judgements)
            .filter(|finding| !ignored.iter().any(|ignored| ignored.fingerprint == finding.fingerprint))
            .cloned()
            .collect();
        let expired = tasks::expired::due(shop).await?;
        let upkeep = plan(&findings, &shop.settings.policy, &situation, shop.clock.now());
        let plan = Plan::new(upkeep.made, expired.items.into_iter().chain(upkeep.items).collect());
        let kept = plan.clone();
        shop.record.with(move |store| store.keep_plan(&kept)).await?;
        let mut unread: Vec<(SystemId, String)> = judgements
            .iter()
            .filter_map(|judgement| match &judgement.status {
                Status::Unknown(unknown) if unknown.kind == UnknownKind::NoAnswer => {
                    Some((judgement.system.clone(), unknown.reason.clone()))
                }
                _ => None,
            })
            .collect();
        unread.dedup();
        unread.extend(expired.troubles);
        Ok(PlanView { plan, unread })
    }

    pub async fn approve(&self, hash: &str, any_time: bool, by: &str) -> Result<ApprovalView, CallError> {
        let (prefix, who, now) = (hash.to_owned(), by.to_owned(), self.shop.clock.now());
        let expires = after(now, self.shop.settings.policy.approval_seconds);
        let plan = self
            .shop
            .record
            .with(move |store| {
                let plan = store.plan(&prefix)?;
                store.approve(&Approval { hash: plan.hash.clone(), who, expires, any_time }, now)?;
                Ok(plan)
            })
            .await?;
        Ok(ApprovalView { hash: plan.hash, by: by.to_owned(), expires, any_time, items: plan.items })
    }

    pub async fn apply(&self, hash: &str, by: &str) -> Result<Vec<ActionView>, CallError> {
        self.shop.executor.recover().await?;
        if self.shop.present.watched().is_none() {
            // Without a watch in this process the record may be of last week: the guards that ask for firing alerts and
            // storms need to know today's.
            tasks::Round::watch(&self.shop, |_| true, scheduler::Mode::Real).await?;
        }
        let (prefix, now) = (hash.to_owned(), self.shop.clock.now());
        let (plan, approval) = self
            .shop
            .record
            .with(move |store| {
                let plan = store.plan(&prefix)?;
                let approval = store.approval(&plan.hash, now)?;
                Ok((plan, approval))
            })
            .await?;
        let permission = match approval {
            Some(approval) => Permission::of(by).approved(approval.any_time, approval.expires),
            None => Permission::of(by),
        };
        let applied = self.shop.executor.apply(&plan, &permission).await?;
        Ok(applied.into_iter().map(view::action).collect())
    }

    pub async fn undo(&self, entry: i64, by: &str) -> Result<UndoView, CallError> {
        let (undo, done) = self.shop.executor.undo(entry, by).await?;
        let action = done.map(|entry| view::action(Applied::Done(Box::new(entry))));
        Ok(UndoView { entry, undo, action })
    }

    pub async fn actions(&self, limit: u32) -> Result<Vec<ActionView>, CallError> {
        let entries = self.shop.record.with(move |store| store.entries(limit)).await?;
        Ok(entries.into_iter().map(|entry| view::action(Applied::Done(Box::new(entry)))).collect())
    }

    pub async fn pause(
        &self,
        task: Option<String>,
        reason: String,
        until: Option<Timestamp>,
        by: String,
    ) -> Result<PauseView, CallError> {
        if let Some(task) = &task {
            self.entry(task)?;
        }
        let since = self.shop.clock.now();
        if until.is_some_and(|until| until <= since) {
            return Err(CallError::usage("a pause must end in the future"));
        }
        let pause = Pause { task, reason, who: by, since, until };
        let kept = pause.clone();
        self.shop.record.with(move |store| store.pause(&kept)).await?;
        Ok(view::pause(pause))
    }

    pub async fn resume(&self, task: Option<String>, by: String) -> Result<bool, CallError> {
        let now = self.shop.clock.now();
        Ok(self.shop.record.with(move |store| store.resume(task.as_deref(), &by, now)).await?)
    }

    pub async fn ignore(
        &self,
        prefix: String,
        reason: String,
        until: Timestamp,
        by: String,
    ) -> Result<IgnoreView, CallError> {
        let now = self.shop.clock.now();
        if reason.trim().is_empty() {
            return Err(CallError::usage("a finding is ignored with a reason; give one with --reason"));
        }
        if until <= now {
            return Err(CallError::usage("a finding is ignored until a moment in the future"));
        }
        let ignored = self
            .shop
            .record
            .with(move |store| {
                let fingerprint = store.live_fingerprint(&prefix)?;
                let ignored = Ignored { fingerprint, reason, who: by, until };
                store.ignore(&ignored, now)?;
                Ok(ignored)
            })
            .await?;
        Ok(view::ignored(ignored))
    }

    pub async fn unignore(&self, prefix: String, by: String) -> Result<bool, CallError> {
        let now = self.shop.clock.now();
        Ok(self.shop.record.with(move |store| store.unignore(&prefix, &by, now)).await?)
    }

    pub async fn notify_test(&self, channel: Option<&str>) -> Result<Vec<DeliveryView>, CallError> {
        if self.shop.pipeline.channels().is_empty() {
            return Err(CallError::usage(
                "no channel is configured; add a [notify.webhook.NAME] or [notify.email.NAME] table",
            ));
        }
        Ok(self.shop.pipeline.test(channel).await)
    }

    pub async fn audit(&self, limit: u32) -> Result<AuditView, CallError> {
        let ((head, broken), rows) =
            self.shop.record.with(move |store| Ok((store.verify_audit()?, store.audit_entries(limit)?))).await?;
        let entry = |row: crate::record::AuditRow| AuditEntry {
            seq: row.seq,
            at: row.at,
            who: row.who,
            what: row.what,
            detail: row.detail,
            hash: row.hash,
        };
        Ok(AuditView {
            broken: broken.map(|broken| format!("entry {}: {}", broken.seq, broken.why)),
            head,
            entries: rows.into_iter().map(entry).collect(),
        })
    }

    /// Runs a task now and waits for its end.
    pub async fn task_run(&self, name: &str, dry_run: bool, by: &str) -> Result<TaskRunView, CallError> {
        let entry = self.entry(name)?;
        let end = if dry_run {
            scheduler::dry_run(entry).await
        } else {
            let (who, detail, now) = (by.to_owned(), name.to_owned(), self.shop.clock.now());
            self.shop.record.with(move |store| store.audit(&who, "task run", &detail, now)).await?;
            self.shop.executor.recover().await?;
            scheduler::run_by_hand(entry, &self.shop.record, &self.shop.clock).await?
        };
        // Without a daemon nobody else delivers; beside one, two deliveries do not overlap.
        if !dry_run {
            self.shop.pipeline.deliver_due().await?;
        }
        Ok(TaskRunView {
            task: name.to_owned(),
            dry_run,
            ok: end.ok,
            summary: end.summary,
            details: end.found.details,
            plan: end.found.plan,
            actions: end.found.actions,
            receipt: end.found.receipt,
        })
    }
}
