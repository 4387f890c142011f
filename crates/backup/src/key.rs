//! Where the key of the repository comes from.

use crate::error::{Error, Result};
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process_group, waitid};
use secrecy::{ExposeSecret, SecretString};
use std::fmt;
use std::io::{self, Read};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

/// A command that waits for a person, or for a server that does not answer, may not hold a backup up for good.
const COMMAND_WITHIN: Duration = Duration::from_secs(30);
/// What of a command's words is kept. A key is shorter.
const KEPT: u64 = 64 << 10;
/// What of its complaints is told.
const TOLD_CHARACTERS: usize = 200;
/// Shorter words of the command are no secrets, and would take half of a complaint with them.
const SECRET_BYTES: usize = 6;

#[derive(Clone)]
pub enum KeySource {
    Given(SecretString),
    /// Its first line.
    File(PathBuf),
    /// The first line that this command prints within 30 seconds. Its text is never told: a token may stand in it.
    Command(String),
}

impl fmt::Debug for KeySource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Given(_) => f.write_str("Given(…)"),
            Self::File(path) => f.debug_tuple("File").field(path).finish(),
            Self::Command(_) => f.write_str("Command(…)"),
        }
    }
}

impl KeySource {
    /// Reads the key, now: it may be changed while the keeper runs.
    pub fn read(&self) -> Result<SecretString> {
        let text = match self {
            Self::Given(key) => key.expose_secret().to_owned(),
            Self::File(path) => {
                std::fs::read_to_string(path).map_err(|error| Error::Key(format!("{}: {error}", path.display())))?
            }
            Self::Command(command) => printed(command, COMMAND_WITHIN)?,
        };
        match text.lines().next().map(str::trim_end) {
            Some(key) if !key.is_empty() => Ok(key.into()),
            _ => Err(Error::Key("it is empty".to_owned())),
        }
    }
}

/// What a command prints. How it complains is told in one line, what it prints never is.
fn printed(command: &str, within: Duration) -> Result<String> {
    let broken = |error: io::Error| Error::Key(format!("`key_command` cannot be run: {error}"));
    // A group of its own, so that what the shell starts ends with it.
    let started = Command::new("sh")
        .args(["-c", command])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .spawn();
    let mut child = started.map_err(broken)?;
    let pid = Pid::from_child(&child);
    let ended = watched(&mut child, pid).recv_timeout(within);
    if ended.is_err() {
        let _ = kill_process_group(pid, Signal::KILL);
    }
    // Only now is its number given back: until here nobody else could have it.
    let status = child.wait().map_err(broken)?;
    let Ok((stdout, stderr)) = ended else {
        return Err(Error::Key(format!(
            "`key_command` was not through after {} s and was ended; run it by hand as the keeper's user: it may wait for \
             an answer, and nobody gives one here",
            within.as_secs()
        )));
    };
    if !status.success() {
        return Err(Error::Key(format!(
            "`key_command` ended with {status}{}; run it by hand as the keeper's user",
            complaint(command, &stderr)
        )));
    }
    String::from_utf8(stdout).map_err(|_| Error::Key("`key_command` printed what is no text".to_owned()))
}

/// Tells what it wrote to both streams once it has ended, and leaves the reaping to its owner.
fn watched(child: &mut Child, pid: Pid) -> mpsc::Receiver<(Vec<u8>, Vec<u8>)> {
    let (tell, told) = mpsc::channel();
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    thread::spawn(move || {
        let complaining = thread::spawn(move || kept(stderr));
        let stdout = kept(stdout);
        let stderr = complaining.join().unwrap_or_default();
        let _ = waitid(WaitId::Pid(pid), WaitIdOptions::EXITED | WaitIdOptions::NOWAIT);
        let _ = tell.send((stdout, stderr));
    });
    told
}

/// Reads a stream to its end, so that its writer never waits, and keeps how it begins.
fn kept(stream: Option<impl Read>) -> Vec<u8> {
    let mut kept = Vec::new();
    if let Some(mut stream) = stream {
        // What cannot be read is missing, and the key with it.
        let _ = (&mut stream).take(KEPT).read_to_end(&mut kept);
        let _ = io::copy(&mut stream, &mut io::sink());
    }
    kept
}

/// The first line of what it complained of, without any word of the command: programs repeat what they were given.
fn complaint(command: &str, stderr: &[u8]) -> String {
    let said = String::from_utf8_lossy(stderr);
    let Some(line) = said.lines().map(str::trim).find(|line| !line.is_empty()) else { return String::new() };
    let apart = |character: char| !(character.is_alphanumeric() || "._-+~".contains(character));
    let mut words: Vec<&str> = command.split(apart).filter(|word| word.len() >= SECRET_BYTES).collect();
    words.sort_by_key(|word| std::cmp::Reverse(word.len()));
    let line = words.iter().fold(line.to_owned(), |line, word| line.replace(word, "…"));
    format!(": {}", line.chars().take(TOLD_CHARACTERS).collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;

    const LONG: Duration = Duration::from_mins(1);

    #[test]
    fn a_command_that_does_not_end_is_ended_with_all_that_it_started() {
        let folder = tempfile::tempdir().unwrap();
        let pid = folder.path().join("pid");
        // The shell waits for its child, which holds the output open.
        let command = format!("sleep 600 & echo $! > {}; wait", pid.display());
        let began = Instant::now();
        let mut within = Duration::from_millis(300);
        // A busy machine may not have started it yet.
        let told = loop {
            let told = printed(&command, within).unwrap_err().to_string();
            if std::fs::read_to_string(&pid).is_ok_and(|pid| !pid.trim().is_empty()) || began.elapsed() > LONG {
                break told;
            }
            within *= 2;
        };
        assert!(told.contains("`key_command` was not through") && told.contains("run it by hand"), "{told}");
        assert!(!told.contains("sleep"), "{told}");
        let sleeper = std::fs::read_to_string(&pid).unwrap();
        let state = || std::fs::read_to_string(format!("/proc/{}/stat", sleeper.trim())).unwrap_or_default();
        while began.elapsed() < LONG && !state().is_empty() && !state().contains(") Z ") {
            thread::yield_now();
        }
        assert!(state().is_empty() || state().contains(") Z "), "{} still runs", state());
    }

    #[test]
    fn a_command_that_fails_says_so_without_its_words() {
        let command = "echo 'no such vault: token hvs.CAESIJ-abc123' >&2; echo second >&2; exit 3 # hvs.CAESIJ-abc123";
        let told = printed(command, LONG).unwrap_err().to_string();
        assert!(told.contains("`key_command` ended with exit status: 3: no such vault: token …; run it"), "{told}");
        assert!(!told.contains("hvs.") && !told.contains("second") && !told.contains("echo"), "{told}");
        let long = printed("head -c 100000 /dev/zero | tr '\\0' x >&2; false", LONG).unwrap_err().to_string();
        assert!(long.len() < 400, "{} bytes", long.len());
    }

    #[test]
    fn the_first_line_of_a_long_answer_is_the_key() {
        let command = KeySource::Command("echo 'the key'; head -c 1000000 /dev/zero | tr '\\0' x".to_owned());
        assert_eq!(command.read().unwrap().expose_secret(), "the key");
    }

    #[test]
    fn neither_a_key_nor_a_command_is_shown_to_a_debugger() {
        let sources = [KeySource::Given("secret".into()), KeySource::Command("pass --token secret".to_owned())];
        assert_eq!(format!("{sources:?}"), "[Given(…), Command(…)]");
    }
}
