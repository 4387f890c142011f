//! What the user asks of a restored Postgres decides whether it is alive.

use crate::scene::{BUDGET, Scene, now, settings};
use groundskeeper_backup::proof::Probe;
use groundskeeper_backup::proof::probe::{Question, Service, Wanted};
use groundskeeper_backup::{Settings, Vault};
use groundskeeper_core::receipt::{Climb, ClimbOutcome, Receipt, Rung};
use groundskeeper_testing::postgres::BIN_VARIABLE;
use groundskeeper_testing::scratch::Scratch;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// For what is not meant to take long, and may on a busy machine.
const LONG: Duration = Duration::from_mins(1);
/// For what is meant never to answer.
const SHORT: Duration = Duration::from_secs(1);

/// A service that asks the database which its environment names for each answer, and refuses an environment with more in it.
const SERVICE: &str = r#"
import http.server, os, subprocess, sys
KNOWN = {"PATH", "HOME", "LANG", "GROUNDSKEEPER_DRILL", "PORT", "PGHOST", "PGPORT", "PGUSER", "PGDATABASE", "DATABASE_URL"}
# Python and the shell add these by themselves.
STRANGE = set(os.environ) - KNOWN - {"LC_CTYPE", "PWD", "OLDPWD", "SHLVL", "_"}
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        psql = [sys.argv[1], "-X", "-At", "-c", "SELECT count(*) || ' for ' || current_user FROM documents"]
        said = subprocess.run(psql, capture_output=True, text=True)
        by_url = subprocess.run(psql + ["-d", os.environ["DATABASE_URL"]], capture_output=True, text=True)
        good = said.returncode == 0 and said.stdout == by_url.stdout and not STRANGE and os.getcwd() == os.environ["HOME"]
        self.send_response(200 if good and self.path == "/health" else 500)
        self.end_headers()
        self.wfile.write(f"{said.stdout}{said.stderr}{by_url.stderr}{STRANGE}".encode())
print("about to listen", flush=True)
http.server.HTTPServer(("127.0.0.1", int(os.environ["PORT"])), Handler).serve_forever()
"#;

/// One that the user of scratch servers may run: Python may come from somebody's home first in `$PATH`.
fn python() -> PathBuf {
    let known = ["/usr/bin/python3", "/usr/local/bin/python3"].map(PathBuf::from);
    known.into_iter().find(|program| program.is_file()).expect("python3 is missing; run `cargo xtask setup`")
}

/// The real one: Debian's in `/usr/bin` is a wrapper with a mind of its own.
async fn psql(scene: &Scene) -> String {
    let version = "SELECT current_setting('server_version_num')::int / 10000";
    let major: i32 = scene.server.client().await.query_one(version, &[]).await.unwrap().get(0);
    let folder = std::env::var_os(BIN_VARIABLE).map(PathBuf::from);
    let folder = folder.unwrap_or_else(|| format!("/usr/lib/postgresql/{major}/bin").into());
    folder.join("psql").to_str().unwrap().to_owned()
}

fn probe(name: &str, question: Question, timeout: Duration) -> Probe {
    let (name, system, database) = (name.to_owned(), "postgres.main".to_owned(), "postgres".to_owned());
    Probe { name, system, database, user: None, question, timeout }
}

fn sql(name: &str, sql: &str, wanted: Wanted) -> Probe {
    probe(name, Question::Sql { sql: sql.to_owned(), wanted }, LONG)
}

fn service(name: &str, program: &Path, arguments: &[&str], timeout: Duration) -> Probe {
    let service = Service {
        program: program.to_owned(),
        arguments: arguments.iter().map(|argument| (*argument).to_owned()).collect(),
        url: "/health".to_owned(),
        status: 200,
        contains: None,
    };
    probe(name, Question::Service(service), timeout)
}

/// A shell script as a service.
fn script(name: &str, text: &str, arguments: &[&str], timeout: Duration) -> Probe {
    service(name, Path::new("/bin/sh"), &[&["-c", text, "sh"], arguments].concat(), timeout)
}

/// The drill of the newest set with these probes.
async fn drilled(scene: &Scene, probes: Vec<Probe>) -> Receipt {
    let settings = Settings { probes, ..settings(&scene.server.url(), scene.folder.path()) };
    Vault::new(settings).drill(None, BUDGET, now()).await.unwrap()
}

