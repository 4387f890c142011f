//! A `kill -9` of whoever started the servers takes them along.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

#[tokio::test]
async fn a_killed_test_takes_its_servers_along() {
    let mut holder = Command::new(env!("CARGO_BIN_EXE_hold-servers"))
        .stdout(Stdio::piped())
        .spawn()
        .expect("cannot start the holder");
    let lines = BufReader::new(holder.stdout.take().unwrap()).lines().take(2);
    let pids: Vec<u32> =
        lines.map(|line| line.unwrap().split_once(' ').expect("pid and url").0.parse().unwrap()).collect();
    let running = || pids.iter().filter(|pid| Path::new(&format!("/proc/{pid}")).exists()).count();
    assert_eq!((pids.len(), running()), (2, 2));

    holder.kill().unwrap();
    holder.wait().unwrap();
    let killed = Instant::now();
    while running() > 0 {
        assert!(killed.elapsed() < Duration::from_secs(10), "{} of 2 servers outlived their parent", running());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
