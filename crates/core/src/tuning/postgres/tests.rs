//! The advice for the guide's 2 GB server, for servers that are well, and for what is not known.

use super::*;
use crate::check::postgres::fixtures::{database, healthy, session, setting, table};
use crate::observation::{Checkpoints, Disk, Part, SessionState, Slot, Storage, WalWritten};

fn set(seen: &mut Postgres, name: &str, value: &str) {
    let settings = seen.settings.as_mut().unwrap();
    settings.list.iter_mut().find(|setting| setting.name == name).unwrap().value = value.into();
}

fn changed(what: impl FnOnce(&mut Postgres)) -> Advised {
    let mut seen = healthy();
    what(&mut seen);
    advise(&seen).unwrap()
}

/// Name and advised value of what matters.
fn weighty(advised: &Advised) -> Vec<(&str, &str)> {
    let matters = advised.advice.iter().filter(|one| one.weight == Weight::Matters);
    matters.map(|one| (one.setting.as_str(), one.advised.as_str())).collect()
}

fn small() -> Machine {
    Machine { memory: Some(2 << 30), cores: Some(2), storage: Some(Storage::Ssd), told_by: "a test".into() }
}

#[test]
fn a_server_that_suits_its_machine_gets_no_advice() {
    let advised = changed(|_| {});
    assert_eq!((advised.advice, advised.unknown), (vec![], vec![]));
    assert!(advised.suited.len() > 15, "{:?}", advised.suited);
}

/// Where we differ, and why: its `shared_buffers` is an eighth of the machine and not a quarter; its `work_mem`, once in each
/// connection, is three times the machine; its `maintenance_work_mem` in three autovacuum workers is more than a third of
/// it. All the rest of the guide's set is good enough.
#[test]
fn the_guides_set_for_a_server_of_2_gb_and_ours() {
    let advised = changed(|seen| {
        seen.machine = Some(Box::new(small()));
        for (name, value) in [
            ("shared_buffers", "32768"),
            ("effective_cache_size", "131072"),
            ("work_mem", "65536"),
            ("maintenance_work_mem", "262144"),
            ("checkpoint_completion_target", "0.9"),
            ("checkpoint_timeout", "900"),
            ("max_wal_size", "2048"),
            ("min_wal_size", "512"),
            ("random_page_cost", "1.1"),
            ("effective_io_concurrency", "200"),
            ("log_min_duration_statement", "1000"),
        ] {
            set(seen, name, value);
        }
    });
    assert_eq!(
        weighty(&advised),
        [("shared_buffers", "512MB"), ("work_mem", "5MB"), ("maintenance_work_mem", "128MB")],
        "{advised:#?}"
    );
    assert_eq!(advised.advice.len(), 3, "{:#?}", advised.advice);
    assert!(advised.advice[1].reason.contains("6.1 GiB"), "{}", advised.advice[1].reason);
    assert_eq!(advised.pools.unwrap().together, 5);
}

#[test]
fn a_server_at_its_defaults_on_16_gb_is_told_what_matters_first() {
    let advised = changed(|seen| {
        for (name, value) in [
            ("shared_buffers", "16384"),
            ("effective_cache_size", "524288"),
            ("work_mem", "4096"),
            ("maintenance_work_mem", "65536"),
            ("random_page_cost", "4"),
            ("effective_io_concurrency", "1"),
            ("log_min_duration_statement", "-1"),
            ("log_lock_waits", "off"),
            ("track_io_timing", "off"),
            ("idle_in_transaction_session_timeout", "0"),
            ("log_temp_files", "-1"),
        ] {
            set(seen, name, value);
        }
        seen.databases.as_mut().unwrap()[0].size = Some(100 << 30);
    });
    assert_eq!(
        weighty(&advised),
        [
            ("shared_buffers", "4GB"),
            ("effective_cache_size", "12GB"),
            ("maintenance_work_mem", "1GB"),
            ("random_page_cost", "1.1"),
            ("effective_io_concurrency", "200")
        ]
    );
    assert_eq!(advised.advice.len(), 10, "and five that help to understand the next trouble");
}