fn alive(receipt: &Receipt) -> &Climb {
    receipt.climbs.iter().rfind(|climb| climb.rung == Rung::Alive).unwrap()
}

#[track_caller]
fn shown(receipt: &Receipt) -> &str {
    match &alive(receipt).outcome {
        ClimbOutcome::Proven { shown, .. } => shown,
        other => panic!("{other:?}"),
    }
}

#[track_caller]
fn failed(receipt: &Receipt) -> &str {
    match &alive(receipt).outcome {
        ClimbOutcome::Failed { why } => why,
        other => panic!("{other:?}"),
    }
}

#[track_caller]
fn not_tried(receipt: &Receipt) -> &str {
    match &alive(receipt).outcome {
        ClimbOutcome::NotTried { why } => why,
        other => panic!("{other:?}"),
    }
}

#[track_caller]
fn assert_says(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "`{part}` is not in: {text}");
    }
}

/// A folder for the numbers of processes, which anybody may write.
fn noted() -> Scratch {
    let folder = Scratch::new("pids").unwrap();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o777)).unwrap();
    folder
}

/// Processes that were noted there: one in the group of the service, one that has left it.
const STRAYS: &str = "sleep 600 & echo $! > \"$1/in-the-group\"; setsid sleep 600 & echo $! > \"$1/apart\"; ";

#[track_caller]
fn assert_nothing_survived(noted: &Scratch) {
    for name in ["in-the-group", "apart"] {
        let id = fs::read_to_string(noted.path().join(name)).unwrap_or_else(|error| panic!("{name}: {error}"));
        let state = fs::read_to_string(format!("/proc/{}/stat", id.trim())).unwrap_or_default();
        // Whoever has lost its parent is reaped by another one, some time.
        assert!(state.is_empty() || state.contains(") Z "), "{name} survived: {state}");
    }
}

#[tokio::test]
async fn answers_as_they_are_wanted_are_told_and_rung_5_is_reached() {
    let scene = Scene::new().await;
    let client = scene.server.client().await;
    // The role that reads gets in, and sees all rows.
    client
        .batch_execute(
            "REVOKE CONNECT ON DATABASE postgres FROM PUBLIC;
             ALTER TABLE documents ENABLE ROW LEVEL SECURITY;
             CREATE SCHEMA closed; CREATE TABLE closed.secrets AS SELECT 7 AS n",
        )
        .await
        .unwrap();
    let made = scene.make().await;
    let noted = noted();
    let mut answering = script(
        "health",
        &format!("{STRAYS}exec \"$2\" -c \"$3\" \"$4\""),
        &[noted.path().to_str().unwrap(), python().to_str().unwrap(), SERVICE, &psql(&scene).await],
        LONG,
    );
    if let Question::Service(service) = &mut answering.question {
        service.contains = Some("5000 for postgres".to_owned());
    }
    let receipt = drilled(
        &scene,
        vec![
            sql("documents", "SELECT count(*) FROM documents", Wanted::Equal("5000".to_owned())),
            sql("many", "SELECT n FROM closed.secrets;", Wanted::AtLeast(7.0)),
            sql("flag", "SELECT id > 0 FROM documents ORDER BY id", Wanted::Something),
            sql("rights", "SELECT usesuper FROM pg_user WHERE usename = current_user", Wanted::Equal("false".into())),
            answering,
        ],
    )
    .await;
    assert_says(
        shown(&receipt),
        &[
            "; the probe `documents` answered 5,000;",
            "; the probe `many` answered 7;",
            "; the probe `flag` answered true;",
            "; the probe `rights` answered false;",
            "; the probe `health` answered 200 after ",
        ],
    );
    assert_eq!(receipt.proven(), Some(Rung::Faithful), "{:?}", receipt.climbs);
    assert_nothing_survived(&noted);
    let left: Vec<_> = fs::read_dir(scene.scratch()).unwrap().collect();
    assert!(left.is_empty(), "{left:?}");

    // Of the live server nothing was asked, and nothing was written into it.
    let sql = "SELECT count(*) FROM pg_roles WHERE rolname = 'groundskeeper_probe'";
    assert_eq!(client.query_one(sql, &[]).await.unwrap().get::<_, i64>(0), 0);
    assert_eq!(receipt.set, made.set);
}

