//! A headless Chromium, driven over its `DevTools` pipe.

use serde_json::{Value, json};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;
use tokio::fs::{File, OpenOptions};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};

const WITHIN: Duration = Duration::from_secs(20);

pub(crate) struct Browser {
    process: Child,
    to: File,
    from: BufReader<File>,
    session: Option<String>,
    count: u64,
    /// Errors that the page wrote into its console, blocked scripts among them.
    pub(crate) complaints: Vec<String>,
    _folder: TempDir,
}

impl Browser {
    pub(crate) async fn open(url: &str) -> Self {
        let program = ["/usr/bin/chromium", "/usr/bin/chromium-browser", "/usr/bin/google-chrome"];
        let program = program.into_iter().find(|path| Path::new(path).exists());
        let program = program.expect("there is no chromium; run `cargo xtask setup` (Debian's package is `chromium`)");
        let folder = tempfile::tempdir().unwrap();
        // Chromium reads commands from descriptor 3 and writes to 4; named pipes bring them there without any `unsafe`.
        // `exec` keeps the process id, so that killing it leaves no browser behind.
        let script = "mkfifo \"$1/to\" \"$1/from\" && : > \"$1/made\" && exec \"$2\" --headless --no-sandbox --disable-gpu \
            --no-first-run --disable-extensions --disable-background-networking --window-size=1200,900 \
            --user-data-dir=\"$1/profile\" --remote-debugging-pipe about:blank 3<\"$1/to\" 4>\"$1/from\"";
        let mut command = Command::new("sh");
        command.args(["-c", script, "sh", folder.path().to_str().unwrap(), program]);
        let process = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let began = Instant::now();
        while !folder.path().join("made").exists() {
            assert!(began.elapsed() < WITHIN, "no pipes were made");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let to = OpenOptions::new().write(true).open(folder.path().join("to")).await.unwrap();
        let from = BufReader::new(File::open(folder.path().join("from")).await.unwrap());
        let mut browser = Self { process, to, from, session: None, count: 0, complaints: Vec::new(), _folder: folder };
        let targets = browser.call("Target.getTargets", json!({})).await;
        let page = targets["targetInfos"].as_array().unwrap().iter().find(|target| target["type"] == "page").unwrap();
        let attach = json!({"targetId": page["targetId"], "flatten": true});
        let attached = browser.call("Target.attachToTarget", attach).await;
        browser.session = Some(attached["sessionId"].as_str().unwrap().to_owned());
        browser.call("Log.enable", json!({})).await;
        browser.call("Runtime.enable", json!({})).await;
        browser.call("Page.enable", json!({})).await;
        browser.call("Page.navigate", json!({"url": url})).await;
        browser
    }

    async fn call(&mut self, method: &str, parameters: Value) -> Value {
        self.count += 1;
        let mut message = json!({"id": self.count, "method": method, "params": parameters});
        if let Some(session) = &self.session {
            message["sessionId"] = session.as_str().into();
        }
        let mut bytes = serde_json::to_vec(&message).unwrap();
        bytes.push(0);
        self.to.write_all(&bytes).await.unwrap();
        self.to.flush().await.unwrap();
        let answer = tokio::time::timeout(WITHIN, self.answer()).await;
        answer.unwrap_or_else(|_| panic!("{method}: no answer within {WITHIN:?}"))
    }

    async fn answer(&mut self) -> Value {
        loop {
            let mut bytes = Vec::new();
            self.from.read_until(0, &mut bytes).await.unwrap();
            assert_eq!(bytes.pop(), Some(0), "chromium has ended");
            let message: Value = serde_json::from_slice(&bytes).unwrap();
            let entry = &message["params"]["entry"];
            if message["method"] == "Log.entryAdded" && entry["level"] == "error" {
                self.complaints.push(format!("{} {}", entry["text"], entry["url"]));
            }
            if message["method"] == "Runtime.exceptionThrown" {
                self.complaints.push(message["params"].to_string());
            }
            if message["id"] == self.count {
                assert!(message["error"].is_null(), "{message}");
                return message["result"].clone();
            }
        }
    }

    /// The value of an expression in the page; promises are waited for.
    pub(crate) async fn evaluate(&mut self, expression: &str) -> Value {
        let parameters = json!({"expression": expression, "returnByValue": true, "awaitPromise": true});
        let result = self.call("Runtime.evaluate", parameters).await;
        assert!(result["exceptionDetails"].is_null(), "{expression}: {result}");
        result["result"]["value"].clone()
    }

    /// Looks again and again until the expression is true.
    pub(crate) async fn until(&mut self, expression: &str) {
        let began = Instant::now();
        // While the page changes there may be no document at all, and before it is complete its script has not run.
        let safe = format!(
            "(() => {{ try {{ return document.readyState === 'complete' && Boolean({expression}) }} catch {{ return false }} }})()"
        );
        while self.evaluate(&safe).await != true {
            if began.elapsed() > WITHIN {
                let text = self.evaluate("document.body.innerText").await;
                panic!("never true: {expression}\n{text}\n{:?}", self.complaints);
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