#[test]
fn data_that_fits_into_a_small_cache_needs_no_larger_one() {
    let small_data = |size: u64| {
        changed(|seen| {
            set(seen, "shared_buffers", "65536");
            let mut one = database("docrag");
            one.size = Some(size);
            seen.databases = Ok(vec![one]);
        })
    };
    assert_eq!(weighty(&small_data(500 << 20)), []);
    let advised = changed(|seen| {
        set(seen, "effective_cache_size", "524288");
        set(seen, "maintenance_work_mem", "204800");
    });
    assert_eq!(weighty(&advised), [], "3 GiB are all cached, and their indexes are small");
    assert_eq!(weighty(&small_data(600 << 20)), [("shared_buffers", "4GB")]);
}

#[test]
fn an_unknown_machine_is_said_with_what_to_configure() {
    let advised = changed(|seen| seen.machine = None);
    assert_eq!(advised.advice, []);
    let names: Vec<&str> = advised.unknown.iter().map(|one| one.setting.as_str()).collect();
    assert_eq!(
        names,
        [
            "shared_buffers",
            "effective_cache_size",
            "work_mem",
            "maintenance_work_mem",
            "random_page_cost",
            "effective_io_concurrency"
        ]
    );
    assert!(advised.unknown[0].why.contains("machine = { memory = \"8 GiB\" }"), "{}", advised.unknown[0].why);
    assert!(advised.pools.unwrap().reason.contains("cores"));
}

#[test]
fn work_mem_grows_only_where_sorts_went_to_disk() {
    let with = |temporary: u64| {
        changed(|seen| {
            set(seen, "work_mem", "4096");
            seen.databases.as_mut().unwrap()[0].temporary_bytes = temporary;
        })
    };
    assert_eq!(weighty(&with(0)), []);
    let advised = with(20 << 30);
    let [one] = &advised.advice[..] else { panic!("{advised:#?}") };
    assert_eq!((one.setting.as_str(), one.advised.as_str()), ("work_mem", "56MB"), "97 of them are half of 12 GiB");
    assert_eq!(one.weight, Weight::Useful, "the counter never comes down");
    assert!(advised.advice[0].reason.starts_with("20 GiB of temporary files"), "{}", advised.advice[0].reason);
}

#[test]
fn room_for_the_wal_is_advised_where_checkpoints_came_for_want_of_it() {
    let with = |timed: u64, requested: u64| {
        changed(|seen| seen.checkpoints = Ok(Checkpoints { timed, requested, stats_reset: None }))
    };
    assert_eq!(with(10, 9).advice, [], "too few to say anything");
    assert_eq!(with(80, 20).advice, []);
    let advised = with(50, 50);
    let told: Vec<_> = advised.advice.iter().map(|one| (one.setting.as_str(), one.advised.as_str())).collect();
    assert_eq!(told, [("max_wal_size", "2GB"), ("min_wal_size", "512MB"), ("checkpoint_timeout", "15min")]);
}

/// On a server that writes so many bytes of WAL in a second, and had so many checkpoints.
fn writing(rate: f64, timed: u64, requested: u64) -> Advised {
    changed(|seen| {
        let day = 86_400.0;
        seen.room.written = Ok(WalWritten { bytes: Some((rate * day) as u64), seconds: Some(day) });
        seen.checkpoints = Ok(Checkpoints { timed, requested, stats_reset: None });
    })
}