#[tokio::test]
async fn an_answer_that_is_not_wanted_is_no_life_and_each_one_is_told() {
    let scene = Scene::new().await;
    scene.make().await;
    let mut as_superuser = sql("superuser", "DELETE FROM documents RETURNING 1", Wanted::Something);
    as_superuser.user = Some("postgres".to_owned());
    let mut elsewhere = sql("elsewhere", "SELECT 1", Wanted::Something);
    elsewhere.database = "nowhere".to_owned();
    let mut hangs = sql("hangs", "SELECT pg_sleep(600)", Wanted::Something);
    hangs.timeout = SHORT;
    let receipt = drilled(
        &scene,
        vec![
            sql("good", "SELECT 'never told'", Wanted::Something),
            sql("documents", "SELECT count(*)\nFROM documents", Wanted::Equal("5001".to_owned())),
            sql("writes", "INSERT INTO documents VALUES (0, 'new') RETURNING id", Wanted::Something),
            as_superuser,
            sql("reaches-out", "SELECT pg_read_file('PG_VERSION')", Wanted::Something),
            sql("two", "COMMIT; DELETE FROM documents", Wanted::Something),
            sql("nothing", "SELECT id FROM documents WHERE id < 0", Wanted::Something),
            elsewhere,
            hangs,
        ],
    )
    .await;
    let why = failed(&receipt);
    assert_says(
        why,
        &[
            "the probe `documents` (SELECT count(*) FROM documents) answered 5,000 and not 5001",
            "the probe `writes` (INSERT INTO documents VALUES (0, 'new') RETURNING id) was refused: cannot execute INSERT in a read-only transaction",
            "the probe `superuser` (DELETE FROM documents RETURNING 1) was refused: cannot execute DELETE in a read-only transaction",
            "the probe `reaches-out` (SELECT pg_read_file('PG_VERSION')) was refused: permission denied for function pg_read_file",
            "the probe `two` (COMMIT; DELETE FROM documents) was refused: cannot insert multiple commands",
            "the probe `nothing` (SELECT id FROM documents WHERE id < 0) answered without a row",
            "the probe `elsewhere` (SELECT 1) was refused: database \"nowhere\" does not exist",
            "the probe `hangs` (SELECT pg_sleep(600)) gave no answer within 1 s",
        ],
    );
    assert!(!why.contains("never told"), "{why}");
    assert_eq!(receipt.proven(), Some(Rung::Restored));
    assert!(receipt.failed().any(|(rung, _)| rung == Rung::Alive));
    // That the tables hold what they held stands.
    let faithful = receipt.climbs.last().unwrap();
    assert!(faithful.rung == Rung::Faithful && matches!(faithful.outcome, ClimbOutcome::Proven { .. }), "{faithful:?}");

    // The next drill decides anew.
    let receipt = drilled(&scene, vec![sql("good", "SELECT 1", Wanted::Something)]).await;
    assert_eq!(receipt.proven(), Some(Rung::Faithful), "{:?}", receipt.climbs);
}

#[tokio::test]
async fn a_service_that_does_not_answer_fails_with_what_it_said_and_nothing_of_it_survives() {
    let scene = Scene::new().await;
    scene.make().await;
    let noted = noted();
    let pids = noted.path().to_str().unwrap();
    // It takes no signal but the last.
    let deaf = format!("trap '' TERM; echo '\u{1b}[31mstarting'; {STRAYS}wait");
    let mut closed = service("closed", &python(), &["-c", SERVICE, "/nowhere/psql"], SHORT * 5);
    closed.user = Some("nobody_knows".to_owned());
    let receipt = drilled(
        &scene,
        vec![
            script("dies", "echo 'no licence' >&2; exit 3", &[], LONG),
            script("leaves", "exit 0", &[], LONG),
            script("deaf", &deaf, &[pids], SHORT * 5),
            closed,
        ],
    )
    .await;
    let why = failed(&receipt);
    assert_says(
        why,
        &[
            "the probe `dies` (/health of /bin/sh) ended with exit status 3 before it had answered; the last lines that it printed:\nno licence",
            "the probe `leaves` (/health of /bin/sh) ended with exit status 0 before it had answered: it has to stay in the foreground; it printed nothing",
            "the probe `deaf` (/health of /bin/sh) gave no answer within 5 s; the last time it could not be asked (Connection refused",
            "the last lines that it printed:\n[31mstarting",
            "cannot be asked: there is no role nobody_knows in it",
        ],
    );
    assert_nothing_survived(&noted);
    assert!(fs::read_dir(scene.scratch()).unwrap().next().is_none());
}

