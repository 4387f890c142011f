//! `tune`: advice, with its reasons, the statements to copy, and what we would do about each setting.

use super::args::{TuneArgs, TuneVerb};
use super::output::Stop;
use super::paint::Paint;
use super::{Desk, FINE, Outcome, counted, plan, progress, table};
use crate::app::api::{PlanView, Request, TuneView};
use crate::app::tune_postgres;
use crate::config;
use groundskeeper_core::SystemId;
use groundskeeper_core::observation::{Machine, Owner, Storage};
use groundskeeper_core::quantity::format_bytes;
use groundskeeper_core::remedy::Step;
use groundskeeper_core::tuning::postgres::{Advice, Pools, Way, Weight};
use std::collections::BTreeMap;
use std::fmt::Write as _;

pub(super) async fn run(desk: &mut Desk, args: &TuneArgs) -> Outcome {
    let TuneVerb::Postgres { system, plan } = &args.verb;
    let address = system.as_deref().filter(|word| config::is_url(word));
    if let Some(setting) = plan {
        if address.is_some() {
            return Err(Stop::usage(format!(
                "{setting} is not changed: a bare address has no journal to write that into, and no way back; put the server \
                 into the configuration (`groundskeeper init`) and name it"
            )));
        }
        let settings = desk.settings()?;
        let request = Request::PlanSetting { system: system.clone(), setting: setting.clone() };
        let view: PlanView = desk.ask(&settings, "reading the server and planning", request).await?;
        return plan::shown(desk, &view);
    }
    let (settings, name) = match address {
        Some(url) => (config::for_url(url)?, None),
        None => (desk.settings()?, system.as_deref()),
    };
    let view = progress::shown("reading the server", tune_postgres(&settings, name)).await?;
    desk.show(&view, |paint| render(&view, address.is_none(), *paint))?;
    Ok(FINE)
}

/// What is in the configuration can be changed by us.
fn render(view: &TuneView, is_configured: bool, paint: Paint) -> String {
    let mut out = format!(
        "{} {}\n",
        paint.bold(&view.system.to_string()),
        paint.dim(&format!("{}, Postgres {}", view.address, view.version))
    );
    let machine = view.advised.machine.as_ref().map_or_else(|| "its machine is not known".to_owned(), machine);
    let _ = writeln!(out, "{}", paint.dim(&machine));
    for (weight, head) in [(Weight::Matters, "What matters"), (Weight::Useful, "Worth having")] {
        let advice: Vec<&Advice> = view.advised.advice.iter().filter(|one| one.weight == weight).collect();
        section(&mut out, head, &advice, &view.system, paint);
    }
    if view.advised.advice.is_empty() {
        let _ = writeln!(out, "\n{}", paint.good("Nothing to advise: what could be looked at is good enough."));
    }
    statements(&mut out, &view.advised.advice, paint);
    if let Some(pools) = &view.advised.pools {
        connections(&mut out, pools, paint);
    }
    unknown(&mut out, view, paint);
    if !view.advised.suited.is_empty() {
        let _ = writeln!(out, "\n{} {}", paint.bold("Good enough:"), view.advised.suited.join(", "));
    }
    let _ = writeln!(out, "\nNothing was changed.{}", next(view, is_configured));
    out
}

/// How one setting is changed by us.
fn next(view: &TuneView, is_configured: bool) -> String {
    let Some(first) = view.advised.advice.iter().find(|one| one.step(&view.system).is_ok()) else {
        return String::new();
    };
    if is_configured {
        format!(" Next: `groundskeeper tune postgres {} --plan {}`, or another one.", view.system.name, first.setting)
    } else {
        " To have one changed, verified and undone by us, put the server into the configuration: `groundskeeper init`."
            .to_owned()
    }
}

fn machine(machine: &Machine) -> String {
    let storage = machine.storage.map(|storage| match storage {
        Storage::Ssd => "ssd".to_owned(),
        Storage::Hdd => "hdd".to_owned(),
    });
    let parts = [
        machine.memory.map(|bytes| format!("{} of memory", format_bytes(bytes as f64))),
        machine.cores.map(|cores| counted(cores as usize, "core")),
        storage,
    ];
    let parts: Vec<String> = parts.into_iter().flatten().collect();
    format!("{}: told by {}", parts.join(", "), machine.told_by)
}