#[test]
fn the_room_for_the_wal_follows_from_what_is_written_between_two_checkpoints() {
    // 10 MiB a second for the advised 15 minutes, spread over 1.9 of them, and twice that at the peak: 33.4 GiB, and rounded up.
    let advised = writing(10.0 * MIB, 50, 50);
    assert_eq!(weighty(&advised), [("max_wal_size", "40GB")]);
    let reason = &advised.advice[0].reason;
    assert!(reason.starts_with("50 % of 100 checkpoints") && reason.contains("on average 2.9 GiB of WAL"), "{reason}");
    assert_eq!(writing(10.0 * MIB, 80, 20).advice, [], "the checkpoints come by the clock");
    // A server that was just started: what is written is known before its checkpoints tell anything.
    assert_eq!(weighty(&writing(10.0 * MIB, 3, 1)), [("max_wal_size", "40GB")]);
    assert_eq!(writing(100_000.0, 3, 1).advice, []);
}

#[test]
fn no_more_than_the_double_is_advised_where_the_disk_is_unknown_or_the_figures_are_young() {
    let with = |hours: f64, disk: Part<Option<Disk>>, most: &str| {
        let advised = changed(|seen| {
            let seconds = hours * 3_600.0;
            // An import: 100 MiB a second.
            seen.room.written = Ok(WalWritten { bytes: Some((100.0 * MIB * seconds) as u64), seconds: Some(seconds) });
            seen.room.disk = disk;
            set(seen, "max_wal_size", most);
            seen.checkpoints = Ok(Checkpoints { timed: 1, requested: 9, stats_reset: None });
        });
        let told = advised.advice.into_iter().find(|one| one.setting == "max_wal_size").unwrap();
        (told.advised, told.reason)
    };
    let large = || Ok(Some(Disk { total: 9 << 40, free: 8 << 40, is_told: false, tablespaces: 0 }));
    for disk in [Ok(None), Err(Gap::new("no"))] {
        let (advised, why) = with(24.0, disk.clone(), "1024");
        assert!(advised == "2GB" && why.contains("disk = \"100 GiB\""), "{advised}: {why}");
        assert_eq!(with(24.0, disk, "4096").0, "8GB");
    }
    let (advised, why) = with(2.0, large(), "1024");
    assert!(advised == "2GB" && why.contains("less than a day: look again tomorrow"), "{advised}: {why}");
    let (advised, why) = with(24.0, large(), "1024");
    assert!(advised == "384GB" && !why.contains("the double"), "{advised}: {why}");
}

#[test]
fn where_nobody_counts_the_wal_the_advice_is_unsure_and_says_so() {
    let uncounted = |timed: u64, requested: u64, written: Part<WalWritten>| {
        changed(|seen| {
            seen.room.written = written;
            seen.checkpoints = Ok(Checkpoints { timed, requested, stats_reset: None });
        })
    };
    let advised = uncounted(50, 50, Ok(WalWritten::default()));
    assert_eq!(weighty(&advised), [("max_wal_size", "2GB")]);
    assert!(advised.advice[0].reason.contains("this is unsure"), "{}", advised.advice[0].reason);
    let minutes = WalWritten { bytes: Some(1 << 40), seconds: Some(600.0) };
    for written in [Ok(WalWritten::default()), Err(Gap::new("no")), Ok(minutes)] {
        let advised = uncounted(3, 1, written);
        assert_eq!(advised.advice, []);
        assert!(advised.unknown.iter().any(|one| one.setting == "max_wal_size"), "{advised:#?}");
    }
}

#[test]
fn no_wal_is_advised_that_the_disk_could_not_hold() {
    let advised = changed(|seen| {
        seen.room.disk = Ok(Some(Disk { total: 100 << 30, free: 1 << 30, is_told: false, tablespaces: 0 }));
        seen.checkpoints = Ok(Checkpoints { timed: 50, requested: 50, stats_reset: None });
    });
    assert_eq!(advised.advice, []);
    let [one] = &advised.unknown[..] else { panic!("{advised:#?}") };
    assert!(one.setting == "max_wal_size" && one.why.ends_with("and the disk has 1 GiB free"), "{}", one.why);
}