#[tokio::test]
async fn a_service_that_answers_something_else_fails_with_what_it_answered() {
    let scene = Scene::new().await;
    scene.make().await;
    // Long enough for Python to come up on a busy machine.
    let mut unready = service("unready", &python(), &["-c", SERVICE, &psql(&scene).await], SHORT * 15);
    if let Question::Service(service) = &mut unready.question {
        service.url = "/ready".to_owned();
    }
    let receipt = drilled(&scene, vec![unready]).await;
    assert_says(
        failed(&receipt),
        &[
            "the probe `unready` (/ready of /",
            "gave no answer within 15 s; the last time it answered 500, and 200 is wanted: 5000 for postgres",
            "the last lines that it printed:\n",
            "\"GET /ready HTTP/1.1\" 500",
        ],
    );
}

#[tokio::test]
async fn what_cannot_be_tried_here_is_no_fault_of_the_set() {
    let scene = Scene::new().await;
    scene.make().await;
    let absent = service("absent", Path::new("/nowhere/service"), &[], LONG);
    let receipt = drilled(&scene, vec![absent.clone()]).await;
    assert_says(
        not_tried(&receipt),
        &["the probe `absent` (/health of /nowhere/service) could not be tried", "No such"],
    );
    assert!(alive(&receipt).leaves_open());
    assert_eq!(receipt.proven(), Some(Rung::Restored));
    let receipt = drilled(&scene, vec![script("shell", "exec /nowhere/service", &[], LONG)]).await;
    assert_says(not_tried(&receipt), &["exit status 127: there is a program that cannot be run", "/nowhere/service"]);
    // A failure beside it is one.
    let wrong = sql("wrong", "SELECT false", Wanted::Something);
    let receipt = drilled(&scene, vec![absent.clone(), wrong]).await;
    assert_says(failed(&receipt), &["the probe `wrong` (SELECT false) answered false; the probe `absent`"]);
    // Nor is a system that the set has not.
    let elsewhere = Probe { system: "postgres.reports".to_owned(), ..absent };
    let receipt = drilled(&scene, vec![elsewhere]).await;
    let ClimbOutcome::Proven { not_covered, .. } = &alive(&receipt).outcome else { panic!("{receipt:?}") };
    let told = "the probe `absent`: postgres.reports is not in the set".to_owned();
    assert!(not_covered.contains(&told), "{not_covered:?}");
}

/// A trigger could call out of the scratch place.
#[tokio::test]
async fn a_service_writes_into_the_copy_and_sets_no_trigger_off() {
    let scene = Scene::new().await;
    let sql = "CREATE TABLE calls (what text);
               CREATE FUNCTION call() RETURNS trigger LANGUAGE plpgsql
               AS $$ BEGIN INSERT INTO calls VALUES ('out'); RETURN NEW; END $$;
               CREATE TRIGGER calls AFTER INSERT ON documents FOR EACH ROW EXECUTE FUNCTION call();
               CREATE ROLE app LOGIN; ALTER TABLE documents OWNER TO app; ALTER TABLE calls OWNER TO app";
    let client = scene.server.client().await;
    client.batch_execute(sql).await.unwrap();
    scene.make().await;
    let text = "\
import http.server, os, subprocess, sys
sql = \"INSERT INTO documents VALUES (-1, 'new'); SELECT current_user::text || (SELECT count(*) FROM documents) || (SELECT count(*) FROM calls)\"
said = subprocess.run([sys.argv[1], '-X', '-At', '-c', sql], capture_output=True, text=True)
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write((said.stdout + said.stderr).encode())
http.server.HTTPServer(('127.0.0.1', int(sys.argv[2])), Handler).serve_forever()";
    let mut writes = service("writes", &python(), &["-c", text, &psql(&scene).await, "{port}"], LONG);
    writes.user = Some("app".to_owned());
    if let Question::Service(service) = &mut writes.question {
        service.contains = Some("app50010".to_owned());
        service.url = "http://127.0.0.1:{port}/".to_owned();
    }
    let receipt = drilled(&scene, vec![writes]).await;
    assert_says(shown(&receipt), &["the probe `writes` answered 200"]);
    assert_eq!(receipt.proven(), Some(Rung::Faithful), "it was compared before: {:?}", receipt.climbs);
    let live = client.query_one("SELECT count(*) FROM documents", &[]).await.unwrap().get::<_, i64>(0);
    assert_eq!(live, 5_000);
}
