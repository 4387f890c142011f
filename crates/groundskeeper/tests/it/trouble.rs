//! What the world does to the keeper: it is killed, its disk fills up, its store is damaged or of another version, and
//! servers hang up on it. It says so in a sentence, loses nothing that it promised, and goes on.

use crate::scene::{Database, GRANTS, Keeper, Place, eventually};
use groundskeeper::app::api::{AuditView, StatusView};
use groundskeeper::clock::Clock;
use groundskeeper_core::remedy::Step;
use groundskeeper_testing::{Closer, Garbage, SmallDisk};
use jiff::Timestamp;
use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

const GONE: &str = "[redis.cache]\nurl = \"redis://127.0.0.1:1\"\n[tasks.watch]\nevery = \"1s\"\n";

/// Kills of the keeper, at random and right behind an intent by turns.
const KILLS: u32 = 15;

/// A small generator: what is random here need not be good, only different.
struct Dice(u64);

impl Dice {
    fn new() -> Self {
        let seed = Clock::wall().now().as_microsecond().cast_unsigned();
        println!("seed {seed}");
        Self(seed)
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % limit
    }
}

#[tokio::test]
async fn a_keeper_that_is_killed_at_any_moment_settles_everything_and_repeats_nothing() {
    let database = Database::start(GRANTS).await;
    let place = Place::new(&database.config(
        "autonomy = \"auto\"",
        "[maintenance]\nwindows = [\"daily 00:00-24:00\"]\n[policy]\ncorrective_per_hour = 100\n",
    ));
    let mut dice = Dice::new();
    let mut victims = Vec::new();
    let mut caught = 0;
    for round in 0..KILLS {
        // Not in every round: the cap of twenty endings in an hour counts those that a kill prevented as well.
        if round % 2 == 0 {
            victims.push(database.idle("docrag-api").await);
        } else {
            database.wear(&format!("table_{round}")).await;
        }
        let before = Clock::wall().now();
        let keeper = place.keeper().await;
        settled_but_for_the_present(&place, before);
        if round % 2 == 0 {
            tokio::time::sleep(Duration::from_millis(dice.below(1300))).await;
        } else {
            caught += u32::from(catches_an_intent(&place).await);
            tokio::time::sleep(Duration::from_millis(dice.below(400))).await;
        }
        keeper.kill().await;
    }
    assert!(caught > 0, "no kill came between an intent and its end; the test shows nothing");

    let keeper = place.keeper().await;
    for victim in &victims {
        eventually("every session is ended", async || victim.client.is_closed().then_some(())).await;
    }
    for round in (1..KILLS).step_by(2) {
        let table = format!("table_{round}");
        eventually("every table is vacuumed", async || database.is_vacuumed(&table).await.then_some(())).await;
    }
    eventually("everything is settled", async || {
        (place.count("SELECT count(*) FROM journal WHERE ended IS NULL") == 0).then_some(())
    })
    .await;
    each_session_was_helped_once(&place, victims.len());
    let audit: AuditView = place.json(&["audit"]).await;
    assert_eq!(audit.broken, None);
    let log = keeper.log();
    assert!(!log.contains("panicked"), "{log}");
    assert_eq!(keeper.terminate().await.code(), Some(0));
}

/// Waits for an intent that has not ended, and says whether one was seen.
async fn catches_an_intent(place: &Place) -> bool {
    let store = place.store();
    let mut unsettled = store.prepare("SELECT count(*) FROM journal WHERE ended IS NULL").unwrap();
    for _ in 0..1500 {
        if unsettled.query_row([], |row| row.get::<_, i64>(0)).unwrap() > 0 {
            return true;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    false
}

/// What a dead process left is settled before the keeper answers, but for a vacuum that still runs at the server.
fn settled_but_for_the_present(place: &Place, since: Timestamp) {
    let left = format!(
        "SELECT count(*) FROM journal WHERE ended IS NULL AND step NOT LIKE '%\"vacuum\"%' AND intended < {}",
        since.as_millisecond()
    );
    assert_eq!(place.count(&left), 0);
}

/// And nothing was helped twice. (A vacuum whose keeper was killed may still run and make the next one skip its table.)
fn each_session_was_helped_once(place: &Place, sessions: usize) {
    let store = place.store();
    let mut rows = store.prepare("SELECT step, outcome FROM journal").unwrap();
    let mut helped: BTreeMap<String, u32> = BTreeMap::new();
    let entries = rows.query_map([], |row| Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?))).unwrap();
    for (step, outcome) in entries.map(Result::unwrap) {
        let step: Step = serde_json::from_str(&step).unwrap();
        match outcome.as_str() {
            "helped" => *helped.entry(step.subject()).or_default() += 1,
            "abandoned" => {}
            "did_not_help" if matches!(step, Step::Vacuum { .. }) => {}
            other => panic!("{other}: {step:?}"),
        }
    }
    assert_eq!(helped.keys().filter(|subject| subject.contains(" session ")).count(), sessions);
    assert!(helped.values().all(|times| *times == 1), "{helped:?}");
}

