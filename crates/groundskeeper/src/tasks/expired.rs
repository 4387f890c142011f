//! What the rules of how long rows are kept ask for at this moment.

use super::Shop;
use crate::record;
use groundskeeper_core::SystemId;
use groundskeeper_core::expiry;
use groundskeeper_core::plan::PlanItem;
use groundskeeper_core::remedy::StepState;

/// A rule that could not be looked into, and why.
pub(crate) type Trouble = (SystemId, String);

pub(crate) async fn due(shop: &Shop) -> record::Result<(Vec<PlanItem>, Vec<Trouble>)> {
    let (mut items, mut troubles) = (Vec::new(), Vec::new());
    for (system, rule) in &shop.settings.expiry {
        let now = shop.clock.now();
        let step = rule.step(system, now);
        let situation = shop.executor.situation().await?;
        let trouble = match shop.executor.look(&step).await {
            Ok(StepState::Gone) => "the table is not there".to_owned(),
            Ok(state) => {
                items.extend(expiry::planned(rule, step, &state, &shop.settings.policy, &situation, now));
                continue;
            }
            Err(trouble) => trouble.to_string(),
        };
        let named = format!("{}.{} by {}", rule.schema, rule.table, rule.column);
        troubles.push((system.clone(), format!("its retention of {named} cannot be carried out: {trouble}")));
    }
    Ok((items, troubles))
}
