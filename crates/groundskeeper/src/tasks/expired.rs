//! What the rules of how long rows are kept ask for at this moment.

use super::Shop;
use crate::record;
use groundskeeper_core::SystemId;
use groundskeeper_core::expiry::{self, ExpiredPartition, PROVE, Rule};
use groundskeeper_core::plan::PlanItem;
use groundskeeper_core::receipt::Receipt;
use groundskeeper_core::remedy::{Step, StepState};

/// A rule that could not be looked into, and why.
pub(crate) type Trouble = (SystemId, String);

#[derive(Default)]
pub(crate) struct Due {
    pub(crate) items: Vec<PlanItem>,
    pub(crate) troubles: Vec<Trouble>,
    /// What a rule leaves although it does not keep it, a sentence each.
    pub(crate) notes: Vec<String>,
}

pub(crate) async fn due(shop: &Shop) -> record::Result<Due> {
    let mut due = Due::default();
    let mut sets = Sets::default();
    for (system, rule) in &shop.settings.expiry {
        let now = shop.clock.now();
        let step = rule.step(system, now);
        let situation = shop.executor.situation().await?;
        let named = format!("{}.{} by {}", rule.schema, rule.table, rule.column);
        let trouble = match shop.executor.look(&step).await {
            Ok(StepState::Gone) => "the table is not there".to_owned(),
            Ok(StepState::Partitions { due: partitions, notes }) => {
                due.notes.extend(notes.into_iter().map(|note| format!("retention of {named}: {note}")));
                for partition in partitions {
                    match sets.dropping(shop, system, rule, &step, &partition).await {
                        Ok(step) => {
                            let policy = &shop.settings.policy;
                            due.items.extend(expiry::planned_drop(rule, &partition, step, policy, &situation, now));
                        }
                        Err(why) => {
                            let told = format!("{} is expired and stays: {why}", partition.name);
                            due.troubles.push((system.clone(), format!("retention of {named}: {told}")));
                        }
                    }
                }
                continue;
            }
            Ok(state) => {
                due.notes.extend(expiry::left(&state).map(|note| format!("retention of {named}: {note}")));
                due.items.extend(expiry::planned(rule, step, &state, &shop.settings.policy, &situation, now));
                continue;
            }
            Err(trouble) => trouble.to_string(),
        };
        due.troubles.push((system.clone(), format!("its retention of {named} cannot be carried out: {trouble}")));
    }
    Ok(due)
}

/// What is known of the backup sets, read when it is first asked for.
#[derive(Default)]
struct Sets(Option<Result<Vec<Receipt>, String>>);

impl Sets {
    async fn known(&mut self, shop: &Shop) -> &Result<Vec<Receipt>, String> {
        let known = match (self.0.take(), shop.stack.lookout()) {
            (Some(known), _) => known,
            (None, Some(lookout)) => lookout.vault().receipts().await.map_err(|error| error.to_string()),
            (None, None) => Err(format!(
                "only a partition that a proven backup set contains is dropped, and no [backup] is configured; configure one, \
                 then {PROVE}"
            )),
        };
        self.0.insert(known)
    }

    /// The step that drops a partition, or why it stays.
    async fn dropping(
        &mut self,
        shop: &Shop,
        system: &SystemId,
        rule: &Rule,
        asked: &Step,
        partition: &ExpiredPartition,
    ) -> Result<Step, String> {
        if let Some(hindrance) = &partition.hindrance {
            return Err(hindrance.clone());
        }
        let receipts = self.known(shop).await.as_ref().map_err(Clone::clone)?;
        let name = (partition.schema.as_str(), partition.name.as_str());
        let contained = expiry::containing(receipts, system, &rule.database, name)?;
        let step = partition.step(asked, contained).ok_or("its table is not one of a rule")?;
        expiry::may_drop(&shop.settings.expiry, &step)?;
        Ok(step)
    }
}