#[tokio::test]
async fn a_full_disk_is_said_in_one_sentence_and_the_keeper_goes_on_when_there_is_room() {
    let disk = SmallDisk::mount(4).unwrap();
    let place = Place::with_state(&disk.path().join("state"), GONE);
    let mut keeper = place.keeper().await;
    let watches = "SELECT count(*) FROM run WHERE task = 'watch' AND outcome = 'ok'";
    eventually("it watches", async || (place.count(watches) > 0).then_some(())).await;
    disk.fill_to(100).unwrap();
    let complaint = eventually("the full disk is in the log", async || {
        keeper.log().lines().find(|line| line.contains("the disk of the store is full")).map(str::to_owned)
    })
    .await;
    assert!(complaint.contains(&format!("free some space under {}", place.state().display())), "{complaint}");
    let said = place.run(&["pause", "--reason", "full"]).await;
    assert!(said.code == 3 && said.err.starts_with("error: the disk of the store is full"), "{said:?}");
    let status = place.run(&["status"]).await;
    assert!(status.code == 0 && status.out.contains("! The disk of the store is full"), "{status:?}");
    assert!(keeper.runs());
    assert_all_is_said_plainly(&keeper);

    disk.fill_to(1).unwrap();
    let before = place.count(watches);
    eventually("it goes on", async || (place.count(watches) > before).then_some(())).await;
    keeper.kill().await;

    disk.fill_to(100).unwrap();
    let fresh = Place::with_state(&disk.path().join("other"), GONE);
    for command in ["run", "status"] {
        assert_refused_for_the_disk(&fresh.run(&[command]).await);
    }
    // A store that is already there needs no room to be opened: the keeper starts, and works as soon as it can.
    let keeper = place.keeper().await;
    let before = place.count(watches);
    disk.fill_to(1).unwrap();
    eventually("it works again", async || (place.count(watches) > before).then_some(())).await;
    assert_all_is_said_plainly(&keeper);
    assert_eq!(keeper.terminate().await.code(), Some(0));
    assert_eq!(fresh.run(&["status"]).await.code, 0);
}

fn assert_all_is_said_plainly(keeper: &Keeper) {
    let log = keeper.log();
    assert!(!log.contains("panicked") && !log.contains("SqliteFailure"), "{log}");
}

fn assert_refused_for_the_disk(said: &crate::scene::Said) {
    let complaints: Vec<&str> = said.err.lines().filter(|line| line.starts_with("error: ")).collect();
    assert_eq!(said.code, 3, "{said:?}");
    assert!(
        complaints.len() == 1 && complaints[0].contains("the disk of the store is full; free some space"),
        "{said:?}"
    );
    assert!(!said.err.contains("panicked"), "{said:?}");
}

#[tokio::test]
async fn a_store_of_a_newer_version_is_refused_and_left_alone() {
    let place = Place::new(GONE);
    assert_eq!(place.run(&["status"]).await.code, 0);
    place.store().pragma_update(None, "user_version", 99).unwrap();
    for command in ["run", "status"] {
        let said = place.run(&[command]).await;
        assert_eq!(said.code, 2, "{said:?}");
        let next = "run the newer version, or set `state_dir` to another folder";
        assert!(said.err.contains("was written by a newer groundskeeper") && said.err.contains(next), "{said:?}");
    }
    assert_eq!(place.count("PRAGMA user_version"), 99);
}

#[tokio::test]
async fn a_damaged_store_is_kept_aside_and_the_status_says_so() {
    let place = Place::new(GONE);
    assert_eq!(place.run(&["task", "run", "watch"]).await.code, 0);
    let file = place.state().join("record.sqlite");
    let mut bytes = fs::read(&file).unwrap();
    bytes[..4096].fill(0xA5);
    fs::write(&file, &bytes).unwrap();

    let keeper = place.keeper().await;
    let status: StatusView = place.json(&["status"]).await;
    let notice = status.notices.first().unwrap();
    assert!(notice.starts_with("The store was damaged and set aside as "), "{notice}");
    let kept = notice.split("set aside as ").nth(1).unwrap().split(';').next().unwrap();
    assert_eq!(fs::read(kept).unwrap(), bytes, "not a byte of it was changed");
    assert!(keeper.log().contains("the store is damaged; it was set aside"), "{}", keeper.log());
    assert!(place.run(&["status"]).await.out.contains("! The store was damaged"));
    eventually("the keeper watches", async || (!place.findings().await.is_empty()).then_some(())).await;
    assert_eq!(keeper.terminate().await.code(), Some(0));
    fs::remove_file(kept).unwrap();
    let status: StatusView = place.json(&["status"]).await;
    assert!(status.notices.is_empty(), "it was dealt with: {:?}", status.notices);
}

#[tokio::test]
async fn a_server_that_hangs_up_or_talks_nonsense_is_a_finding() {
    let (closer, garbage) = (Closer::start().await.unwrap(), Garbage::start().await.unwrap());
    let place = Place::new("");
    for address in [closer.address(), garbage.address()] {
        for scheme in ["postgres://me@", "redis://", "http://"] {
            let url = format!("{scheme}{address}");
            let said = place.run(&["check", &url]).await;
            assert_eq!(said.code, 1, "{url}: {said:?}");
            assert!(said.out.contains("critical") && !said.err.contains("panicked"), "{url}: {said:?}");
            assert!(said.out.chars().all(|c| c == '\n' || !c.is_control()), "{url}: {said:?}");
        }
    }
}