#[test]
fn slots_without_a_bound_and_wal_that_is_sent_without_compression_are_told() {
    let advised = changed(|seen| {
        set(seen, "max_slot_wal_keep_size", "-1");
        set(seen, "wal_compression", "off");
        seen.archiver.as_mut().unwrap().enabled = false;
    });
    assert_eq!(advised.advice, [], "nobody has a slot, and nothing is sent");
    let advised = changed(|seen| {
        set(seen, "max_slot_wal_keep_size", "-1");
        set(seen, "wal_compression", "off");
        let name = "replica".to_owned();
        let slot = Slot { name, is_logical: false, is_active: true, retained: None, is_lost: false };
        seen.horizon.as_mut().unwrap().slots = vec![slot];
    });
    let told: Vec<_> = advised.advice.iter().map(|one| (one.setting.as_str(), one.advised.as_str())).collect();
    assert_eq!(told, [("max_slot_wal_keep_size", "16GB"), ("wal_compression", "on")]);
}

#[test]
fn no_bound_is_advised_that_a_slot_would_not_survive() {
    let with = |retained: &[u64]| {
        changed(|seen| {
            set(seen, "max_slot_wal_keep_size", "-1");
            let slots = retained.iter().enumerate().map(|(n, bytes)| Slot {
                name: format!("replica{n}"),
                is_logical: false,
                is_active: false,
                retained: Some(*bytes),
                is_lost: false,
            });
            seen.horizon.as_mut().unwrap().slots = slots.collect();
        })
    };
    assert_eq!(weighty(&with(&[1 << 30, 8 << 30])), [("max_slot_wal_keep_size", "16GB")]);
    let advised = with(&[1 << 30, 9 << 30, 2 << 30]);
    assert_eq!(advised.advice, []);
    let [one] = &advised.unknown[..] else { panic!("{advised:#?}") };
    assert_eq!(one.setting, "max_slot_wal_keep_size");
    assert!(one.why.starts_with("slot replica1 keeps 9 GiB") && one.why.contains("below 18 GiB"), "{}", one.why);

    let hidden = |bound: &str| {
        changed(|seen| {
            set(seen, "max_slot_wal_keep_size", bound);
            seen.horizon = Err(Gap::new("no"));
        })
    };
    let advised = hidden("-1");
    assert_eq!((advised.advice.len(), advised.unknown.len()), (0, 1), "{advised:#?}");
    assert_eq!(hidden("16384").unknown, [], "there is a bound");
}

#[test]
fn from_18_on_reading_ahead_has_another_default() {
    let with = |version: u32, value: &str| {
        changed(|seen| {
            seen.server.version_num = version;
            set(seen, "effective_io_concurrency", value);
        })
    };
    assert_eq!(weighty(&with(170_011, "16")), [("effective_io_concurrency", "200")]);
    assert_eq!(weighty(&with(180_006, "16")), []);
    assert_eq!(weighty(&with(180_006, "1")), [("effective_io_concurrency", "16")]);
}

#[test]
fn a_disk_that_turns_is_not_taken_for_flash() {
    let advised = changed(|seen| seen.machine.as_mut().unwrap().storage = Some(Storage::Hdd));
    assert_eq!(weighty(&advised), [("random_page_cost", "4"), ("effective_io_concurrency", "2")]);
}

#[test]
fn a_large_table_and_vacuum_that_is_behind_are_told_by_name() {
    let advised = changed(|seen| {
        let mut large = table("chunks");
        (large.rows_estimated, large.vacuum_trigger) = (Some(50e6), 10_000_050.0);
        let mut all = vec![large];
        for name in ["a", "b", "c"] {
            let mut behind = table(name);
            behind.dead_rows = 100_000;
            all.push(behind);
        }
        seen.tables = Ok(all);
    });
    assert_eq!(
        weighty(&advised),
        [("autovacuum_vacuum_scale_factor", "0.05"), ("autovacuum_vacuum_cost_limit", "1000")]
    );
    assert!(advised.advice[0].reason.contains("public.chunks waits for 10,000,050 dead rows"), "{:#?}", advised.advice);
}