fn section(out: &mut String, head: &str, advice: &[&Advice], system: &SystemId, paint: Paint) {
    if advice.is_empty() {
        return;
    }
    let row = |one: &&Advice| {
        let change = if one.needs_restart { "restart" } else { "reload" };
        let advised = format!("→ {}", one.advised);
        vec![one.setting.clone(), one.current.clone(), advised, change.to_owned(), one.owner.to_string()]
    };
    let rows: Vec<Vec<String>> = advice.iter().map(row).collect();
    let lines = table::columns(&rows, "  ", |_, column, cell| match column {
        0 | 2 => paint.bold(&cell),
        3 | 4 => paint.dim(&cell),
        _ => cell,
    });
    let _ = writeln!(out, "\n{} {}", paint.bold(head), paint.dim("(setting, now, advised, taken up by, set by)"));
    for (line, one) in lines.lines().zip(advice) {
        let _ = writeln!(out, "{line}\n      {}", paint.dim(&one.reason));
        let _ = writeln!(out, "      {}", paint.dim(&one.source));
        let _ = writeln!(out, "      {}", paint.dim(&by_us(one, system)));
    }
}

/// Effect, risk and undo of the change, or why it is left to a person.
fn by_us(one: &Advice, system: &SystemId) -> String {
    match one.step(system) {
        Ok(Step::AlterSystem { setting, .. }) => {
            // What `tune` sees of an earlier line of ALTER SYSTEM is its value; the step keeps the line itself.
            let undo = match one.owner {
                Owner::AlterSystem => format!("ALTER SYSTEM SET {setting} = '{}'", one.current),
                _ => format!("ALTER SYSTEM RESET {setting}"),
            };
            format!("by us: {}; undone by {undo}", one.effect(&[]))
        }
        Ok(_) => String::new(),
        Err(why) => format!("not by us: {why}"),
    }
}

/// What a person copies: first what a reload takes up, then what a restart does, then what is kept elsewhere.
fn statements(out: &mut String, advice: &[Advice], paint: Paint) {
    for (needs_restart, head) in [
        (false, "To copy, as a superuser; one at a time, watched for a day, is safest"),
        (true, "These are taken up by the next restart; do it in a maintenance window"),
    ] {
        let chosen = advice.iter().filter(|one| one.needs_restart == needs_restart);
        let sql: Vec<&str> = chosen
            .filter_map(|one| if let Way::Statement { sql } = &one.way { Some(sql.as_str()) } else { None })
            .collect();
        if sql.is_empty() {
            continue;
        }
        let _ = writeln!(out, "\n{}", paint.bold(head));
        for statement in sql {
            let _ = writeln!(out, "  {statement}");
        }
        if !needs_restart {
            let _ = writeln!(out, "  SELECT pg_reload_conf();");
        }
    }
    let mut elsewhere: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for one in advice {
        if let Way::Elsewhere { place, line } = &one.way {
            elsewhere.entry(place).or_default().push(line);
        }
    }
    if !elsewhere.is_empty() {
        let _ = writeln!(
            out,
            "\n{}",
            paint.bold("Somebody keeps these elsewhere; change them there, not with ALTER SYSTEM")
        );
    }
    for (place, lines) in elsewhere {
        let _ = writeln!(out, "  {}", paint.dim(place));
        for line in lines {
            let _ = writeln!(out, "    {line}");
        }
    }
    if advice.iter().any(|one| matches!(one.way, Way::Statement { .. })) {
        let _ = writeln!(
            out,
            "  {}",
            paint.dim(
                "One is taken back with ALTER SYSTEM SET name = 'the value now', or ALTER SYSTEM RESET name where none was set \
                 before; then SELECT pg_reload_conf();"
            )
        );
    }
}

fn connections(out: &mut String, pools: &Pools, paint: Paint) {
    let _ = writeln!(
        out,
        "\n{} all together at most {} of the {} that may be open; {} are open now, {} at work",
        paint.bold("Pools:"),
        pools.together,
        pools.usable,
        pools.open,
        pools.active
    );
    let _ = writeln!(out, "      {}", paint.dim(&pools.reason));
    let rows: Vec<Vec<String>> = pools
        .by_application
        .iter()
        .map(|pool| vec![pool.application.clone(), format!("{} open", pool.open), format!("→ {}", pool.advised)])
        .collect();
    out.push_str(&table::plain(&rows, "  "));
}

/// By the reason, which several have in common.
fn unknown(out: &mut String, view: &TuneView, paint: Paint) {
    let mut reasons: Vec<(&str, Vec<&str>)> = Vec::new();
    for one in &view.advised.unknown {
        match reasons.iter_mut().find(|(why, _)| *why == one.why) {
            Some((_, settings)) => settings.push(&one.setting),
            None => reasons.push((&one.why, vec![&one.setting])),
        }
    }
    if !reasons.is_empty() {
        let _ = writeln!(out, "\n{}", paint.bold("Not known"));
    }
    for (why, settings) in reasons {
        let _ = writeln!(out, "  {}\n      {}", settings.join(", "), paint.dim(why));
    }
}