#[test]
fn a_setting_is_changed_where_its_owner_has_it() {
    let way = |source: &str, file: Option<&str>, value: &str| {
        let mut seen = healthy();
        let settings = seen.settings.as_mut().unwrap();
        settings.list.retain(|one| one.name != "shared_buffers");
        let mut own = setting("shared_buffers", value, Some("8kB"));
        own.source = source.into();
        own.context = "postmaster".into();
        own.file = file.map(Into::into);
        settings.list.push(own);
        let mut advised = advise(&seen).unwrap();
        assert!(advised.advice[0].needs_restart);
        advised.advice.remove(0).way
    };
    let statement = Way::Statement { sql: "ALTER SYSTEM SET shared_buffers = '4GB';".into() };
    let file = Some("/etc/postgresql/15/main/postgresql.conf");
    assert_eq!(way("configuration file", file, "16384"), statement, "initdb wrote that");
    assert_eq!(way("configuration file", Some("/pg/postgresql.auto.conf"), "20000"), statement);
    let Way::Elsewhere { place, line } = way("configuration file", file, "20000") else { panic!() };
    assert_eq!(
        (place.as_str(), line.as_str()),
        ("/etc/postgresql/15/main/postgresql.conf, line 12", "shared_buffers = 4GB")
    );
    let Way::Elsewhere { place, .. } = way("command line", None, "16384") else { panic!() };
    assert!(place.contains("command line"), "{place}");
    let mounted = way("configuration file", Some("/etc/postgresql/postgresql.conf"), "16384");
    assert!(matches!(mounted, Way::Elsewhere { .. }), "a ConfigMap is somebody's: {mounted:?}");
}

#[test]
fn what_is_written_and_waits_for_a_restart_is_not_proposed_again() {
    let way = |source: &str, is_pending: bool| {
        let mut seen = healthy();
        let settings = seen.settings.as_mut().unwrap();
        settings.list.retain(|one| one.name != "shared_buffers");
        let mut own = setting("shared_buffers", "16384", Some("8kB"));
        (own.source, own.file, own.pending_restart) = (source.into(), None, is_pending);
        own.context = "postmaster".into();
        settings.list.push(own);
        let advice = advise(&seen).unwrap().advice.remove(0);
        let system = crate::system::SystemId::new(crate::system::SystemKind::Postgres, "main");
        (advice.step(&system).err(), advice.way)
    };
    assert!(matches!(way("default", false), (None, Way::Statement { .. })));
    assert_eq!(
        way("default", true),
        (
            Some("it is written and waits for a restart: restart the server in a window, or take it back".to_owned()),
            Way::Written
        )
    );
    let (why, way) = way("command line", true);
    assert!(why.unwrap().contains("command line") && matches!(way, Way::Elsewhere { .. }));
}

#[test]
fn what_is_hidden_or_covered_is_unknown_and_not_advised() {
    let advised = changed(|seen| {
        let settings = seen.settings.as_mut().unwrap();
        settings.list.retain(|one| one.name != "shared_buffers");
        settings.list.iter_mut().find(|one| one.name == "work_mem").unwrap().source = "user".into();
    });
    assert_eq!(advised.advice, []);
    let told: Vec<_> =
        advised.unknown.iter().map(|one| (one.setting.as_str(), one.why.contains("grant pg_monitor"))).collect();
    assert_eq!(told, [("shared_buffers", true), ("work_mem", false)]);
}

#[test]
fn pools_are_sized_by_cores_and_bounded_by_the_server() {
    let mut seen = healthy();
    let all = |seen: &Postgres| pools(seen).unwrap().together;
    assert_eq!(all(&seen), 17);
    let mut waiting = session(7);
    waiting.state = SessionState::IdleInTransaction;
    seen.activity.as_mut().unwrap().sessions.push(waiting);
    assert_eq!(all(&seen), 18, "who waits for a client takes no core");
    seen.machine.as_mut().unwrap().cores = Some(128);
    assert_eq!(all(&seen), 77, "80 % of 97");
    seen.machine = None;
    assert_eq!(all(&seen), 77);
}
